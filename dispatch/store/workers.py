"""Which workers live: told by a lock that the operating system takes from the dead, and by a beat.

Each worker holds a lock on a file of its own beside the database; it is free the moment the process
dies, however it does. A process may also live and do nothing, because it was stopped. So each
counts up in its file, and what it holds is taken by others once they have seen the count stand
still for a lease. The count is not in the database: it must go on while the disk is full, and never
compete for the right to write.

POSIX locks belong to the process, and are lost when it closes *any* handle of the file: so a file
is opened once, and a process never opens a file of its own again.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import NamedTuple, Self
from uuid import uuid4

import anyio.to_thread
import msgspec

from dispatch.core.errors import Unavailable

_LOADED = uuid4().hex
#: Beats in a lease, and how much of it may pass without one before it no longer counts as held.
BEATS = 10
HELD_SHARE = 0.75
PLACES = 2
_COUNT_BYTES = 8
#: What a worker says of itself stands behind its two counts.
_ABOUT_AT = 2 * _COUNT_BYTES
_ABOUT_BYTES = 1024
_CLOSED = -1
#: Told of at once: the files of the dead are open until they are buried.
MOST_LOST = 64

_log = logging.getLogger(__name__)


def this_process() -> str:
    """Tells this process from all others, also from one that had its number, and from its forks."""
    return f"{os.getpid()}-{_LOADED}"


# --- one's own ------------------------------------------------------------------------------------


class About(msgspec.Struct, frozen=True):
    """What whoever looks from outside may want to know of a worker."""

    synchronous: str = ""
    lease_seconds: float = math.inf


class WorkerFile:
    """The file that a worker holds the lock of while it lives, and counts in."""

    def __init__(self, path: Path, handle: int):
        self._path, self._handle = path, handle

    @classmethod
    def take(cls, database: Path, worker: str) -> Self:
        """Raises `Unavailable` if another process has it: a worker of that name lives."""
        path = _path(database, worker)
        file = cls(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            file._lock(worker)
            # Now: they have their place on the disk, also when it is full.
            for place in range(PLACES):
                file.write(place, 0)
        except BaseException:
            file.let_go()
            raise
        return file

    def _lock(self, worker: str) -> None:
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise Unavailable(
                f"a worker named {worker} is at work already", code="worker-alive"
            ) from exc

    def write(self, place: int, number: int) -> None:
        """Each that counts has a place of its own."""
        os.pwrite(self._handle, number.to_bytes(_COUNT_BYTES, "little"), place * _COUNT_BYTES)

    @classmethod
    def take_over(cls, database: Path, worker: str, process: str) -> Self | None:
        """The file of a dead worker, which belonged to `process`; None if it lives."""
        if process == this_process() and _path(database, worker).exists():
            return None
        try:
            return cls.take(database, worker)
        except Unavailable:
            return None

    def tell(self, about: About) -> None:
        os.pwrite(self._handle, msgspec.json.encode(about), _ABOUT_AT)

    def remove(self) -> None:
        """Let go of it, and of the file. The file first: what is locked belongs to someone."""
        self._path.unlink(missing_ok=True)
        self.let_go()

    def let_go(self) -> None:
        """Let others have it. Once is enough: the number may be another file's by then."""
        handle, self._handle = self._handle, _CLOSED
        if handle != _CLOSED:
            os.close(handle)


