"""Let go of what this worker holds and does not drive.

A write that failed, or whose answer was lost, leaves store and engine of two minds about who drives
an execution. The store is right: what it says is ours, and nobody here drives, is let go of; the
next scan takes it up and replays it. So whoever fails to record an end, or to let go, leaves it so.
"""

from __future__ import annotations

import logging
from typing import Protocol

from dispatch.core.clock import Clock
from dispatch.core.errors import DispatchError
from dispatch.store.base import Held, Store

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class Owner(Protocol):
    store: Store
    clock: Clock

    def drives(self, held: Held) -> bool: ...


class Strays:
    """A service. One that is seen twice is a stray: before that, it may just have been taken."""

    def __init__(self, owner: Owner):
        self._owner = owner
        self._seen: set[Held] = set()

    async def run(self) -> None:
        """Never returns."""
        while True:
            await self._owner.clock.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except DispatchError as exc:
                logger.warning("cannot look for what nobody drives: %s", exc)

    async def _look(self) -> None:
        store = self._owner.store
        undriven = {one for one in await store.held() if not self._owner.drives(one)}
        strays, self._seen = undriven & self._seen, undriven
        for execution_id, token in strays:
            about = {"execution_id": execution_id}
            try:
                await store.release(execution_id, token=token, runnable=True)
            except DispatchError as exc:
                logger.warning("could not let go: %s", exc, extra=about)
            else:
                store.counters.strays += 1
                logger.warning("nobody drove what this worker holds: let go", extra=about)
