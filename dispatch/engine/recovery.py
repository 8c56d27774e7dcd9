"""Takes up what has to be driven and is nobody's: after a death, a clean stop, a time away.

A few at a time, so that the loop has its turns for new dispatches. What may have killed a server
(`Execution.strikes`) is taken up when the others are, one at a time: until it has got further, so
that a death meanwhile is not shared by many. It is a process that dies, so two workers on one file
may each have such a one. What has killed too many is parked.
"""

from __future__ import annotations

import logging
from typing import Protocol

import anyio
import anyio.lowlevel

from dispatch.core.clock import Clock
from dispatch.core.errors import DispatchError
from dispatch.core.ids import ExecutionId
from dispatch.engine.nudge import Nudge
from dispatch.store.base import STRIKE, Execution, Store

logger = logging.getLogger(__name__)

SCAN_SECONDS = 1.0
AT_ONCE = 8
ALONE_FROM_STRIKES = 1 * STRIKE
PARK_FROM_STRIKES = 3 * STRIKE
#: For so long one that does not catch up keeps another waiting: its body may hang.
CATCH_UP_SECONDS = 5.0
#: For so long one that may have killed a server keeps the next such one waiting.
ALONE_SECONDS = 10.0


class Owner(Protocol):
    store: Store
    clock: Clock
    worker: str

    def drive(self, execution: Execution) -> None: ...

    async def park(self, execution: Execution, code: str, message: str) -> None: ...


class Recovery:
    """A service, told by the engine how those that it has taken up get on."""

    def __init__(self, owner: Owner):
        self._owner = owner
        self._room = Nudge()
        self._catching_up: dict[ExecutionId, float] = {}
        self._suspect: ExecutionId | None = None
        self._suspect_until = 0.0

    # --- told by the engine -----------------------------------------------------------------------

    def nudge(self) -> None:
        """There is, perhaps, something to take up."""
        self._room.give()

    def caught_up(self, execution_id: ExecutionId) -> None:
        """It has replayed its journal."""
        if execution_id in self._catching_up:
            del self._catching_up[execution_id]
            # Not for each alone: several are taken up with one commit.
            if len(self._catching_up) <= AT_ONCE // 2:
                self._room.give()

    def cleared(self, execution_id: ExecutionId) -> None:
        """It has got further, or is not driven any more."""
        if execution_id == self._suspect:
            self._suspect = None
            self._room.give()

    # --- the service ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Never returns."""
        while True:
            try:
                while await self._take_up():
                    await anyio.lowlevel.checkpoint()
            except DispatchError as exc:
                logger.warning("cannot look for runnable executions: %s", exc)
            await self._room.sleep(self._owner.clock, SCAN_SECONDS)

    async def _take_up(self) -> bool:
        """Whether there may be more."""
        if not self._owner.store.is_leased:
            return False
        now = anyio.current_time()
        for overdue in [id for id, until in self._catching_up.items() if until <= now]:
            del self._catching_up[overdue]
        room = AT_ONCE - len(self._catching_up)
        found = await self._owner.store.runnable(room) if room > 0 else []
        taken = [one.id for one in found if not _is_suspect(one)]
        if len(taken) < len(found) and not self._has_suspect:
            self._suspect = found[len(taken)].id
            self._suspect_until = now + ALONE_SECONDS
            taken.append(self._suspect)
        self._catching_up.update(dict.fromkeys(taken, now + CATCH_UP_SECONDS))
        refused: list[ExecutionId] = []
        async with anyio.create_task_group() as tasks:  # with one commit
            for execution_id in taken:
                tasks.start_soon(self._take, execution_id, refused)
        # They are tried again with the next scan: no nudge, or a full disk would keep us busy.
        for execution_id in refused:
            self._catching_up.pop(execution_id, None)
        if self._suspect in refused:
            self._suspect = None
        return bool(taken) and not refused

    async def _take(self, execution_id: ExecutionId, refused: list[ExecutionId]) -> None:
        owner = self._owner
        try:
            execution = await owner.store.acquire(execution_id, owner.worker)
        except DispatchError as exc:
            logger.warning("cannot be taken up: %s", exc, extra={"execution_id": execution_id})
            refused.append(execution_id)
            return
        if execution is not None and execution.strikes < PARK_FROM_STRIKES:
            owner.drive(execution)
            return
        self.caught_up(execution_id)
        self.cleared(execution_id)
        if execution is None:
            return
        await owner.park(
            execution,
            "crash-loop",
            f"the server died again and again while it drove this execution "
            f"({execution.strikes // STRIKE} strikes): mend what kills it (the server's log names "
            "the line, if it is known), then retry, or cancel it",
        )

    @property
    def _has_suspect(self) -> bool:
        return self._suspect is not None and anyio.current_time() < self._suspect_until


def _is_suspect(execution: Execution) -> bool:
    return execution.strikes >= ALONE_FROM_STRIKES
