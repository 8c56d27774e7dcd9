"""What stands between a client and the server: a proxy that cuts, holds and splits.

Each connection carries one request, for the proxy asks the server to close behind it; so it is by
requests that a case says what is to happen, whatever a client's pool does.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import anyio
import msgspec
from anyio.abc import ByteStream, SocketAttribute, SocketStream

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens to the next request whose path ends in `path` (`ever`: to all of them).

    The connection is cut behind that many bytes of the answer, or behind the first time that it
    says `cut`, `plus` bytes. `until` has the answer held there, first, until the execution has that
    status; with `hold` instead of `cut` it then goes on. `refuse`: the request never arrives.
    """

    path: str
    cut: int | str | None = None
    hold: int | str | None = None
    plus: int = 0
    until: str | None = None
    refuse: bool = False
    ever: bool = False


class Proxy:
    """`reached` waits until the newest execution has a status. `unused`: what hasn't happened."""

    def __init__(
        self,
        upstream: str,
        rules: list[Rule],
        split: int | None,
        reached: Callable[[str], Awaitable[None]],
    ):
        self._upstream, self._reached = urlsplit(upstream), reached
        self._rules, self._split = list(rules), split
        self.url = ""

    @property
    def unused(self) -> list[Rule]:
        return [rule for rule in self._rules if not rule.ever]

    async def serve(self, client: SocketStream) -> None:
        async with client:
            with suppress(*_GONE):
                await self._pass_on(client)

    async def _pass_on(self, client: SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await client.receive()
        line, _, rest = head.partition(b"\r\n")
        rule = self._rule(line.split(b" ")[1].decode().partition("?")[0])
        if rule is not None and rule.refuse:
            self._done(rule)
            return
        host, port = self._upstream.hostname, self._upstream.port
        async with (
            await anyio.connect_tcp(str(host), port or 0) as server,
            anyio.create_task_group() as tasks,
        ):
            await server.send(line + b"\r\nconnection: close\r\n" + _without_connection(rest))
            tasks.start_soon(_pipe, client, server)
            with suppress(*_GONE):
                await self._answer(server, client, rule)
            tasks.cancel_scope.cancel()

    async def _answer(self, server: ByteStream, client: ByteStream, rule: Rule | None) -> None:
        told = b""
        async for piece in server:
            at = None if rule is None else _place(rule, told + piece)
            if at is None or rule is None:
                await self._send(client, piece)
                told += piece
                continue
            await self._send(client, piece[: at - len(told)])
            if rule.until is not None:
                await self._reached(rule.until)
            self._done(rule)
            if rule.cut is not None:
                return
            await self._send(client, piece[at - len(told) :])
            rule = None

    async def _send(self, client: ByteStream, data: bytes) -> None:
        size = self._split or max(len(data), 1)
        for at in range(0, len(data), size):
            await client.send(data[at : at + size])

    def _rule(self, path: str) -> Rule | None:
        return next((rule for rule in self._rules if path.endswith(rule.path)), None)

    def _done(self, rule: Rule) -> None:
        if not rule.ever:
            self._rules.remove(rule)


def _place(rule: Rule, told: bytes) -> int | None:
    """Where the answer is to be cut or held, if that is within what was told."""
    place = rule.hold if rule.cut is None else rule.cut
    if place is None:
        return None
    if isinstance(place, str):
        mark = place.encode()
        if mark not in told:
            return None
        place = told.index(mark) + len(mark)
    return place + rule.plus if len(told) >= place + rule.plus else None


def _without_connection(rest: bytes) -> bytes:
    head, end, body = rest.partition(b"\r\n\r\n")
    kept = [one for one in head.split(b"\r\n") if not one.lower().startswith(b"connection:")]
    return b"\r\n".join(kept) + end + body


async def _pipe(source: ByteStream, target: ByteStream) -> None:
    with suppress(*_GONE):
        async for piece in source:
            await target.send(piece)


@asynccontextmanager
async def proxying(proxy: Proxy) -> AsyncIterator[str]:
    """Where the server is reached through it."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", family=socket.AF_INET)
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy.serve)
        yield f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()
