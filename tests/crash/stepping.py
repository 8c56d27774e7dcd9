"""A flow whose steps leave a line each time they are called: execution, step, attempt, process.

`DISPATCH_TRACES` names the file, and `DISPATCH_JOURNALS` the database.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio

from dispatch import Flow, Run, flow, result, step

STEPS = 5
_FRAMES = (
    "SELECT frames FROM journal WHERE execution_key = (SELECT key FROM executions WHERE id = ?)"
)
_ATTEMPT = re.compile(rb'"attempt":(\d+)')


@step
async def tread(execution_id: str, number: int) -> int:
    uri = f"{Path(os.environ['DISPATCH_JOURNALS']).as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as db:
        frames = b"".join(row[0] for row in db.execute(_FRAMES, (execution_id,)))
    attempt = int(_ATTEMPT.findall(frames)[-1])
    line = f"{execution_id} {number} {attempt} {os.getpid()}\n"
    handle = os.open(os.environ["DISPATCH_TRACES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
    await anyio.sleep(0.2)
    return number


@flow("walk")
async def walk(run: Run[Any]) -> Flow:
    """A few steps, one after the other."""
    steps = []
    for number in range(STEPS):
        steps.append((yield tread(run.id, number)))
        yield f"{number} "
    yield result(steps)
