"""Flows that do, for a page, what the example flows don't."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import anyio

from dispatch import Flow, Run, flow, gather, step, tool
from dispatch.examples.echo import text_of


@flow("page")
async def page(run: Run[Any]) -> Flow:
    """Call the page's tools that the last message names, all at once, and tell what they say."""
    names = text_of(run.messages[-1]).split()
    settled = yield gather(
        *(tool(f"webmcp:{name}", {"number": number}) for number, name in enumerate(names, 1)),
        settle=True,
    )
    for name, one in zip(names, settled, strict=True):
        yield f"{name}: {one}\n\n"


@flow("gated")
async def gated(run: Run[Any]) -> Flow:
    """Count to two, wait until there is a file at the path that the message is, count on."""
    yield count(text_of(run.messages[-1]))


@step
async def count(gate: str) -> AsyncGenerator[str, None]:
    yield "One, two, "
    while not await anyio.Path(gate).exists():  # noqa: ASYNC110 - a file tells nobody
        await anyio.sleep(0.02)
    for word in ("three, ", "four, ", "five."):
        yield word
