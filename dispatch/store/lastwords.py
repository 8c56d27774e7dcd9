"""What a worker's process says when it dies by its own doing: who must have killed it, if known.

A file of its own beside the database, empty while all is well. It is written to by whatever can
still write then (`engine.lastwords`, Python's fault handler), and read by who buries the worker.
SIGKILL leaves no words: that death may be anybody's doing, or the operator's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from dispatch.core.ids import ExecutionId

#: How the words begin that name the execution whose code ended the process.
NAMED = "execution "
#: Of a traceback.
MOST_CHARACTERS = 4000


class LastWords(NamedTuple):
    text: str

    @property
    def execution_id(self) -> ExecutionId | None:
        """Whose doing it was."""
        if not self.text.startswith(NAMED):
            return None
        return ExecutionId(self.text.removeprefix(NAMED).split(" ", 1)[0])


SILENCE = LastWords("")


class WordsFile:
    """The file that this process would write to."""

    def __init__(self, database: Path, worker: str):
        self._path = _path(database, worker)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self.handle = os.open(self._path, flags, 0o600)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self.handle)


def hear(database: Path, worker: str) -> LastWords:
    """What a dead worker has said."""
    try:
        said = _path(database, worker).read_bytes()
    except FileNotFoundError:
        said = b""
    return LastWords(said.decode(errors="replace")[:MOST_CHARACTERS].strip())


def forget(database: Path, worker: str) -> None:
    _path(database, worker).unlink(missing_ok=True)


def _path(database: Path, worker: str) -> Path:
    return database.with_name(f"{database.name}-words-{worker}")
