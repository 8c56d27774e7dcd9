"""Match what a flow does to what its journal says it did, and say what to do next.

A flow is a deterministic function of the world entries, taken in journal order. The machine is fed
committed entries, its own included, live as on replay, and answers a waiting yield only from what
it was fed: there is one path, and a restart merely walks it again. It holds no generator and does
no I/O: `engine.runner` reports what the generator did (`display`, `wait`, `end`), asks `decide`,
and obeys.

How it matches (design.md 3). Flow entries lie in *stretches*: some displays, then a wait. A display
that was recorded is skipped; one more than were recorded, with a wait still ahead, is skipped too;
what was shown stands. A wait must be the recorded one, else the flow has diverged. Past the last
recorded wait and its displays the flow is live: what it does is appended.

`decide` may be asked at any moment and as often as one likes. It repeats `Append` until what it
asked for has been fed back, so an append that was refused, because somebody else's entry came
first, is simply decided anew with that entry in view.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from dispatch.core import canonical, events
from dispatch.core.clock import iso, parse_iso
from dispatch.core.errors import (
    Cancelled,
    Divergence,
    StepFailed,
    ToolFailed,
    ToolTimeout,
    WaitFailed,
)
from dispatch.core.ids import derive
from dispatch.core.journal import (
    DISPLAYS,
    Abandoned,
    ApprovalOpened,
    AttemptStarted,
    CallPrivate,
    CancelRaised,
    CancelRequested,
    Continued,
    ContinuedPrivate,
    Counts,
    Draft,
    Edge,
    Entry,
    Origin,
    Payload,
    ResultPrivate,
    ResumePrivate,
    StartPrivate,
    TimerSet,
    draft,
)
from dispatch.core.waits import (
    ApprovalWait,
    ContinueAs,
    Decision,
    Failed,
    Gather,
    Group,
    Leaf,
    Ok,
    Race,
    SleepWait,
    StepWait,
    ToolWait,
    Wait,
)

FLOW, WORLD, ENGINE = Origin.FLOW, Origin.WORLD, Origin.ENGINE

# --- what to do next: a closed union --------------------------------------------------------------


class Append(NamedTuple):
    """Append these if nothing unseen has arrived, and feed them back."""

    drafts: list[Draft]


class Act(NamedTuple):
    """Append these likewise; once they are durable, start these steps."""

    drafts: list[Draft]
    steps: list[StepNode]


class Answer(NamedTuple):
    """Send `value` into the generator, or throw `error`."""

    value: Any
    error: BaseException | None


class Idle(NamedTuple):
    """Nothing until something is fed: steps are at work."""


class Suspend(NamedTuple):
    """Append these and let go of the execution, both only if nothing unseen has arrived."""

    drafts: list[Draft]


class Restart(NamedTuple):
    """The segment is over: begin again from this entry."""

    entry: Entry


class Done(NamedTuple):
    """The journal has its final entry."""


Next = Append | Act | Answer | Idle | Suspend | Restart | Done


class Show(Enum):
    """What to do with a display."""

    LIVE = "append it"
    SKIP = "it was shown before"
    HOLD = "do not show it: decide() raises Cancelled here"


class Outcome(NamedTuple):
    """What the generator came to: no error means it returned."""

    error: BaseException | None = None
    code: str = ""
    message: str = ""


# --- what the machine knows -----------------------------------------------------------------------


@dataclass(slots=True)
class Attempts:
    """How often a step was begun, how often an attempt failed, and when the next may begin."""

    started: int = 0
    failed: int = 0
    retry_at: float = 0.0


@dataclass(slots=True, eq=False)
class LeafNode:
    """A leaf of the wait that the flow stands at, under its derived id."""

    wait: Leaf[Any]
    id: str
    opened: bool = False


@dataclass(slots=True, eq=False)
class StepNode(LeafNode):
    """`begun`: this attempt's entry is in the same `Act`; else the step waits for
    `attempts.retry_at` first.
    """

    attempts: Attempts = field(default_factory=Attempts)
    begun: bool = False
    running: bool = False


@dataclass(slots=True, eq=False)
class GroupNode:
    wait: Group[Any]
    branches: list[Node]


Node = LeafNode | GroupNode


class Settled(NamedTuple):
    """How and by which entry a node is decided."""

    seq: int
    at: float
    value: Any
    error: WaitFailed | None


@dataclass(slots=True)
class Stretch:
    """Recorded displays not yet yielded again, then the recorded wait, if there is one."""

    displays: int = 0
    entry: Entry | None = None


class Base(NamedTuple):
    """What a segment starts from: the first entry, or the last `continue_as`."""

    start: StartPrivate
    kind: events.Kind
    segment: int
    state: msgspec.Raw | None
    result: msgspec.Raw | None
    counts: Counts
    started_at: float


def base_of(entry: Entry) -> Base:
    """Read the entry that a segment starts from."""
    if entry.kind == "execution_start":
        start = entry.hidden(StartPrivate)
        assert start is not None
        kind = msgspec.json.decode(entry.data, type=events.ExecutionStart).kind
        return Base(start, kind, 0, None, None, Counts(), entry.at)
    carried = entry.hidden(ContinuedPrivate)
    assert carried is not None
    return Base(
        carried.start,
        carried.kind,
        entry.payload(Continued).segment,
        carried.state,
        carried.result if bytes(carried.result) else None,
        carried.counts,
        carried.started_at,
    )


class Replay:
    """One execution's current segment; begins with `base`, the entry that the segment starts from."""

    def __init__(self, base: Entry):
        self.base = base_of(base)
        self.fed_seq = base.seq
        self.leg_open = True
        self.result = self.base.result
        self.counts = self.base.counts
        self.cancelled = False  # whether Cancelled has been raised
        self._stretches = deque([Stretch()])
        self._settlements: dict[str, Entry] = {}
        self._attempts: dict[str, Attempts] = {}
        self._messages: list[tuple[int, list[Any]]] = [(base.seq, self.base.start.messages)]
        self._tools = {tool.name: tool for tool in self.base.start.client_tools}
        self._cancel: Entry | None = None
        self._ended_by_world = False
        # Where the flow stands. `_waits` and `_displays` are the place of rule 5.
        self._waits = self._displays = self._ordinal = 0
        self._answered_seq, self._answered_at = base.seq, base.at
        self._held = False
        self._wait: Wait[Any] | None = None
        self._node: Node | None = None
        self._raising: Entry | None = None
        self._end: Outcome | None = None

    # --- facts in ---------------------------------------------------------------------------------

    def feed(self, entry: Entry) -> None:
        """Take the next committed entry. Displays that `display` called live are not fed back."""
        self.fed_seq = entry.seq
        if edge := entry.edge:
            self.leg_open = edge is Edge.HEAD
        if entry.origin is FLOW:
            self._feed_flow(entry)
        elif entry.origin is WORLD:
            self._feed_world(entry)
        elif entry.kind == "execution_start":
            resumed = entry.hidden(ResumePrivate)
            if resumed is not None and resumed.messages is not None:
                self._messages.append((entry.seq, resumed.messages))

    def _feed_flow(self, entry: Entry) -> None:
        last = self._stretches[-1]
        if entry.kind in DISPLAYS:
            last.displays += 1
            if entry.kind == "dispatch.result":
                self.result = entry.payload(_ResultValue).value
            return
        if entry.kind == "step_start":
            self.counts = msgspec.structs.replace(self.counts, total=self.counts.total + 1)
        last.entry = entry
        self._stretches.append(Stretch())

    def _feed_world(self, entry: Entry) -> None:
        facts = entry.facts
        match entry.kind:
            case "tool_complete":
                self._settlements.setdefault(facts.tool_call_id, entry)
            case "approval_complete":
                self._settlements.setdefault(facts.approval_id, entry)
            case "step_complete":
                change = (
                    {"ok": self.counts.ok + 1}
                    if facts.success
                    else {"failed": self.counts.failed + 1}
                )
                self.counts = msgspec.structs.replace(self.counts, **change)
                self._settlements.setdefault(facts.id, entry)
            case "dispatch.timer_fired" | "dispatch.abandoned":
                self._settlements.setdefault(entry.payload(Abandoned).id, entry)
            case "dispatch.step_attempt":
                self._attempts_of(entry.payload(AttemptStarted).step_id).started += 1
            case "error":
                attempts = self._attempts_of(facts.step_id)
                attempts.failed += 1
                attempts.retry_at = parse_iso(facts.retry_at)
            case "dispatch.cancel_requested":
                self._cancel = entry
            case "execution_complete" | "execution_error":
                self._ended_by_world = True
            case _:
                pass  # what steps show

    def _attempts_of(self, step_id: str) -> Attempts:
        return self._attempts.setdefault(step_id, Attempts())

    def display(self) -> Show:
        """The flow yielded something only to be seen."""
        stretch = self._stretches[0]
        if self._marker_ahead(at_wait=False) or self._cancel_is_unplaced():
            self._held = True
            return Show.HOLD
        self._displays += 1
        if stretch.displays:
            stretch.displays -= 1
            return Show.SKIP
        return Show.LIVE if stretch.entry is None else Show.SKIP

    def wait(self, wait: Wait[Any]) -> None:
        """The flow yielded something to be answered."""
        self._wait = wait

    def end(self, outcome: Outcome) -> None:
        """The generator is exhausted."""
        self._end = outcome

    # --- what it knows ----------------------------------------------------------------------------

    @property
    def replaying(self) -> bool:
        """Whether recorded flow entries still lie ahead."""
        stretch = self._stretches[0]
        return stretch.entry is not None or stretch.displays > 0

    @property
    def messages(self) -> list[Any]:
        """`run.messages` as of the entry that answered the last wait."""
        return next(
            messages for seq, messages in reversed(self._messages) if seq <= self._answered_seq
        )

    @property
    def now(self) -> float:
        """`run.now`, likewise, in Unix seconds."""
        return self._answered_at

    @property
    def waiting_for(self) -> list[str]:
        """What the flow stands at, in words."""
        return [f"{_word(leaf.wait)} {leaf.wait.name}" for leaf in self._open_leaves()]

    # --- what now? --------------------------------------------------------------------------------

    def decide(self, now: float) -> Next:
        """What to do next, at the time `now` in Unix seconds.

        Raises `Divergence` if the flow has left the path that its journal records.
        """
        if self._ended_by_world:
            return Done()
        if self._end is not None:
            return self._decide_end(self._end, now)
        if self._node is None:
            at_yield = self._decide_cancel_at_yield(now)
            if at_yield is not None:
                return at_yield
            assert self._wait is not None, "asked while the flow runs"
            if self.cancelled and not _is_compensation(self._wait):
                return self._answer(
                    None, Cancelled(self._reason()), self._answered_seq, self._answered_at
                )
            if isinstance(self._wait, ContinueAs):
                return self._decide_continue(self._wait)
            self._node = self._grow(self._wait, "")
        return self._decide_wait(self._node, now)

    def _decide_wait(self, node: Node, now: float) -> Next:
        fresh = self._match_leaves(node)
        if fresh:
            return self._open(node, fresh, now)
        if self._raising is None and self._marker_ahead(waiting=True):
            self._raising = self._take()
        if self._raising is not None:
            left = self._abandon(self._open_leaves())
            if left:
                return Append(self._head(now) + left)
            marker, self._raising, self.cancelled = self._raising, None, True
            return self._answer(None, Cancelled(self._reason()), marker.seq, marker.at)
        settled = self._resolve(node)
        if self._cancel_is_unplaced() and (settled is None or settled.seq > self._cancel_seq):
            marker_draft = self._marker(waiting=True)
            return Append([*self._head(now), marker_draft, *self._abandon(self._open_leaves())])
        losers = self._abandon(self._losers(node))
        if settled is None:
            return Append(losers) if losers else self._rest(node, now)
        drafts = self._head(now) + losers
        if drafts:
            return Append(drafts)
        return self._answer(settled.value, settled.error, settled.seq, settled.at)

    def _rest(self, node: Node, now: float) -> Next:
        """The wait is not decided: let its steps work, or let go of the execution."""
        if self.replaying:
            entry = self._stretches[0].entry
            assert entry is not None
            raise Divergence(
                seq=entry.seq,
                recorded=_described(entry),
                yielded=f"a wait that is still open ({', '.join(self.waiting_for)})",
                where=node.wait.where,
            )
        steps = [leaf for leaf in self._open_leaves() if isinstance(leaf, StepNode)]
        idle = [step for step in steps if not step.running]
        if idle:
            return Act(self._attempt(idle, now), idle)
        if steps:
            return Idle()
        return Suspend(self._turn(self._open_leaves(), now))

    def _open(self, node: Node, fresh: list[LeafNode], now: float) -> Next:
        """Append what opens these leaves, and, as nothing just opened can be settled, what follows."""
        drafts = [self._opening(leaf, now) for leaf in fresh]
        if len(fresh) < len(self._leaves(node)):
            return Append(drafts)
        steps = [leaf for leaf in fresh if isinstance(leaf, StepNode)]
        if steps:
            return Act(drafts + self._attempt(steps, now), steps)
        return Suspend(drafts + self._turn(fresh, now))

    def _decide_continue(self, wait: ContinueAs) -> Next:
        entry = self._stretches[0].entry
        if entry is None:
            private = ContinuedPrivate(
                state=msgspec.Raw(canonical.encode(wait.state)),
                start=msgspec.structs.replace(self.base.start, messages=self.messages),
                kind=self.base.kind,
                counts=self.counts,
                started_at=self.base.started_at,
                upgrade=wait.upgrade,
                result=self.result if self.result is not None else msgspec.Raw(),
            )
            return Append([draft(Continued(segment=self.base.segment + 1), FLOW, private)])
        if entry.kind != "dispatch.continued":
            raise Divergence(
                seq=entry.seq, recorded=_described(entry), yielded="continue_as", where=wait.where
            )
        return Restart(entry)

    def _decide_end(self, outcome: Outcome, now: float) -> Next:
        word = (
            "cancelled" if self._cancel is not None else "failed" if outcome.code else "completed"
        )
        entry = self._stretches[0].entry
        if entry is None:
            return Append([*self._head(now), self._final(word, outcome, now)])
        if word != _end_word(entry):
            raise Divergence(seq=entry.seq, recorded=_described(entry), yielded=f"the end: {word}")
        return Done()

    def _final(self, word: str, outcome: Outcome, now: float) -> Draft:
        kind = self.base.kind
        output = None
        if self.result is not None:
            value = msgspec.json.decode(self.result)
            output = value if isinstance(value, str) else bytes(self.result).decode()
        if word == "failed":
            error = events.ErrorInfo(code=outcome.code, message=outcome.message)
            return draft(
                events.ExecutionError(
                    kind=kind,
                    error=error,
                    code=outcome.code,
                    completed_at=iso(now),
                    final_output=output,
                ),
                FLOW,
            )
        return draft(
            events.ExecutionComplete(
                kind=kind,
                success=word == "completed",
                stop_reason="cancelled" if word == "cancelled" else None,
                completed_at=iso(now),
                duration_ms=round((now - self.base.started_at) * 1000),
                final_output=output,
                total_steps=self.counts.total,
                successful_steps=self.counts.ok,
                failed_steps=self.counts.failed,
            ),
            FLOW,
        )

    def _answer(self, value: Any, error: BaseException | None, seq: int, at: float) -> Answer:
        if error is None and self._wait is not None:
            self._wait.answered(value)
        for leaf in self._leaves(self._node):
            self._settlements.pop(leaf.id, None)
        if self._node is not None:
            self._waits, self._displays = self._waits + 1, 0
        self._wait, self._node, self._held = None, None, False
        self._answered_seq, self._answered_at = seq, at
        return Answer(value, error)

    # --- cancel -----------------------------------------------------------------------------------

    def _decide_cancel_at_yield(self, now: float) -> Next | None:
        """`Cancelled` comes at a yield, instead of what it yielded, if that is its recorded place
        or it is new.
        """
        if self._wait is not None and self._stretches[0].entry is None:
            self._stretches[0].displays = 0  # edited code shows less: a live wait ends the stretch
        if self._marker_ahead(at_wait=self._wait is not None):
            marker = self._take()
            self.cancelled = True
            return self._answer(None, Cancelled(self._reason()), marker.seq, marker.at)
        if self._cancel_is_unplaced():
            return Append([*self._head(now), self._marker(waiting=False)])
        return None

    def _cancel_is_unplaced(self) -> bool:
        return self._cancel is not None and not self.cancelled and not self.replaying

    def _marker_ahead(self, *, at_wait: bool = False, waiting: bool = False) -> bool:
        entry = self._stretches[0].entry
        if entry is None or entry.kind != "dispatch.cancel_raised":
            return False
        place = entry.payload(CancelRaised)
        if place.waits != self._waits or place.waiting != waiting:
            return False
        # Edited code may never come to the recorded place: then it is the next wait.
        return waiting or at_wait or place.displays <= self._displays

    def _marker(self, *, waiting: bool) -> Draft:
        return draft(
            CancelRaised(waits=self._waits, displays=self._displays, waiting=waiting), FLOW
        )

    @property
    def _cancel_seq(self) -> int:
        return 0 if self._cancel is None else self._cancel.seq

    def _reason(self) -> str | None:
        return None if self._cancel is None else self._cancel.payload(CancelRequested).reason

    # --- leaves -----------------------------------------------------------------------------------

    def _grow(self, wait: Wait[Any], path: str) -> Node:
        """Give the leaves of `wait` their ids, in order. Where a leaf stands is part of its id, so
        turning a gather into a race is seen as another wait."""
        if isinstance(wait, Group):
            path += (
                "r" if isinstance(wait, Race) else "s" if getattr(wait, "settle", False) else "g"
            )
            return GroupNode(wait, [self._grow(branch, path) for branch in wait.branches])
        assert isinstance(wait, Leaf)
        self._ordinal += 1
        unique = derive(self.base.start.seed, self.base.segment, self._ordinal, path)
        id = f"{wait.TAG}_{unique}"
        return (
            StepNode(wait, id, attempts=self._attempts_of(id))
            if isinstance(wait, StepWait)
            else LeafNode(wait, id)
        )

    def _leaves(self, node: Node | None) -> list[LeafNode]:
        if node is None:
            return []
        if isinstance(node, LeafNode):
            return [node]
        return [leaf for branch in node.branches for leaf in self._leaves(branch)]

    def _open_leaves(self, node: Node | None = None) -> list[LeafNode]:
        return [
            leaf for leaf in self._leaves(node or self._node) if leaf.id not in self._settlements
        ]

    def _match_leaves(self, node: Node) -> list[LeafNode]:
        """Hold the leaves against their recorded entries; give back those that have none."""
        fresh = []
        for leaf in self._leaves(node):
            if leaf.opened:
                continue
            if self._stretches[0].entry is None:
                fresh.append(leaf)
                continue
            _compare(leaf, self._stretches[0].entry)
            self._take()
            leaf.opened = True
        return fresh

    def _take(self) -> Entry:
        """Step over the next recorded wait, and whatever displays are recorded before it."""
        entry = self._stretches.popleft().entry
        assert entry is not None
        return entry

    def _resolve(self, node: Node) -> Settled | None:
        """How `node` is decided, if it is: at the earliest seq from which that could be told."""
        if isinstance(node, LeafNode):
            entry = self._settlements.get(node.id)
            return None if entry is None else _settled(node.wait, entry)
        branches = [self._resolve(branch) for branch in node.branches]
        settled = [branch for branch in branches if branch is not None]
        if isinstance(node.wait, Race):
            if not settled:
                return None
            first = min(settled, key=lambda branch: branch.seq)
            return first._replace(value=(branches.index(first), first.value))
        assert isinstance(node.wait, Gather)
        failures = [branch for branch in settled if branch.error is not None]
        if failures and not node.wait.settle:
            return min(failures, key=lambda branch: branch.seq)
        if len(settled) < len(branches):
            return None
        last = max(settled, key=lambda branch: branch.seq)
        if node.wait.settle:
            results: list[Any] = [
                Ok(branch.value) if branch.error is None else Failed(branch.error)
                for branch in settled
            ]
        else:
            results = [branch.value for branch in settled]
        return Settled(last.seq, last.at, results, None)

    def _losers(self, node: Node) -> list[LeafNode]:
        """Leaves still open in groups that are decided, at any depth."""
        if isinstance(node, LeafNode):
            return []
        if self._resolve(node) is not None:
            undecided = [branch for branch in node.branches if self._resolve(branch) is None]
            decided = [branch for branch in node.branches if branch not in undecided]
            left = [leaf for branch in undecided for leaf in self._open_leaves(branch)]
            return left + [leaf for branch in decided for leaf in self._losers(branch)]
        return [leaf for branch in node.branches for leaf in self._losers(branch)]

    # --- drafts -----------------------------------------------------------------------------------

    def _head(self, now: float) -> list[Draft]:
        """The head of a new leg, if the last one has ended and the flow is about to go on."""
        if self.leg_open or self.replaying:
            return []
        return [resumed_head(self.base.kind, now)]

    def _opening(self, leaf: LeafNode, now: float) -> Draft:
        wait = leaf.wait
        match wait:
            case StepWait():
                return draft(
                    events.StepStart(
                        id=leaf.id, name=wait.name, step_type="step", started_at=iso(now)
                    ),
                    FLOW,
                )
            case ToolWait():
                parameters = canonical.encode(dict(wait.parameters))
                schema = None if wait.returns is Any else msgspec.json.schema(wait.returns)
                tool = self._tools.get(wait.name.removeprefix("webmcp:"))
                private = CallPrivate(
                    parameters=msgspec.Raw(parameters) if wait.private else msgspec.Raw(),
                    timeout=wait.timeout_seconds,
                    returns=schema,
                    raw=wait.raw,
                    private=wait.private,
                )
                shown = hidden(parameters) if wait.private else msgspec.Raw(parameters)
                return draft(
                    events.ToolStart(
                        tool_call_id=leaf.id,
                        tool_name=wait.name,
                        tool_type="local",
                        parameters=shown,
                        started_at=iso(now),
                        origin=tool.origin if tool else None,
                        page_origin=tool.page_origin if tool else None,
                    ),
                    FLOW,
                    private,
                )
            case ApprovalWait():
                return draft(
                    ApprovalOpened(
                        approval_id=leaf.id,
                        tool_name=wait.name,
                        parameters=dict(wait.parameters),
                        reason=wait.reason,
                        timeout=wait.timeout_seconds,
                    ),
                    FLOW,
                )
            case SleepWait():
                due = wait.due_at if wait.due_at is not None else now + (wait.seconds or 0.0)
                return draft(TimerSet(id=leaf.id, due_at=iso(due)), FLOW)
            case _:
                raise AssertionError(wait)

    def _attempt(self, steps: Sequence[StepNode], now: float) -> list[Draft]:
        drafts = []
        for step in steps:
            step.begun = step.attempts.retry_at <= now
            if step.begun:
                started = AttemptStarted(step_id=step.id, attempt=step.attempts.started + 1)
                drafts.append(draft(started, WORLD))
        return drafts

    def _turn(self, leaves: Sequence[LeafNode], now: float) -> list[Draft]:
        """One `await` or `approval_start` for each open call, unless the clients have them already."""
        if not self.leg_open:
            return []
        drafts = []
        for leaf in leaves:
            wait = leaf.wait
            if isinstance(wait, ToolWait):
                tool = self._tools.get(wait.name.removeprefix("webmcp:"))
                turn: events.EventBase = events.Await(
                    tool_call_id=leaf.id,
                    tool_id=leaf.id,
                    tool_name=wait.name,
                    parameters=dict(wait.parameters),
                    origin=tool.origin if tool else None,
                    page_origin=tool.page_origin if tool else None,
                    awaited_at=iso(now),
                )
            elif isinstance(wait, ApprovalWait):
                turn = events.ApprovalStart(
                    approval_id=leaf.id,
                    tool_name=wait.name,
                    tool_type="local",
                    reason=wait.reason,
                    parameters=dict(wait.parameters),
                    timeout=wait.timeout_seconds,
                    started_at=iso(now),
                )
            else:
                continue
            drafts.append(draft(turn, ENGINE))
        return drafts

    def _abandon(self, leaves: Sequence[LeafNode]) -> list[Draft]:
        drafts = []
        for leaf in leaves:
            match leaf.wait:
                case StepWait(name=name):
                    lost: events.EventBase | Payload = events.StepComplete(
                        id=leaf.id,
                        name=name,
                        step_type="step",
                        success=False,
                        error="abandoned",
                        code="abandoned",
                    )
                case ToolWait(name=name):
                    lost = events.ToolComplete(
                        tool_call_id=leaf.id,
                        tool_id=leaf.id,
                        tool_name=name,
                        success=False,
                        error="abandoned",
                        code="abandoned",
                    )
                case ApprovalWait():
                    lost = events.ApprovalComplete(
                        approval_id=leaf.id,
                        decision="timeout",
                        resolved_by="system",
                        code="abandoned",
                    )
                case _:
                    lost = Abandoned(id=leaf.id)
            drafts.append(draft(lost, WORLD))
        return drafts


