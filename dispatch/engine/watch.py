"""Sees what other workers do: which have died, and what they do to what concerns this one.

The one thing to know: this process is told of its own commits; of those of others it only sees that
there were some. Then the rows of what it drives, or somebody here follows or waits for, are looked
at, and no others.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Protocol

import anyio
import anyio.lowlevel

from dispatch.core.clock import Clock
from dispatch.core.errors import DispatchError
from dispatch.core.ids import ExecutionId
from dispatch.store.base import Execution, Store

logger = logging.getLogger(__name__)

#: How often to look for the dead, and for what others have done if there seem to be none.
LOOK_SECONDS = 1.0
#: How often to look for what they have done; and for each row to be looked at, how much longer to
#: wait: ten times what that takes.
WATCH_SECONDS = 0.025
ROW_SECONDS = 0.00006
PAGE = 256


class Concerned(Protocol):
    """What the watch needs of the engine."""

    store: Store
    clock: Clock

    def concerns(self) -> Collection[ExecutionId]:
        """The executions that are driven, followed or waited for here."""
        ...

    def seen(self, row: Execution) -> None:
        """This is the row of one of them now."""

    def deleted(self, execution_id: ExecutionId) -> None:
        """One of them is deleted."""

    def runnable(self) -> None:
        """There is, perhaps, an execution to take up."""

    def let_go(self) -> None:
        """Stop driving: others are about to take over, or have."""


class Watch:
    """Two services, and what a worker that stood still has to wait for."""

    def __init__(self, concerned: Concerned):
        self._concerned = concerned
        self._renewed = anyio.Event()

    async def leased(self) -> None:
        """Return at once, or after a standstill when what is not this worker's any more was let go
        of.
        """
        while not self._concerned.store.is_leased:
            await self._renewed.wait()

    async def bury(self) -> None:
        """Have taken up what the dead held. Never returns."""
        concerned = self._concerned
        while True:
            try:
                if await concerned.store.bury_dead():
                    concerned.runnable()
            except DispatchError as exc:
                logger.warning("cannot see who is at work: %s", exc)
            await concerned.clock.sleep(LOOK_SECONDS)

    async def run(self) -> None:
        """Look at what others may have changed. Never returns."""
        concerned, store = self._concerned, self._concerned.store
        looked_at: set[ExecutionId] = set()
        while True:
            concerning = set(concerned.concerns())
            # Before anything is looked at: what was seen before a standstill tells nothing.
            standstills = store.standstills
            try:
                has_changed = store.has_changed()
                if has_changed or not store.is_leased:
                    looked_at.clear()
                # One that is new here may have grown since its row was read.
                if unseen := list(concerning - looked_at):
                    await self._look(unseen)
                looked_at = concerning
                if not store.is_leased:
                    self._renew(standstills)
                if has_changed and await store.runnable(1):
                    concerned.runnable()
            except DispatchError as exc:
                logger.warning("cannot see what other workers do: %s", exc)
                pause = LOOK_SECONDS
            else:
                pause = WATCH_SECONDS + len(concerning) * ROW_SECONDS
            await concerned.clock.sleep(LOOK_SECONDS if store.is_alone else pause)

    def _renew(self, standstills: int) -> None:
        if self._concerned.store.renew(standstills):
            self._renewed.set()
            self._renewed = anyio.Event()
        else:
            self._concerned.let_go()

    async def _look(self, concerning: Sequence[ExecutionId]) -> None:
        concerned, store = self._concerned, self._concerned.store
        for start in range(0, len(concerning), PAGE):
            page = concerning[start : start + PAGE]
            # Not a turn of the loop may pass between reading a row and acting on it.
            rows = store.peek(page)
            for row in rows:
                concerned.seen(row)
            for execution_id in set(page).difference(row.id for row in rows):
                concerned.deleted(execution_id)
            await anyio.lowlevel.checkpoint()
