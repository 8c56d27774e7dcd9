"""Flows made to be measured, beside the package's examples."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

from msgspec import Struct

from dispatch import Flow, Run, continue_as, flow, step, tool
from dispatch.examples import FLOWS
from dispatch.examples.tokens import Tokens

#: Of `aged`: one step after so many displays, which makes 25 entries with the edges of its blocks.
DISPLAYS_A_STEP = 20
ENTRIES_A_STEP = 25
ENTRIES_A_SEGMENT = 1000
TEN_YEARS = timedelta(days=3650)


class Pace(Struct):
    """`batch` texts at a time, `every_seconds`, for `seconds`, the first after `phase_seconds`."""

    seconds: float
    every_seconds: float
    batch: int = 1
    phase_seconds: float = 0.0


async def paced(pace: Pace) -> AsyncGenerator[str, None]:
    """Texts that say when they were yielded, on a clock that all processes of a machine share."""
    due_at = time.perf_counter() + pace.phase_seconds
    await asyncio.sleep(pace.phase_seconds)
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


@flow("renewed")
async def renewed(run: Run[Age]) -> Flow:
    """The same, in segments of about `ENTRIES_A_SEGMENT`, of which a replay reads the last."""
    left = run.inputs.entries if run.state is None else int(run.state)
    for number in range(1, min(left, ENTRIES_A_SEGMENT) * DISPLAYS_A_STEP // ENTRIES_A_STEP):
        yield "token "
        if number % DISPLAYS_A_STEP == 0:
            yield note(number)
    if left > ENTRIES_A_SEGMENT:
        yield continue_as(left - ENTRIES_A_SEGMENT)
    while True:
        yield tool("probe", {})
        yield "resumed"


@flow("patient")
async def patient(run: Run[Any]) -> Flow:
    """Wait so long that a file of those can be kept."""
    yield "Waiting."
    yield tool("probe", {}, timeout=TEN_YEARS)
    yield "resumed"


@flow("told")
async def told(run: Run[Tokens]) -> Flow:
    """Stream so many tokens once the caller says that everybody listens."""
    yield tool("begin", {})
    token = "x" * run.inputs.size
    for _ in range(run.inputs.count):
        yield token


@flow("announced")
async def announced(run: Run[Pace]) -> Flow:
    """The same at a pace, with texts that say when they were yielded."""
    yield tool("begin", {})
    yield stream(run.inputs)


@step
async def wait(seconds: float) -> None:
    await asyncio.sleep(seconds)


@flow("waiting")
async def waiting(run: Run[Any]) -> Flow:
    """Be in the middle of a step for longer than anybody measures."""
    yield wait(3600)


MEASURED = (*FLOWS, stamped, aged, renewed, patient, told, announced, waiting)
