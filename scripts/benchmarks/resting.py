"""Measures of what costs memory and disk while nothing happens: suspended executions, and readers
that wait.

Each round has servers of its own, for memory that was used is not given back. They keep next to
nothing of what was sent (`servers.resting_warm`): those rings are bounded, so they are no part of
what one more execution costs.
"""

from __future__ import annotations

import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path

import anyio

from scripts.benchmarks.load import Server, start
from scripts.benchmarks.measures import EXECUTION, Figures, Plan, body_of, cycle, found

#: Executions, and as many readers, at first and in the end; before them more cycles than anything
#: in the server is bounded by, so that all that is bounded is full.
RESTING, RESTING_IN_THE_END, WARM_UP = 1000, 5000, 1100


async def resting(plan: Plan, folder: Path) -> dict[str, Figures]:
    count = min(RESTING, max(plan.count // 64, 100))
    more = count * RESTING_IN_THE_END // RESTING - count
    async with start("resting_warm", folder) as server:
        await _warm_up(server)
        before = server.memory_bytes()
        ids = await _suspend(server, count)
        suspended = server.memory_bytes()
        async with AsyncExitStack() as stack:
            await _listen(stack, server, ids)
            listened = server.memory_bytes()
            ids = await _suspend(server, more)
            listening = -server.memory_bytes()
            await _listen(stack, server, ids)
            listening += server.memory_bytes() + listened - suspended
    warm = {
        "warm_kib": (suspended - before) / count / 1024,
        "reader_kib": (listened - suspended) / count / 1024,
        "reader_kib_in_the_end": listening / (count + more) / 1024,
    }
    async with start("resting_cold", folder) as server:
        await _warm_up(server)
        with closing(sqlite3.connect(folder / "resting_cold.db")) as db:
            memory, file = server.memory_bytes(), _beside_entries(db)
            await _suspend(server, count)
            cold = {
                "cold_kib": (server.memory_bytes() - memory) / count / 1024,
                "file_kib": (_beside_entries(db) - file) / count / 1024,
            }
    return {"warm": warm, "cold": cold}


async def _warm_up(server: Server) -> None:
    async with server.connect() as (connection,):
        for _ in range(WARM_UP):
            await cycle(connection)


async def _suspend(server: Server, count: int) -> list[str]:
    async with server.connect() as (connection,):
        body = body_of("weather", city="Oslo")
        legs = [await connection.post("/v1/dispatch", body, keep=True) for _ in range(count)]
    return [found(EXECUTION, leg) for leg in legs]


async def _listen(stack: AsyncExitStack, server: Server, ids: list[str]) -> None:
    """One reader each, which has read what there is, until `stack` is left."""
    readers = await stack.enter_async_context(server.connect(len(ids)))
    tasks = await stack.enter_async_context(anyio.create_task_group())
    stack.callback(tasks.cancel_scope.cancel)
    waiting, all_wait = len(ids), anyio.Event()

    def watch(piece: bytes, _: float) -> None:
        nonlocal waiting
        if b"\nevent: await\n" in piece:
            waiting -= 1
            if waiting == 0:
                all_wait.set()

    async def read(number: int) -> None:
        await readers[number].get(f"/v1/executions/{ids[number]}/events", watch=watch)

    for number in range(len(ids)):
        tasks.start_soon(read, number)
    await all_wait.wait()


def _beside_entries(db: sqlite3.Connection) -> int:
    """Bytes of the file, but for the entries themselves."""
    pages, size = (db.execute(f"PRAGMA {one}").fetchone()[0] for one in ("page_count", "page_size"))
    statement = "SELECT sum(length(frames) + coalesce(length(private), 0)) FROM journal"
    return int(pages * size - db.execute(statement).fetchone()[0])
