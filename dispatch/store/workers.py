"""Which workers live, told by locks that the operating system takes from the dead.

Each worker holds a lock on a file of its own beside the database; it is free the moment the process
dies, however it does. POSIX locks belong to the process, and are lost when it closes *any* handle
of the file: so a file is opened once, and a process never probes a file of its own.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self
from uuid import uuid4

from dispatch.core.errors import Unavailable

_LOADED = uuid4().hex


def this_process() -> str:
    """Tells this process from all others, also from one that had its number, and from its forks."""
    return f"{os.getpid()}-{_LOADED}"


class WorkerLock:
    """The lock that a worker holds while it lives."""

    def __init__(self, path: Path, handle: int):
        self._path, self._handle = path, handle

    @classmethod
    def take(cls, database: Path, worker: str) -> Self:
        """Raises `Unavailable` if another process has it: a worker of that name lives."""
        path = _path(database, worker)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(handle)
            raise Unavailable(
                f"a worker named {worker} is at work already", code="worker-alive"
            ) from exc
        return cls(path, handle)

    @classmethod
    def take_over(cls, database: Path, worker: str, process: str) -> Self | None:
        """The lock of a dead worker, which belonged to `process`; None if it lives."""
        if process == this_process() and _path(database, worker).exists():
            return None
        try:
            return cls.take(database, worker)
        except Unavailable:
            return None

    @staticmethod
    def is_held(database: Path, worker: str, process: str) -> bool:
        """Whether a worker lives, which belongs to `process`; nobody is disturbed."""
        path = _path(database, worker)
        if process == this_process():
            return path.exists()
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    def remove(self) -> None:
        """Let go of it, and of the file. The file first: what is locked belongs to someone."""
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


def _path(database: Path, worker: str) -> Path:
    return database.with_name(f"{database.name}-worker-{worker}")
