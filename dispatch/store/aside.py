"""Threads for what would hold the loop up, and what lets them run beside a busy one.

The one thing to know: a thread beside a loop that is busy in turns of a millisecond may wait for
the interpreter for seconds, because the loop gives it up and takes it back before the thread has
woken. Only a loop that truly sleeps lets it in. So while something is awaited from a thread, the
loop is put to sleep for a moment every few milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import anyio.to_thread

NAP_SECONDS = 0.0005
FIRST_NAP_SECONDS = 0.001
NAP_EVERY_SECONDS = 0.004


class Naps:
    """Puts the loop to sleep now and then, while a thread is `awaited`. Must be made on the
    loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._awaited = 0
        self._next: asyncio.TimerHandle | None = None

    @contextmanager
    def awaited(self) -> Iterator[None]:
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        self._awaited += 1
        if self._next is None:
            self._next = self._loop.call_later(FIRST_NAP_SECONDS, self._nap)

    def end(self) -> None:
        self._awaited -= 1

    def _nap(self) -> None:
        self._next = None
        if self._awaited:
            time.sleep(NAP_SECONDS)
            self._next = self._loop.call_later(NAP_EVERY_SECONDS, self._nap)

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()


class Aside:
    """One thread, for one thing at a time, reported back to the loop that it was made on."""

    def __init__(self, name: str, naps: Naps):
        self._loop = asyncio.get_running_loop()
        self._naps = naps
        self._executor = ThreadPoolExecutor(1, name)
        self._job: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self._job is not None

    def start(
        self,
        work: Callable[[], None],
        then: Callable[[Exception | None], None],
        *,
        short: bool = False,
    ) -> None:
        """Call `work` in the thread; later, on the loop, `then`, with what it raised.

        For what is `short` the loop takes its first nap at once: it may be done when that ends.
        """
        assert self._job is None, "one thing at a time"
        self._naps.begin()
        job = self._job = self._executor.submit(work)

        def look() -> None:
            if self._job is not job:
                return
            try:
                error = job.exception(NAP_SECONDS)
            except TimeoutError:
                return
            self._job = None
            self._naps.end()
            then(error if isinstance(error, Exception) else None)

        job.add_done_callback(lambda _: self._loop.call_soon_threadsafe(look))
        if short:
            self._loop.call_soon(look)

    async def close(self) -> None:
        """Wait for what is under way."""
        await anyio.to_thread.run_sync(self._executor.shutdown)
