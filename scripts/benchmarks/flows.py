"""Flows made to be measured, beside the package's examples."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from msgspec import Struct

from dispatch import Flow, Run, flow, step, tool
from dispatch.examples import FLOWS

#: Of `aged`: one step after so many displays, which makes 25 entries with the edges of its blocks.
DISPLAYS_A_STEP = 20
ENTRIES_A_STEP = 25


class Pace(Struct):
    """`batch` texts at a time, `every_seconds`, for `seconds`."""

    seconds: float
    every_seconds: float
    batch: int = 1


async def paced(pace: Pace) -> AsyncGenerator[str, None]:
    """Texts that say when they were yielded, on a clock that all processes of a machine share."""
    due_at = time.perf_counter()
    for _ in range(round(pace.seconds / pace.every_seconds)):
        for _ in range(pace.batch):
            yield f"{time.perf_counter():.6f}"
        due_at += pace.every_seconds
        await asyncio.sleep(due_at - time.perf_counter())


@step
async def stream(pace: Pace) -> AsyncGenerator[str, None]:
    async for text in paced(pace):
        yield text


@flow("stamped")
async def stamped(run: Run[Pace]) -> Flow:
    """Stream as a model call would: from a step, at its own pace."""
    yield stream(run.inputs)


class Age(Struct):
    entries: int


@step
async def note(number: int) -> int:
    return number


@flow("aged")
async def aged(run: Run[Age]) -> Flow:
    """Fill a journal of about `entries`, then ask the caller again and again."""
    for number in range(1, run.inputs.entries * DISPLAYS_A_STEP // ENTRIES_A_STEP):
        yield "token "
        if number % DISPLAYS_A_STEP == 0:
            yield note(number)
    while True:
        yield tool("probe", {})
        yield "resumed"


@step
async def wait(seconds: float) -> None:
    await asyncio.sleep(seconds)


@flow("waiting")
async def waiting(run: Run[Any]) -> Flow:
    """Be in the middle of a step for longer than anybody measures."""
    yield wait(3600)


MEASURED = (*FLOWS, stamped, aged, waiting)
