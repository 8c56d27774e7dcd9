"""How a stream ends, seen on the socket itself: a final chunk means over, or your turn; none means
come back with your cursor (design.md 6).
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest

from dispatch.app import create_app
from dispatch.core.ids import ExecutionId
from dispatch.flow import FlowVersion
from dispatch.settings import Settings
from tests.api.caller import Caller
from tests.api.flows import Gate, flows
from tests.serving import serve

FINAL_CHUNK = b"\r\n0\r\n\r\n"


class Wire:
    """One connection, and every byte that came over it."""

    def __init__(self, stream: anyio.abc.SocketStream):
        self._stream = stream
        self.seen = b""

    async def request(self, method: str, path: str, body: Any = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        await self._stream.send(head.encode() + content)

    async def until(self, mark: bytes) -> None:
        with anyio.fail_after(10):
            while mark not in self.seen:
                self.seen += await self._stream.receive()

    async def until_closed(self) -> None:
        with anyio.fail_after(10):
            try:
                while True:
                    self.seen += await self._stream.receive()
            except anyio.EndOfStream:
                pass

    @property
    def execution_id(self) -> str:
        return self.seen.split(b"\r\nx-execution-id: ")[1].split(b"\r\n")[0].decode()

    @property
    def last_event(self) -> str:
        return self.seen.rpartition(b"event: ")[2].split(b"\n")[0].decode()


class Wires:
    """The connections of one test."""

    def __init__(self) -> None:
        self._streams: list[anyio.abc.SocketStream] = []

    async def connect(self, caller: Caller) -> Wire:
        url = caller.http.base_url
        self._streams.append(await anyio.connect_tcp(url.host, url.port or 80))
        return Wire(self._streams[-1])

    async def dispatch(self, caller: Caller, flow: str, **body: Any) -> Wire:
        wire = await self.connect(caller)
        await wire.request("POST", "/v1/dispatch", {"flow": {"id": flow}, **body})
        return wire

    async def close(self) -> None:
        for stream in self._streams:
            await stream.aclose()


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    made = Wires()
    yield made
    await made.close()


@pytest.fixture(params=[0, 1000], ids=["cold", "warm"], scope="module")
def max_live(request: pytest.FixtureRequest) -> int:
    return int(request.param)


# --- properly -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flow", "last"),
    [
        ("talk", "execution_complete"),
        ("boom", "execution_error"),
        ("one", "await"),
        ("two", "await"),
        ("decide", "approval_start"),
    ],
)
async def test_a_leg_ends_properly(wires: Wires, caller: Caller, flow: str, last: str) -> None:
    wire = await wires.dispatch(caller, flow)
    await wire.until(FINAL_CHUNK)
    assert wire.last_event == last
    # And the connection is good for another request.
    await wire.request("GET", f"/v1/executions/{wire.execution_id}/status")
    await wire.until(b'"executionId"')


async def test_a_cancel_ends_the_stream_with_the_final_event(wires: Wires, caller: Caller) -> None:
    wire = await wires.dispatch(caller, "nap")
    await wire.until(b'"delta":"sleeping"')
    answer = await caller.post(f"/v1/executions/{wire.execution_id}/cancel", {"reason": "enough"})
    await wire.until(FINAL_CHUNK)
    assert wire.last_event == "execution_complete"
    assert b'"stopReason":"cancelled"' in wire.seen
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


async def test_while_only_timers_run_the_leg_stays_open(wires: Wires, caller: Caller) -> None:
    wire = await wires.dispatch(caller, "nap")
    await wire.until(b'"name":"dispatch.timer_set"')
    assert FINAL_CHUNK not in wire.seen
    assert (await caller.status(wire.execution_id))["status"] == "running"


# --- broken off -----------------------------------------------------------------------------------


async def test_the_next_legs_head_breaks_the_connection_off(wires: Wires, caller: Caller) -> None:
    wire = await wires.dispatch(caller, "beside")
    await wire.until(b'"name":"dispatch.step_attempt"')
    resume = {"executionId": wire.execution_id, "toolOutputs": {"look": 1}}
    async with caller.beginning("POST", "/v1/dispatch/resume", resume) as opened:
        await wire.until_closed()
        caller.gate.open()
        await opened.rest()
    assert not wire.seen.endswith(b"0\r\n\r\n")


async def test_a_lease_that_is_lost_breaks_the_connection_off(wires: Wires, caller: Caller) -> None:
    wire = await wires.dispatch(caller, "nap")
    await wire.until(b"event: custom")
    hub = caller.app.state.hub
    hub.break_off(ExecutionId(wire.execution_id))
    await wire.until_closed()
    assert not wire.seen.endswith(b"0\r\n\r\n")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def own_flows(gate: Gate) -> list[FlowVersion]:
    # Not in an async fixture: `@flow` reads the source of its function, which blocks.
    return flows(gate)


@pytest.fixture
async def stopping(
    tmp_path: Path, gate: Gate, own_flows: list[FlowVersion]
) -> AsyncIterator[tuple[Caller, anyio.Event]]:
    """A server that stops when the event is set."""
    stop = anyio.Event()
    app = create_app(own_flows, tmp_path / "dispatch.db", Settings(json_wait_seconds=20))
    ready = anyio.Event()
    callers: list[Caller] = []

    async def run() -> None:
        async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
            callers.append(Caller(http, app, gate))
            ready.set()
            await stop.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await ready.wait()
        yield callers[0], stop
        stop.set()


@pytest.mark.parametrize("stream", ["leg", "events"])
async def test_a_server_that_stops_breaks_its_streams_off(
    wires: Wires,
    stopping: tuple[Caller, anyio.Event],
    stream: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caller, stop = stopping
    with caplog.at_level(logging.ERROR):
        wire = await wires.dispatch(caller, "nap")
        await wire.until(b"event: custom")
        if stream == "events":
            id, wire = wire.execution_id, await wires.connect(caller)
            await wire.request("GET", f"/v1/executions/{id}/events")
            await wire.until(b"event: custom")
        stop.set()
        await wire.until_closed()
    assert not wire.seen.endswith(b"0\r\n\r\n")
    # uvicorn's log of the exception that breaks the connection is filtered; ours has nothing.
    assert not caplog.records


async def test_a_server_that_stops_hands_over_what_waits_for_a_document(
    wires: Wires,
    stopping: tuple[Caller, anyio.Event],
) -> None:
    caller, stop = stopping
    wire = await wires.dispatch(caller, "hang", options={"streamResponse": False})
    with anyio.fail_after(10):
        while not caller.gate.waiting:
            await anyio.lowlevel.checkpoint()
    stop.set()
    await wire.until_closed()
    assert b"HTTP/1.1 202 " in wire.seen
    assert b'"status":"running"' in wire.seen


async def test_a_server_that_stops_leaves_another_ones_streams_alone(
    wires: Wires, caller: Caller, stopping: tuple[Caller, anyio.Event]
) -> None:
    other, stop = stopping
    ours, theirs = [await wires.dispatch(one, "nap") for one in (caller, other)]
    for wire in (ours, theirs):
        await wire.until(b"event: custom")
    stop.set()
    await theirs.until_closed()
    answer = await caller.post(f"/v1/executions/{ours.execution_id}/cancel", b"")
    assert answer.status_code == 200
    await ours.until(FINAL_CHUNK)


# --- pings ----------------------------------------------------------------------------------------


async def test_a_silent_stream_pings_with_the_last_seq_and_no_id(
    wires: Wires, tmp_path: Path, gate: Gate, own_flows: list[FlowVersion]
) -> None:
    app = create_app(own_flows, tmp_path / "dispatch.db", Settings(ping_seconds=0.05))
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
        caller = Caller(http, app, gate)
        wire = await wires.dispatch(caller, "nap")
        await wire.until(b'event: ping\ndata: {"type":"ping"')
        await wire.until(b'Z"}\n\n\r\n')
        seen = await caller.events(
            wire.execution_id, until=lambda told: told.types.count("ping") == 2
        )
    pings = seen.of("ping")
    last = [event["seq"] for event in seen.events if event["type"] != "ping"][-1]
    assert [ping["seq"] for ping in pings] == [last, last]
    assert all(set(ping) == {"type", "executionId", "seq", "timestamp"} for ping in pings)
    block = wire.seen[wire.seen.index(b"event: ping") :].split(b"\n\n")[0]
    assert b"\nid:" not in block
