"""The runner without a loop: drives the replay machine over a journal that is a list.

A flow is a sync generator here; the machine holds none and can't tell. `Worker` obeys `decide` the
way `engine.runner` does: live displays wait in a window and are appended whatever else has arrived;
what is firm lands only if nothing unseen has; steps append their result only while it is wanted.
Nothing moves by itself: a test lets steps work, and `between` appends for others between any two
actions.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from dispatch.core import canonical, events, replay
from dispatch.core.clock import iso
from dispatch.core.journal import (
    AttemptStarted,
    Draft,
    Entry,
    Origin,
    ResultSet,
    draft,
    text_delta,
)
from dispatch.core.moves import Outcome, Show
from dispatch.core.nodes import StepNode
from dispatch.core.waits import (
    ApprovalWait,
    Gather,
    Race,
    SleepWait,
    StepWait,
    ToolWait,
    Wait,
)
from tests.core.journals import Journal, begun

TURNS = 100
FLOW, WORLD = Origin.FLOW, Origin.WORLD


@dataclass
class Result:
    """What `yield result(value)` will be."""

    value: Any


@dataclass
class Run:
    """A flow's handle, as much of it as the rules are about."""

    state: Any
    segment: int
    now: float
    messages: list[Any]


@dataclass
class Work:
    """A step that a task works on; not `begun` while it waits for its next attempt."""

    node: StepNode
    begun: bool
    attempt: int
    failed: int
    retry_at: float


FlowFunction = Callable[[Run], Generator[Any, Any, Any]]


