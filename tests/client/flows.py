"""The flows of the cases: the examples, and what those lack."""

from __future__ import annotations

import itertools
from typing import Any

from dispatch import Flow, Run, approval, examples, flow, gather, result, tool

_once = itertools.count()


@flow("letters")
async def letters(run: Run[Any]) -> Flow:
    """Text whose characters have one to four bytes, and all that ends a line somewhere."""
    for piece in ("a", "é", "€", "😀", "line\nline\r\nline\r", "\u2028\u0085", "data: x\n\nid: 9"):
        yield piece
    yield result("ünïcödé")


@flow("measure")
async def measure(run: Run[Any]) -> Flow:
    size: int = yield tool("measure", returns=int)
    yield result(size + 1)


@flow("mixed")
async def mixed(run: Run[Any]) -> Flow:
    """A call and a decision that are open at once, then two decisions."""
    output, decision = yield gather(tool("look", {"at": "x"}), approval("erase"))
    yield f"{output}, {decision.outcome}. "
    first, second = yield gather(approval("erase"), approval("burn"))
    yield f"{first.outcome}, {second.outcome}."
    yield result([first.reason, second.reason])


@flow("fickle")
async def fickle(run: Run[Any]) -> Flow:
    """Asks for something else whenever it is replayed."""
    yield tool("get", {"try": next(_once)})
    yield result(None)


FLOWS = [*examples.FLOWS, letters, measure, mixed, fickle]
