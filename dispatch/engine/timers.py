"""Settle waits whose time has come: sleeps, time limits of tools and approvals, and of a cancel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from dispatch.core import events
from dispatch.core.clock import Clock, iso, millis
from dispatch.core.errors import DispatchError
from dispatch.core.journal import Abandoned, CancelRequested, Draft, Origin, TimerFired, draft
from dispatch.core.lifecycle import Status
from dispatch.core.projection import CANCEL_TIMER, DEADLINE
from dispatch.engine.nudge import Nudge
from dispatch.store.base import Change, Due, Execution, Store, WaitRow

logger = logging.getLogger(__name__)

PAGE = 100
TOO_LONG = "the flow did not end within the time that its dispatch gave it"
#: How often to look for what other workers have set, and left.
LOOK_SECONDS = 1.0


class Owner(Protocol):
    store: Store
    clock: Clock
    worker: str
    cancel_seconds: float


class Timers:
    """A service: sleeps until the next wait is due, or until a nearer one is set."""

    def __init__(self, owner: Owner):
        self._owner = owner
        self._nudge = Nudge()

    def nudge(self) -> None:
        """A wait with a due time has been committed."""
        self._nudge.give()

    async def run(self) -> None:
        """Never returns."""
        owner = self._owner
        while True:
            try:
                due = await owner.store.due(owner.clock.now(), PAGE)
                fired = [await self._fire(one) for one in due]
                next_due = None if due else await owner.store.next_due()
            except DispatchError as exc:
                logger.warning("timers cannot be read: %s", exc)
                fired, next_due = [], None
            if not all(fired) or not fired:
                await self._sleep_until(next_due)

    async def _sleep_until(self, when: float | None) -> None:
        clock = self._owner.clock
        seconds = LOOK_SECONDS if when is None else min(when - clock.now(), LOOK_SECONDS)
        await self._nudge.sleep(clock, max(0.0, seconds))

    async def _fire(self, due: Due) -> bool:
        """Whether it is settled now. One that can't be must not keep the others."""
        owner = self._owner

        def decide(execution: Execution, waits: Sequence[WaitRow]) -> Change:
            row = next((row for row in waits if row.id == due.wait.id), None)
            if row is None or row.status != "open" or execution.status.is_final:
                return Change()
            now = owner.clock.now()
            if row.kind == "deadline":
                return self._reach_deadline(waits, now)
            # What is parked stays so: only a retry, a resume or a cancel replays it.
            wake = row.kind != "cancel" and execution.status is not Status.INTERRUPTED
            return Change([settlement(row, execution, now)], wake=wake)

        try:
            await owner.store.transact(
                due.execution_id, decide, keys=[due.wait.id], take_for=owner.worker
            )
        except DispatchError as exc:
            logger.warning(
                "a timer cannot be settled: %s", exc, extra={"execution_id": due.execution_id}
            )
            return False
        return True

    def _reach_deadline(self, waits: Sequence[WaitRow], now: float) -> Change:
        """The execution has taken too long: it is cancelled, unless it is being so already."""
        if any(row.id == CANCEL_TIMER for row in waits):
            return Change([draft(Abandoned(id=DEADLINE), Origin.WORLD)])
        requested = CancelRequested(
            deadline=iso(now + self._owner.cancel_seconds), reason=TOO_LONG, code="flow-timeout"
        )
        reached = TimerFired(id=DEADLINE)
        return Change([draft(requested, Origin.WORLD), draft(reached, Origin.WORLD)], wake=True)


def settlement(row: WaitRow, execution: Execution, now: float) -> Draft:
    """What time does to a wait."""
    match row.kind:
        case "tool":
            event: events.EventBase = events.ToolComplete(
                tool_call_id=row.id,
                tool_id=row.id,
                tool_name=row.name,
                success=False,
                error="no output in time",
                code="timeout",
            )
        case "approval":
            event = events.ApprovalComplete(
                approval_id=row.id, decision="timeout", resolved_by="system", completed_at=iso(now)
            )
        case "timer":
            return draft(TimerFired(id=row.id), Origin.WORLD)
        case _:
            event = ended_by_force(row, execution, now)
    return draft(event, Origin.WORLD)


def ended_by_force(row: WaitRow, execution: Execution, now: float) -> events.EventBase:
    """The end of an execution that is cancelled and did not come to its own in time, or cannot be
    replayed. `row` is the cancel's timer.
    """
    if row.name != "cancel":  # no person's wish
        return events.ExecutionError(
            kind=execution.kind,
            error=events.ErrorInfo(code=row.name, message=TOO_LONG),
            code=row.name,
            completed_at=iso(now),
        )
    return events.ExecutionComplete(
        kind=execution.kind,
        success=False,
        stop_reason="cancelled",
        completed_at=iso(now),
        duration_ms=millis(execution.created_at, now),
    )