class _ResultValue(Payload, frozen=True):
    value: msgspec.Raw = msgspec.Raw(b"null")


def resumed_head(kind: events.Kind, now: float, messages: list[Any] | None = None) -> Draft:
    """The entry that begins any leg but the first."""
    private = None if messages is None else ResumePrivate(messages=messages)
    return draft(
        events.ExecutionStart(kind=kind, started_at=iso(now), resumed=True), ENGINE, private
    )


def hidden(raw: bytes) -> dict[str, Any]:
    """What events show of a private value: its JSON type and a digest."""
    value = msgspec.json.decode(raw)
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return {"private": True, "type": names.get(type(value), "number"), "digest": digest(raw)}


def digest(raw: bytes) -> str:
    """16 hex digits by which two JSON values are called equal."""
    return derive("", canonical.canonical(raw).decode())


def _is_compensation(wait: Wait[Any]) -> bool:
    if isinstance(wait, Group):
        return all(_is_compensation(branch) for branch in wait.branches)
    return isinstance(wait, StepWait)


_OPENINGS: dict[type[Leaf[Any]], str] = {
    StepWait: "step_start",
    ToolWait: "tool_start",
    ApprovalWait: "dispatch.approval_opened",
    SleepWait: "dispatch.timer_set",
}


def _word(wait: Wait[Any]) -> str:
    return type(wait).__name__.removesuffix("Wait").lower()


