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
from enum import Enum
from types import AsyncGeneratorType
from typing import Any

import anyio
import anyio.lowlevel
import msgspec

from dispatch.core.blocks import Blocks
from dispatch.core.errors import (
    Conflict,
    Damaged,
    Divergence,
    FlowMistake,
    LeaseLost,
    NotFound,
    Unavailable,
    Unprocessable,
)
from dispatch.core.journal import Draft, Edge, Entry, Origin, text_delta
from dispatch.core.moves import Act, Answer, Append, Done, Idle, Outcome, Restart, Show, Suspend
from dispatch.core.nodes import StepNode
from dispatch.core.replay import Replay
from dispatch.core.waits import MADE, ContinueAs, Wait
from dispatch.engine.generators import Ended, Generators
from dispatch.engine.host import Host
from dispatch.engine.inbox import Inbox, read_journal
from dispatch.engine.lastwords import DRIVEN
from dispatch.engine.outbox import Outbox
from dispatch.engine.underway import UnderWay
from dispatch.engine.yielded import display_draft, is_plain, outcome_of, result_raw
from dispatch.flow import Run
from dispatch.store.base import Committed, Execution
from dispatch.yields import Result, as_wait

logger = logging.getLogger(__name__)

#: Entries from which a time limit may run.
TIMED = frozenset({"dispatch.timer_set", "await", "approval_start"})


class State(Enum):
    DRIVING = "driving"
    WARM = "warm"
    CLOSING = "closing"


