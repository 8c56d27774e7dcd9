"""`python -m tests.crash.killed_server PORT DB WHEN NUMBER`: a server that dies by its own SIGKILL.

It does so `before` or `after` the given write: the store is wrapped, the product has no hooks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import anyio

from dispatch import listening, loader
from dispatch.app import WallClock, create_app
from dispatch.flow import Registry
from dispatch.settings import Settings
from dispatch.store.base import Store
from dispatch.store.sqlite import SqliteStore
from tests.crash.servers import FLOWS

WRITES = ("create", "append", "transact")


class MortalStore:
    """A store whose process dies before, or after, the write of that number."""

    def __init__(self, store: SqliteStore, when: str, number: int):
        self.__dict__.update(_store=store, _when=when, _left=number)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return partial(self._write, found) if name in WRITES else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._store, name, value)

    async def _write(self, write: Callable[..., Awaitable[Any]], *what: Any, **how: Any) -> Any:
        self.__dict__["_left"] -= 1
        dies = self._left == 0
        if dies and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        written = await write(*what, **how)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return written


def main(port: str, db: str, when: str, number: str) -> None:
    store = cast(Store, MortalStore(SqliteStore(db, clock=WallClock()), when, int(number)))
    app = create_app(Registry(loader.load([str(FLOWS)])), store, Settings(db=db))
    sock = listening.listen("127.0.0.1", int(port))
    address = listening.address_of(sock)

    def ready() -> None:
        sys.stdout.write(f"ready     {address}\n")
        sys.stdout.flush()

    anyio.run(partial(listening.serve, app, sock, shutdown_seconds=2.0, ready=ready))


if __name__ == "__main__":
    main(*sys.argv[1:])