def _compare(leaf: LeafNode, entry: Entry) -> None:
    """Raise `Divergence` unless `entry` is the one that opens `leaf` (rule 2)."""
    wait, facts = leaf.wait, entry.facts
    same = entry.kind == _OPENINGS[type(wait)]
    if same:
        match wait:
            case StepWait():
                same = (facts.id, facts.name) == (leaf.id, wait.name)
            case ToolWait():
                private = entry.hidden(CallPrivate)
                recorded = bytes(private.parameters) if private is not None else b""
                same = (facts.tool_call_id, facts.tool_name) == (leaf.id, wait.name) and _equal(
                    recorded or bytes(facts.parameters), wait.parameters
                )
            case ApprovalWait():
                opened = entry.payload(ApprovalOpened)
                same = (opened.approval_id, opened.tool_name) == (leaf.id, wait.name) and _equal(
                    canonical.encode(opened.parameters), wait.parameters
                )
            case _:
                same = entry.payload(TimerSet).id == leaf.id
    if not same:
        parameters = getattr(wait, "parameters", None)
        shown = (
            ""
            if parameters is None
            else " "
            + _shown(canonical.encode(dict(parameters)), private=getattr(wait, "private", False))
        )
        raise Divergence(
            seq=entry.seq,
            recorded=_described(entry),
            yielded=f"{_word(wait)} {wait.name}{shown} ({leaf.id})",
            where=wait.where,
        )


