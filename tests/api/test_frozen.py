"""A subscriber that stops reading delays nobody, and its memory is bounded (promise 8)."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import httpx
import pytest

from dispatch.core.wire import FrameDecoder

MIB = 1024 * 1024
COUNT = 200_000
SIZE = 100


@asynccontextmanager
async def measured(db: Path) -> AsyncIterator[httpx.AsyncClient]:
    command = [sys.executable, "-m", "tests.api.measured", str(db)]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        url = (await process.stdout.receive()).decode().strip()
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            yield http
        await process.stdin.aclose()
        await process.wait()


async def rss(http: httpx.AsyncClient) -> int:
    return int((await http.get("/rss")).text)


async def freeze(http: httpx.AsyncClient, method: str, path: str, body: bytes) -> Frozen:
    """Ask, read the head of the answer, and then nothing more."""
    stream = await anyio.connect_tcp(http.base_url.host, http.base_url.port or 80)
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    await stream.send(head.encode() + body)
    return Frozen(stream, await stream.receive(4096))


class Frozen:
    def __init__(self, stream: anyio.abc.SocketStream, seen: bytes):
        self.stream, self.seen = stream, seen

    @property
    def execution_id(self) -> str:
        return self.seen.split(b"x-execution-id: ")[1].split(b"\r\n")[0].decode()


async def read_all(http: httpx.AsyncClient, id: str, sizes: list[int]) -> list[int]:
    """The seqs of all events, looking at the server's memory now and then."""
    seqs: list[int] = []
    decoder = FrameDecoder()
    async with http.stream("GET", f"/v1/executions/{id}/events") as answer:
        async for piece in answer.aiter_raw():
            before = len(seqs) // 10_000
            seqs += [int(frame.id or 0) for frame in decoder.feed(piece)]
            if len(seqs) // 10_000 > before:
                sizes.append(await rss(http))
    return seqs


def dispatch(count: int) -> bytes:
    inputs = {"count": count, "size": SIZE, "delay_ms": 0}
    return json.dumps({"flow": {"id": "tokens"}, "inputs": inputs}).encode()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_frozen_subscribers_of_a_long_flow_cost_little_and_delay_nobody(
    tmp_path: Path,
) -> None:
    async with measured(tmp_path / "dispatch.db") as http:
        # What Python and SQLite's cache take once, whatever comes after.
        answer = await http.post("/v1/dispatch", content=dispatch(20_000))
        assert len(await read_all(http, answer.headers["x-execution-id"], [])) > 20_000
        before, sizes = await rss(http), [0]
        frozen = [await freeze(http, "POST", "/v1/dispatch", dispatch(COUNT))]
        id = frozen[0].execution_id
        for _ in range(4):
            frozen.append(await freeze(http, "GET", f"/v1/executions/{id}/events", b""))
        seqs = await read_all(http, id, sizes)
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(seqs) > COUNT
        assert len(sizes) > 10
        assert max(sizes) - before < 20 * MIB
        # One that thaws gets the rest, whole.
        thawed, told = frozen[-1], b""
        with anyio.fail_after(60):
            while b"event: execution_complete" not in told[-2000:]:
                told += await thawed.stream.receive(MIB)
        assert (thawed.seen + told).count(b"event: text_delta\n") == COUNT
        for one in frozen:
            await one.stream.aclose()
