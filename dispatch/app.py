"""Composition root: settings -> store -> hub -> engine -> routes, in one lifespan.

Everything that lives as long as the server is entered here, in that order, and left in the opposite
one. The real clock is here too; nothing else in the package reads the time.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from dispatch.api import guide
from dispatch.api.answers import Answers
from dispatch.api.client_sessions import ClientSessions
from dispatch.api.dispatch import Commands
from dispatch.api.errors import ErrorBoundary, answer_http
from dispatch.api.executions import Executions
from dispatch.api.guard import Guard, HasToken, check_origin
from dispatch.api.server import Server, WhileRunning
from dispatch.api.sse import quiet_broken_streams
from dispatch.console import client, examples, home
from dispatch.core.errors import DispatchError, FlowMistake
from dispatch.engine.engine import Engine
from dispatch.engine.rehearsals import Rehearsals
from dispatch.flow import FlowVersion, Registry
from dispatch.settings import Settings
from dispatch.store.base import Store
from dispatch.store.sqlite import SqliteStore
from dispatch.stream.hub import Hub

#: How often a server is asked whether it was told to stop; uvicorn looks as often itself.
_POLL_SECONDS = 0.1


class WallClock:
    """The time as it is."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


def create_app(
    flows: Registry | Iterable[FlowVersion | ModuleType] = (),
    store: Store | Path | str | None = None,
    settings: Settings | None = None,
) -> Starlette:
    """An ASGI application that runs `flows`, with their journals in `store`.

    `flows` may be flows, modules whose globals they are, or a `Registry`; `store` may be the path
    of an SQLite file (`settings.db` if there is none). To mount it in another application enter its
    lifespan from that one's, for ASGI servers tell only the outermost: `async with
    inner.router.lifespan_context(inner): yield`. It can be entered again after it was left.
    """
    settings = settings or Settings()
    registry = flows if isinstance(flows, Registry) else Registry(_flows_of(flows))
    clock = WallClock()
    if store is None or isinstance(store, Path | str):
        store = SqliteStore(
            store or settings.db,
            clock=clock,
            synchronous=settings.synchronous,
            lease_seconds=settings.lease_seconds,
        )
    worker = f"worker_{secrets.token_hex(8)}"
    hub = Hub(
        clock,
        ping_seconds=settings.ping_seconds,
        ring_bytes=settings.ring_bytes,
        rings_bytes=settings.rings_bytes,
    )
    rehearsals = Rehearsals(store, registry, clock)
    engine = Engine(
        store,
        hub,
        registry,
        clock,
        worker=worker,
        max_live=settings.max_live,
        max_running=settings.max_running,
        cancel_seconds=settings.cancel_seconds,
        close_seconds=settings.close_seconds,
        stall_seconds=settings.stall_seconds,
        at_rest=rehearsals.at_rest if settings.dev else None,
    )
    answers = Answers(store, hub, settings)
    sessions = ClientSessions(engine.dispatcher, registry, store, answers, settings, clock)

    async def has_token(path: str, origin: str) -> bool:
        return engine.accepting and await sessions.trusts(path, origin)

    def why_not_ready() -> str | None:
        if not engine.accepting:
            return "the server is starting or stopping"
        if not store.is_leased:
            return "this worker stood still for too long: others may have what it held"
        return None if store.fault is None else store.fault.message

    def stop() -> None:
        engine.accepting = False
        hub.close()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        quiet_broken_streams()
        await anyio.to_thread.run_sync(registry.log_warnings)
        async with (
            store.session(worker),
            hub.open(),
            engine.running(),
            rehearsals.running(),
            _watching(stop),
        ):
            yield

    app = Starlette(
        routes=[
            *Commands(engine.dispatcher, registry, answers, sessions, settings).routes(),
            *Executions(store, answers).routes(),
            *sessions.routes(),
            *Server(registry, why_not_ready, store.counters).routes(),
            *home.routes(),
            *guide.routes(),
            *client.routes(),
            *examples.routes(),
        ],
        middleware=[
            *_middleware(settings, has_token),
            Middleware(WhileRunning, is_running=lambda: engine.accepting),
        ],
        exception_handlers={HTTPException: answer_http},
        lifespan=lifespan,
    )
    # A redirect looks like an empty success to the published client (wire 1).
    app.router.redirect_slashes = False
    app.state.engine, app.state.hub = engine, hub
    return app


def create_stand_in(error: DispatchError, settings: Settings) -> Starlette:
    """An ASGI application that answers whatever it is asked with `error`."""

    async def refuse(_: Scope, __: Receive, ___: Send) -> None:
        raise error

    async def has_token(_: str, __: str) -> bool:
        return False

    return Starlette(routes=[Mount("/", refuse)], middleware=_middleware(settings, has_token))


def _middleware(settings: Settings, has_token: HasToken) -> list[Middleware]:
    origins = [check_origin(origin) for origin in settings.cors_origins]
    return [
        Middleware(Guard, hosts=settings.hosts, origins=origins, has_token=has_token),
        Middleware(ErrorBoundary),
    ]


def _flows_of(flows: Iterable[FlowVersion | ModuleType]) -> list[FlowVersion]:
    found: list[FlowVersion] = []
    for one in flows:
        if isinstance(one, FlowVersion):
            found.append(one)
        elif isinstance(one, ModuleType):
            found += [value for value in vars(one).values() if isinstance(value, FlowVersion)]
        else:
            raise FlowMistake(f"{one!r} is neither a flow nor a module: decorate it with @flow(…)")
    return found


@asynccontextmanager
async def _watching(stop: Callable[[], None]) -> AsyncIterator[None]:
    """Call `stop` as soon as the server is told to stop, at the latest when the context is left.

    uvicorn waits for its connections to close before it tells the application, and the
    application's streams would go on until then. The server that starts us has just put itself
    behind SIGTERM.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    async with anyio.create_task_group() as tasks:
        if hasattr(server, "should_exit"):
            tasks.start_soon(_watch, server, stop)
        try:
            yield
        finally:
            stop()
            tasks.cancel_scope.cancel()


async def _watch(server: Any, stop: Callable[[], None]) -> None:
    while not server.should_exit:  # noqa: ASYNC110 - uvicorn has nothing to wait for
        await anyio.sleep(_POLL_SECONDS)
    stop()