def _equal(recorded: bytes, parameters: Any) -> bool:
    return canonical.canonical(recorded) == canonical.canonical(canonical.encode(dict(parameters)))


def _shown(raw: bytes, *, private: bool) -> str:
    return (
        canonical.encode(hidden(raw)).decode()
        if private
        else canonical.canonical(raw).decode()[:200]
    )


def _described(entry: Entry) -> str:
    facts = entry.facts
    match entry.kind:
        case "step_start":
            return f"step {facts.name} ({facts.id})"
        case "tool_start":
            return f"tool {facts.tool_name} {_shown(bytes(facts.parameters) or b'null', private=False)} ({facts.tool_call_id})"
        case "dispatch.approval_opened":
            opened = entry.payload(ApprovalOpened)
            return f"approval {opened.tool_name} ({opened.approval_id})"
        case "dispatch.timer_set":
            return f"sleep ({entry.payload(TimerSet).id})"
        case "dispatch.cancel_raised":
            return "Cancelled raised"
        case "dispatch.continued":
            return "continue_as"
        case _:
            return f"the end: {_end_word(entry)}"


def _end_word(entry: Entry) -> str:
    if entry.kind == "execution_error":
        return "failed"
    if entry.kind == "execution_complete":
        return "completed" if entry.facts.success else "cancelled"
    return entry.kind


