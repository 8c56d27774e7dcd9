"""A thread for what would hold the loop up, one thing at a time, reported back to the loop.

The one thing to know: a thread beside a loop that is busy in turns of a millisecond may wait for
the interpreter for seconds, because the loop gives it up and takes it back before the thread has
woken. Only a loop that truly sleeps lets it in. So for what is urgent the loop is put to sleep, for
a moment, every few milliseconds, until the thread is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import anyio.to_thread

NAP_SECONDS = 0.0005
NAP_EVERY_SECONDS = 0.004


class Aside:
    """One thread. Must be made on the loop that it reports to."""

    def __init__(self, name: str):
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, name)
        self._job: Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self._job is not None

    def start(
        self, work: Callable[[], None], then: Callable[[Exception | None], None], *, urgent: bool
    ) -> None:
        """Call `work` in the thread; later, on the loop, `then`, with what it raised."""
        assert self._job is None, "one thing at a time"
        job = self._job = self._executor.submit(work)

        def look() -> None:
            if self._job is not job:
                return
            error: Exception | None = None
            try:
                job.result(NAP_SECONDS)
            except TimeoutError:
                self._loop.call_later(NAP_EVERY_SECONDS, look)
                return
            except Exception as exc:  # it is `then`'s to judge
                error = exc
            self._job = None
            then(error)

        job.add_done_callback(lambda _: self._loop.call_soon_threadsafe(look))
        if urgent:
            self._loop.call_soon(look)

    async def close(self) -> None:
        """Wait for what is under way. Its `then` may not be called any more."""
        await anyio.to_thread.run_sync(self._executor.shutdown)
