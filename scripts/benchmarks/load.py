"""The load: servers as child processes, and connections to them that cost little themselves.

A connection is kept alive for one request after the other. Of an answer it keeps what it is asked
to, and otherwise only counts: a client that parsed events would be measured itself.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import anyio
import anyio.to_thread
import msgspec
import psutil

START_SECONDS = 20
STOP_SECONDS = 10

_EVENT = b"\nid: "
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)

Watch = Callable[[bytes, float], None]


class Server:
    """A child process that answers on `port`."""

    def __init__(self, kind: str, process: subprocess.Popen[bytes], port: int):
        self.kind, self.port = kind, port
        self._process = psutil.Process(process.pid)

    def kill(self) -> None:
        _kill(self._process.pid)
        self._process.wait()

    def memory_bytes(self) -> int:
        return int(self._process.memory_info().rss)

    def cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    @asynccontextmanager
    async def connect(self, count: int = 1) -> AsyncIterator[list[Connection]]:
        loop = asyncio.get_running_loop()
        connections = []
        try:
            for _ in range(count):
                _, one = await loop.create_connection(Connection, "127.0.0.1", self.port)
                connections.append(one)
            yield connections
        finally:
            for one in connections:
                one.close()


@asynccontextmanager
async def start(
    kind: str, folder: Path, file: str | None = None, *, command: Sequence[str] = ()
) -> AsyncIterator[Server]:
    """Start a server of `kind` (`servers.KINDS`), or with `command`, and see to its end."""
    db = str(folder / (file or f"{kind}.db"))
    command = command or (sys.executable, "-m", "scripts.benchmarks.servers", kind, db)
    pipe = subprocess.PIPE
    async with AsyncExitStack() as stack:
        # A group of its own: what it starts ends with it.
        process = subprocess.Popen(  # noqa: ASYNC220 - no wait
            command, stdin=pipe, stdout=pipe, process_group=0
        )
        stack.push_async_callback(anyio.to_thread.run_sync, _stop, process)
        assert process.stdout is not None
        with anyio.fail_after(START_SECONDS):
            await anyio.wait_readable(process.stdout.fileno())
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server {kind} did not start")
        yield Server(kind, process, int(line))


def _stop(process: subprocess.Popen[bytes]) -> None:
    with process:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        finally:
            _kill(process.pid)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class Answer(NamedTuple):
    """Times are of `time.perf_counter`; `first_at` is when the marker was first seen."""

    sent_at: float
    first_at: float
    ended_at: float
    events: int
    body: bytes


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def close(self) -> None:
        self._transport.close()

    async def post(
        self,
        path: str,
        body: Any,
        *,
        marker: bytes = b"",
        keep: bool = False,
        watch: Watch | None = None,
    ) -> Answer:
        """Wait for the whole answer. Raises `RuntimeError` unless it is a 200."""
        content = msgspec.json.encode(body)
        request = (
            b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (path.encode(), len(content), content)
        )
        return await self._answer_to(request, marker, keep, watch)

    async def get(self, path: str, *, marker: bytes = b"", watch: Watch | None = None) -> Answer:
        """The same; `watch` is first called when the head of the answer is there."""
        request = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path.encode()
        return await self._answer_to(request, marker, False, watch)

    async def _answer_to(
        self, request: bytes, marker: bytes, keep: bool, watch: Watch | None
    ) -> Answer:
        self._marker, self._keep, self._watch = marker, keep, watch
        self._head, self._pieces, self._size = b"", [b""], 0
        self._length: int | None = None
        self._tail = b""
        self._events, self._first_at = 0, 0.0
        self._answer = asyncio.get_running_loop().create_future()
        self._sent_at = time.perf_counter()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._tail == b"":
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._head[: end + 2], self._head[end + 2 :]
            if not head.startswith(b"HTTP/1.1 200 "):
                self._fail(RuntimeError((head + data).decode(errors="replace")))
                return
            length = _LENGTH.search(head)
            self._length = int(length[1]) + 2 if length else None
        if self._watch is not None:
            self._watch(data, now)
        # What may have been cut in two by the end of a piece is looked for in both together.
        window = self._tail + data
        self._events += window.count(_EVENT) - self._tail.count(_EVENT)
        if self._marker and not self._first_at and self._marker in window:
            self._first_at = now
        if self._keep:
            self._pieces.append(data)
        self._size += len(data)
        self._tail = window[-32:]
        ended = window.endswith(_LAST_CHUNK) if self._length is None else self._size >= self._length
        if ended and self._answer is not None:
            body = b"".join(self._pieces)[2:]
            answer = Answer(self._sent_at, self._first_at, now, self._events, body)
            self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("the server has closed the connection"))

    def _fail(self, exc: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc)