# --- settlements as values (rule 7) ---------------------------------------------------------------


def _settled(wait: Leaf[Any], entry: Entry) -> Settled:
    facts = entry.facts
    match wait:
        case SleepWait():
            value, error = None, None
        case ApprovalWait():
            outcome: Any = facts.decision
            value, error = Decision(outcome, facts.reason), None
        case StepWait():
            value, error = _step_value(wait, entry)
        case ToolWait():
            value, error = _tool_value(wait, entry)
        case _:
            raise AssertionError(wait)
    return Settled(entry.seq, entry.at, value, error)


def _result_of(entry: Entry) -> bytes:
    private = entry.hidden(ResultPrivate)
    return bytes(private.result if private is not None else entry.facts.result) or b"null"


def _message_of(entry: Entry) -> str:
    raw = bytes(entry.facts.error) or b'""'
    error = msgspec.json.decode(raw)
    return error if isinstance(error, str) else str(error.get("message", error))


def _step_value(wait: StepWait[Any], entry: Entry) -> tuple[Any, WaitFailed | None]:
    if not entry.facts.success:
        return None, StepFailed(
            _message_of(entry), name=wait.name, type_name=entry.facts.error_type
        )
    try:
        return msgspec.json.decode(_result_of(entry), type=wait.returns), None
    except msgspec.ValidationError as exc:
        return None, StepFailed(
            f"the result of {wait.name} does not fit {wait.returns}: {exc}",
            name=wait.name,
            type_name="ResultInvalid",
        )


