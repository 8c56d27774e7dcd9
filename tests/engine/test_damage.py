"""A database that is damaged in the middle: whose journal can't be read is parked, others go on."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread
import pytest

from dispatch import Flow, Run, flow, result, tool
from dispatch.core.errors import Damaged
from dispatch.core.lifecycle import Status
from tests.engine.worker import Bench

PAGE_BYTES = 4096
MARK = b"damaged here"


def damage(path: Path, neighbour: str) -> None:
    """Make nonsense of all pages with `MARK`, but for those that hold something of `neighbour`."""
    data = bytearray(path.read_bytes())
    damaged = 0
    for begin in range(0, len(data), PAGE_BYTES):
        page = data[begin : begin + PAGE_BYTES]
        if MARK in page and neighbour.encode() not in page:
            data[begin : begin + 12] = b"\xff" * 12
            damaged += 1
    assert damaged > 3
    path.write_bytes(data)


@flow("talks")
async def talks(run: Run[dict[str, str]]) -> Flow:
    for number in range(20):
        yield f"{number} {run.inputs['text']} " * 100
        yield tool("look")
    yield result("said")


async def test_whose_journal_cannot_be_read_is_parked_and_others_go_on(bench: Bench) -> None:
    async with bench.worker(talks) as worker:
        plays = []
        for text in (MARK.decode(), "fine"):  # one after the other: their pages lie apart
            plays.append(await worker.play(talks, {"text": text}))
            for _ in range(15):
                await plays[-1].answer("look", 1)
        copy = await worker.killed()
    await anyio.to_thread.run_sync(damage, copy, plays[1].id)
    async with bench.worker(talks, path=copy) as worker:
        damaged, sound = (play.at(worker) for play in plays)
        await damaged.answer("look", 1)
        row = await damaged.execution()
        assert (row.status, row.code) == (Status.INTERRUPTED, "store-corrupt")
        with pytest.raises(Damaged):
            await worker.store.read(damaged.id, after=0)
        assert worker.store.fault is None
        assert worker.store.counters.parked == {"store-corrupt": 1}
        for _ in range(5):
            await sound.answer("look", 1)
        assert await sound.result() == "said"
        # A retry finds the same, and a cancel always works.
        await damaged.retry()
        assert await damaged.status() is Status.INTERRUPTED
        assert (await damaged.cancel()).status is Status.CANCELLED
