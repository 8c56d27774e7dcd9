"""Everything at once: inputs with a type, steps with retries, a tool and a step in parallel, a
streaming step, an approval with a time limit, an idempotency key. The services are made up.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from msgspec import Struct

from dispatch import Decision, Flow, Run, approval, flow, gather, result, step, tool


class RefundRequest(Struct):
    order_id: str = "A-17"


class Order(Struct):
    id: str
    customer: str
    amount: int


@flow("refund", version=1)
async def refund(run: Run[RefundRequest]) -> Flow:
    """Refund an order, if a person agrees."""
    yield "Looking at your order… "
    order: Order = yield load_order(run.inputs.order_id)
    history, risk = yield gather(
        tool("get_purchase_history", {"customer": order.customer}),
        score(order),
    )
    yield f"The risk is {risk}. "
    yield write_reply(order, history)
    decision: Decision = yield approval(
        "send_refund", {"amount": order.amount}, reason="over limit", timeout=86_400
    )
    if decision.approved:
        yield pay_back(order, key=run.uuid())
    yield result({"refunded": decision.approved})


@step(retries=3, timeout=10)
async def load_order(order_id: str) -> Order:
    return Order(order_id, customer="Ada", amount=42)


@step
def score(order: Order) -> float:
    """A plain function: it runs in a thread."""
    return round(order.amount / 100, 2)


@step
async def write_reply(order: Order, history: Any) -> AsyncGenerator[str, None]:
    for word in f"Dear {order.customer}, we are looking into order {order.id}.".split():
        yield word + " "
        await asyncio.sleep(0)


@step(retries=5, backoff=1.0, timeout=30)
async def pay_back(order: Order, key: str) -> str:
    """At least once until it is recorded: `key` tells the bank which payments are the same."""
    return f"paid {order.amount} to {order.customer} ({key})"