@dataclass
class Worker:
    """Drives one execution; `rules` is the module of the replay machine, or a broken copy of it."""

    flow: FlowFunction
    journal: Journal
    between: Callable[[Worker], None] = lambda worker: None
    rules: Any = replay
    window: Callable[[], int] = lambda: 0  # how many displays may still wait to be appended
    # What the flow was given, by segment: value or error, and the moment.
    traces: dict[int, list[tuple[Any, float, list[Any]]]] = field(default_factory=dict)
    standing: str = "start"  # what the flow yielded last
    said: list[Any] = field(default_factory=list)  # what it showed in this segment
    given: list[tuple[Any, Any]] = field(default_factory=list)  # and got for what it yielded
    appended: list[Draft] = field(default_factory=list)  # by this worker, firm or not
    work: dict[str, Work] = field(default_factory=dict)
    status: str = "driving"

    def __post_init__(self) -> None:
        bases = [
            e.seq for e in self.journal.entries if e.kind == "dispatch.continued" or e.seq == 1
        ]
        self._finished: list[tuple[str, Draft]] = []
        self._pending: list[Draft] = []
        self._begin(self.journal.entries[bases[-1] - 1])
        # A recovery reads the whole segment before it begins the flow.
        self._feed()

    def _begin(self, base: Entry) -> None:
        self.machine: Any = self.rules.Replay(base)
        self._read = base.seq
        self._own: set[int] = set()
        state = self.machine.base.state
        self.run = Run(
            None if state is None else msgspec.json.decode(state),
            self.machine.base.segment,
            self.machine.now,
            self.machine.messages,
        )
        self.traces[self.run.segment] = []
        self.said.clear()
        self.given.clear()
        self._generator = self.flow(self.run)
        self._yielded: Any = None
        self._has_yielded = False

    # --- journal ---------------------------------------------------------------------------------

    def _feed(self) -> None:
        for placed in self.journal.entries[self._read :]:
            self._read = placed.seq
            if placed.seq in self._own:
                self.machine.fed_seq = placed.seq
                continue
            self.machine.feed(placed)
            if placed.kind == "step_complete":
                self.work.pop(placed.facts.id, None)

    def flush(self) -> None:
        """Let the displays that wait in the window land."""
        pending, self._pending = self._pending, []
        if pending and not self.journal.is_final:
            first = self.journal.last_seq + 1
            self.journal.append(*pending)
            self.appended += pending
            self._own |= set(range(first, self.journal.last_seq + 1))

    def _append(self, drafts: Sequence[Draft]) -> bool:
        """Append what is firm if nothing unseen has arrived; displays land in any case."""
        self.between(self)
        expected, found = self.machine.fed_seq, self.journal.last_seq
        if self.journal.is_final:
            self._pending.clear()
            return False
        self.flush()
        if expected != found:
            return False
        if drafts:
            self.journal.append(*drafts)
            self.appended += drafts
        return True

    # --- the driver ------------------------------------------------------------------------------

    def advance(self) -> str:
        """Drive until it is `done`, `suspended`, or `idle` because steps are at work."""
        self.status = "driving"
        for _ in range(TURNS):
            if not self._has_yielded:
                self._go_on(None, None)
            self._turn()
            if self.status != "driving":
                return self.status
        raise AssertionError("goes round in circles")

    def _turn(self) -> None:
        rules = self.rules
        self._feed()
        while self._finished:
            wanted = [(id, done) for id, done in self._finished if id in self.work]
            self._finished.clear()
            if wanted and not self._append([done for _, done in wanted]):
                self._finished = wanted
            self._feed()
        match self.machine.decide(self.journal.now):
            case rules.Answer(value, error):
                self._answer(value, error)
            case rules.Append(drafts):
                assert drafts, "an append of nothing would be asked for ever"
                self._append(drafts)
            case rules.Act(drafts, nodes):
                if self._append(drafts):
                    for node in nodes:
                        node.running = True
                        known = node.attempts
                        attempt = known.started + node.begun
                        self.work[node.id] = Work(
                            node, node.begun, attempt, known.failed, known.retry_at
                        )
            case rules.Idle():
                self.status = "idle"
            case rules.Suspend(drafts):
                if self._append(drafts):
                    self.status = "suspended"
            case rules.Restart(base):
                self._begin(base)
                self._feed()
            case rules.Done():
                self._generator.close()
                self.status = "done"
            case undecided:
                raise AssertionError(undecided)

    def _answer(self, value: Any, error: BaseException | None) -> None:
        self.run.now, self.run.messages = self.machine.now, self.machine.messages
        outcome = (type(error).__name__, str(error)) if error is not None else value
        self.given.append((self._yielded, error if error is not None else value))
        self.trace.append((outcome, self.run.now, list(self.run.messages)))
        self._go_on(value, error)

    def _go_on(self, value: Any, error: BaseException | None) -> None:
        """Run the flow to its next wait, its end, or a display at which it is to be cancelled."""
        self._has_yielded = True
        while True:
            try:
                if error is not None:
                    yielded = self._generator.throw(error)
                else:
                    yielded = self._generator.send(value)
            except StopIteration:
                self.machine.end(Outcome())
                return
            except BaseException as exc:  # a flow may raise anything
                self.machine.end(Outcome(exc, "flow-failed", str(exc)))
                return
            value = error = None
            self._yielded = yielded
            self.standing = type(yielded).__name__ if isinstance(yielded, Wait) else "display"
            self.between(self)
            self._feed()
            if isinstance(yielded, Wait):
                self.machine.wait(yielded)
                return
            if yielded == "":
                continue
            show = self.machine.display()
            if show.name == Show.HOLD.name:
                return
            shown = yielded.value if isinstance(yielded, Result) else yielded
            self.said.append(msgspec.json.decode(canonical.encode(shown)))
            if show.name == Show.LIVE.name:
                self._show(yielded)

    def _show(self, yielded: Any) -> None:
        if isinstance(yielded, Result):
            self._pending.append(draft(ResultSet(value=yielded.value), FLOW))
            self.machine.result = msgspec.Raw(canonical.encode(yielded.value))
        else:
            self._pending.append(text_delta("text_1", yielded, FLOW))
        if len(self._pending) > self.window():
            self.flush()

    # --- steps -----------------------------------------------------------------------------------

    def do(self, step_id: str, what: str, value: Any = None) -> None:
        """Let a step at work move: `text`, `succeed` or `fail`, or begin its next attempt."""
        work = self.work[step_id]
        wait = work.node.wait
        assert isinstance(wait, StepWait)
        assert not self.journal.is_settled(step_id), "run although its result is there"
        if not work.begun:
            self.journal.now = max(self.journal.now, work.retry_at)
            work.attempt += 1
            self.journal.append(draft(AttemptStarted(step_id=step_id, attempt=work.attempt), WORLD))
            work.begun = True
            return
        recorded = [
            e.payload(AttemptStarted).attempt
            for e in self.journal.entries
            if e.kind == "dispatch.step_attempt" and e.payload(AttemptStarted).step_id == step_id
        ]
        assert recorded == list(range(1, work.attempt + 1)), "run before its attempt's entry"
        if what == "text":
            self.journal.append(text_delta(f"text_{step_id}", str(value), WORLD))
        elif what == "succeed":
            done = events.StepComplete(id=step_id, name=wait.name, success=True, result=value)
            self._finished.append((step_id, draft(done, WORLD)))
        elif work.failed < wait.retries:
            work.failed += 1
            work.retry_at = self.journal.now + 5
            failed = events.Error(
                error=str(value),
                recoverable=True,
                step_id=step_id,
                attempt=work.attempt,
                retry_at=iso(work.retry_at),
            )
            self.journal.append(draft(failed, WORLD))
            work.begun = False
        else:
            lost = events.StepComplete(
                id=step_id,
                name=wait.name,
                success=False,
                error=str(value),
                error_type="ValueError",
            )
            self._finished.append((step_id, draft(lost, WORLD)))

    # --- shortcuts -------------------------------------------------------------------------------

    def finish(self, what: str = "succeed", value: Any = None, step: int = 0) -> str:
        """Let a step at work finish, and go on."""
        self.do(self.steps[step], what, value)
        return self.advance()

    def output(self, value: Any = None, call: int = 0, *, fails: bool = False) -> str:
        """Settle one of the open calls or timers, and go on."""
        self.journal.settle(list(self.journal.open().values())[call], value, fails=fails)
        return self.advance()

    def cancel(self, reason: str | None = None) -> str:
        self.journal.cancel(reason)
        return self.advance()

    @property
    def text(self) -> str:
        """What a client has read of the flow's own text."""
        return "".join(
            msgspec.json.decode(e.data)["delta"]
            for e in self.journal.entries
            if e.kind == "text_delta" and e.origin is FLOW
        )

    @property
    def trace(self) -> list[tuple[Any, float, list[Any]]]:
        """What the flow was given in this segment."""
        return self.traces[self.run.segment]

    @property
    def waits_for(self) -> Wait[Any]:
        """The wait that it is idle or suspended at."""
        assert isinstance(self._yielded, Wait)
        return self._yielded

    @property
    def answers(self) -> list[Any]:
        return [outcome for outcome, _, _ in self.trace]

    @property
    def steps(self) -> list[str]:
        """Steps at work that have not finished."""
        finished = {id for id, _ in self._finished}
        return [id for id in self.work if id not in finished]

    def crash(self) -> None:
        """Close the generator; what was not appended is lost."""
        self._generator.close()


def drive(flow: FlowFunction, journal: Journal | None = None, **options: Any) -> Worker:
    """A worker that has advanced as far as it can, on a new journal unless there is one."""
    worker = Worker(flow, begun() if journal is None else journal, **options)
    worker.advance()
    return worker


def recover(flow: FlowFunction, journal: Journal) -> Worker:
    """A worker that takes over after a crash, with `flow` as it is now."""
    return drive(flow, journal.cut(journal.last_seq))


def step(name: str = "step", **options: Any) -> StepWait[Any]:
    return StepWait(len, (), {}, name=name, **options)


def tool(name: str = "tool", parameters: Any = None, **options: Any) -> ToolWait[Any]:
    return ToolWait(name, parameters or {}, **options)


def approval(name: str = "delete", parameters: Any = None, **options: Any) -> ApprovalWait:
    return ApprovalWait(name, parameters or {}, **options)


def sleep(seconds: float = 60) -> SleepWait:
    return SleepWait(seconds=seconds)


def gather(*branches: Wait[Any], settle: bool = False) -> Gather[Any]:
    return Gather(branches, settle=settle)


def race(*branches: Wait[Any]) -> Race[Any]:
    return Race(branches)
