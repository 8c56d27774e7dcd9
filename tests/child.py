"""`dispatch serve` as a child process: what a user starts, and what can really be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

#: How long a child may take to end once it was told to.
_PATIENCE_SECONDS = 20


class Child(NamedTuple):
    """A server that has said it is ready."""

    url: str
    process: subprocess.Popen[str]
    #: What it wrote to stderr.
    log: Path

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more, not even a `finally`."""
        self.process.kill()
        self.process.wait(_PATIENCE_SECONDS)

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE_SECONDS)


@contextmanager
def serving(
    db: Path,
    *sources: str | Path,
    port: int = 0,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[Child]:
    """A server of `sources` (else of the examples) on the file `db`, started in `folder`; on
    leaving it has ended.
    """
    command = [sys.executable, "-m", "dispatch", "serve", *map(str, sources)]
    command += ["--db", str(db), "--port", str(port), *options]
    log = db.with_suffix(".log")
    with log.open("a") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=folder,
        )
    with process:
        try:
            yield Child(_address(process, log), process, log)
        finally:
            if process.poll() is None:
                process.kill()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        name, _, value = line.strip().partition(" ")
        if name == "ready":
            return value.strip()
    raise AssertionError(f"the server ended before it was ready:\n{log.read_text()}")
