"""What mypy knows of a flow, and what it refuses. Never run: `test_typing` has mypy read it.

`assert_type` says what something is; a `type: ignore` with its code is an error that is expected on
that line, for the reason behind it.
"""

from collections.abc import AsyncGenerator
from typing import Any, Literal, assert_type

from msgspec import Struct

from dispatch import (
    Decision,
    Failed,
    Flow,
    Ok,
    Run,
    approval,
    flow,
    gather,
    race,
    sleep,
    step,
    tool,
)
from dispatch.core.events import Event
from dispatch.core.waits import ApprovalWait, Gather, Race, SleepWait, StepWait, ToolWait
from dispatch.flow import FlowVersion
from dispatch.testing import Call, Trial, run


class Order(Struct):
    id: str
    amount: int


class Weather(Struct):
    celsius: float


@step
async def load_order(order_id: str) -> Order:
    return Order(order_id, 1)


@step(retries=3, timeout=10)
async def load_slowly(order_id: str, *, fresh: bool = False) -> Order:
    return Order(order_id, int(fresh))


@step
def score(order: Order) -> float:
    return order.amount / 2


@step
async def write_reply(order: Order) -> AsyncGenerator[str, None]:
    yield order.id


@step(returns=Order)
async def stream_order(order_id: str) -> AsyncGenerator[object, None]:
    yield order_id


async def fetch(url: str, times: int = 1) -> bytes:
    return url.encode() * times


# --- flows ----------------------------------------------------------------------------------------


@flow("typed")
async def typed(run: Run[Order]) -> Flow:
    assert_type(run.inputs, Order)
    yield run.inputs.price  # type: ignore[attr-defined]  # an Order has no price
    # The short form is not checked: its annotation is for the reader.
    order: Order = yield load_order("1")
    number: int = yield load_order("1")
    yield f"{order.id} {number}"
    # The exact form is.
    yield (loaded := load_order("1"))
    assert_type(loaded.result, Order)


assert_type(typed, FlowVersion)


@flow("coroutine")  # type: ignore[arg-type]  # a flow yields
async def a_coroutine(run: Run[Order]) -> None: ...


@flow  # type: ignore[arg-type]  # it needs a name
async def without_a_name(run: Run[Order]) -> Flow:
    yield "x"


# --- steps keep their parameters ------------------------------------------------------------------


def steps(order: Order) -> None:
    assert_type(load_order("1"), StepWait[Order])
    load_order(1)  # type: ignore[arg-type]  # an id is a str
    load_order()  # type: ignore[call-arg]  # the id is missing
    load_order("1", fresh=True)  # type: ignore[call-arg]  # this one has no such parameter
    assert_type(load_slowly("1", fresh=True), StepWait[Order])
    load_slowly("1", True)  # type: ignore[call-arg]  # fresh goes by its name
    assert_type(score(order), StepWait[float])
    assert_type(write_reply(order), StepWait[Any])
    assert_type(stream_order("1"), StepWait[Order])
    stream_order(1)  # type: ignore[arg-type]  # returns= keeps the parameters too
    step(retry=3)  # type: ignore[call-overload]  # it is called retries


def functions_of_others(order: Order) -> None:
    assert_type(step(fetch, "x"), StepWait[bytes])
    assert_type(step(fetch, "x", times=2), StepWait[bytes])
    assert_type(step(fetch, url="x"), StepWait[bytes])
    step(fetch, 1)  # type: ignore[call-overload]  # the url is a str
    step(fetch, "x", times="2")  # type: ignore[call-overload]  # times is an int
    assert_type(step(round, 1.5), StepWait[int])


# --- tools, approvals, sleeps ---------------------------------------------------------------------


def leaves() -> None:
    assert_type(tool("get_weather"), ToolWait[Any])
    assert_type(tool("get_weather", {"city": "Oslo"}, returns=Weather), ToolWait[Weather])
    assert_type(tool("get_weather", returns=list[Weather]).result, list[Weather])
    assert_type(tool("get_weather", returns=Weather | None), ToolWait[Any])
    assert_type(tool("get_weather", returns=Literal["rain", "sun"]), ToolWait[Any])
    tool("get_weather", ["Oslo"])  # type: ignore[call-overload]  # parameters have names
    tool("get_weather", city="Oslo")  # type: ignore[call-overload]  # they are one mapping
    assert_type(approval("delete"), ApprovalWait)
    assert_type(approval("delete").result, Decision)
    assert_type(approval("delete").result.outcome, Literal["approved", "denied", "timeout"])
    assert_type(sleep(1), SleepWait)
    sleep("1 minute")  # type: ignore[arg-type]  # seconds, or a timedelta


# --- groups ---------------------------------------------------------------------------------------


def groups(order: Order, ids: list[str]) -> None:
    assert_type(gather(load_order("1"), score(order)), Gather[tuple[Order, float]])
    a, b, c = gather(load_order("1"), score(order), approval("x")).result
    assert_type(a, Order)
    assert_type(b, float)
    assert_type(c, Decision)
    assert_type(gather(*[load_order(id) for id in ids]), Gather[list[Order]])
    for one in gather(load_order("1"), load_order("2"), settle=True).result:
        assert_type(one, Ok[Order] | Failed)
        if isinstance(one, Ok):
            assert_type(one.value, Order)
    assert_type(race(load_order("1"), load_order("2")), Race[tuple[int, Order]])
    nested = gather(race(load_order("1"), load_order("2")), score(order))
    assert_type(nested.result, tuple[tuple[int, Order], float])
    gather(load_order)  # type: ignore[call-overload]  # call it
    race(fetch("x"))  # type: ignore[arg-type]  # a coroutine is no wait


# --- testing --------------------------------------------------------------------------------------


async def decide(parameters: dict[str, Any]) -> Decision:
    return Decision("denied" if parameters["amount"] > 100 else "approved")


async def tried(a_flow: FlowVersion) -> None:
    async with run(
        a_flow,
        Order("A-17", 1),
        tools={"ask": lambda parameters: parameters["x"], "tell": 7},
        approvals={"refund": decide, "cancel": True},
        steps={"load_order": Order("A-17", 2)},
        metadata={"from": "a test"},
    ) as r:
        assert_type(r, Trial)
        assert_type(r.events, list[Event])
        assert_type(r.calls, list[Call])
        assert_type(r.text, str)
        assert_type(await r.answer("ask", 1), None)
        await r.advance("1 minute")  # type: ignore[arg-type]  # seconds
    run(a_flow, tool={})  # type: ignore[call-arg]  # tools
    run(a_flow, approvals={"refund": "yes"})  # type: ignore[dict-item]  # a bool, or a Decision
    run(tried)  # type: ignore[arg-type]  # a flow, made by @flow
