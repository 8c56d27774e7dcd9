"""Names who blocks the event loop: while it is held up nothing streams, and nothing else moves.

A thread looks whether the loop still beats. The one thing to know: beside a loop that is busy in
short turns a thread may wait for the interpreter for seconds, and a stopped process wakes with an
old clock. So a stall is told by the thread's own looks, of which each finds the same beat, and not
by the time that has passed between two of them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dispatch.core.counters import Counters
from dispatch.engine import whereabouts

logger = logging.getLogger(__name__)

#: Looks in the time after which it is a stall.
LOOKS = 10


@contextmanager
def watching(stall_seconds: float, counters: Counters) -> Iterator[None]:
    """Watch the running loop while the context is entered."""
    watchdog = _Watchdog(asyncio.get_running_loop(), stall_seconds, counters)
    watchdog.beat()
    thread = threading.Thread(target=watchdog.run, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watchdog.stop()


class _Watchdog:
    def __init__(self, loop: asyncio.AbstractEventLoop, stall_seconds: float, counters: Counters):
        self._loop, self._counters = loop, counters
        self._stall_seconds, self._look_seconds = stall_seconds, stall_seconds / LOOKS
        self._loop_thread = threading.get_ident()
        self._beats, self._beat_at = 0, 0.0
        self._next: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()

    def beat(self) -> None:
        """On the loop."""
        self._beats += 1
        self._beat_at = time.monotonic()
        # More often than is looked, so that a loop that turns has beaten between two looks.
        self._next = self._loop.call_later(self._look_seconds / 2, self.beat)

    def stop(self) -> None:
        self._stopped.set()
        if self._next is not None:
            self._next.cancel()

    def run(self) -> None:
        """In the thread."""
        beats, began_at, looks, stalled = 0, 0.0, 0, ""
        while not self._stopped.wait(self._look_seconds):
            if self._beats != beats:
                if stalled:
                    seconds = time.monotonic() - began_at
                    logger.warning("the event loop turns again after %.1f s: %s", seconds, stalled)
                beats, began_at, looks, stalled = self._beats, self._beat_at, 0, ""
                continue
            looks += 1
            if looks >= LOOKS and not stalled:
                stalled = self._who()
                self._counters.loop_stalls += 1
                logger.error(
                    "the event loop is blocked for more than %g s: %s; "
                    "put what blocks into a step that is a plain function",
                    self._stall_seconds,
                    stalled,
                )

    def _who(self) -> str:
        task = asyncio.current_task(self._loop)
        where = whereabouts.of_thread(self._loop_thread)
        return f"{'no task' if task is None else task.get_name()} ({where})"
