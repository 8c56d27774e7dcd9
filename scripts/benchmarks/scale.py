"""Measures of how cost grows with what is in the file: starting, appending and resuming beside so
many suspended executions, or so many entries.

The files are filled through the store, with copies of one execution that was carried out, and kept
in a folder outside of the repository; each run makes up for what runs before it have resumed.
"""

from __future__ import annotations

import random
import secrets
import sqlite3
import statistics
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import msgspec

from dispatch.app import WallClock
from dispatch.core.ids import ExecutionId, execution_id
from dispatch.core.journal import Entry
from dispatch.store.base import Recorded, Store
from dispatch.store.sqlite import SqliteStore
from scripts.benchmarks.load import Answer, Server, start
from scripts.benchmarks.measures import (
    EXECUTION,
    Figures,
    Plan,
    body_of,
    events_per_second,
    found,
    latency,
    resume_call,
)

#: Entries added in one turn of the writer, and entries of one that makes a file large.
AT_ONCE, ENTRIES_EACH = 1024, 100_000
RESUMED = 50
#: Suspended executions from which on a file is kept for later runs.
KEPT_FROM = 10_000

_COUNT = "SELECT count(*) FROM executions WHERE flow = 'patient' AND status = 'suspended'"
_ENTRIES = "SELECT coalesce(sum(last_seq), 0) FROM executions"
_ANY = (
    "SELECT executions.id, waits.id FROM executions JOIN waits ON execution_key = key "
    "WHERE flow = 'patient' AND executions.status = 'suspended' AND waits.status = 'open' "
    "AND key >= ? ORDER BY key LIMIT 1"
)
_KEYS = "SELECT min(key), max(key) FROM executions"


async def scale(plan: Plan, folder: Path) -> dict[str, Figures]:
    """One round over all files, the least first in one, the largest in the next."""
    files = await filled(plan, folder)
    order = sorted(files, reverse=bool(random.getrandbits(1)))
    return {name: await _measure(files[name], plan) for name in order}


async def _measure(file: Path, plan: Plan) -> Figures:
    began_at = time.perf_counter()
    async with start("durable", file.parent, file.name) as server:
        figures = {"scale_start": time.perf_counter() - began_at}
        await events_per_second(server, 1, plan.count // 16, plan.size)
        figures["scale_events"] = await events_per_second(server, 1, plan.count // 2, plan.size)
        figures["scale_resume"] = statistics.median(await _resume_some(server, file))
    return figures


async def _resume_some(server: Server, file: Path) -> list[float]:
    latencies = []
    async with server.connect() as (connection,):
        for _ in range(RESUMED):
            with closing(sqlite3.connect(file)) as db:
                first, last = db.execute(_KEYS).fetchone()
                chosen = None
                while chosen is None:
                    chosen = db.execute(_ANY, (random.randint(first, last),)).fetchone()
            id, call = (text.encode() for text in chosen)
            body = b'"executionId":"%b","toolCallId":"%b"' % (id, call)
            leg = Answer(0.0, 0.0, 0.0, 0, body)
            latencies.append(latency(await resume_call(connection, leg)))
    return latencies


# --- files ----------------------------------------------------------------------------------------


async def filled(plan: Plan, folder: Path) -> dict[str, Path]:
    """The files of `plan` by name; those that are soon made lie in `folder`, and are not kept."""
    plan.cache.mkdir(parents=True, exist_ok=True)
    files = {}
    for count in plan.suspended:
        place = plan.cache if count >= KEPT_FROM else folder
        files[f"suspended_{count}"] = await _fill(place, count, 0)
    for count in plan.entries:
        files[f"entries_{count}"] = await _fill(plan.cache, min(plan.suspended), count)
    return files


async def _fill(folder: Path, suspended: int, entries: int) -> Path:
    file = folder / f"suspended-{suspended}-entries-{entries}.db"
    store = SqliteStore(file, clock=WallClock())
    async with store.session("filler"):
        with closing(sqlite3.connect(file)) as db:
            lacking = suspended - int(db.execute(_COUNT).fetchone()[0])
            if lacking > 0:
                await _add(store, await _carried_out("patient"), lacking)
            lacking = entries - int(db.execute(_ENTRIES).fetchone()[0])
            if lacking > 0:
                made = await _carried_out("tokens", count=ENTRIES_EACH, size=4)
                await _add(store, made, -(-lacking // ENTRIES_EACH))
    return file


async def _carried_out(flow: str, **inputs: object) -> Recorded:
    """An execution of `flow`, up to where it waits or ends."""
    with TemporaryDirectory(prefix="dispatch-bench-") as name:
        folder = Path(name)
        async with start("durable", folder) as server, server.connect() as (connection,):
            leg = await connection.post("/v1/dispatch", body_of(flow, **inputs), keep=True)
        store = SqliteStore(folder / "durable.db", clock=WallClock())
        async with store.session("filler"):
            execution = await store.get(ExecutionId(found(EXECUTION, leg)))
            entries: list[Entry] = []
            while len(entries) < execution.last_seq:
                for chunk in await store.read(execution.id, after=len(entries)):
                    entries += chunk.entries()
    its = execution
    return Recorded(id=its.id, flow=its.flow, version=its.version, kind=its.kind, entries=entries)


async def _add(store: Store, made: Recorded, count: int) -> None:
    """`count` copies of `made`."""
    while count > 0:
        async with anyio.create_task_group() as tasks:
            for _ in range(min(count, max(AT_ONCE // len(made.entries), 1))):
                count -= 1
                id = execution_id(time.time(), secrets.token_bytes(10))
                tasks.start_soon(store.add, msgspec.structs.replace(made, id=id))
