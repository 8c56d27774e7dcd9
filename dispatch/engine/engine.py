"""Ties a worker's parts together: who is live, who is warm, what has to be taken up.

The engine listens to the store: each commit goes to the hub, for subscribers, and to the runner of
its execution. *Runnable and nobody's* is a fact in the store that is looked for at start and each
second, so nothing that is missed in memory stays undone.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio
import anyio.abc

from dispatch.core import events
from dispatch.core.clock import Clock, iso
from dispatch.core.errors import Conflict, Gone, LeaseLost, NotFound, Unavailable
from dispatch.core.ids import ExecutionId, execution_id
from dispatch.core.journal import Origin, draft
from dispatch.core.lifecycle import Status
from dispatch.core.projection import CANCEL_TIMER
from dispatch.engine import lastwords, watchdog
from dispatch.engine.abandonable import Abandonable
from dispatch.engine.dispatcher import Dispatcher
from dispatch.engine.recovery import Recovery
from dispatch.engine.runner import Runner
from dispatch.engine.strays import Strays
from dispatch.engine.timers import Timers, ended_by_force
from dispatch.engine.watch import Watch
from dispatch.flow import Registry
from dispatch.store.base import Change, Committed, Execution, Held, Store, WaitRow

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
#: At a shutdown, for the drivers to end when the clean-up of their generators has.
DRIVERS_SECONDS = 2.0


class Publisher(Protocol):
    """The hub, as the engine knows it."""

    @property
    def followed(self) -> Collection[ExecutionId]: ...

    def publish(self, committed: Committed) -> None: ...

    def grown(self, execution_id: ExecutionId, last_seq: int) -> None: ...

    def break_off(self, execution_id: ExecutionId) -> None: ...


class Engine:
    """A worker: enter it (`async with engine.running()`), then command it through `dispatcher`.

    `max_live`: how many suspended generators are kept in memory. `max_running`: how many
    executions may run at once before new ones are refused. `cancel_seconds`: how long an
    execution has to come to its end after a cancel was recorded. `close_seconds`: how long a
    generator, or a step that is cancelled, may take to end. `stall_seconds`: how long the event
    loop may be blocked before that is logged. `at_rest` is told of each execution that suspends or
    ends here.
    """

    def __init__(
        self,
        store: Store,
        hub: Publisher,
        registry: Registry,
        clock: Clock,
        *,
        worker: str,
        max_live: int = 1000,
        max_running: int = 10_000,
        cancel_seconds: float = 10.0,
        close_seconds: float = 5.0,
        stall_seconds: float = 5.0,
        at_rest: Callable[[Execution], None] | None = None,
    ):
        self.store, self.registry, self.clock, self.worker = store, registry, clock, worker
        self.cancel_seconds, self.close_seconds = cancel_seconds, close_seconds
        self.accepting = False
        self.max_running = max_running
        self.abandonable = Abandonable(store.counters, close_seconds)
        self.dispatcher = Dispatcher(self)
        self._hub, self._max_live, self._stall_seconds = hub, max_live, stall_seconds
        self._at_rest = at_rest
        self._recovery, self._timers = Recovery(self), Timers(self)
        self._watch = Watch(self)
        self._strays = Strays(self)
        self._runners: dict[ExecutionId, Runner] = {}
        self._warm: OrderedDict[ExecutionId, Runner] = OrderedDict()
        self._enders: dict[ExecutionId, anyio.Event] = {}
        # Not the task group's, which would wait for a generator that can't be closed.
        self._drivers: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._tasks: anyio.abc.TaskGroup
        self._context: contextvars.Context
        store.listener, store.ahead = self._committed, self._go_ahead

    @property
    def has_left_behind(self) -> bool:
        """Whether there is code of authors that did not end when it was told to."""
        return bool(self._drivers) or self.store.counters.steps_left_behind > 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Recover what was left over; run until the context is left; close all generators."""
        async with anyio.create_task_group() as self._tasks:
            self._context = contextvars.copy_context()
            services = await self._start_services()
            self.accepting, self._stopping = True, False
            try:
                with (
                    watchdog.watching(self._stall_seconds, self.store.counters),
                    lastwords.written_to(self.store.last_words),
                ):
                    yield
            finally:
                self.accepting = False
                services.cancel()
                with anyio.CancelScope(shield=True):
                    await self._stop()

    async def _start_services(self) -> anyio.CancelScope:
        scope = anyio.CancelScope()

        async def services() -> None:
            with scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._timers.run)
                    group.start_soon(self._strays.run)
                    group.start_soon(self._recovery.run)
                    group.start_soon(self._watch.bury)
                    group.start_soon(self._watch.run)

        self._tasks.start_soon(services)
        return scope

    async def _stop(self) -> None:
        """A clean shutdown: generators are closed, and what was being driven is runnable."""
        self._stopping = True
        for runner in list(self._runners.values()):
            runner.close()
        if self._drivers:
            await asyncio.wait(self._drivers, timeout=self.close_seconds + DRIVERS_SECONDS)
        for driver in self._drivers:
            # Nor does whoever closes the loop have to wait for it.
            asyncio._unregister_task(driver)
            logger.warning("%s can't be closed, and is left behind", driver.get_name())

    # --- what the store tells --------------------------------------------------------------------

    def _committed(self, committed: Committed) -> None:
        self._hub.publish(committed)
        execution = committed.execution
        runner = self._runners.get(execution.id)
        if runner is not None:
            runner.committed(committed)
        if committed.to_drive:
            self.drive(execution, committed)
        if not execution.strikes:
            self._recovery.cleared(execution.id)
        if execution.status.is_final:
            self._tell_end(execution.id)
            if self._at_rest is not None:
                self._at_rest(execution)

    def _go_ahead(self, committed: Committed) -> Callable[[], None] | None:
        """Drive what the store is about to commit, if that needs nothing else of the store."""
        execution = committed.execution
        if committed.first_seq == 1:
            self.drive(execution, committed)
            runner = self._runners.get(execution.id)
        else:
            runner = self._warm.get(execution.id)
            if runner is None or not runner.go_ahead(committed):
                return None
            del self._warm[execution.id]
        return None if runner is None else runner.call_back

    async def ended(self, execution_id: ExecutionId) -> Execution:
        """Return its row once its final event is durable."""
        while not (execution := await self.store.get(execution_id)).status.is_final:
            ender = self._enders.setdefault(execution_id, anyio.Event())
            # Another worker may delete it: look again, now and then.
            with anyio.move_on_after(LOOK_SECONDS):
                await ender.wait()
            if ender.statistics().tasks_waiting == 0:
                self._enders.pop(execution_id, None)
        return execution

    # --- driving ---------------------------------------------------------------------------------

    def drive(self, execution: Execution, by: Committed | None = None) -> None:
        """Drive an execution that has just become this worker's, `by` what was appended to it."""
        if self._stopping:
            return  # the store's session lets go of it when it ends
        self._warm.pop(execution.id, None)
        runner = self._runners.get(execution.id)
        if runner is not None:
            if runner.revive(execution):
                return
            runner.close()
        start = by.entries()[0] if by is not None and by.first_seq == 1 else None
        runner = self._runners[execution.id] = Runner(self, execution, start)
        name = f"flow {execution.flow} of {execution.id}"
        # Not in the context of whoever's request it is in the course of.
        driver = asyncio.get_running_loop().create_task(
            runner.run(), name=name, context=self._context.copy()
        )
        self._drivers.add(driver)

    def drives(self, held: Held) -> bool:
        runner = self._runners.get(held.execution_id)
        return runner is not None and runner.drives(held.token)

    def spawn(self, function: Callable[..., Any], *args: Any) -> None:
        self._tasks.start_soon(function, *args)

    def suspended(self, runner: Runner) -> None:
        """Keep it warm, and close the one that has been warm for longest if there are too many."""
        if self._at_rest is not None:
            self._at_rest(runner.execution)
        self._recovery.cleared(runner.execution.id)
        self._warm[runner.execution.id] = runner
        while len(self._warm) > self._max_live:
            _, coldest = self._warm.popitem(last=False)
            coldest.close()

    @property
    def running_count(self) -> int:
        return len(self._runners) - len(self._warm)

    async def leased(self) -> None:
        await self._watch.leased()

    def timer_set(self) -> None:
        self._timers.nudge()

    def caught_up(self, runner: Runner) -> None:
        self._recovery.caught_up(runner.execution.id)

    def gone(self, runner: Runner) -> None:
        driver = asyncio.current_task()
        assert driver is not None
        self._drivers.discard(driver)
        if self._runners.get(runner.execution.id) is runner:
            del self._runners[runner.execution.id]
            self._recovery.cleared(runner.execution.id)
            self._warm.pop(runner.execution.id, None)

    async def release(self, execution: Execution) -> None:
        """Let go of an execution whose generator was closed in the middle: somebody has to drive
        it.
        """
        try:
            await self.store.release(execution.id, token=execution.token, runnable=True)
        except Unavailable as exc:  # `strays` lets go of it
            logger.warning("could not let go: %s", exc, extra={"execution_id": execution.id})

    # --- other workers (watch.Concerned) ------------------------------------------------------

    def concerns(self) -> Collection[ExecutionId]:
        return {*self._hub.followed, *self._runners, *self._enders}

    def seen(self, row: Execution) -> None:
        self._hub.grown(row.id, row.last_seq)
        runner = self._runners.get(row.id)
        if runner is not None:
            if row.is_lost_to(self.worker, runner.token):
                runner.close()
            else:
                runner.grown(row)
        if row.status.is_final:
            self._tell_end(row.id)

    def deleted(self, execution_id: ExecutionId) -> None:
        self._hub.break_off(execution_id)
        self._tell_end(execution_id)

    def runnable(self) -> None:
        self._recovery.nudge()

    def let_go(self) -> None:
        for runner in list(self._runners.values()):
            runner.close()

    def _tell_end(self, execution_id: ExecutionId) -> None:
        ender = self._enders.pop(execution_id, None)
        if ender is not None:
            ender.set()

    # --- ends that the flow does not come to by itself -------------------------------------------

    async def park(self, execution: Execution, code: str, message: str) -> None:
        """Take it out of service with a reason; if its cancel was asked for, it is cancelled
        instead.
        """
        why = events.ErrorInfo(code=code, message=message)
        event = events.Error(error=why, code=code, recoverable=False)
        await self._end(execution, why, event, Origin.ENGINE)

    async def fail(self, execution: Execution, code: str, message: str) -> None:
        """End it as failed."""
        why = events.ErrorInfo(code=code, message=message)
        at = iso(self.clock.now())
        event = events.ExecutionError(kind=execution.kind, error=why, code=code, completed_at=at)
        await self._end(execution, why, event, Origin.WORLD)

    async def _end(
        self, execution: Execution, why: events.ErrorInfo, event: events.EventBase, origin: Origin
    ) -> None:
        about = {"execution_id": execution.id}

        def decide(row: Execution, waits: Sequence[WaitRow]) -> Change:
            # Nobody's is fine: its driver may have been cut off while it let go.
            if row.token != execution.token or row.worker not in (self.worker, None):
                raise LeaseLost(f"{row.id} has been taken by another worker")
            for wait in waits:
                if wait.id == CANCEL_TIMER:
                    ended = ended_by_force(wait, row, self.clock.now())
                    return Change([draft(ended, Origin.WORLD)])
            return Change([draft(event, origin)])

        try:
            changed = await self.store.transact(execution.id, decide)
        except LeaseLost:
            logger.warning("lost the lease", extra=about)
        except (Conflict, NotFound, Gone):
            pass  # it has come to another end meanwhile, or was deleted
        except Unavailable as exc:  # `strays` lets go of it, and it comes to the same end again
            logger.warning("could not record: %s", exc, extra=about)
        else:
            row = changed.execution
            logger.warning(
                "flow %s is %s: %s (%s)", row.flow, row.status, why.message, why.code, extra=about
            )
            if row.status is Status.INTERRUPTED:
                self.store.counters.count_parked(row.code or "")

    # --- randomness ------------------------------------------------------------------------------

    def new_id(self) -> ExecutionId:
        return execution_id(self.clock.now(), secrets.token_bytes(10))

    def new_seed(self) -> str:
        return secrets.token_hex(16)
