"""`dispatch` as a process, as a shell would run it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

SERVED = str(Path(__file__).with_name("served.py"))
PATIENCE_SECONDS = 20.0
_COMMAND = (sys.executable, "-m", "dispatch")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the tests' own terminal says of itself is not for the process."""
    mine = {"DISPATCH_URL", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}
    kept = {name: value for name, value in os.environ.items() if name not in mine}
    return {**kept, "TERM": "xterm-256color", **(more or {})}


def execution_in(text: str) -> str:
    """The first execution id in it."""
    found = re.search(r"exec_[0-9a-f]{32}", text)
    assert found, text
    return found[0]


class Ended(NamedTuple):
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def execution_id(self) -> str:
        return execution_in(self.out + self.err)

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.out.splitlines()]


def dispatch(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Run it to its end, where nobody can be asked."""
    done = subprocess.run(
        [*_COMMAND, *arguments],
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run it, for the test to signal and to read; killed if it is still there in the end."""
    process = subprocess.Popen(
        [*_COMMAND, *arguments],
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """Read stdout up to the line with `text`."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"it ended without {text!r}")


def end(process: subprocess.Popen[str], signal: int | None = None) -> Ended:
    """Wait for its end, after a signal."""
    if signal is not None:
        process.send_signal(signal)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return Ended(process.returncode, out, err)


class Server:
    """`dispatch serve` on a free port."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process
        self.url = line_with(process, "ready").split()[-1]

    @property
    def env(self) -> dict[str, str]:
        return {"DISPATCH_URL": self.url}


@contextmanager
def serving(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    with started("serve", *arguments, "--port", "0", cwd=cwd, env=env) as process:
        yield Server(process)
        if process.poll() is None:
            assert end(process, signal.SIGTERM).code == 0


class Terminal:
    """A process whose stdin, stdout and stderr are a terminal."""

    def __init__(self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None):
        self._terminal, inside = pty.openpty()
        self._process = subprocess.Popen(
            [*_COMMAND, *arguments],
            cwd=cwd,
            env=environment(env),
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)

    def read_until(self, text: str) -> str:
        """What is shown from here on, up to `text`; what came before is forgotten."""
        shown = ""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in shown:
            piece = self._read(deadline)
            assert piece, f"it ended without {text!r}: {shown}"
            shown += piece
        return shown

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str]:
        """The exit code, and what was shown up to it."""
        shown = ""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while piece := self._read(deadline):
            shown += piece
        return self._process.wait(PATIENCE_SECONDS), shown

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def _read(self, deadline: float) -> str:
        """What is there; empty at the end."""
        ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
        assert ready, "nothing was shown for too long"
        try:
            return os.read(self._terminal, 65536).decode(errors="replace").replace("\r\n", "\n")
        except OSError:  # how Linux tells that the other side is closed
            return ""


@contextmanager
def terminal(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    opened = Terminal(*arguments, cwd=cwd, env=env)
    try:
        yield opened
    finally:
        opened.close()
