"""`dispatch serve --dev`: the process begins anew when the code of its flows has changed.

It executes itself again, in its place (execve), so nothing is left of the old code and there is no
second process to lose. The listening socket is handed on: whoever calls meanwhile waits, and is
not refused; or is told, if the code can't be loaded, why not. Files are looked at a few times a
second, for that works on any file system.
"""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypeVar

import anyio
import anyio.to_thread

from dispatch import listening
from dispatch.app import create_stand_in
from dispatch.core.errors import DispatchError, Unavailable
from dispatch.place import LOOP_OPTIONS
from dispatch.settings import Settings
from dispatch.terminal import Screen

T = TypeVar("T")

LOOK_SECONDS = 0.2
#: How long the server may take to stop for new code; then it is ended as by kill -9.
PATIENCE_SECONDS = 10.0
#: Tells the process that begins the number of its socket.
_SOCKET = "DISPATCH_DEV_SOCKET"
_INSTALLED = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)

_Stamp = tuple[int, int]


class Reloading:
    """Made before anything is loaded: it begins anew with the arguments and environment of then."""

    def __init__(self, sources: Sequence[str], settings: Settings, screen: Screen):
        inherited = os.environ.pop(_SOCKET, None)
        self._sock = None if inherited is None else socket.socket(fileno=int(inherited))
        self._environment, self._folder = dict(os.environ), Path.cwd()
        self._watch, self._settings, self._screen = Watch(sources), settings, screen

    def listen(self) -> socket.socket:
        """As `listening.listen`, once: a server that ends closes what it is given, a copy."""
        if self._sock is None:
            self._sock = listening.listen(self._settings.host, self._settings.port)
        return self._sock.dup()

    def load(self, load: Callable[[], T]) -> T:
        """What `load` gives. If that fails, say why, to whoever calls too, and begin anew once
        somebody has mended it.
        """
        try:
            return load()
        except DispatchError as exc:
            refused = exc
        self._screen.refused(refused)
        anyio.run(self._refuse, refused, backend_options=LOOP_OPTIONS)
        return self.begin_anew()

    async def _refuse(self, refused: DispatchError) -> None:
        told = Unavailable(f"the flows can't be loaded: {refused.message}", code="not-loaded")
        app, seconds = create_stand_in(told, self._settings), self._settings.shutdown_seconds
        async with listening.serving(app, self.listen(), shutdown_seconds=seconds):
            self._screen.say("waiting for a change")
            await self.changed()

    async def changed(self) -> None:
        """Return when a file has changed, and all have been left alone for a moment."""
        over = threading.Event()
        try:
            await anyio.to_thread.run_sync(self._look_until, over, abandon_on_cancel=True)
        finally:
            over.set()

    def _look_until(self, over: threading.Event) -> None:
        """In a thread, for the loop may be blocked by the very code that is being mended."""
        has_changed = is_quiet = False
        while not (has_changed and is_quiet):
            if over.wait(LOOK_SECONDS):
                return
            is_quiet = not self._watch.changes()
            has_changed = has_changed or not is_quiet
        by_force = threading.Timer(PATIENCE_SECONDS, self._begin_by_force)
        by_force.daemon = True
        by_force.start()

    def _begin_by_force(self) -> None:
        self._screen.say("changed, and the server does not stop: it is ended, as by kill -9")
        self.begin_anew()

    async def serve(self, serving: Callable[..., Awaitable[bool]]) -> None:
        """Serve by `listening.serve` until it is told to stop; begin anew when a file changes."""
        if await serving(changed=self.changed):
            self._screen.line("changed")
            # Here, in the loop: what a flow or a step has left behind in it is not waited for.
            self.begin_anew()

    def begin_anew(self) -> NoReturn:
        if self._sock is not None:
            self._sock.set_inheritable(True)
            self._environment[_SOCKET] = str(self._sock.fileno())
        os.chdir(self._folder)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, sys.orig_argv, self._environment)  # noqa: S606 - these are ours


class Watch:
    """The Python files beside `sources`, and beside every module that isn't installed."""

    def __init__(self, sources: Sequence[str]):
        self._sources = sources
        self._seen: dict[Path, dict[str, _Stamp]] = {}
        self.changes()

    def changes(self) -> list[str]:
        """Files that were changed, added or removed since this was asked last."""
        found = {folder: _stamps(folder) for folder in self._folders()}
        changed = {
            str(folder / name)
            for folder, stamps in found.items()
            for name, _ in stamps.items() ^ self._seen.get(folder, stamps).items()
        }
        self._seen |= found
        return sorted(changed)

    def _folders(self) -> set[Path]:
        return {*map(_folder_of, self._sources), *_loaded_from()}


def _folder_of(source: str) -> Path:
    place, _, _ = source.partition(":")
    return Path(place if place.endswith(".py") else place.replace(".", "/")).absolute().parent


def _loaded_from() -> Iterator[Path]:
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not file.startswith(_INSTALLED):
            yield Path(file).parent


def _stamps(folder: Path) -> dict[str, _Stamp]:
    stamps = {}
    with suppress(OSError):  # it was removed meanwhile, or isn't there yet
        for file in os.scandir(folder):
            if file.name.endswith(".py") and not file.name.startswith("."):
                found = file.stat()
                stamps[file.name] = found.st_mtime_ns, found.st_size
    return stamps
