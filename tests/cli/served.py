"""The flows that these tests serve, as a user's file."""

import os
from contextlib import aclosing
from typing import Any

import anyio

from dispatch import Flow, Run, approval, flow, gather, phase, result, sleep, tool

OTHER_CODE = "OTHER_CODE" in os.environ


@flow("hello")
async def hello(run: Run[dict[str, str]]) -> Flow:
    """Greet.

    And no more.
    """
    yield f"Hello, {run.inputs.get('name', 'you')}. \x1b[31mred"
    yield result({"greeted": True})


@flow("number")
async def number(run: Run[Any]) -> Flow:
    yield phase("asking")
    answer: int = yield tool("get_number", {"least": 1}, returns=int)
    yield f"It is {answer}."


@flow("two")
async def two(run: Run[Any]) -> Flow:
    a, b = yield gather(tool("get", {"of": "a"}), tool("get", {"of": "b"}))
    yield f"{a} and {b}"


@flow("decide")
async def decide(run: Run[Any]) -> Flow:
    decision = yield approval("delete", {"id": 7}, reason="it is old")
    yield f"{decision.outcome}: {decision.reason}"


@flow("fails")
async def fails(run: Run[Any]) -> Flow:
    yield "Not for long. "
    raise RuntimeError("boom")


class Outside:
    """Those who look at the process from outside are told that the generator is closed."""

    async def aclose(self) -> None:
        if "CLOSED_FILE" in os.environ:
            await anyio.Path(os.environ["CLOSED_FILE"]).touch()
        if "CLOSES_SLOWLY" in os.environ:
            await anyio.sleep(60)


@flow("long")
async def long(run: Run[Any]) -> Flow:
    async with aclosing(Outside()):
        yield "It takes a minute. "
        yield sleep(60)


@flow("moody", version=2)
async def moody(run: Run[Any]) -> Flow:
    """Parked when its code is not what it was: the variable is its code."""
    if OTHER_CODE:
        yield tool("other")
    else:
        yield tool("get")
    yield "Done."
