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

On recovery the whole segment is fed before the flow is begun. `decide` may be asked at any moment
and as often as one likes. It repeats `Append` until what it asked for has been fed back, so an
append that was refused, because somebody else's entry came first, is simply decided anew with that
entry in view.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec

from dispatch.core import drafts
from dispatch.core.ahead import Ahead
from dispatch.core.clock import parse_iso
from dispatch.core.compare import compare, diverged, in_words, recorded_end
from dispatch.core.drafts import resumed_head
from dispatch.core.errors import Cancelled, FlowMistake
from dispatch.core.ids import derive
from dispatch.core.journal import (
    Abandoned,
    AttemptStarted,
    CancelRaised,
    CancelRequested,
    Draft,
    Edge,
    Entry,
    Origin,
    ResumePrivate,
    draft,
)
from dispatch.core.moves import (
    Act,
    Answer,
    Append,
    Done,
    Idle,
    Next,
    Outcome,
    Restart,
    Show,
    Suspend,
)
from dispatch.core.nodes import (
    Attempts,
    GroupNode,
    LeafNode,
    Node,
    StepNode,
    leaves,
    losers,
    open_leaves,
    resolve,
)
from dispatch.core.path import Path
from dispatch.core.segment import base_of, continued
from dispatch.core.waits import (
    ApprovalWait,
    ContinueAs,
    Group,
    Leaf,
    SleepWait,
    StepWait,
    ToolWait,
    Wait,
)

FLOW, WORLD = Origin.FLOW, Origin.WORLD


