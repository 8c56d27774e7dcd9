"""As many tokens as you like: what load tests and benchmarks dispatch.

`tokens` yields them itself, so each is exactly once, whatever happens; `tokens_step` streams them
from a step, as a model call would, which is attempted again if a crash cuts it off.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated

from msgspec import Meta, Struct

from dispatch import Flow, Run, flow, result, sleep, step


class Tokens(Struct):
    count: Annotated[int, Meta(ge=0)] = 100
    size: Annotated[int, Meta(ge=1)] = 4
    delay_ms: Annotated[float, Meta(ge=0)] = 0


@flow("tokens")
async def tokens(run: Run[Tokens]) -> Flow:
    """Stream `count` deltas of `size` characters, `delay_ms` apart."""
    wanted = run.inputs
    token = "x" * wanted.size
    for _ in range(wanted.count):
        yield token
        if wanted.delay_ms:
            yield sleep(wanted.delay_ms / 1000)
    yield result(wanted.count)


@flow("tokens_step")
async def tokens_step(run: Run[Tokens]) -> Flow:
    """The same from a streaming step."""
    count = yield generate(run.inputs)
    yield result(count)


@step
async def generate(wanted: Tokens) -> AsyncGenerator[object, None]:
    token = "x" * wanted.size
    for _ in range(wanted.count):
        yield token
        await asyncio.sleep(wanted.delay_ms / 1000)
    yield result(wanted.count)
