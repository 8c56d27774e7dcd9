"""Drive one flow: carry out what `core.replay` decides.

One driver task per live execution. It awaits the generator and bare futures, nothing else, so a
cancel scope that an author leaves open across a yield can hit only this task: the first
cancellation that the engine did not send ends it, and the flow fails as `scope-across-yield`. The
generator lives and is closed in this task; while its execution is suspended the task waits with it
(warm), until it is revived with a new token or told to close (cold).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import replace
from enum import Enum
from types import AsyncGeneratorType
from typing import Any, NamedTuple, Protocol

import anyio
import msgspec

from dispatch import mistakes
from dispatch.core import canonical, events
from dispatch.core.blocks import Blocks
from dispatch.core.clock import Clock
from dispatch.core.errors import (
    Cancelled,
    Conflict,
    DispatchError,
    Divergence,
    FlowMistake,
    LeaseLost,
    NotFound,
    StepFailed,
    ToolFailed,
    ToolTimeout,
    Unprocessable,
)
from dispatch.core.journal import (
    DISPLAYS,
    MAX_ENTRY_BYTES,
    Draft,
    Edge,
    Entry,
    Origin,
    PhaseEntered,
    ResultSet,
    display,
    draft,
    entry,
    text_delta,
)
from dispatch.core.moves import (
    Act,
    Answer,
    Append,
    Done,
    Idle,
    Outcome,
    Restart,
    Show,
    Suspend,
)
from dispatch.core.nodes import Attempts, StepNode
from dispatch.core.replay import Replay
from dispatch.core.waits import MADE, ContinueAs, Wait
from dispatch.engine import steps
from dispatch.engine.outbox import Outbox
from dispatch.flow import FlowVersion, Registry, Run
from dispatch.store.base import Committed, Execution, Store
from dispatch.yields import Phase, Result, as_wait

logger = logging.getLogger(__name__)

PAGE = 64
#: Text that is longer, or not ASCII, may be more than an entry holds, or no text at all.
PLAIN_CHARACTERS = 1024 * 1024
MAX_RESULT_BYTES = MAX_ENTRY_BYTES - 64 * 1024
#: Entries from which a time limit may run.
TIMED = frozenset({"dispatch.timer_set", "await", "approval_start"})


class Host(Protocol):
    """What a runner needs of the engine."""

    store: Store
    registry: Registry
    clock: Clock
    threads: anyio.CapacityLimiter
    close_seconds: float

    def spawn(self, function: Any, *args: Any) -> None: ...

    def suspended(self, runner: Runner) -> None:
        """Its execution is nobody's now; the generator is warm until `close` or `revive`."""

    def timer_set(self) -> None:
        """A wait with a due time has been committed."""

    def caught_up(self, runner: Runner) -> None:
        """It has replayed its journal, or come to its end."""

    def gone(self, runner: Runner) -> None:
        """Its task has ended."""

    async def park(self, execution: Execution, code: str, message: str) -> None: ...

    async def fail(self, execution: Execution, code: str, message: str) -> None: ...

    async def release(self, execution: Execution) -> None: ...


class State(Enum):
    DRIVING = "driving"
    WARM = "warm"
    CLOSING = "closing"


class Ended(NamedTuple):
    outcome: Outcome


class Unread(NamedTuple):
    """Entries behind `after`, up to `until`, that were appended out of this runner's sight: by
    another process, or in the moment before it was there.
    """

    after: int
    until: int


