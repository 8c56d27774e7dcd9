"""The generators of one flow: its own, and those of the helpers that it yielded, innermost last.

They are sent and thrown into, and closed, by the driver task alone; what comes out of them, errors
of an author's code included, is handed back as values.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

from dispatch import mistakes
from dispatch.core.moves import Answer

logger = logging.getLogger(__name__)


class Ended(NamedTuple):
    """The flow's own generator is exhausted, by `error` if there is one."""

    error: BaseException | None


class Generators:
    """A stack: a helper's answer is its last `result`, sent into the one that yielded it."""

    __slots__ = ("_results", "_stack")

    def __init__(self) -> None:
        self._stack: list[AsyncGenerator[Any, Any]] = []
        self._results: list[Any] = []

    def push(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._stack.append(generator)
        self._results.append(None)

    @property
    def is_empty(self) -> bool:
        return not self._stack

    @property
    def in_helper(self) -> bool:
        return len(self._stack) > 1

    def set_result(self, value: Any) -> None:
        """The innermost has yielded its `result`."""
        self._results[-1] = value

    @property
    def where(self) -> str:
        """`file:line` of the yield that the innermost stands at."""
        return mistakes.suspended_at(self._stack[-1]) if self._stack else "?"

    async def advance(self, answer: Answer, shows: Callable[[str], bool]) -> Any:
        """Answer the innermost; give back what is yielded next, or `Ended`.

        Text goes to `shows` as it comes, and is given back only if that says False. Raises
        `CancelledError` if it is the task that is cancelled, and not just something in the flow.
        """
        task = asyncio.current_task()
        while True:
            generator = self._stack[-1]
            try:
                if answer.error is not None:
                    yielded = await generator.athrow(answer.error)
                else:
                    yielded = await generator.asend(answer.value)
                # Plain text, live, with nothing in the way, is most of what ever happens.
                while yielded.__class__ is str and shows(yielded):
                    yielded = await generator.asend(None)
                return yielded
            except StopAsyncIteration:
                answer = Answer(self._results[-1], None)
            except asyncio.CancelledError as exc:
                if task is not None and task.cancelling():
                    raise
                answer = Answer(None, exc)
            except BaseException as exc:  # SystemExit too ends the flow, not the server
                answer = Answer(None, exc)
            if not self.in_helper:
                return Ended(answer.error)
            self._stack.pop()
            self._results.pop()

    async def close(self, seconds: float) -> None:
        """Python's own closing, innermost first, `seconds` for each; it leaves no entries."""
        while self._stack:
            generator = self._stack.pop()
            where = mistakes.suspended_at(generator)
            # Said at once: clean-up that swallows its cancellation may never end.
            too_long = asyncio.get_running_loop().call_later(
                seconds, logger.warning, "%s: closing took longer than %g s", where, seconds
            )
            limit = asyncio.timeout(seconds)
            try:
                async with limit:
                    await generator.aclose()
            except BaseException as exc:  # what an author's clean-up raises is not the execution's
                if limit.expired():
                    pass
                elif "ignored GeneratorExit" in str(exc):
                    where = mistakes.suspended_at(generator)
                    logger.warning("%s: a yield while closing is ignored", where)
                else:
                    logger.warning("%s: raised while closing", where, exc_info=True)
            finally:
                too_long.cancel()
        self._results.clear()
