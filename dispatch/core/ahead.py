"""Answers that were given before they were asked for.

Outputs that came with the dispatch, by the name of a tool: each is for the first call of it. And
decisions that a person wants remembered: they hold for every later approval of that name. Both
settle a call in the transaction that opens it, by an entry like any other, so a replay knows
nothing of this file's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from dispatch.core import drafts
from dispatch.core.drafts import bare
from dispatch.core.journal import ApprovalOpened, Draft, Entry
from dispatch.core.nodes import LeafNode
from dispatch.core.waits import ApprovalWait, ToolWait


class Ahead:
    """`outputs` that no call has taken yet, and `decisions` that are remembered, both by name.

    Both are the segment's own until they change: mostly there are none.
    """

    __slots__ = ("_names", "decisions", "outputs")

    def __init__(self, outputs: Mapping[str, msgspec.Raw], decisions: Mapping[str, str]):
        self.outputs = outputs and {bare(name): raw for name, raw in outputs.items()}
        self.decisions = decisions
        self._names: dict[str, str] = {}

    def feed(self, entry: Entry) -> None:
        """Take the next committed entry."""
        match entry.kind:
            case "tool_start" if self.outputs:
                taken = bare(entry.facts.tool_name)
                self.outputs = {name: raw for name, raw in self.outputs.items() if name != taken}
            case "dispatch.approval_opened":
                opened = entry.payload(ApprovalOpened)
                self._names[opened.approval_id] = opened.tool_name
            case "approval_complete":
                name = self._names.pop(entry.facts.approval_id, None)
                if name is not None and entry.facts.remember:
                    self.decisions = {**self.decisions, name: entry.facts.decision}
            case _:
                pass

    def settle(self, leaves: Iterable[LeafNode], now: float) -> list[Draft]:
        """What answers those of `leaves`, which are about to be opened, that have an answer."""
        outputs = dict(self.outputs)
        settled = []
        for leaf in leaves:
            wait = leaf.wait
            if isinstance(wait, ToolWait):
                raw = outputs.pop(bare(wait.name), None)
                if raw is not None:
                    settled.append(drafts.output(leaf.id, wait.name, bytes(raw), wait.private))
            elif isinstance(wait, ApprovalWait) and wait.name in self.decisions:
                decision = self.decisions[wait.name]
                settled.append(drafts.decision(leaf.id, decision, now, by="system"))
        return settled
