"""Carry out one step of a flow: its attempts, their time limits and retries, and what it streams.

An attempt starts only after its entry is durable. All attempts but the last leave a recoverable
`error` event with the moment of the next one; the last one's failure, or the result, is its
`step_complete`. All three are handed to the driver, who appends them if the step is still wanted.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import msgspec

from dispatch import mistakes
from dispatch.core import canonical, events
from dispatch.core.clock import Clock, iso, millis
from dispatch.core.errors import FlowMistake
from dispatch.core.journal import (
    DISPLAYS,
    AttemptStarted,
    Draft,
    Origin,
    ResultPrivate,
    display,
    draft,
)
from dispatch.core.nodes import Attempts, StepNode
from dispatch.core.waits import MADE, StepWait, Wait
from dispatch.engine.abandonable import Abandonable
from dispatch.store.base import Execution
from dispatch.yields import Result

logger = logging.getLogger(__name__)

#: How often a step that backs off looks at the clock.
LOOK_SECONDS = 1.0

_NOTHING: Any = object()


class StepHost(Protocol):
    """What a step needs of the execution that it belongs to."""

    execution: Execution
    clock: Clock
    abandonable: Abandonable

    @property
    def step_timeout(self) -> float | None:
        """How long an attempt of a step without a timeout of its own may take, in seconds."""
        ...

    async def may_begin(self) -> None:
        """Return when an attempt may begin: at once, or never if the step was abandoned."""
        ...

    async def show(self, step: StepNode, text: str) -> None: ...

    async def record(self, step: StepNode, draft: Draft) -> None:
        """Append if the step is still wanted, and return when durable; else it is cancelled."""
        ...

    async def put(self, *drafts: Draft) -> None: ...


async def carry_out(step: StepNode, attempts: Attempts, host: StepHost) -> None:
    """Attempt the step until it succeeds or has no retries left; record its `step_complete`.

    `attempts` counts those before: the one that was begun with the step is not among them.
    """
    MADE.set(None)
    wait = step.wait
    assert isinstance(wait, StepWait)
    clock = host.clock
    attempt, failed, retry_at = attempts.started, attempts.failed, attempts.retry_at
    begun = step.begun
    while True:
        if begun:
            begun = False
        else:
            await _back_off(clock, retry_at, _backoff_seconds(wait, failed))
            await host.record(step, _attempt_started(step, attempt + 1))
        await host.may_begin()
        attempt += 1
        started = clock.now()
        try:
            value = await _attempt(step, wait, host)
            end = _complete(step, wait, clock, started, value)
        except BaseException as exc:  # whatever an author's code raises is an outcome
            # But not what it makes of being cancelled by us.
            await anyio.lowlevel.checkpoint_if_cancelled()
            # A SystemExit, too, ends the flow and not the server.
            error = exc if isinstance(exc, Exception) else RuntimeError(_sentence(exc))
        else:
            return await host.record(step, end)
        failed += 1
        retry_at = clock.now() + _backoff_seconds(wait, failed)
        if failed > wait.retries or isinstance(error, FlowMistake):
            return await host.record(step, _failed(step, wait, clock, started, error))
        logger.info("step %s failed, attempt %d", wait.name, attempt, exc_info=error)
        told = events.Error(
            error=_sentence(error),
            recoverable=True,
            step_id=step.id,
            attempt=attempt,
            retry_at=iso(retry_at),
        )
        await host.record(step, draft(told, Origin.WORLD))


def _backoff_seconds(wait: StepWait[Any], failed: int) -> float:
    return wait.backoff_seconds * 2 ** (failed - 1) if failed else 0.0


async def _back_off(clock: Clock, until: float, at_most: float) -> None:
    """Sleep until then. A clock that is set back does not make it longer than `at_most`; that it
    was set ahead is seen within `LOOK_SECONDS`.
    """
    while (seconds := min(until - clock.now(), at_most)) > 0:
        seconds = min(seconds, LOOK_SECONDS)
        await clock.sleep(seconds)
        at_most -= seconds


def _attempt_started(step: StepNode, attempt: int) -> Draft:
    return draft(AttemptStarted(step_id=step.id, attempt=attempt), Origin.WORLD)


async def _attempt(step: StepNode, wait: StepWait[Any], host: StepHost) -> Any:
    seconds = host.step_timeout if wait.timeout_seconds is None else wait.timeout_seconds
    if seconds is None:
        return await _call(step, wait, host)
    with anyio.move_on_after(seconds) as scope:
        return await _call(step, wait, host)
    assert scope.cancelled_caught
    raise TimeoutError(f"no result within {seconds:g} s")


async def _call(step: StepNode, wait: StepWait[Any], host: StepHost) -> Any:
    name = f"step {wait.name} of {host.execution.id}"
    if inspect.isasyncgenfunction(wait.fn):
        items = wait.fn(*wait.args, **wait.kwargs)
        stream = _stream(step, wait, items, host)
        where = partial(mistakes.suspended_at, items)
        return await host.abandonable.in_task(stream, name, where)
    call = partial(wait.fn, *wait.args, **wait.kwargs)
    if inspect.iscoroutinefunction(wait.fn):
        return await host.abandonable.in_task(_begin(call, host), name)
    value = await host.abandonable.in_thread(call, name)
    if inspect.isawaitable(value):  # a callable object, or a lambda around a coroutine
        return await host.abandonable.in_task(_awaited(value), name)
    return value


async def _begin(call: Callable[[], Awaitable[Any]], host: StepHost) -> Any:
    # Again: it took the loop a turn to come here, in which the process may have stood still.
    await host.may_begin()
    return await call()


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


async def _stream(
    step: StepNode, wait: StepWait[Any], items: AsyncGenerator[Any, Any], host: StepHost
) -> Any:
    """Show what a streaming step yields; its answer is its last `result`, else the joined text."""
    texts: list[str] = []
    answer: Any = _NOTHING
    task = asyncio.current_task()
    async with aclosing(items):
        await host.may_begin()  # again, as in _begin
        async for item in items:
            if task is not None and task.cancelling():
                # It has swallowed that, and may have been left behind: nobody wants this any more.
                raise asyncio.CancelledError
            try:
                if isinstance(item, str):
                    texts.append(item)
                    await host.show(step, item)
                elif isinstance(item, Result):
                    answer = item.value
                else:
                    await host.put(_shown(item, wait))
            except FlowMistake as exc:
                where = mistakes.suspended_at(items)
                raise FlowMistake(f"{exc.message} ({where})", code=exc.code) from exc
    return "".join(texts) if answer is _NOTHING else answer


def _shown(item: Any, wait: StepWait[Any]) -> Draft:
    if isinstance(item, events.EventBase) and item.type_name() in DISPLAYS:
        return display(item, Origin.WORLD)
    if isinstance(item, Wait):
        raise FlowMistake(
            f"step {wait.name} yields {item}: a wait is yielded by the flow, not by a step"
        )
    raise mistakes.explain_yield(item)


def _complete(
    step: StepNode, wait: StepWait[Any], clock: Clock, started: float, value: Any
) -> Draft:
    try:
        raw = canonical.encode(value)
    except FlowMistake as exc:
        raise FlowMistake(
            f"the result of step {wait.name} can't be recorded: {exc.message} ({wait.where})"
        ) from exc
    now = clock.now()
    complete = events.StepComplete(
        id=step.id,
        name=wait.name,
        step_type="step",
        success=True,
        result=canonical.hidden(raw) if wait.private else msgspec.Raw(raw),
        duration_ms=millis(started, now),
        completed_at=iso(now),
    )
    return draft(
        complete, Origin.WORLD, ResultPrivate(result=msgspec.Raw(raw)) if wait.private else None
    )


def _failed(
    step: StepNode, wait: StepWait[Any], clock: Clock, started: float, error: BaseException
) -> Draft:
    now = clock.now()
    logger.info("step %s has failed", wait.name, exc_info=error)
    return draft(
        events.StepComplete(
            id=step.id,
            name=wait.name,
            step_type="step",
            success=False,
            error=mistakes.message_of(error) or type(error).__name__,
            error_type=type(error).__name__,
            duration_ms=millis(started, now),
            completed_at=iso(now),
        ),
        Origin.WORLD,
    )


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {mistakes.message_of(error)}"
