"""Streams at a server that does not drive: another one on the same file does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx
import pytest

from dispatch.app import create_app
from dispatch.flow import FlowVersion
from dispatch.settings import Settings
from tests.api.caller import Caller, Told
from tests.api.flows import Gate, flows
from tests.serving import serve


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def own_flows(gate: Gate) -> list[FlowVersion]:
    # Not in an async fixture: `@flow` reads the source of its function, which blocks.
    return flows(gate)


@pytest.fixture
async def pair(
    tmp_path: Path, gate: Gate, own_flows: list[FlowVersion]
) -> AsyncIterator[list[Caller]]:
    async with AsyncExitStack() as stack:
        callers = []
        for _ in range(2):
            app = create_app(own_flows, tmp_path / "dispatch.db", Settings())
            url = await stack.enter_async_context(serve(app))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10))
            callers.append(Caller(http, app, gate))
        yield callers


@pytest.mark.slow
async def test_events_are_live_where_they_are_not_driven(pair: list[Caller], gate: Gate) -> None:
    driving, other = pair
    first = await driving.stream(
        "POST",
        "/v1/dispatch",
        {"flow": {"id": "beside"}},
        until=lambda told: "dispatch.step_attempt" in str(told.events),
    )
    told: list[Told] = []

    async def follow() -> None:
        told.append(await other.events(first.id))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        # Its step is still at the gate: what is told now is told live.
        seen = await other.events(
            first.id, until=lambda told: "dispatch.step_attempt" in str(told.events)
        )
        assert seen.seqs == list(range(1, len(seen.seqs) + 1))
        call = next(event["toolCallId"] for event in seen.of("tool_start"))
        tasks.start_soon(other.resume, first.id, {call: "sun"})
        await driving.events(first.id, until=lambda told: bool(told.of("tool_complete")))
        gate.open()
    assert told[0].types[-1] == "execution_complete"
    assert "ping" not in told[0].types  # it was woken by what the other did
    assert told[0].seqs == list(range(1, len(told[0].seqs) + 1))
    assert (await driving.events(first.id)).events == told[0].events


@pytest.mark.slow
async def test_a_cancel_at_the_other_ends_it(pair: list[Caller]) -> None:
    driving, other = pair
    first = await driving.stream(
        "POST",
        "/v1/dispatch",
        {"flow": {"id": "beside"}},
        until=lambda told: "dispatch.step_attempt" in str(told.events),
    )
    assert (await other.post(f"/v1/executions/{first.id}/cancel", b"")).status_code == 200
    assert (await driving.events(first.id)).types[-1] == "execution_complete"
