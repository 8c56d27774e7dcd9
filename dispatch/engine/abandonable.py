"""Runs the code of steps so that the engine can go on without it.

A thread cannot be ended, and a coroutine may swallow every cancellation. So each call of an
author's code has a thread or a task of its own, and nobody has to wait for it: when it is no longer
wanted and does not end, it is counted, logged with its line, and left behind. What it gives or
raises after that is not looked at. Its thread is a daemon, its task unknown to the loop, so that
neither keeps the process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from threading import Thread
from typing import Any

import anyio

from dispatch.core.counters import Counters
from dispatch.engine import whereabouts

logger = logging.getLogger(__name__)

#: Plain functions that run at the same time. Those that were left behind are not among them.
THREADS = 40


class Abandonable:
    """`close_seconds`: how long a coroutine that was cancelled may take to end."""

    def __init__(self, counters: Counters, close_seconds: float):
        self._counters, self._close_seconds = counters, close_seconds
        self._threads = anyio.CapacityLimiter(THREADS)
        self._left_behind: set[asyncio.Task[Any]] = set()

    async def in_thread(self, call: Callable[[], Any], name: str) -> Any:
        """Call it in a thread; who is cancelled meanwhile leaves it behind."""
        async with self._threads:
            loop = asyncio.get_running_loop()
            returned: asyncio.Future[Any] = loop.create_future()

            def report(value: Any, error: BaseException | None) -> None:
                if returned.done():
                    return
                if isinstance(error, StopIteration):  # which no future takes
                    returned.set_exception(RuntimeError(f"StopIteration: {error.value}"))
                elif error is not None:
                    returned.set_exception(error)
                else:
                    returned.set_result(value)

            def work() -> None:
                value, error = None, None
                try:
                    value = context.run(call)
                except BaseException as exc:  # SystemExit too ends the step, not the thread
                    error = exc
                with suppress(RuntimeError):  # the loop is closed: it came too late for anybody
                    loop.call_soon_threadsafe(report, value, error)

            context = contextvars.copy_context()
            thread = Thread(target=work, name=name, daemon=True)
            thread.start()
            try:
                return await returned
            finally:
                if not returned.done() or returned.cancelled():
                    self._leave_behind(name, whereabouts.of_thread(thread.ident))

    async def in_task(
        self,
        coroutine: Coroutine[Any, Any, Any],
        name: str,
        where: Callable[[], str] | None = None,
    ) -> Any:
        """Run it in a task, which is cancelled when the caller is, and then has `close_seconds`.

        `where` says what line it stands at, if that can't be told from the coroutine.
        """
        task = asyncio.get_running_loop().create_task(_outcome(coroutine), name=name)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task], timeout=self._close_seconds)
            if not task.done():
                # Held here, for the loop only knows it weakly; and no longer known to who would
                # wait for its end when the loop is closed.
                self._left_behind.add(task)
                task.add_done_callback(self._left_behind.discard)
                asyncio._unregister_task(task)
                self._leave_behind(name, whereabouts.of_task(task) if where is None else where())
            raise
        value, error = task.result()
        if error is not None:
            raise error
        return value

    def _leave_behind(self, name: str, where: str) -> None:
        self._counters.steps_left_behind += 1
        logger.warning("%s does not end though it is not wanted any more (%s)", name, where)


async def _outcome(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """What it returns or raises: a task that raises `SystemExit` ends the loop."""
    try:
        return await coroutine, None
    except asyncio.CancelledError:
        raise
    except BaseException as exc:
        return None, exc