class Lease:
    """Beats for a worker as long as its process runs. Must be made on the loop.

    A thread beats, for the loop may be blocked for long; and the loop does, for beside one that is
    busy a thread may wait for the interpreter just as long. A lease that has lapsed, for a while at
    least, is not held until it is renewed.
    """

    def __init__(self, file: WorkerFile, seconds: float):
        self._file, self._seconds = file, seconds
        self._beaten_at = time.monotonic()
        self._is_failing = False
        self.standstills = self._forgiven = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat_in_thread, name="store-beat", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._count = count(1)
        self._next: asyncio.Handle = self._loop.call_soon(self._beat_on_loop)

    async def begin(self) -> Self:
        await anyio.to_thread.run_sync(self._thread.start)
        return self

    @property
    def is_held(self) -> bool:
        """Whether nobody can have taken this worker for dead."""
        return self.standstills == self._forgiven and not self._lapses(time.monotonic())

    def renew(self, standstills: int) -> bool:
        """Hold it again, if this worker has stood still no more than so often; False if it cannot
        beat.
        """
        if self._stopped.is_set():
            return False
        if self._lapses(time.monotonic()):
            return self._beat(1, next(self._count))
        self._forgiven = standstills
        return True

    def _lapses(self, at: float) -> bool:
        return at - self._beaten_at >= self._seconds * HELD_SHARE

    def _beat_in_thread(self) -> None:
        for number in count(1):
            if self._stopped.wait(self._seconds / BEATS):
                return
            self._beat(0, number)

    def _beat_on_loop(self) -> None:
        self._beat(1, next(self._count))
        self._next = self._loop.call_later(self._seconds / BEATS, self._beat_on_loop)

    def _beat(self, place: int, number: int) -> bool:
        at = time.monotonic()  # before the beat: others may see it at once
        if self._lapses(at):
            self.standstills += 1
        try:
            self._file.write(place, number)
        except OSError as exc:
            if not self._is_failing:
                _log.error("cannot beat: others will take what this worker holds", exc_info=exc)
            self._is_failing = True
        else:
            self._is_failing = False
            self._beaten_at = at
        return not self._is_failing

    async def end(self) -> None:
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._next.cancel()
        await anyio.to_thread.run_sync(self._end)

    def _end(self) -> None:
        self._thread.join()
        self._beaten_at = -math.inf
        self._file.remove()


# --- others' --------------------------------------------------------------------------------------


class Sighting(NamedTuple):
    """A worker that lives, and when it last beat."""

    beaten_at: float
    about: About


def look_at(database: Path, worker: str, process: str) -> Sighting | None:
    """A worker that belongs to `process`, None if it is dead. It notices nothing."""
    path = _path(database, worker)
    if process == this_process():
        return Sighting(path.stat().st_mtime, About()) if path.exists() else None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        said = os.pread(handle, _ABOUT_BYTES, _ABOUT_AT)
        return Sighting(os.fstat(handle).st_mtime, msgspec.json.decode(said, type=About))
    finally:
        os.close(handle)
    return None


class Lost(NamedTuple):
    """A worker that is dead, and then its `file` is held; or one that only stands still."""

    worker: str
    file: WorkerFile | None


class _Seen(NamedTuple):
    beats: bytes
    at: float


class Others:
    """The workers of other processes, as one sees them that looks now and then."""

    def __init__(
        self,
        database: Path,
        lease_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._database, self._lease_seconds = database, lease_seconds
        self._monotonic = monotonic
        self._seen: dict[str, _Seen] = {}
        self._looked_at = -math.inf

    def look(self, workers: Sequence[tuple[str, str]]) -> list[Lost]:
        """Which of `workers`, given with their processes, are dead or have stood still for the
        lease; if there are many, some of them. Whoever asks lets go of the files. Blocks for a
        moment.
        """
        at = self._monotonic()
        if at - self._looked_at >= self._lease_seconds:
            # Nobody was looking: it may be this process that stood still, and the others with it.
            self._seen.clear()
        self._looked_at = at
        self._seen = {worker: self._seen[worker] for worker, _ in workers if worker in self._seen}
        lost = []
        with ExitStack() as taken:
            for worker, process in workers:
                file = WorkerFile.take_over(self._database, worker, process)
                if file is not None:
                    taken.callback(file.let_go)
                    lost.append(Lost(worker, file))
                elif process != this_process() and self._stands_still(worker):
                    lost.append(Lost(worker, None))
                if len(lost) == MOST_LOST:
                    break
            taken.pop_all()
        return lost

    def _stands_still(self, worker: str) -> bool:
        # Times are taken so that what passed between them is never more than it truly was.
        before = self._monotonic()
        try:
            beats = _path(self._database, worker).read_bytes()
        except FileNotFoundError:
            return False
        seen = self._seen.get(worker)
        if seen is None or seen.beats != beats:
            self._seen[worker] = _Seen(beats, self._monotonic())
            return False
        return before - seen.at >= self._lease_seconds


def _path(database: Path, worker: str) -> Path:
    return database.with_name(f"{database.name}-worker-{worker}")
