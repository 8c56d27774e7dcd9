"""A sleep that can be cut short: how services notice at once what they would look for anyway."""

from __future__ import annotations

import anyio

from dispatch.core.clock import Clock


class Nudge:
    """A nudge that comes while nobody sleeps cuts the next sleep short."""

    def __init__(self) -> None:
        self._given = anyio.Event()

    def give(self) -> None:
        self._given.set()

    async def sleep(self, clock: Clock, seconds: float) -> None:
        """Return after `seconds`, or when there is a nudge."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cut_short, tasks.cancel_scope)
            await clock.sleep(seconds)
            tasks.cancel_scope.cancel()
        self._given = anyio.Event()

    async def _cut_short(self, scope: anyio.CancelScope) -> None:
        await self._given.wait()
        scope.cancel()