class Replay:
    """One execution's current segment, beginning with `base`, the entry that it starts from.

    `fed_seq` is the last seq that the machine knows of; the runner moves it past displays that it
    appended, and sets `result` to what they set.
    """

    def __init__(self, base: Entry):
        self.base = base_of(base)
        self.fed_seq = base.seq
        self.leg_open = True
        self.result = self.base.result
        self.counts = self.base.counts
        self.cancelled = False  # whether Cancelled has been raised
        self._path = Path()
        self._settlements: dict[str, Entry] = {}
        self._attempts: dict[str, Attempts] = {}
        self._messages: list[tuple[int, list[Any]]] = [(base.seq, self.base.start.messages)]
        self._ahead = Ahead(self.base.start.tool_outputs, self.base.decisions)
        self._tools = {tool.name: tool for tool in self.base.start.client_tools}
        self._issued: list[str] = []  # calls that this leg has told the caller of
        self._cancel: Entry | None = None
        self._ended_by_world = False
        # Where the flow stands. `_waits` and `_displays` are the place of rule 5.
        self._waits = self._displays = self._ordinal = 0
        self._answered_seq, self._answered_at = base.seq, base.at
        self._wait: Wait[Any] | None = None
        # What became of `_wait`: a node, the draft that ends the segment, or why it can't be.
        self._asked: Node | Draft | FlowMistake | None = None
        self._raising: Entry | None = None
        self._end: Outcome | None = None

    # --- facts in ---------------------------------------------------------------------------------

    def feed(self, entry: Entry) -> None:
        """Take the next committed entry. Displays that `display` called live are not fed back."""
        self.fed_seq = entry.seq
        if edge := entry.edge:
            self.leg_open = edge is Edge.HEAD
            if edge is Edge.TURN:
                self._issued.append(entry.facts.tool_call_id or entry.facts.approval_id)
            elif edge is Edge.HEAD:
                self._issued.clear()
        self._ahead.feed(entry)
        if entry.origin is FLOW:
            self._feed_flow(entry)
        elif entry.origin is WORLD:
            self._feed_world(entry)
        elif entry.kind == "execution_start":
            resumed = entry.hidden(ResumePrivate)
            if resumed is not None and resumed.messages is not None:
                self._messages.append((entry.seq, resumed.messages))

    def _feed_flow(self, entry: Entry) -> None:
        self._path.feed(entry)
        if entry.kind == "dispatch.result":
            self.result = entry.payload(_ResultValue).value
        elif entry.kind == "step_start":
            self.counts = msgspec.structs.replace(self.counts, total=self.counts.total + 1)

    def _feed_world(self, entry: Entry) -> None:
        facts = entry.facts
        match entry.kind:
            case "tool_complete":
                self._settlements.setdefault(facts.tool_call_id, entry)
            case "approval_complete":
                self._settlements.setdefault(facts.approval_id, entry)
            case "step_complete":
                ended = "ok" if facts.success else "failed"
                count = getattr(self.counts, ended) + 1
                self.counts = msgspec.structs.replace(self.counts, **{ended: count})
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
                self._cancel = self._cancel or entry
            case "execution_complete" | "execution_error":
                self._ended_by_world = True
            case _:
                pass  # what steps show

    def _attempts_of(self, step_id: str) -> Attempts:
        return self._attempts.setdefault(step_id, Attempts())

    def display(self) -> Show:
        """The flow yielded something only to be seen."""
        path = self._path
        # Asked for every token there is: what can't be so is not asked further.
        if (path.next is not None and self._marker_ahead(at_wait=False)) or (
            self._cancel is not None and self._cancel_is_unplaced()
        ):
            return Show.HOLD
        self._displays += 1
        return Show.SKIP if path.shown() else Show.LIVE

    def wait(self, wait: Wait[Any]) -> None:
        """The flow yielded something to be answered."""
        self._wait = wait

    def end(self, outcome: Outcome) -> None:
        """The generator is exhausted."""
        self._end = outcome

    def rest(self) -> None:
        """It is suspended: hold on to nothing that has been recorded of what it stands at."""
        if isinstance(self._asked, Node):
            self._match(self._asked)

    # --- what it knows ----------------------------------------------------------------------------

    @property
    def replaying(self) -> bool:
        """Whether recorded flow entries still lie ahead."""
        return self._path.lies_ahead

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
    def is_timed(self) -> bool:
        """Whether time may settle what the flow stands at."""
        return isinstance(self._asked, Node) and any(
            isinstance(wait, SleepWait)
            or (isinstance(wait, ToolWait | ApprovalWait) and wait.timeout_seconds is not None)
            for wait in (leaf.wait for leaf in leaves(self._asked))
        )

    @property
    def waiting_for(self) -> list[str]:
        """What the flow stands at, in words."""
        return (
            [in_words(leaf.wait) for leaf in self._open(self._asked)]
            if isinstance(self._asked, Node)
            else []
        )

    # --- what now? --------------------------------------------------------------------------------

    def decide(self, now: float) -> Next:
        """What to do next, at the time `now` in Unix seconds.

        Raises `Divergence` if the flow has left the path that its journal records.
        """
        if self._ended_by_world:
            return Done()
        if self._end is not None:
            return self._decide_end(self._end, now)
        if self._wait is not None and (self._asked is None or isinstance(self._asked, Draft)):
            if self.cancelled and not _is_compensation(self._wait):
                return self._refuse(Cancelled(self._reason()))
            try:
                if isinstance(self._wait, ContinueAs):
                    self._asked = self._continued(self._wait)
                else:
                    self._asked = self._grow(self._wait, now)
            except FlowMistake as exc:
                self._asked = exc
        asked = self._asked
        if not isinstance(asked, Node) or not _is_opened(asked):
            at_yield = self._decide_cancel_at_yield(now)
            if at_yield is not None:
                return at_yield
        match asked:
            case FlowMistake():
                self._displays += 1
                return self._refuse(asked)
            case Draft():
                assert isinstance(self._wait, ContinueAs)
                return self._decide_continue(asked, self._wait)
            case LeafNode() | GroupNode():
                return self._decide_wait(asked, now)
            case None:
                raise AssertionError("asked while the flow runs")

    def _refuse(self, error: BaseException) -> Answer:
        """Raise in the flow instead of waiting: not recorded, so a replay comes here again."""
        return self._answer(None, error, self._answered_seq, self._answered_at)

    def _decide_wait(self, node: Node, now: float) -> Next:
        fresh = self._match(node)
        if fresh:
            return self._begin(node, fresh, now)
        if self._raising is None and self._marker_ahead(waiting=True):
            self._raising = self._path.take()
        if self._raising is not None:
            left = drafts.abandonments(self._open(node))
            if left:
                return Append(self._head(now) + left)
            marker, self._raising, self.cancelled = self._raising, None, True
            return self._answer(None, Cancelled(self._reason()), marker.seq, marker.at)
        decided = resolve(node, self._settlements)
        if self._cancel_is_unplaced() and (decided is None or decided.seq > self._cancel_seq):
            left = drafts.abandonments(self._open(node))
            return Append([*self._head(now), self._marker(waiting=True), *left])
        lost = drafts.abandonments(losers(node, self._settlements))
        if decided is None:
            return Append(lost) if lost else self._wait_on(node, now)
        if first := self._head(now) + lost:
            return Append(first)
        return self._answer(decided.value, decided.error, decided.seq, decided.at)

    def _wait_on(self, node: Node, now: float) -> Next:
        """The wait is not decided: let its steps work, or let go of the execution."""
        entry = self._path.next
        if entry is not None:
            words = f"a wait that is still open ({', '.join(self.waiting_for)})"
            raise diverged(entry, words, node.wait.where)
        steps = [leaf for leaf in self._open(node) if isinstance(leaf, StepNode)]
        idle = [step for step in steps if not step.running]
        if idle:
            return Act(drafts.attempts(idle, now), idle)
        if steps:
            return Idle()
        if all(isinstance(leaf.wait, SleepWait) for leaf in self._open(node)):
            # Nobody's turn any more, by a time limit perhaps: what goes on by itself is a leg.
            return Suspend(self._head(now))
        return Suspend(self._turn(self._open(node), now))

    def _begin(self, node: Node, fresh: list[LeafNode], now: float) -> Next:
        """Open these leaves, and, unless one was answered ahead, what follows from none being
        settled.
        """
        opened = [leaf.opening for leaf in fresh if leaf.opening is not None]
        settled = self._ahead.settle(fresh, now)
        if settled or len(fresh) < len(leaves(node)):
            return Append(opened + settled)
        steps = [leaf for leaf in fresh if isinstance(leaf, StepNode)]
        if steps:
            return Act(opened + drafts.attempts(steps, now), steps)
        return Suspend(opened + self._turn(fresh, now))

    def _continued(self, wait: ContinueAs) -> Draft:
        return continued(
            self.base,
            wait,
            # The newest, not `self.messages`: what a resume has brought since the last answer
            # lies before the new segment, which will never read it.
            messages=self._messages[-1][1],
            ahead=self._ahead,
            result=self.result,
            counts=self.counts,
        )

    def _decide_continue(self, continued: Draft, wait: ContinueAs) -> Next:
        entry = self._path.next
        if entry is None:
            return Append([continued])
        if entry.kind != "dispatch.continued":
            raise diverged(entry, in_words(wait), wait.where)
        return Restart(entry)

    def _decide_end(self, outcome: Outcome, now: float) -> Next:
        if self._cancel is not None:
            limit = self._cancel.payload(CancelRequested)
            outcome = Outcome(code=limit.code or "", message=limit.reason or "")
        word = self._end_word(outcome)
        entry = self._path.next
        if entry is None:
            final = drafts.final(
                word,
                code=outcome.code,
                message=outcome.message,
                kind=self.base.kind,
                result=self.result,
                counts=self.counts,
                started_at=self.base.started_at,
                now=now,
            )
            return Append([*self._head(now), final])
        if word != recorded_end(entry):
            raise diverged(entry, f"the end: {word}", outcome.where)
        return Done()

    def _end_word(self, outcome: Outcome) -> str:
        """A flow whose cancel was asked for may end as it likes."""
        if outcome.code:
            return "failed"
        return "completed" if self._cancel is None else "cancelled"

    def _answer(self, value: Any, error: BaseException | None, seq: int, at: float) -> Answer:
        if error is None and self._wait is not None:
            self._wait.answered(value)
        if isinstance(self._asked, Node):
            answered = leaves(self._asked)
            for leaf in answered:
                self._settlements.pop(leaf.id, None)
            self._ordinal += len(answered)
            self._waits, self._displays = self._waits + 1, 0
        self._wait, self._asked = None, None
        self._answered_seq, self._answered_at = seq, at
        return Answer(value, error)

    # --- cancel -----------------------------------------------------------------------------------

    def _decide_cancel_at_yield(self, now: float) -> Next | None:
        """`Cancelled` comes at a yield, instead of what it yielded, if that is its recorded place
        or it is new.
        """
        at_wait = isinstance(self._asked, Node | Draft)
        if at_wait and self._path.next is None:
            self._path.leave()
        if self._marker_ahead(at_wait=at_wait):
            marker = self._path.take()
            self.cancelled, self._asked = True, None
            return self._answer(None, Cancelled(self._reason()), marker.seq, marker.at)
        if self._cancel_is_unplaced():
            return Append([*self._head(now), self._marker(waiting=False)])
        return None

    def _cancel_is_unplaced(self) -> bool:
        return self._cancel is not None and not self.cancelled and not self.replaying

    def _marker_ahead(self, *, at_wait: bool = False, waiting: bool = False) -> bool:
        entry = self._path.next
        if entry is None or entry.kind != "dispatch.cancel_raised":
            return False
        place = entry.payload(CancelRaised)
        if place.waits != self._waits or place.waiting != waiting:
            return False
        # Edited code may never come to the recorded place: then it is the next wait.
        return waiting or at_wait or place.displays <= self._displays

    def _marker(self, *, waiting: bool) -> Draft:
        place = CancelRaised(waits=self._waits, displays=self._displays, waiting=waiting)
        return draft(place, FLOW)

    @property
    def _cancel_seq(self) -> int:
        return 0 if self._cancel is None else self._cancel.seq

    def _reason(self) -> str | None:
        return None if self._cancel is None else self._cancel.payload(CancelRequested).reason

    # --- leaves -----------------------------------------------------------------------------------

    def _grow(self, wait: Wait[Any], now: float) -> Node:
        """Give the leaves of `wait` their ids, in order. Where a leaf stands is part of its id, so
        turning a gather into a race is seen as another wait.
        """
        ordinals = count(self._ordinal + 1)

        def grow(wait: Wait[Any], path: str) -> Node:
            if isinstance(wait, Group):
                path += wait.mark
                return GroupNode(wait, [grow(branch, path) for branch in wait.branches])
            assert isinstance(wait, Leaf)
            unique = derive(self.base.start.seed, self.base.segment, next(ordinals), path)
            id = f"{wait.TAG}_{unique}"
            parameters = drafts.parameters_of(wait)
            opening = drafts.opening(wait, id, parameters, self._tools, now)
            if isinstance(wait, StepWait):
                return StepNode(wait, id, parameters, opening, attempts=self._attempts_of(id))
            return LeafNode(wait, id, parameters, opening)

        return grow(wait, "")

    def _match(self, node: Node) -> list[LeafNode]:
        """Hold the leaves against their recorded entries; give back those that have none."""
        fresh = []
        for leaf in leaves(node):
            if leaf.opening is None:
                continue
            if self._path.next is None:
                fresh.append(leaf)
                continue
            compare(leaf, self._path.next)
            self._path.take()
            leaf.opening = None
        return fresh

    def _open(self, node: Node) -> list[LeafNode]:
        return open_leaves(node, self._settlements)

    def _head(self, now: float) -> list[Draft]:
        """The head of a new leg, if the last one has ended and the flow is about to go on."""
        if self.leg_open or self.replaying:
            return []
        return [resumed_head(self.base.kind, self.base.flow, now)]

    def _turn(self, leaves: list[LeafNode], now: float) -> list[Draft]:
        """The caller's turn, as far as it has not been told in this leg."""
        issued = set(self._issued)
        untold = [leaf for leaf in leaves if leaf.id not in issued]
        return drafts.turn(untold, self._tools, now)


class _ResultValue(msgspec.Struct, frozen=True):
    value: msgspec.Raw = msgspec.Raw(b"null")


def _is_opened(node: Node) -> bool:
    return any(leaf.opening is None for leaf in leaves(node))


def _is_compensation(wait: Wait[Any]) -> bool:
    if isinstance(wait, Group):
        return all(_is_compensation(branch) for branch in wait.branches)
    return isinstance(wait, StepWait)
