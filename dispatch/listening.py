"""An application on a socket: bound before anything else happens, and stopped without loss.

uvicorn waits for its connections before it tells the application to stop, and the application's
streams would go on until then. So the application's lifespan is entered and left here: leaving it
breaks the streams off and closes the generators, while uvicorn lets its connections go.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import anyio
import uvicorn

from dispatch.core.errors import InvalidRequest, Unavailable

#: SIGHUP is what a closed terminal sends.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: From the signal to the end of the process, beyond `shutdown_seconds`: a blocked loop, or code
#: that nothing ends, does not keep it longer.
ENDING_SECONDS = 15


class Application(Protocol):
    """A Starlette application: that library stays in `app` and `api`."""

    router: Any
    state: Any

    async def __call__(self, scope: Any, receive: Any, send: Any, /) -> None: ...


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `InvalidRequest` for an address beyond loopback, `Unavailable` for
    one that can't be had.
    """
    name = "127.0.0.1" if host == "localhost" else host
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise InvalidRequest(
            f"--host {host}: without keys anybody who reaches the server could drive it, so it "
            "listens on loopback only (127.0.0.1, localhost, ::1)",
            code="host-not-loopback",
        )
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        return socket.create_server((name, port), family=family)
    except OSError as exc:
        reason = "another process listens there" if exc.errno == errno.EADDRINUSE else exc.strerror
        raise Unavailable(
            f"cannot listen on {host}:{port}: {reason}; choose another with --port",
            code="cannot-listen",
        ) from exc


def address_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its hands on the signals, which it would raise again when it ends."""

    def __init__(self, config: uvicorn.Config):
        super().__init__(config)
        self.answers = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answers.set()


@asynccontextmanager
async def serving(
    app: Application, sock: socket.socket, *, shutdown_seconds: float
) -> AsyncIterator[None]:
    """`app` answers on `sock` while the context is entered."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=round(shutdown_seconds),
    )
    server = _Server(config)
    with _alone():
        async with anyio.create_task_group() as tasks, app.router.lifespan_context(app):
            tasks.start_soon(server.serve, [sock])
            await server.answers.wait()
            try:
                yield
            finally:
                server.should_exit = True


@contextmanager
def _alone() -> Iterator[None]:
    """An exception that is the only one of its group, as it is: it was no task that failed."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from error.__cause__


async def serve(
    app: Application,
    sock: socket.socket,
    *,
    shutdown_seconds: float,
    ready: Callable[[], None],
    changed: Callable[[], Awaitable[None]] = anyio.sleep_forever,
) -> bool:
    """Serve until SIGTERM, SIGINT or SIGHUP, or until `changed` returns; whether it was the latter.

    A second signal ends the process at once, which loses nothing. Nor does it lose anything that
    the process is ended when it takes too long.
    """
    told = anyio.Event()
    with _signals(told.set, round(shutdown_seconds) + ENDING_SECONDS), _alone():
        async with serving(app, sock, shutdown_seconds=shutdown_seconds):
            ready()
            async with anyio.create_task_group() as first:
                first.start_soon(_end_with, changed, first.cancel_scope)
                await told.wait()
                first.cancel_scope.cancel()
    if told.is_set() and app.state.engine.has_left_behind:
        # All is closed; what still runs would be waited for, or run into the interpreter's end.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
    return not told.is_set()


async def _end_with(function: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
    await function()
    scope.cancel()


@contextmanager
def _signals(tell: Callable[[], None], seconds: int) -> Iterator[None]:
    """The first is told of by Python's own handlers, which run though the loop is blocked; from
    then on a second, and the alarm, are the kernel's: they end the process though nothing in it
    runs any more.
    """
    loop = asyncio.get_running_loop()

    # Whoever starts us may have some ignored, as nohup does.
    heeded = [one for one in STOPPING if signal.getsignal(one) is not signal.SIG_IGN]

    def on_signal(*_: object) -> None:
        for number in heeded:
            # The shell and the kernel both send one when a terminal is closed: nobody insists.
            again = signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL
            signal.signal(number, again)
        signal.alarm(seconds)
        loop.call_soon_threadsafe(tell)

    before = {number: signal.signal(number, on_signal) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
