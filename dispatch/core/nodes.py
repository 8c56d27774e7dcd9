"""The wait that a flow stands at, as a tree: leaves under their ids, and groups.

How a node is decided follows from its leaves' settlements and their seq alone: a race is won by the
lower seq, not by whoever was scheduled first (design.md 3, rules 1 and 4). What comes later changes
nothing, so it does not matter how many entries had been fed when it was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dispatch.core.journal import Draft, Entry
from dispatch.core.settle import Settled, settled
from dispatch.core.waits import Failed, Gather, Group, Leaf, Ok, Race


@dataclass(slots=True)
class Attempts:
    """How often a step was begun, how often an attempt failed, and when the next may begin."""

    started: int = 0
    failed: int = 0
    retry_at: float = 0.0


@dataclass(slots=True, eq=False)
class LeafNode:
    """A leaf under its derived id. `opening` is the draft of its entry, until that has been fed;
    `parameters` the JSON of those that a tool or approval is asked with.
    """

    wait: Leaf[Any]
    id: str
    parameters: bytes
    opening: Draft | None
    settled: Settled | None = None


@dataclass(slots=True, eq=False)
class StepNode(LeafNode):
    """`begun`: this attempt's entry is in the same `Act`; else the step waits for
    `attempts.retry_at` first. `running` is the runner's: whether a task works on it.
    """

    attempts: Attempts = field(default_factory=Attempts)
    begun: bool = False
    running: bool = False


@dataclass(slots=True, eq=False)
class GroupNode:
    wait: Group[Any]
    branches: list[Node]


Node = LeafNode | GroupNode
Settlements = Mapping[str, Entry]


def leaves(node: Node) -> list[LeafNode]:
    """All leaves, in the order they were yielded."""
    if isinstance(node, LeafNode):
        return [node]
    return [leaf for branch in node.branches for leaf in leaves(branch)]


def open_leaves(node: Node, settlements: Settlements) -> list[LeafNode]:
    """Those that nothing has settled."""
    return [leaf for leaf in leaves(node) if leaf.id not in settlements]


def resolve(node: Node, settlements: Settlements) -> Settled | None:
    """How `node` is decided, if it is: at the earliest seq from which that could be told."""
    if isinstance(node, LeafNode):
        if node.settled is None and node.id in settlements:
            node.settled = settled(node.wait, settlements[node.id])
        return node.settled
    branches = [resolve(branch, settlements) for branch in node.branches]
    decided = [branch for branch in branches if branch is not None]
    if isinstance(node.wait, Race):
        if not decided:
            return None
        first = min(decided, key=lambda branch: branch.seq)
        return first._replace(value=(branches.index(first), first.value))
    assert isinstance(node.wait, Gather)
    failures = [branch for branch in decided if branch.error is not None]
    if failures and not node.wait.settle:
        return min(failures, key=lambda branch: branch.seq)
    if len(decided) < len(branches):
        return None
    last = max(decided, key=lambda branch: branch.seq)
    if node.wait.settle:
        results: list[Any] = [
            Ok(branch.value) if branch.error is None else Failed(branch.error) for branch in decided
        ]
    else:
        results = [branch.value for branch in decided]
    return Settled(last.seq, last.at, results, None)


def losers(node: Node, settlements: Settlements) -> list[LeafNode]:
    """Leaves still open in groups that are decided, at any depth."""
    if isinstance(node, LeafNode):
        return []
    if resolve(node, settlements) is None:
        return [leaf for branch in node.branches for leaf in losers(branch, settlements)]
    return [
        leaf
        for branch in node.branches
        for leaf in (
            open_leaves(branch, settlements)
            if resolve(branch, settlements) is None
            else losers(branch, settlements)
        )
    ]