class Runner:
    """Drives `execution` while it is this worker's. `start` spares reading a journal that is at
    hand.
    """

    def __init__(self, host: Host, execution: Execution, start: Entry | None = None):
        self.execution = execution
        self.state = State.DRIVING
        self._cut_off = False
        self.clock, self.abandonable = host.clock, host.abandonable
        self._host, self._start_entry = host, start
        self._outbox = self._new_outbox()
        self._inbox = Inbox(host.store, execution.id, execution.last_seq)
        self._segment_over = False
        self._waker: asyncio.Future[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._generators = Generators()
        self._made: list[Wait[Any]] = []
        self._steps = UnderWay()
        self._machine: Replay
        self._blocks: Blocks
        self._run: Run[Any]

    @property
    def token(self) -> int:
        """The one under which it drives, or has driven, the execution."""
        return self.execution.token

    @property
    def where(self) -> str:
        """`file:line` that the flow stands at."""
        return self._generators.where

    @property
    def is_idle(self) -> bool:
        """Whether it does nothing unless it is woken."""
        return self._waker is not None

    # --- told from outside (each returns at once) ------------------------------------------------

    def committed(self, committed: Committed) -> None:
        """The store's listener: something was appended to this execution, perhaps by us."""
        self._inbox.put(committed)
        self._note(committed.execution)
        if committed.drafts[-1].edge is Edge.FINAL and committed.drafts[-1].origin is Origin.WORLD:
            # Not the flow's own end: cancel's time limit, or no way to go on.
            self.close()
        if self._inbox:
            self._wake()

    def grown(self, execution: Execution) -> None:
        """Its row shows that other workers have appended something, perhaps."""
        if execution.last_seq <= self._inbox.seen_seq or self._outbox.is_sending:
            return  # what is being sent will tell what came before it
        self._note(execution)
        self._inbox.see(execution.last_seq)
        self._wake()
        if execution.status.is_final:
            self.close()

    def _note(self, execution: Execution) -> None:
        """Its row, with our own token (we act in nobody else's name) and the id that is here."""
        self.execution = msgspec.structs.replace(execution, id=self.execution.id, token=self.token)

    def revive(self, execution: Execution) -> bool:
        """Go on with the warm generator, if nobody else has driven the execution since."""
        if self.state is not State.WARM or execution.token != self.token + 1:
            return False
        self.execution = execution
        self._outbox = self._new_outbox()
        self.state = State.DRIVING
        self._wake()
        return True

    def go_ahead(self, committed: Committed) -> bool:
        """The same, with what revives it, before that is committed."""
        # What can't be read yet must not have to be.
        if self._inbox.seen_seq != committed.first_seq - 1 or not self.revive(committed.execution):
            return False
        self.committed(committed)
        return True

    def call_back(self) -> None:
        """What it went ahead of was not committed, so there is nothing to let go of."""
        self.close()
        self._cut_off = False

    def drives(self, token: int) -> bool:
        """Whether it drives the execution under that token, or is about to let go of it."""
        return self.state is not State.WARM and self.token == token

    def close(self) -> None:
        """Close the generator and end the task. What was not appended is forgotten: replay brings
        it back.
        """
        if self.state is State.CLOSING:
            return  # a second cancellation would cut the author's clean-up short
        self._cut_off = self.state is State.DRIVING
        self.state = State.CLOSING
        self._wake()
        self._steps.cancel()
        # One that is warm ends when it is woken: a cancellation would hit its generator's clean-up.
        if self._cut_off and self._task is not None and self._outbox.broken is None:
            self._task.cancel()

    # --- the driver task -------------------------------------------------------------------------

    async def run(self) -> None:
        """The driver task. Never raises: it comes to an outcome, a parking or a line of the log."""
        self._task = asyncio.current_task()
        DRIVEN.set(self.execution.id)
        try:
            self._check_open()  # it may have been closed before it began
            await self._read_journal()
            while await self._drive():
                self._let_go()
                # Warm, and no deeper than here: each frame that waits is memory.
                while self.state is State.WARM:
                    await self._woken()
                self._check_open()
        except (Damaged, Divergence, NotFound, Unprocessable) as exc:
            code = "version-missing" if isinstance(exc, NotFound) else exc.code
            self._host.spawn(self._host.park, self.execution, code, exc.message)
        except LeaseLost:
            logger.warning("lost the lease", extra={"execution_id": self.execution.id})
        except Unavailable as exc:  # what was being written may be there or not: a replay tells
            logger.warning("cannot go on: %s", exc, extra={"execution_id": self.execution.id})
            self._host.spawn(self._host.release, self.execution)
        except Conflict:
            pass  # final by somebody else's entry
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
            self._steps.cancel()
            await self._generators.close(self._host.close_seconds)
            self._host.caught_up(self)
            self._host.gone(self)

    def _check_open(self) -> None:
        if self.state is State.CLOSING:
            raise asyncio.CancelledError

    def _let_go(self) -> None:
        """The execution is nobody's; the generator stays."""
        self.state = State.WARM
        self._host.caught_up(self)
        self._host.suspended(self)

    def _begin(self, base: Entry) -> None:
        """Begin the segment that starts from `base`."""
        self._machine = Replay(base)
        self._blocks = Blocks(self._machine.base.segment)
        self._segment_over = False

    async def _read_journal(self) -> None:
        """Begin the current segment, and feed what is recorded of it, a page at a time."""
        execution, start, self._start_entry = self.execution, self._start_entry, None
        if start is not None:
            self._begin(start)
            return
        async for past in read_journal(
            self._host.store, execution.id, execution.segment_seq - 1, execution.last_seq
        ):
            if past.seq == execution.segment_seq:
                self._begin(past)
            else:
                self._machine.feed(past)
                self._blocks.feed(past)

    async def _drive(self) -> bool:
        """Drive on from where it stands, until it is suspended (True) or has ended."""
        answer: Answer | None = None
        while True:
            if self._generators.is_empty:
                answer = await self._enter()
            while answer is not None:
                yielded = await self._generators.advance(answer, self._shows)
                # Whatever an author's code makes of being cancelled is not the flow's doing.
                self._check_open()
                answer = await self._take(yielded)
            match await self._settle():
                case Answer() as answer:
                    pass
                case Restart(entry):
                    await self._generators.close(self._host.close_seconds)
                    self._check_open()
                    self._begin(entry)
                case Suspend():
                    return True
                case Done():
                    return False

    @property
    def _version(self) -> int:
        return self._machine.base.version or self.execution.version

    async def _enter(self) -> Answer:
        """Make the segment's generator; give back what begins it."""
        await self._feed()
        machine = self._machine
        flow = self._host.registry.find(self.execution.flow, self._version)
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
        self._generators.push(flow(self._run))
        return Answer(None, None)

    def _shows(self, text: str) -> bool:
        """Show text, or skip what was shown before; False: it needs a closer look."""
        if self._inbox or self._outbox.is_full or not is_plain(text):
            return False
        if self.state is State.CLOSING:
            return False
        show = self._machine.display()
        if show is Show.LIVE:
            self._outbox.put(self._blocks.text(text))
        return show is not Show.HOLD

    async def _take(self, yielded: Any) -> Answer | None:
        """What the generator yielded, or came to. None: the machine is to say what now."""
        machine = self._machine
        await self._feed()
        if isinstance(yielded, str):
            if yielded and not is_plain(yielded):
                # Before it is counted: what the journal can't hold was not shown.
                try:
                    text_delta("", yielded, Origin.FLOW)
                except FlowMistake as exc:
                    return Answer(None, self._located(exc))
            show = machine.display() if yielded else Show.SKIP
            if show is Show.LIVE:
                self._outbox.put(self._blocks.text(yielded))
                if self._outbox.is_full:
                    self._host.caught_up(self)
                    await self._outbox.room()
            return None if show is Show.HOLD else Answer(None, None)
        if isinstance(yielded, Ended):
            machine.end(self._outcome(yielded.error)._replace(where=self.where))
            return None
        yielded = as_wait(yielded)
        if isinstance(yielded, Wait):
            self._made[:] = [made for made in self._made if made is not yielded]
            if isinstance(yielded, ContinueAs):
                newest = self._host.registry.find(self.execution.flow).version
                yielded.version = newest if yielded.upgrade else self._version
            machine.wait(yielded)
            return None
        if isinstance(yielded, AsyncGeneratorType):
            self._generators.push(yielded)
            return Answer(None, None)
        if isinstance(yielded, Result) and self._generators.in_helper:
            self._generators.set_result(yielded.value)
            return Answer(None, None)
        return await self._show(yielded)

    async def _show(self, yielded: Any) -> Answer | None:
        """A display that is not plain text."""
        try:
            placed = display_draft(yielded)
        except FlowMistake as exc:
            return Answer(None, self._located(exc))
        show = self._machine.display()
        if show is Show.LIVE:
            if isinstance(yielded, Result):
                self._machine.result = result_raw(placed)
            self._outbox.put([*self._blocks.close(), placed])
            await self._outbox.room()
        return None if show is Show.HOLD else Answer(None, None)

    def _located(self, mistake: FlowMistake) -> FlowMistake:
        """The same, with the place of the yield."""
        return FlowMistake(f"{mistake.message} ({self.where})", code=mistake.code)

    async def _settle(self) -> Answer | Restart | Suspend | Done:
        """Obey the machine until it is the flow's turn again, or nobody's."""
        machine = self._machine
        while True:
            await self._feed()
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
                    # Only now: what has arrived may have decided that a step is not wanted.
                    await self._append_reports()
                    await self._changed()
                case Suspend(drafts) as suspended:
                    if await self._append(drafts, release=True):
                        await self._feed()
                        machine.rest()
                        return suspended
                case over:
                    return over

    # --- ends -------------------------------------------------------------------------------------

    def _outcome(self, error: BaseException | None) -> Outcome:
        if error is None and self._made:
            wait = self._made[0]
            error = FlowMistake(
                f"{wait} was made and never yielded, so it was never done: "
                f"write `yield` before it ({wait.where})"
            )
        if error is not None:
            self._log_failure(error)
        return outcome_of(error)

    def _log_failure(self, error: BaseException) -> None:
        about = {"execution_id": self.execution.id}
        logger.info("flow %s failed", self.execution.flow, exc_info=error, extra=about)

    def _scope_across_yield(self) -> None:
        self._host.spawn(
            self._host.fail,
            self.execution,
            "scope-across-yield",
            "a cancel scope or task group was left open across a yield and cancelled the flow "
            f"from inside: use the timeout= of a step or tool, or race ({self.where})",
        )

    # --- appending and feeding -------------------------------------------------------------------

    async def _feed(self) -> None:
        machine = self._machine
        while self._inbox and not self._segment_over:
            entry = await self._inbox.take()
            if entry.seq <= machine.fed_seq:
                continue
            machine.feed(entry)
            # What lies behind it, a cancel perhaps, is the next segment's.
            self._segment_over = entry.kind == "dispatch.continued"
            if entry.edge is Edge.HEAD:
                self._outbox.put(self._blocks.close())
            if entry.kind == "step_complete":
                self._steps.ended(entry.facts.id)
        if not self._segment_over:
            machine.fed_seq = max(machine.fed_seq, self._inbox.seen_seq)

    async def _append(self, drafts: list[Draft], *, release: bool = False) -> bool:
        """Append if nothing unseen has arrived. False: decide anew."""
        await self._outbox.quiet()
        if self._inbox:
            return False
        await self._feed()  # displays of ours may have been committed meanwhile
        if drafts:
            self._outbox.put(self._blocks.close())
        elif not release:
            return True
        appended = await self._outbox.append(
            drafts, expected_seq=self._machine.fed_seq, release=release
        )
        if appended.landed:
            if self._machine.is_timed and any(placed.kind in TIMED for placed in drafts):
                self._host.timer_set()
        else:
            self._inbox.see(appended.last_seq)
        return appended.landed

    async def _append_reports(self) -> None:
        """Record what steps report, of those that are still wanted."""
        reports = self._steps.take()
        if reports and await self._append([report.draft for report in reports]):
            for report in reports:
                report.durable.set()
        else:
            self._steps.put_back(reports)

    # --- steps (steps.StepHost) ------------------------------------------------------------------

    @property
    def step_timeout(self) -> float | None:
        return self._machine.base.start.step_timeout

    def _start(self, node: StepNode) -> None:
        self._steps.begin(node, self, self._host.spawn)

    async def may_begin(self) -> None:
        await anyio.lowlevel.checkpoint_if_cancelled()
        await self._host.leased()

    async def show(self, step: StepNode, text: str) -> None:
        self._outbox.put(self._blocks.text(text, step.id))
        await self._outbox.room()

    async def put(self, *drafts: Draft) -> None:
        self._outbox.put([*self._blocks.close(), *drafts])
        await self._outbox.room()

    async def record(self, step: StepNode, draft: Draft) -> None:
        report = self._steps.report(step, draft)
        self._wake()
        await report.durable.wait()

    # --- waiting ---------------------------------------------------------------------------------

    def _new_outbox(self) -> Outbox:
        return Outbox(self._host.store, self.execution.id, self.token, self._wake)

    def _wake(self) -> None:
        waker, self._waker = self._waker, None
        if waker is not None and not waker.done():
            waker.set_result(None)

    async def _changed(self) -> None:
        """Return when something has been fed, reported, revived or broken."""
        if self._inbox or self._steps.has_reports:
            return
        await self._woken()
        if self._outbox.broken is not None and self.state is State.DRIVING:
            raise self._outbox.broken

    def _woken(self) -> asyncio.Future[None]:
        """Done at the next `_wake`. Only the driver task waits."""
        self._waker = asyncio.get_running_loop().create_future()
        return self._waker
