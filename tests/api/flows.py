"""Flows that put an execution into each condition that the tables of design.md 7 tell apart."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec

from dispatch import (
    Cancelled,
    Flow,
    Run,
    approval,
    flow,
    gather,
    race,
    result,
    sleep,
    step,
    tool,
)
from dispatch.core.errors import ToolTimeout
from dispatch.events import TurnComplete, TurnStart
from dispatch.flow import FlowVersion


class Gate:
    """What a test opens to let the steps that wait at it go on. One for all executions."""

    def __init__(self) -> None:
        self._opened = anyio.Event()
        self.waiting = 0

    async def wait(self) -> None:
        self.waiting += 1
        await self._opened.wait()

    def open(self) -> None:
        self._opened.set()
        self._opened = anyio.Event()


class Order(msgspec.Struct):
    id: int
    lines: list[str] = []


def flows(gate: Gate) -> list[FlowVersion]:
    @step
    async def hold() -> str:
        await gate.wait()
        return "held"

    @flow("talk")
    async def talk(run: Run[Any]) -> Flow:
        """Says something and ends."""
        yield "one "
        yield "two"
        yield result({"said": 2})

    @flow("listener", kind="agent")
    async def listener(run: Run[Any]) -> Flow:
        yield "heard: "
        yield str(len(run.messages))
        yield result("done")

    @flow("asker", kind="agent")
    async def asker(run: Run[Any]) -> Flow:
        yield TurnStart(id="turn_1", role="assistant", iteration=1)
        yield TurnComplete(id="turn_1", role="assistant", iteration=1)
        count = yield tool("count")
        yield f"{count}"

    @flow("one")
    async def one(run: Run[Any]) -> Flow:
        weather = yield tool("look", {"city": "Oslo"})
        yield f"seen: {weather}; messages: {len(run.messages)}"
        yield result(weather)

    @flow("two")
    async def two(run: Run[Any]) -> Flow:
        looked, seen = yield gather(tool("look", {"n": 1}), tool("see", {"n": 2}))
        yield f"{looked} {seen}"

    @flow("twins")
    async def twins(run: Run[Any]) -> Flow:
        looked = yield gather(tool("look", {"n": 1}), tool("look", {"n": 2}))
        yield f"{looked}"

    @flow("pages")
    async def pages(run: Run[Any]) -> Flow:
        yield f"{(yield tool('webmcp:color', {'element': 'box'}))}"

    @flow("measure")
    async def measure(run: Run[Any]) -> Flow:
        size: int = yield tool("measure", returns=int)
        yield f"{size + 1}"

    @flow("late")
    async def late(run: Run[Any]) -> Flow:
        try:
            yield tool("look", timeout=0.01)
        except ToolTimeout:
            yield "too late; "
        yield f"{(yield tool('later'))}"

    @flow("either")
    async def either(run: Run[Any]) -> Flow:
        yield race(tool("look"), tool("see"))
        yield f"{(yield tool('later'))}"

    @flow("decide")
    async def decide(run: Run[Any]) -> Flow:
        decision = yield approval("erase", {"record": 7}, reason="for good")
        yield f"{decision.outcome}: {decision.reason}"

    @flow("decide_twice")
    async def decide_twice(run: Run[Any]) -> Flow:
        for _ in range(2):
            yield f"{(yield approval('erase')).outcome} "

    @flow("undo")
    async def undo(run: Run[Any]) -> Flow:
        try:
            yield tool("look")
        except Cancelled as exc:
            yield f"undone: {exc}"

    @flow("decide_late")
    async def decide_late(run: Run[Any]) -> Flow:
        decision = yield approval("erase", timeout=0.01)
        yield f"{decision.outcome}; "
        yield f"{(yield tool('later'))}"

    @flow("decide_either")
    async def decide_either(run: Run[Any]) -> Flow:
        yield race(approval("erase"), tool("see"))
        yield f"{(yield tool('later'))}"

    @flow("decide_nap")
    async def decide_nap(run: Run[Any]) -> Flow:
        yield approval("erase")
        yield sleep(3600)

    @flow("nap")
    async def nap(run: Run[Any]) -> Flow:
        yield "sleeping"
        yield sleep(3600)

    @flow("beside")
    async def beside(run: Run[Any]) -> Flow:
        looked, held = yield gather(tool("look"), hold())
        yield f"{looked} {held}"

    @flow("hang")
    async def hang(run: Run[Any]) -> Flow:
        yield "before "
        yield hold()
        yield "after"

    @flow("boom")
    async def boom(run: Run[Any]) -> Flow:
        yield "before"
        raise ValueError("boom")

    @flow("not_a_number")
    async def not_a_number(run: Run[Any]) -> Flow:
        yield result(float("nan"))

    @flow("order")
    async def order(run: Run[Order]) -> Flow:
        yield f"order {run.inputs.id}"

    @flow("echo")
    async def echo(run: Run[Any]) -> Flow:
        yield result(run.inputs)

    @flow("seen")
    async def seen(run: Run[Any]) -> Flow:
        """Gives back what it was started with."""
        yield result(
            {
                "messages": list(run.messages),
                "tools": [msgspec.to_builtins(one) for one in run.client_tools],
                "context": run.context,
                "record": run.record,
                "metadata": run.metadata,
            }
        )

    @flow("tokens")
    async def tokens(run: Run[Any]) -> Flow:
        for _ in range(run.inputs["count"]):
            yield "t" * run.inputs["size"]

    return [value for value in locals().values() if isinstance(value, FlowVersion)]