class Runner:
    """Drives `execution` while it is this worker's. `start` spares reading a journal that is at
    hand.
    """

    def __init__(self, host: Host, execution: Execution, start: Entry | None = None):
        self.execution = execution
        self.state = State.DRIVING
        self._cut_off = False
        self.clock, self.threads = host.clock, host.threads
        self._host, self._start_entry = host, start
        self._outbox = self._new_outbox(execution.token)
        self._inbox: deque[Entry | Unread] = deque()
        self._seen_seq = execution.last_seq  # the inbox, and what was fed, reach so far
        self._segment_over = False
        self._wakers: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[Any] | None = None
        self._stack: list[AsyncGenerator[Any, Any]] = []
        self._helper_results: list[Any] = []
        self._made: list[Wait[Any]] = []
        self._steps: dict[str, anyio.CancelScope] = {}
        self._finished: list[tuple[StepNode, Draft]] = []
        self._machine: Replay
        self._blocks: Blocks
        self._run: Run[Any]

    # --- told from outside (each returns at once) ------------------------------------------------

    def committed(self, committed: Committed) -> None:
        """The store's listener: something was appended to this execution, perhaps by us."""
        self._see(committed.first_seq - 1)
        for offset, placed in enumerate(committed.drafts):
            # Our own displays are accounted for when they are yielded.
            if placed.origin is not Origin.FLOW or placed.kind not in DISPLAYS:
                self._inbox.append(entry(placed, committed.first_seq + offset, committed.at))
        self._seen_seq = committed.execution.last_seq
        self.execution = committed.execution
        if committed.chunks and committed.chunks[-1].end is Edge.FINAL:
            self._ended_from_outside()
        self._wake()

    def _see(self, last_seq: int) -> None:
        """The journal reaches so far, whatever it was that was appended."""
        if last_seq > self._seen_seq:
            self._inbox.append(Unread(self._seen_seq, last_seq))
            self._seen_seq = last_seq

    def revive(self, execution: Execution) -> bool:
        """Go on with the warm generator, if nobody else has driven the execution since."""
        if self.state is not State.WARM or execution.token != self._outbox.token + 1:
            return False
        self.execution = execution
        self._outbox = self._new_outbox(execution.token)
        self.state = State.DRIVING
        self._wake()
        return True

    def close(self) -> None:
        """Close the generator and end the task. What was not appended is forgotten: replay brings
        it back.
        """
        if self.state is State.CLOSING:
            return  # a second cancellation would cut the author's clean-up short
        self._cut_off = self.state is State.DRIVING
        self.state = State.CLOSING
        self._wake()
        for scope in self._steps.values():
            scope.cancel()
        # One that is warm ends when it is woken: a cancellation would hit its generator's clean-up.
        if self._cut_off and self._task is not None and self._outbox.broken is None:
            self._task.cancel()

    def _ended_from_outside(self) -> None:
        """A final event that the flow did not write: cancel's time limit, or an operator."""
        final = self._inbox[-1] if self._inbox else None
        if isinstance(final, Entry) and final.origin is Origin.WORLD:
            self.close()

    # --- the driver task -------------------------------------------------------------------------

    async def run(self) -> None:
        """The driver task. Never raises: whatever happens becomes an outcome, a parking or a log
        line.
        """
        self._task = asyncio.current_task()
        try:
            if self.state is State.CLOSING:  # before it began
                raise asyncio.CancelledError
            await self._drive()
        except LeaseLost:
            logger.warning("lost the lease", extra={"execution_id": self.execution.id})
        except Conflict:
            pass  # final by somebody else's entry
        except (Divergence, NotFound, Unprocessable) as exc:
            code = "version-missing" if isinstance(exc, NotFound) else exc.code
            self._host.spawn(self._host.park, self.execution, code, exc.message)
        except asyncio.CancelledError:
            if self.state is not State.CLOSING:
                self._scope_across_yield()
            elif self._cut_off and not self.execution.status.is_final:
                self._host.spawn(self._host.release, self.execution)
        except Exception as exc:
            logger.exception("the engine failed", extra={"execution_id": self.execution.id})
            self._host.spawn(
                self._host.park, self.execution, "internal", f"{type(exc).__name__}: {exc}"
            )
        finally:
            for scope in self._steps.values():
                scope.cancel()
            await self._close_generators()
            self._host.caught_up(self)
            self._host.gone(self)

    async def _drive(self) -> None:
        if self._start_entry is not None:
            self._begin(self._start_entry)
        else:
            await self._read_journal()
        while (restart := await self._drive_segment()) is not None:
            await self._close_generators()
            if self.state is State.CLOSING:
                raise asyncio.CancelledError
            self._begin(restart)

    def _begin(self, base: Entry) -> None:
        """Begin the segment that starts from `base`."""
        self._machine = Replay(base)
        self._blocks = Blocks(self._machine.base.segment)
        self._segment_over = False

    async def _read_journal(self) -> None:
        """Begin the current segment, and feed what is recorded of it, a page at a time."""
        execution = self.execution
        async for past in self._read(execution.segment_seq - 1, execution.last_seq):
            if past.seq == execution.segment_seq:
                self._begin(past)
            else:
                self._machine.feed(past)
                self._blocks.feed(past)

    async def _drive_segment(self) -> Entry | None:
        """Drive to the end of the segment; give back the entry that begins the next one."""
        machine = self._machine
        await self._feed()
        version = machine.base.version or self.execution.version
        flow = self._host.registry.find(self.execution.flow, version)
        self._run = Run(
            flow,
            self.execution.id,
            machine.base.start,
            inputs=flow.decode_inputs(bytes(machine.base.start.inputs)),
            segment=machine.base.segment,
            state=None if machine.base.state is None else msgspec.json.decode(machine.base.state),
        )
        self._run.as_of(machine.now, machine.messages)
        self._made = []
        MADE.set(self._made)
        self._stack, self._helper_results = [flow(self._run)], [None]
        answer: Answer | Entry | None = Answer(None, None)
        while isinstance(answer, Answer):
            yielded = await self._advance(answer)
            if self.state is State.CLOSING:
                # Whatever an author's code makes of being cancelled is not the flow's doing.
                raise asyncio.CancelledError
            answer = await self._take(yielded, flow)
        return answer

    def _shows(self, text: str) -> bool:
        """Show text, or skip what was shown before; False: it needs a closer look."""
        if self._inbox or self._outbox.is_full or not _is_plain(text):
            return False
        if self.state is State.CLOSING:
            return False
        show = self._machine.display()
        if show is Show.LIVE:
            self._outbox.put(self._blocks.text(text))
        return show is not Show.HOLD

    async def _take(self, yielded: Any, flow: FlowVersion) -> Answer | Entry | None:
        """What the generator yielded, or came to. An `Answer` goes back into it."""
        machine = self._machine
        await self._feed()
        if isinstance(yielded, str):
            if yielded and not _is_plain(yielded):
                # Before it is counted: what the journal can't hold was not shown.
                try:
                    text_delta("", yielded, Origin.FLOW)
                except FlowMistake as exc:
                    return Answer(None, self._located(exc))
            match machine.display() if yielded else Show.SKIP:
                case Show.LIVE:
                    self._outbox.put(self._blocks.text(yielded))
                    if self._outbox.is_full:
                        self._host.caught_up(self)
                        await self._outbox.room()
                case Show.HOLD:
                    return await self._settle()
                case Show.SKIP:
                    pass
            return Answer(None, None)
        if isinstance(yielded, Ended):
            machine.end(yielded.outcome)
            return await self._settle()
        yielded = as_wait(yielded)
        if isinstance(yielded, Wait):
            self._made[:] = [made for made in self._made if made is not yielded]
            if isinstance(yielded, ContinueAs):
                newest = self._host.registry.find(flow.id).version
                yielded.version = newest if yielded.upgrade else flow.version
            machine.wait(yielded)
            return await self._settle()
        if isinstance(yielded, AsyncGeneratorType):
            self._stack.append(yielded)
            self._helper_results.append(None)
            return Answer(None, None)
        if isinstance(yielded, Result) and len(self._stack) > 1:
            self._helper_results[-1] = yielded.value
            return Answer(None, None)
        return await self._show(yielded)

    async def _show(self, yielded: Any) -> Answer | Entry | None:
        """A display that is not plain text."""
        try:
            drafts = self._display_drafts(yielded)
        except FlowMistake as exc:
            return Answer(None, self._located(exc))
        match self._machine.display():
            case Show.LIVE:
                if isinstance(yielded, Result):
                    self._machine.result = result_raw(drafts[-1])
                self._outbox.put([*self._blocks.close(), *drafts])
                await self._outbox.room()
            case Show.HOLD:
                return await self._settle()
            case Show.SKIP:
                pass
        return Answer(None, None)

    def _located(self, mistake: FlowMistake) -> FlowMistake:
        """The same, with the place of the yield."""
        where = mistakes.suspended_at(self._stack[-1])
        return FlowMistake(f"{mistake.message} ({where})", code=mistake.code)

    def _display_drafts(self, yielded: Any) -> list[Draft]:
        match yielded:
            case Result(value):
                return [draft(ResultSet(value=_recordable(value)), Origin.FLOW)]
            case Phase(name):
                return [draft(PhaseEntered(name=name), Origin.FLOW)]
            case events.EventBase() if yielded.type_name() in DISPLAYS:
                return [display(yielded, Origin.FLOW)]
        raise mistakes.explain_yield(yielded)

    async def _settle(self) -> Answer | Entry | None:
        """Obey the machine until it answers the flow (`Answer`), begins a segment (`Entry`) or has
        ended.
        """
        machine = self._machine
        while True:
            await self._feed()
            await self._append_finished()
            match machine.decide(self.clock.now()):
                case Answer() as answer:
                    self._run.as_of(machine.now, machine.messages)
                    if isinstance(answer.error, FlowMistake):
                        return Answer(None, self._located(answer.error))
                    return answer
                case Append(drafts):
                    await self._append(drafts)
                case Act(drafts, nodes):
                    self._host.caught_up(self)
                    if await self._append(drafts):
                        for node in nodes:
                            self._start(node)
                case Idle():
                    await self._changed()
                case Suspend(drafts):
                    if await self._append(drafts, release=True):
                        await self._stay_warm()
                case Restart(entry):
                    return entry
                case Done():
                    return None

    async def _stay_warm(self) -> None:
        """The execution is nobody's. Return when it is ours again; else end the task."""
        self.state = State.WARM
        self._host.caught_up(self)
        self._host.suspended(self)
        while self.state is State.WARM:
            await self._woken()
        if self.state is State.CLOSING:
            raise asyncio.CancelledError

    # --- the generator ---------------------------------------------------------------------------

    async def _advance(self, answer: Answer) -> Any:
        """Send or throw into the innermost generator; give back what is yielded, or `Ended`."""
        while True:
            generator = self._stack[-1]
            try:
                if answer.error is not None:
                    yielded = await generator.athrow(answer.error)
                else:
                    yielded = await generator.asend(answer.value)
                # Plain text, live, with nothing in the inbox, is most of what ever happens.
                while yielded.__class__ is str and self._shows(yielded):
                    yielded = await generator.asend(None)
                return yielded
            except StopAsyncIteration:
                answer = Answer(self._helper_results[-1], None)
            except asyncio.CancelledError as exc:
                if self._task is not None and self._task.cancelling():
                    raise
                answer = Answer(None, exc)
            except BaseException as exc:  # SystemExit too ends the flow, not the server
                answer = Answer(None, exc)
            if len(self._stack) == 1:
                return Ended(self._outcome(answer.error))
            self._stack.pop()
            self._helper_results.pop()

    def _outcome(self, error: BaseException | None) -> Outcome:
        if error is None:
            if self._made:
                wait = self._made[0]
                error = FlowMistake(
                    f"{wait!r} was made and never yielded, so it was never done: "
                    f"write `yield` before it ({wait.where})"
                )
            else:
                return Outcome()
        logger.info(
            "flow %s failed",
            self.execution.flow,
            exc_info=error,
            extra={"execution_id": self.execution.id},
        )
        return Outcome(error, *_code_and_message(error))

    async def _close_generators(self) -> None:
        """Python's own closing, innermost first; nothing that it does is recorded."""
        while self._stack:
            generator = self._stack.pop()
            where = mistakes.suspended_at(generator)
            try:
                async with asyncio.timeout(self._host.close_seconds):
                    await generator.aclose()
            except TimeoutError:
                logger.warning("%s: closing took longer than %g s", where, self._host.close_seconds)
            except BaseException as exc:  # what an author's clean-up raises is not the execution's
                if "ignored GeneratorExit" in str(exc):
                    where = mistakes.suspended_at(generator)
                    logger.warning("%s: a yield while closing is ignored", where)
                else:
                    logger.warning("%s: raised while closing", where, exc_info=True)

    def _scope_across_yield(self) -> None:
        where = mistakes.suspended_at(self._stack[-1]) if self._stack else "?"
        self._host.spawn(
            self._host.fail,
            self.execution,
            "scope-across-yield",
            "a cancel scope or task group was left open across a yield and cancelled the flow "
            f"from inside: use the timeout= of a step or tool, or race ({where})",
        )

    # --- appending and feeding -------------------------------------------------------------------

    async def _feed(self) -> None:
        machine = self._machine
        while self._inbox and not self._segment_over:
            entry = self._inbox[0]
            if isinstance(entry, Unread):
                read = [past async for past in self._read(entry.after, entry.until)]
                self._inbox.popleft()
                self._inbox.extendleft(reversed(read))
                continue
            self._inbox.popleft()
            if entry.seq <= machine.fed_seq:
                continue
            machine.feed(entry)
            # What lies behind it, a cancel perhaps, is the next segment's.
            self._segment_over = entry.kind == "dispatch.continued"
            if entry.edge is Edge.HEAD:
                self._outbox.put(self._blocks.close())
            if entry.kind == "step_complete":
                scope = self._steps.pop(entry.facts.id, None)
                if scope is not None:
                    scope.cancel()
        if not self._segment_over:
            machine.fed_seq = max(machine.fed_seq, self._seen_seq)

    async def _append(self, drafts: list[Draft], *, release: bool = False) -> bool:
        """Append if nothing unseen has arrived. False: decide anew."""
        await self._outbox.quiet()
        if self._inbox:
            return False
        if drafts:
            self._outbox.put(self._blocks.close())
        elif not release:
            return True
        appended = await self._outbox.append(
            drafts, expected_seq=self._machine.fed_seq, release=release
        )
        if appended.landed:
            if any(placed.kind in TIMED for placed in drafts):
                self._host.timer_set()
        else:
            self._see(appended.last_seq)
        return appended.landed

    async def _append_finished(self) -> None:
        """Record what steps came to, for those that are still wanted."""
        while self._finished:
            wanted = [(node, done) for node, done in self._finished if node.id in self._steps]
            self._finished.clear()
            if wanted and not await self._append([done for _, done in wanted]):
                self._finished[:0] = wanted
            await self._feed()

    async def _read(self, after: int, until: int) -> AsyncGenerator[Entry, None]:
        """The journal behind `after` up to `until`, a page at a time."""
        id = self.execution.id
        while after < until:
            chunks = await self._host.store.read(id, after=after, until=until, limit=PAGE)
            if not chunks:
                raise LeaseLost(f"the journal of {id} ends before seq {until}: it was deleted")
            for chunk in chunks:
                for past in chunk.entries():
                    yield past
            after = chunks[-1].last_seq

    # --- steps (steps.StepHost) ------------------------------------------------------------------

    def _start(self, node: StepNode) -> None:
        node.running = True
        scope = self._steps[node.id] = anyio.CancelScope()
        # A copy: the machine goes on counting what is fed back.
        self._host.spawn(self._carry_out, node, replace(node.attempts), scope)

    async def _carry_out(
        self, node: StepNode, attempts: Attempts, scope: anyio.CancelScope
    ) -> None:
        with scope:
            try:
                done = await steps.carry_out(node, attempts, self)
            except DispatchError as exc:
                logger.info("step %s ends: %s", node.wait.name, exc)
                return
            self._finished.append((node, done))
            self._wake()

    async def show(self, step: StepNode, text: str) -> None:
        self._outbox.put(self._blocks.text(text, step.id))
        await self._outbox.room()

    async def put(self, *drafts: Draft) -> None:
        self._outbox.put([*self._blocks.close(), *drafts])
        await self._outbox.room()

    async def record(self, *drafts: Draft) -> None:
        self._outbox.put([*self._blocks.close(), *drafts])
        await self._outbox.durable()

    # --- waiting ---------------------------------------------------------------------------------

    def _new_outbox(self, token: int) -> Outbox:
        return Outbox(self._host.store, self.execution.id, token, self._host.spawn, self._wake)

    def _wake(self) -> None:
        wakers, self._wakers = self._wakers, []
        for waker in wakers:
            if not waker.done():
                waker.set_result(None)

    async def _changed(self) -> None:
        """Return when something has been fed, finished, revived or broken."""
        if self._inbox or self._finished:
            return
        await self._woken()
        if self._outbox.broken is not None and self.state is State.DRIVING:
            raise self._outbox.broken

    async def _woken(self) -> None:
        waker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wakers.append(waker)
        await waker


