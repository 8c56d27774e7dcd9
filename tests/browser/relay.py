"""What stands between a browser and a server: a relay whose connections can be cut."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream


class Relay:
    """TCP, byte for byte. `url` is where the server is reached through it."""

    def __init__(self, url: str, upstream: tuple[str, int]):
        self.url, self._upstream = url, upstream
        self._open: set[anyio.CancelScope] = set()

    def cut(self) -> int:
        """Break every connection off, in the middle of whatever it says; how many that were."""
        for scope in self._open:
            scope.cancel()
        return len(self._open)

    async def serve(self, client: SocketStream) -> None:
        with anyio.CancelScope() as scope:
            self._open.add(scope)
            try:
                async with (
                    client,
                    await anyio.connect_tcp(*self._upstream) as server,
                    anyio.create_task_group() as tasks,
                ):
                    tasks.start_soon(_pass_on, client, server, tasks.cancel_scope)
                    tasks.start_soon(_pass_on, server, client, tasks.cancel_scope)
            finally:
                self._open.discard(scope)


async def _pass_on(source: ByteStream, target: ByteStream, both: anyio.CancelScope) -> None:
    """Until either side is gone: neither client nor server goes on with one that is half open."""
    try:
        async for piece in source:
            await target.send(piece)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    both.cancel()


@asynccontextmanager
async def relaying(upstream: str) -> AsyncIterator[Relay]:
    """A relay to the server at `upstream`, on a free loopback port."""
    where = urlsplit(upstream)
    assert where.hostname is not None
    assert where.port is not None
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", family=socket.AF_INET)
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - this is no Django
    relay = Relay(f"http://127.0.0.1:{port}", (where.hostname, where.port))
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, relay.serve)
        yield relay
        tasks.cancel_scope.cancel()
