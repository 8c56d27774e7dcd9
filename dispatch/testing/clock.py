"""The time, in tests: it stands still until it is moved."""

from __future__ import annotations

import anyio
import anyio.lowlevel


class FakeClock:
    """A `core.clock.Clock` that only `advance` and `move_to` move."""

    def __init__(self, at: float = 1_750_000_000.0):
        self._now = at
        self._sleepers: dict[anyio.Event, float] = {}

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        awake = anyio.Event()
        self._sleepers[awake] = self._now + seconds
        try:
            await awake.wait()
        finally:
            self._sleepers.pop(awake, None)

    def advance(self, seconds: float) -> None:
        self._now += seconds
        for awake, due in list(self._sleepers.items()):
            # Journals tell times in milliseconds: who moves the clock to one of those wakes all
            # who sleep until then.
            if due < self._now + 0.001:
                awake.set()

    def jump(self, seconds: float) -> None:
        """As the clock of a machine that is set, also back: sleeps go on as they were."""
        self._now += seconds
        self._sleepers = {awake: due + seconds for awake, due in self._sleepers.items()}

    def move_to(self, at: float) -> None:
        """Ahead, never back."""
        self.advance(max(0.0, at - self._now))
