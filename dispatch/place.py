"""Where a command goes: to a server, or to one that lives in this process as long as the command.

The latter serves the same kind of file on a free port, so that all commands speak HTTP and nothing
else, and whoever opens that file next carries on what was begun.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent import futures
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from dispatch import listening, loader
from dispatch.app import WallClock, create_app
from dispatch.client import Client
from dispatch.flow import Registry
from dispatch.settings import Settings
from dispatch.store.base import Store
from dispatch.store.sqlite import SqliteStore

T = TypeVar("T")

EXAMPLES = "dispatch.examples"
LOOP_OPTIONS = {"use_uvloop": True}
_DEFAULTS = Settings()
DEFAULT_URL = f"http://{_DEFAULTS.host}:{_DEFAULTS.port}"


class Usage(Exception):
    """The arguments make no sense together; a sentence."""


def own_version() -> str:
    """Of this dispatch."""
    return version("dispatch-flows")


def existing(db: str) -> Path:
    """The file of the journals. Raises `Usage` if it isn't there."""
    path = Path(db).absolute()
    if not path.is_file():
        raise Usage(f"there is no file {db}: --db names that of the journals")
    return path


def with_store(db: str, work: Callable[[Store], Awaitable[int]]) -> int:
    """What `work` makes of the file `db`, made if it isn't there, which servers may use too."""
    store = SqliteStore(db, clock=WallClock())

    async def session() -> int:
        async with store.session(f"worker_{secrets.token_hex(8)}"):
            return await work(store)

    return anyio.run(session, backend_options=LOOP_OPTIONS)


class Place(NamedTuple):
    """`again`: the arguments by which a command line comes back here."""

    portal: BlockingPortal
    client: Client
    again: Sequence[str]
    is_here: bool

    def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """`function(*args)` on the loop. Ctrl-C cancels it there, and is raised here."""
        future = self.portal.start_task_soon(function, *args)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            futures.wait([future])
            raise


@contextmanager
def at(
    url: str | None, db: str | None, sources: Sequence[str], flow: str | None = None
) -> Iterator[Place]:
    """The server at `url`, else at DISPATCH_URL, else where `dispatch serve` listens; with
    `sources`, one of those flows on the file `db`, which warns of `flow` alone.
    """
    if sources and url is not None:
        raise Usage("MODULE_OR_FILE runs flows here, and --url asks a server: give one of them")
    if db is not None and not sources:
        raise Usage("--db goes with MODULE_OR_FILE: a server has a file of its own")
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal(backend_options=LOOP_OPTIONS))
        if sources:
            again = [*sources, *(() if db is None else ("--db", db))]
            address = stack.enter_context(_server(portal, db or _DEFAULTS.db, sources, flow))
        else:
            again = [] if url is None else ["--url", url]
            address = url or os.environ.get("DISPATCH_URL") or DEFAULT_URL
        client = stack.enter_context(portal.wrap_async_context_manager(Client(address)))
        yield Place(portal, client, again, bool(sources))


@contextmanager
def _server(
    portal: BlockingPortal, db: str, sources: Sequence[str], flow: str | None
) -> Iterator[str]:
    settings = Settings(db=str(Path(db).absolute()))
    flows = Registry(loader.load(sources), warns_of=() if flow is None else (flow,))
    application = create_app(flows, settings=settings)
    sock = listening.listen(settings.host, 0)
    serving = listening.serving(application, sock, shutdown_seconds=settings.shutdown_seconds)
    with portal.wrap_async_context_manager(serving):
        yield listening.address_of(sock)