def _tool_value(wait: ToolWait[Any], entry: Entry) -> tuple[Any, WaitFailed | None]:
    if entry.facts.code == "timeout":
        return None, ToolTimeout(
            f"no output for {wait.name} in time", name=wait.name, type_name="ToolTimeout"
        )
    if not entry.facts.success:
        return None, ToolFailed(
            _message_of(entry), name=wait.name, type_name=entry.facts.code or "ToolFailed"
        )
    raw = _result_of(entry)
    if not wait.raw:
        raw, failure = unwrap_mcp(raw, parse=wait.returns is not str and wait.returns is not Any)
        if failure is not None:
            return None, ToolFailed(failure, name=wait.name)
    try:
        return msgspec.json.decode(raw, type=wait.returns), None
    except msgspec.ValidationError as exc:
        return None, ToolFailed(
            f"the output of {wait.name} does not fit {wait.returns}: {exc}",
            name=wait.name,
            type_name="OutputInvalid",
        )


def unwrap_mcp(raw: bytes, *, parse: bool) -> tuple[bytes, str | None]:
    """The value inside an MCP tool result (modelcontextprotocol.io, "Tool Result"), or why it failed.

    `structuredContent` if it is there, else the joined text, which `parse` takes as JSON if it is
    JSON. What has not that shape is the value itself.
    """
    output = msgspec.json.decode(raw)
    if not isinstance(output, dict) or not isinstance(output.get("content"), list):
        return raw, None
    parts = output["content"]
    if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts):
        return raw, None
    text = "".join(str(part.get("text", "")) for part in parts if part["type"] == "text")
    if output.get("isError") is True:
        return raw, text or "the tool failed"
    if output.get("structuredContent") is not None:
        return canonical.encode(output["structuredContent"]), None
    if parse:
        try:
            msgspec.json.decode(text)
        except msgspec.DecodeError:
            pass
        else:
            return text.encode(), None
    return canonical.encode(text), None
