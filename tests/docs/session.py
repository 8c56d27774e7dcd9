"""Does what a page says, block by block, as a reader would: a real server, curl, a real kill -9.

Substituted are only what a reader would look at, too: the address, ids (`exec_…`, the newest one
that was seen), and the installed commands for those of a checkout.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.child import Child, serving
from tests.docs.pages import ROOT, Block

ADDRESS = "http://127.0.0.1:8000"
#: Exit codes: a command that leaves an execution waiting says so.
_WAITING = 3
_ID = re.compile(r"\b(exec|approval|call)_[0-9a-f]{8,}")
_EVENT = re.compile(r"^event: (\w+)$", re.MULTILINE)


class Session:
    """A reader in the folder `home`. What is started first is a server, on the way or else."""

    def __init__(self, home: Path):
        self._home, self._stack = home, ExitStack()
        self._server: Child | None = None
        self._port = 0
        self._ids: dict[str, str] = {}
        self.output = ""

    @property
    def url(self) -> str:
        if self._server is None:
            self._serve([])
        assert self._server is not None
        return self._server.url

    def do(self, block: Block) -> None:
        """What a `bash` block says, command by command."""
        for command in _commands(block.text):
            words = shlex.split(command)
            if command == "scripts/test":
                assert os.access(ROOT / command, os.X_OK)  # it is what runs this
            elif words[:2] == ["dispatch", "serve"] or words[0] == "scripts/serve":
                self._serve(words[1 if words[0] == "scripts/serve" else 2 :])
            elif words[:2] == ["kill", "-9"]:
                assert self._server is not None
                self._server.kill()
            elif words[0] == "kill":
                assert self._server is not None
                assert self._server.stop() == 0
            else:
                self._run(command, block)

    def run_python(self, path: Path) -> None:
        """A program of a `python` block that calls the server."""
        path.write_text(path.read_text().replace(ADDRESS, self.url))
        self._finish([sys.executable, str(path)], path.name)

    def check(self, block: Block) -> None:
        """Against a block that shows a leg: were the last command's events those, in that order?"""
        expected = _EVENT.findall(block.text)
        assert _EVENT.findall(self.output) == expected, block.where
        said = re.findall(r'"delta":"([^"]*)"', block.text)
        assert all(f'"delta":"{one}"' in self.output for one in said), block.where

    def close(self) -> None:
        """The server, if it still runs, ends as it should."""
        with self._stack:
            if self._server is not None and self._server.process.poll() is None:
                assert self._server.stop() == 0, self._server.log.read_text()

    # --- servers ----------------------------------------------------------------------------------

    def _serve(self, arguments: list[str]) -> None:
        """Always on the same file and port, as for a reader who starts it again."""
        if self._server is not None and self._server.process.poll() is None:
            assert self._server.stop() == 0
        arguments = _without(arguments, "--port", "--db")
        sources = [self._home / one if one.endswith(".py") else one for one in arguments]
        self._server = self._stack.enter_context(
            serving(self._home / "dispatch.db", *sources, port=self._port)
        )
        self._port = int(self._server.url.rpartition(":")[2])

    # --- commands ---------------------------------------------------------------------------------

    def _run(self, command: str, block: Block) -> None:
        command = command.replace(ADDRESS, self.url)
        for kind, id in self._ids.items():
            command = command.replace(f"{kind}_…", id)
        assert "_…" not in command, f"{block.where}: nothing was seen yet that this could be"
        self._finish(["bash", "-c", command], block.where)
        for found in _ID.finditer(self.output):
            self._ids[found[1]] = found[0]

    def _finish(self, command: list[str], where: str) -> None:
        path = f"{Path(sys.executable).parent}:{self._with_curl()}:{os.environ['PATH']}"
        done = subprocess.run(
            command,
            cwd=self._home,
            env=os.environ | {"PATH": path, "DISPATCH_URL": self.url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.output = done.stdout
        waits = "dispatch" in command[-1] and done.returncode == _WAITING
        assert waits or done.returncode == 0, f"{where}: {command[-1]}\n{done.stderr}"
        # Only a refusal names a place in the guide; curl itself takes any answer for a success.
        assert '"guide":"/guide/errors' not in done.stdout, f"{where}: {done.stdout}"

    def _with_curl(self) -> Path:
        """A folder with a curl, where there is none: a fresh machine has only Python."""
        folder = self._home / "bin"
        folder.mkdir(exist_ok=True)
        if shutil.which("curl") is None:
            curl = folder / "curl"
            curl.write_text(f"#!{sys.executable}\n{_CURL}")
            curl.chmod(0o755)
        return folder


_CURL = """\
import sys, httpx
arguments = [one for one in sys.argv[1:] if one != "-N"]
data = None
if "-d" in arguments:
    at = arguments.index("-d")
    data = arguments[at + 1]
    del arguments[at : at + 2]
form = {"content-type": "application/x-www-form-urlencoded"}
method, headers = ("GET", {}) if data is None else ("POST", form)
print(httpx.request(method, *arguments, content=data, headers=headers, timeout=60).text)
"""


def _commands(text: str) -> Iterator[str]:
    """One a line, or several lines that end in a backslash."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield " ".join(line.split()) if "'" not in line else line.strip()


def _without(arguments: list[str], *options: str) -> list[str]:
    kept = list(arguments)
    for option in options:
        if option in kept:
            del kept[kept.index(option) : kept.index(option) + 2]
    return kept


@contextmanager
def reading(home: Path) -> Iterator[Session]:
    session = Session(home)
    try:
        yield session
    finally:
        session.close()
