"""Flows that would not survive a restart: what their authors' tests have to find."""

from __future__ import annotations

from datetime import datetime
from itertools import count
from typing import Any

from dispatch import Flow, Run, continue_as, flow, result, tool

NUMBERS = count(1)


class Clerk:
    """Holds what is of this process, as a careless module does."""

    turns = 0


@flow("clock")
async def clock(run: Run[Any]) -> Flow:
    yield "Hello. "
    yield f"It is {datetime.now().isoformat()}."  # noqa: DTZ005 - the mistake itself


@flow("chance")
async def chance(run: Run[Any]) -> Flow:
    """Stands for `random.choice`: never the same again."""
    yield tool(f"ask_{next(NUMBERS)}")
    yield result("asked")


@flow("parameters")
async def parameters(run: Run[Any]) -> Flow:
    yield tool("ask", {"number": next(NUMBERS)})


@flow("counter")
async def counter(run: Run[Any]) -> Flow:
    """Says less each time, so that text is missing after a restart."""
    Clerk.turns += 1
    yield "First. "
    yield tool("ask")
    if Clerk.turns == 1:
        yield "For the first time. "
    yield result("done")


@flow("end")
async def end(run: Run[Any]) -> Flow:
    yield tool("ask")
    if next(NUMBERS) % 2:
        raise RuntimeError("odd")


@flow("memory")
async def memory(run: Run[Any]) -> Flow:
    if run.state is None:
        yield continue_as({"number": next(NUMBERS)})
    yield tool("ask")


@flow("talk")
async def talk(run: Run[Any]) -> Flow:
    """Much text in a row, and all but one of it is always the same."""
    for word in range(300):
        yield f"Number {next(NUMBERS)}. " if word == 150 else "la "
