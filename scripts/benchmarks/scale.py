"""Measures of how cost grows with what is in the file: starting, appending and resuming beside so
many suspended executions, or so many entries.

The files are filled through the store, with copies of one execution that was carried out, and kept
in a folder outside of the repository; each run makes up for what runs before it have resumed.

What a file costs that is in the system's memory, and what one that is read from the disk, are two
measures: a system may drop what nobody has read for a minute, though it has room for all of it.
"""

from __future__ import annotations

import os
import random
import secrets
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
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
    cycle,
    events_per_second,
    found,
    in_percentiles,
    latency,
    resume_call,
)

#: Entries added in one turn of the writer, and entries of one that makes a file large.
AT_ONCE, ENTRIES_EACH = 1024, 100_000
#: Resumed with the file in the system's memory, and from the disk; cycles that go before them.
RESUMED, FROM_DISK, WARM_UP = 200, 50, 20
#: How often each streams, in turns.
STREAMED = 7
READ_BYTES = 8 * 1024 * 1024
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
    """One round over all files, in another order each time."""
    files = await filled(plan, folder)
    names = random.sample(sorted(files), len(files))
    chosen = {name: _open_calls(files[name], RESUMED + FROM_DISK) for name in names}
    figures: dict[str, Figures] = {name: {} for name in names}

    for name in names:
        await anyio.to_thread.run_sync(_read_through, files[name])
    async with _started("scale_start", names, files, figures) as servers:
        rates: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(STREAMED):
            for name, server in servers.items():
                rates[name].append(await events_per_second(server, 1, plan.count // 2, plan.size))
        for name in names:
            figures[name]["scale_events"] = statistics.median(rates[name])
        legs = {name: chosen[name][:RESUMED] for name in names}
        for name, latencies in (await _resumed(servers, legs)).items():
            figures[name] |= in_percentiles("scale_resume", latencies)

    for name in names:
        await anyio.to_thread.run_sync(_drop, files[name])
    async with _started("scale_start_disk", names, files, figures) as servers:
        legs = {name: chosen[name][RESUMED:] for name in names}
        for name, latencies in (await _resumed(servers, legs)).items():
            figures[name] |= in_percentiles("scale_resume_disk", latencies)
    return figures


@asynccontextmanager
async def _started(
    figure: str, names: list[str], files: dict[str, Path], figures: dict[str, Figures]
) -> AsyncIterator[dict[str, Server]]:
    """A server for each file, and how long it took until it answered."""
    async with AsyncExitStack() as stack:
        servers = {}
        for name in names:
            began_at, file = time.perf_counter(), files[name]
            starting = start("durable", file.parent, file.name)
            servers[name] = await stack.enter_async_context(starting)
            figures[name][figure] = time.perf_counter() - began_at
        yield servers


async def _resumed(
    servers: dict[str, Server], legs: dict[str, list[Answer]]
) -> dict[str, list[float]]:
    """One latency for each of `legs`, a resume of each server in turn."""
    latencies: dict[str, list[float]] = {name: [] for name in servers}
    async with AsyncExitStack() as stack:
        connections = {
            name: (await stack.enter_async_context(server.connect()))[0]
            for name, server in servers.items()
        }
        for connection in connections.values():
            for _ in range(WARM_UP):
                await cycle(connection)
        for several in zip(*(legs[name] for name in servers), strict=True):
            for (name, connection), leg in zip(connections.items(), several, strict=True):
                latencies[name].append(latency(await resume_call(connection, leg)))
    return latencies


def _open_calls(file: Path, count: int) -> list[Answer]:
    """Legs that ended with a call, of executions at random places of `file`."""
    chosen: set[tuple[str, str]] = set()
    with closing(sqlite3.connect(file)) as db:
        first, last = db.execute(_KEYS).fetchone()
        while len(chosen) < count:
            chosen.update(db.execute(_ANY, (random.randint(first, last),)))
    legs = [
        b'"executionId":"%b","toolCallId":"%b"' % (id.encode(), call.encode())
        for id, call in chosen
    ]
    return [Answer(0.0, 0.0, 0.0, 0, leg) for leg in legs]


def _read_through(file: Path) -> None:
    """Have the system keep the file in memory, as far as there is room."""
    with file.open("rb") as opened:
        while opened.read(READ_BYTES):
            pass


def _drop(file: Path) -> None:
    """Have the system forget the file: what is needed of it comes from the disk."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


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