def _is_plain(text: str) -> bool:
    """Whether `text` is sure to fit an entry, and not empty: almost all text is."""
    if not 0 < len(text) <= PLAIN_CHARACTERS:
        return False
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


class _Value(msgspec.Struct):
    value: msgspec.Raw = msgspec.Raw(b"null")


class _Custom(msgspec.Struct):
    value: _Value


def _recordable(result: Any) -> msgspec.Raw:
    try:
        raw = canonical.encode(result)
    except FlowMistake as exc:
        raise FlowMistake(f"the result can't be recorded: {exc.message}", code=exc.code) from exc
    # In the final event it stands as text.
    size = len(raw if isinstance(result, str) else msgspec.json.encode(raw.decode()))
    if size > MAX_RESULT_BYTES:
        raise FlowMistake(
            f"the result has {size} bytes; {MAX_RESULT_BYTES} is the limit", code="entry-too-large"
        )
    return msgspec.Raw(raw)


def result_raw(placed: Draft) -> msgspec.Raw:
    """The JSON of a result that has just been drafted."""
    return msgspec.json.decode(b'{"type":"custom"' + placed.rest, type=_Custom).value.value


def _code_and_message(error: BaseException) -> tuple[str, str]:
    message = mistakes.message_of(error) or type(error).__name__
    match error:
        case FlowMistake():
            return error.code, message
        case ToolTimeout():
            return "tool-timeout", message
        case ToolFailed():
            return "tool-failed", f"{error.name}: {message}"
        case StepFailed():
            return "step-failed", f"{error.name}: {error.type_name}: {message}"
        case Cancelled():
            return "flow-failed", "Cancelled was raised, and no cancel was asked for"
        case _:
            return "flow-failed", f"{type(error).__name__}: {message}"
