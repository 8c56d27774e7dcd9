"""A disk that is full: commands are refused, streams stay open, and all goes on once there is room.

Once with a disk that really is, once with SQLite's own limit, which can be had everywhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from starlette.applications import Starlette

from dispatch.app import create_app
from dispatch.flow import FlowVersion
from dispatch.settings import Settings
from tests.api.caller import PATIENCE_SECONDS, Caller, Told, refusal
from tests.api.flows import Gate, flows
from tests.disks import Disk, small_disk
from tests.serving import serve


@pytest.fixture(params=["disk", "pages"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk | None]:
    """None: the limit is SQLite's."""
    if request.param == "pages":
        yield None
        return
    with small_disk(tmp_path / "disk", "2m") as disk:
        yield disk


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def own_flows(gate: Gate) -> list[FlowVersion]:
    return flows(gate)


@pytest.fixture
async def caller(
    disk: Disk | None, tmp_path: Path, gate: Gate, own_flows: list[FlowVersion]
) -> AsyncIterator[Caller]:
    folder = tmp_path if disk is None else disk.path
    app = create_app(own_flows, folder / "dispatch.db", Settings(ping_seconds=0.02))
    async with serve(app) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        yield Caller(http, app, gate)


async def fill(disk: Disk | None, app: Starlette) -> None:
    if disk is not None:
        await anyio.to_thread.run_sync(disk.fill)
    else:
        await anyio.to_thread.run_sync(_limit_pages, app, 1)


async def make_room(disk: Disk | None, app: Starlette) -> None:
    if disk is not None:
        await anyio.to_thread.run_sync(disk.make_room)
    else:
        await anyio.to_thread.run_sync(_limit_pages, app, 1_000_000)


def _limit_pages(app: Starlette, pages: int) -> None:
    # The limit is one of the connection that writes; it can't be less than there are.
    app.state.engine.store._writer._db.execute(f"PRAGMA max_page_count = {pages:d}")


def pings(told: Told) -> int:
    return len(told.of("ping"))


async def test_a_full_disk_refuses_commands_breaks_no_stream_and_passes_by_itself(
    disk: Disk | None, caller: Caller
) -> None:
    app = caller.app
    hang = {"flow": {"id": "hang"}}
    async with caller.beginning("POST", "/v1/dispatch", hang) as stream:
        await stream.until(lambda told: "step_start" in told.types)
        acknowledged = [stream.told.id]
        await fill(disk, app)
        tokens = {"flow": {"id": "tokens"}, "inputs": {"count": 1, "size": 3000}}
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:  # what the last page has room for
                answer = await caller.post("/v1/dispatch", tokens, prefer="respond-async")
                if answer.status_code == 503:
                    break
                acknowledged.append(answer.json()["executionId"])
        assert refusal(answer)[:2] == (503, "store-full")
        assert answer.headers["retry-after"] == "1"
        ready = await caller.get("/health/ready")
        assert ready.status_code == 503
        assert "the disk is full" in ready.json()["reason"]
        assert (await caller.get("/health/live")).status_code == 200

        caller.gate.open()  # what the step comes to is kept
        so_far = pings(stream.told)
        await stream.until(lambda told: pings(told) >= so_far + 5)
        assert "step_complete" not in stream.told.types
        assert (await caller.get("/health/ready")).status_code == 503

        await make_room(disk, app)
        told = await stream.rest()
    assert not told.is_broken
    assert [event["seq"] for event in told.events if event["type"] != "ping"] == list(
        range(1, told.seqs[-1] + 1)
    )
    assert "after" in told.text
    with anyio.fail_after(PATIENCE_SECONDS):
        while (await caller.get("/health/ready")).status_code == 503:
            await anyio.lowlevel.checkpoint()
    for id in acknowledged:
        assert (await caller.events(id)).types[-1] == "execution_complete"
    assert (await caller.get("/v1/counters")).json()["commitFailures"] > 0
