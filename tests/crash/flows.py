"""Flows for servers that are killed. Their steps leave a trace of each call in a file of their own,
which a kill doesn't take back.

A line says: execution, step, whether its attempt was durable when it was called, when, and in which
process. `DISPATCH_TRACES` names that file and `DISPATCH_JOURNALS` the database.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio

from dispatch import (
    Cancelled,
    Flow,
    Run,
    approval,
    continue_as,
    flow,
    gather,
    race,
    result,
    sleep,
    step,
    tool,
)

SECTIONS = 3
_FRAMES = (
    "SELECT frames FROM journal WHERE execution_key = (SELECT key FROM executions WHERE id = ?)"
)


def called(execution_id: str, name: str) -> None:
    """Leave a trace of a step's call, on the disk."""
    at = time.time()  # first: the process may be frozen behind it
    durable = _is_durable(execution_id, name)
    line = f"{execution_id} {name} {int(durable)} {at:.4f} {os.getpid()}\n"
    handle = os.open(os.environ["DISPATCH_TRACES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_durable(execution_id: str, name: str) -> bool:
    """Whether another connection sees the step, and an attempt behind it."""
    uri = f"{Path(os.environ['DISPATCH_JOURNALS']).as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as db:
        frames = b"".join(row[0] for row in db.execute(_FRAMES, (execution_id,)))
    # Not its end: who is abandoned as it sets out may be called behind that.
    begun = re.search(rb'"type":"step_start"[^\n]*"name":"%b"' % re.escape(name).encode(), frames)
    return begun is not None and b"dispatch.step_attempt" in frames[begun.end() :]


async def work(execution_id: str, name: str, seconds: float = 0.0) -> str:
    called(execution_id, name)
    await anyio.sleep(seconds)
    return f"{name} done"


async def recite(execution_id: str, name: str) -> AsyncGenerator[str, None]:
    called(execution_id, name)
    for number in range(5):
        yield f"{name} {number} "
        await anyio.sleep(0.02)


async def fail_once(execution_id: str, name: str, failures: list[int]) -> str:
    called(execution_id, name)
    if not failures:
        failures.append(1)
        raise ValueError("not yet")
    return f"{name} done"


def in_thread(execution_id: str, name: str) -> str:
    called(execution_id, name)
    return f"{name} done"


def named(name: str) -> Any:
    return step(name=name)


@flow("single")
async def single(run: Run[Any]) -> Flow:
    """A step, a tool, a step."""
    yield "Let me see. "
    yield named("before")(work)(run.id, "before")
    output = yield tool("look", {"at": run.uuid()})
    yield f"I see {output}. "
    yield named("after")(recite)(run.id, "after")
    yield result(output)


@flow("parallel")
async def parallel(run: Run[Any]) -> Flow:
    """Two calls of one tool and a step that takes a second."""
    answers = yield gather(
        tool("look", {"at": 1}), tool("look", {"at": 2}), named("slow")(work)(run.id, "slow", 1.0)
    )
    yield f"All in: {answers}. "
    yield result(answers)


@flow("racing")
async def racing(run: Run[Any]) -> Flow:
    """Whatever comes first; the rest is abandoned."""
    first = yield race(tool("look", {}), approval("stop_waiting"), sleep(2.5))
    yield f"First was {first[0]}. "
    second = yield race(named("quick")(work)(run.id, "quick", 0.05), tool("look", {"again": True}))
    yield result([first[0], second[0]])


@flow("decided")
async def decided(run: Run[Any]) -> Flow:
    """A person decides."""
    decision = yield approval("delete_record", {"id": 7}, reason="it is the last one")
    yield f"{decision.outcome}: {decision.reason}. "
    yield named("act")(in_thread)(run.id, "act")
    yield result(decision.outcome)


@flow("napping")
async def napping(run: Run[Any]) -> Flow:
    """Nobody is asked anything."""
    for number in range(4):
        yield f"nap {number} "
        yield sleep(0.4)
    yield step(name="flaky", retries=2, backoff=0.05)(fail_once)(run.id, "flaky", [])
    yield result("rested")


@flow("sections")
async def sections(run: Run[Any]) -> Flow:
    """Goes on as another segment, a few times."""
    number = run.state or 0
    yield f"section {number} "
    yield named(f"read {number}")(work)(run.id, f"read {number}")
    output = yield tool("turn_page", {"from": number})
    yield f"turned: {output} "
    if number < SECTIONS:
        yield continue_as(number + 1)
    yield result(number)


@flow("undoing")
async def undoing(run: Run[Any]) -> Flow:
    """Undoes what it did when it is cancelled."""
    try:
        yield named("do")(work)(run.id, "do", 0.1)
        yield tool("look", {})
        yield named("do more")(work)(run.id, "do more", 0.5)
    except Cancelled:
        yield "undoing "
        yield named("undo")(work)(run.id, "undo", 0.05)
    yield result("as it was")


@flow("talking")
async def talking(run: Run[Any]) -> Flow:
    """Much text, and a question."""
    for number in range(150):
        yield f"word{number} "
    yield tool("look", {})
    for number in range(150):
        yield f"more{number} "
    yield result("said")
