"""That a client that has left is forgotten, in silence and in a flood."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from dispatch import Flow, Run, flow, step
from dispatch.api.sse import _while_somebody_reads
from dispatch.app import create_app
from dispatch.flow import FlowVersion
from dispatch.settings import Settings
from tests.api.caller import Caller
from tests.api.flows import Gate, flows
from tests.serving import serve


@pytest.fixture(scope="module")
def own_flows() -> list[FlowVersion]:
    return flows(Gate())


async def test_a_reader_that_leaves_a_silent_stream_is_forgotten(
    tmp_path: Path, own_flows: list[FlowVersion]
) -> None:
    app = create_app(own_flows, tmp_path / "dispatch.db", Settings(ping_seconds=0.05))
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
        caller, hub = Caller(http, app, Gate()), app.state.hub
        async with caller.beginning("POST", "/v1/dispatch", {"flowId": "nap"}) as opened:
            await opened.until(lambda told: bool(told.text))
            assert len(hub._followed) == 1
        with anyio.fail_after(10):
            while hub._followed:
                await anyio.lowlevel.checkpoint()


@flow("long")
async def long(run: Run[Any]) -> Flow:
    for _ in range(100):
        yield "x" * 1000
        yield nothing()


@step
async def nothing() -> None:
    pass


async def test_the_end_of_a_stream_comes_with_its_last_piece(tmp_path: Path) -> None:
    app = create_app([long], tmp_path / "dispatch.db")
    bodies: list[Message] = []

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Message) -> None:
            if message["type"] == "http.response.body":
                bodies.append(message)
            await send(message)

        await app(scope, receive, note if scope["type"] == "http" else send)

    async with serve(noted) as url, httpx.AsyncClient(base_url=url) as http:
        leg = await http.post("/v1/dispatch", json={"flowId": "long"})
        events = await http.get(f"/v1/executions/{leg.headers['x-execution-id']}/events")
    assert leg.text == events.text
    ends = [body for body in bodies if not body["more_body"]]
    assert len(ends) == 2
    assert all(b"event: execution_complete\n" in end["body"] for end in ends)
    assert all(body["body"] for body in bodies)


async def flood() -> AsyncIterator[bytes]:
    while True:
        yield b"event: text_delta\n\n"


async def nobody() -> Message:
    return {"type": "http.disconnect"}


async def somebody() -> Message:
    await anyio.sleep_forever()
    raise AssertionError


async def silence() -> AsyncIterator[bytes]:
    yield b"event: text_delta\n\n"
    while True:
        yield b"event: ping\ndata: {}\n\n"


async def test_a_reader_that_leaves_is_missed_at_the_first_ping() -> None:
    pieces = [piece async for piece in _while_somebody_reads(silence(), nobody)]
    assert pieces == [b"event: text_delta\n\n"]


async def test_a_reader_that_leaves_a_flood_is_forgotten() -> None:
    count = 0
    async for _ in _while_somebody_reads(flood(), nobody):
        count += 1
    assert 0 < count < 1000


async def test_a_reader_that_stays_gets_the_flood() -> None:
    count = 0
    pieces = _while_somebody_reads(flood(), somebody)
    async for _ in pieces:
        count += 1
        if count == 1000:
            break
    await pieces.aclose()
    assert count == 1000
