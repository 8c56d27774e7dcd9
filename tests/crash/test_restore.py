"""Backups of a file under load: each is a moment of it, and all goes on from there when a server is
started on the copy.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random

import anyio
import anyio.to_thread
import pytest

from dispatch.core.ids import ExecutionId
from dispatch.store.backup import back_up
from dispatch.store.inspection import inspect
from tests.crash.clients import Told
from tests.crash.cuts import Journal, read_journals
from tests.crash.rest import come_to_rest, tell_late_joiners
from tests.crash.servers import Server
from tests.crash.soak import acting
from tests.crash.sweep import check_entries

BACKUPS = 2
#: That clients are told of before each backup.
EVENTS = 400

Seqs = dict[ExecutionId, int]


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_backup_under_load_is_a_moment_and_all_goes_on_from_there(tmp_path: Path) -> None:
    there = anyio.to_thread.run_sync
    original, told, rng = Server(tmp_path), Told(), Random(3)
    copies = [Server(tmp_path / f"copy-{number}") for number in range(BACKUPS)]
    acknowledged: list[Seqs] = []
    await original.start()
    try:
        async with acting([original.url], told, rng, lambda: len(acknowledged) == BACKUPS, 12):
            for copy in copies:
                await _until(told, told.counts["events"] + EVENTS)
                await there(copy.db.parent.mkdir)
                known = {
                    ExecutionId(id): max(one.events, default=0)
                    for id, one in told.executions.items()
                }
                await there(back_up, original.db, copy.db)
                acknowledged.append(known)
    finally:
        await original.stop()
    assert told.violations == []
    written = {one.execution.id: one for one in await there(read_journals, original.db)}
    async with anyio.create_task_group() as tasks:
        for copy, known in zip(copies, acknowledged, strict=True):
            tasks.start_soon(_check, copy, known, written)


async def _until(told: Told, events: int) -> None:
    with anyio.fail_after(30):
        while told.counts["events"] < events:
            await anyio.lowlevel.checkpoint()


async def _check(copy: Server, acknowledged: Seqs, written: dict[ExecutionId, Journal]) -> None:
    """It is a moment of the original, and when a server has gone on from it that still holds."""
    there = anyio.to_thread.run_sync
    before = {one.execution.id: one for one in await there(read_journals, copy.db)}
    for id, last_seq in acknowledged.items():
        assert before[id].execution.last_seq >= last_seq
    for id, journal in before.items():
        assert _begins_with(written[id], journal)
    assert any(not one.execution.status.is_final for one in before.values())
    told = Told()
    for id, journal in before.items():
        told.of(id).flow = journal.execution.flow
    await copy.start()
    try:
        await come_to_rest([copy.url], told, Random(4))
        await tell_late_joiners([copy.url], told)
    finally:
        await copy.stop()
    assert told.violations == []
    after = await there(read_journals, copy.db)
    assert {one.execution.id for one in after} == set(before)
    for journal in after:
        check_entries(journal.entries)
        assert journal.execution.status.is_final
        assert _begins_with(journal, before[journal.execution.id])
    found = await there(partial(inspect, copy.db, now=0.0, thorough=True))
    assert found.problems == []


def _begins_with(journal: Journal, start: Journal) -> bool:
    return journal.entries[: len(start.entries)] == start.entries
