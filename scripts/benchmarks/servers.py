"""The child process that is measured: `python -m scripts.benchmarks.servers KIND DB`.

It prints its port when it answers, and stops when its standard input ends; so it ends with its
parent, however that ends.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from dispatch.app import WallClock, create_app
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.listening import listen, serving
from dispatch.settings import Settings
from dispatch.store.base import Appended
from dispatch.store.sqlite import SqliteStore
from scripts.benchmarks.bare import create_bare_app
from scripts.benchmarks.flows import MEASURED
from scripts.benchmarks.memory import MemoryStore

BURN_SECONDS = 0.001


def durable(db: str) -> Starlette:
    return create_app(MEASURED, settings=Settings(db=db))


def full(db: str) -> Starlette:
    return create_app(MEASURED, settings=Settings(db=db, synchronous="FULL"))


def cold(db: str) -> Starlette:
    return create_app(MEASURED, settings=Settings(db=db, max_live=0))


def resting_warm(db: str) -> Starlette:
    """Everything suspended stays in memory, and hardly anything that was sent."""
    return create_app(MEASURED, settings=Settings(db=db, max_live=100_000, rings_bytes=64 * 1024))


def resting_cold(db: str) -> Starlette:
    return create_app(MEASURED, settings=Settings(db=db, max_live=0, rings_bytes=64 * 1024))


def writerless(_: str) -> Starlette:
    return create_app(MEASURED, MemoryStore(WallClock()))


def bare(_: str) -> Starlette:
    return create_bare_app()


class TimedStore(SqliteStore):
    """Notes how long each append took, from the call to its being durable."""

    def __init__(self, path: str):
        super().__init__(path, clock=WallClock())
        self.seconds: list[float] = []

    async def append(
        self,
        execution_id: ExecutionId,
        drafts: Sequence[Draft],
        firm: Sequence[Draft] = (),
        *,
        expected_seq: int = 0,
        token: int,
        release: bool = False,
    ) -> Appended:
        began_at = time.perf_counter()
        appended = await super().append(
            execution_id, drafts, firm, expected_seq=expected_seq, token=token, release=release
        )
        self.seconds.append(time.perf_counter() - began_at)
        return appended


class Busy:
    """A server whose event loop can be kept busy; its appends are timed."""

    def __init__(self, db: str):
        self._store = TimedStore(db)
        self._inner = create_app(MEASURED, self._store)
        self._burns = asyncio.Event()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/bench/burn", self._burn, methods=["POST"]),
                Route("/bench/rest", self._rest, methods=["POST"]),
                Mount("/", self._inner),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        inner = self._inner
        async with inner.router.lifespan_context(inner), anyio.create_task_group() as tasks:
            tasks.start_soon(self._burn_in_turns)
            yield
            tasks.cancel_scope.cancel()

    async def _burn_in_turns(self) -> None:
        while True:
            await self._burns.wait()
            until = time.perf_counter() + BURN_SECONDS
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    async def _burn(self, _: Request) -> Response:
        self._burns.set()
        return self._told()

    async def _rest(self, _: Request) -> Response:
        self._burns.clear()
        return self._told()

    def _told(self) -> Response:
        """How long the appends since the last time took."""
        seconds, self._store.seconds = self._store.seconds, []
        return Response(msgspec.json.encode(seconds))


def busy(db: str) -> Starlette:
    return Busy(db).app()


KINDS: dict[str, Callable[[str], Starlette]] = {
    make.__name__: make
    for make in (durable, full, cold, resting_warm, resting_cold, writerless, bare, busy)
}


async def _serve(kind: str, db: str) -> None:
    app = KINDS[kind](db)
    sock = listen("127.0.0.1", 0)
    async with serving(app, sock, shutdown_seconds=1):
        print(sock.getsockname()[1], flush=True)
        await anyio.wait_readable(sys.stdin.fileno())


if __name__ == "__main__":
    anyio.run(_serve, sys.argv[1], sys.argv[2], backend_options={"use_uvloop": True})
