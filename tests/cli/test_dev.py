"""`dispatch serve --dev`: new code is served, and what would not survive is told, at once."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cli.process import PATIENCE_SECONDS, dispatch, execution_in, line_with, started

pytestmark = pytest.mark.slow

FLOWS = """
from datetime import datetime

import words
from dispatch import Flow, Run, flow, sleep, tool

@flow("greet")
async def greet(run: Run[dict[str, str]]) -> Flow:
    yield words.HELLO
    name = yield tool("ask")
    yield f"{words.HELLO} {name}"

@flow("hasty")
async def hasty(run: Run[dict[str, str]]) -> Flow:
    yield tool(f"at_{datetime.now().timestamp()}")

@flow("swings")
async def swings(run: Run[dict[str, str]]) -> Flow:
    words.COUNT.append(run.id)
    if words.COUNT.count(run.id) > 1:
        yield sleep(1)
    yield "Whee."
"""
WORDS = 'HELLO = "Hello"\nCOUNT: list[str] = []\n'


class Dev:
    """A server with --dev, whose files are edited."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]):
        self._folder, self.process = folder, process
        self.http = httpx.Client(base_url=self.says("ready").split()[-1], timeout=PATIENCE_SECONDS)

    def write(self, name: str, text: str) -> None:
        """As an editor does: beside it, and then in its place."""
        beside = self._folder / f"{name}~"
        beside.write_text(text)
        beside.replace(self._folder / name)

    def says(self, text: str) -> str:
        """The next line on stdout with `text`."""
        return line_with(self.process, text)

    def tells(self, text: str) -> str:
        """What is on stderr up to the line with `text`."""
        assert self.process.stderr is not None
        told = ""
        for line in self.process.stderr:
            told += line
            if text in line:
                return told
        raise AssertionError(f"it ended without {text!r}: {told}")

    def post(self, path: str, **body: object) -> str:
        return self.http.post(f"/v1/dispatch{path}", json=body).text

    def begin(self, flow: str) -> str:
        return execution_in(self.post("", flow={"id": flow}))


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "words.py").write_text(WORDS)
    with started("serve", "flows.py", "--dev", "--port", "0", cwd=tmp_path) as process:
        dev = Dev(tmp_path, process)
        with dev.http:
            yield dev


def test_new_code_is_served_and_what_was_suspended_goes_on_with_it(dev: Dev) -> None:
    id = dev.begin("greet")
    dev.write("words.py", WORDS.replace("Hello", "Good evening"))
    dev.says("changed")
    # Who calls now waits until it is there again.
    resumed = dev.post("/resume", executionId=id, toolOutputs={"ask": "Emma"})
    assert '"delta":"Good evening Emma"' in resumed
    assert psutil.Process(dev.process.pid).children() == []
    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(PATIENCE_SECONDS) == 0
    with pytest.raises(httpx.ConnectError):
        dev.http.get("/health/live")


def test_what_cannot_be_loaded_is_told_and_mended(dev: Dev) -> None:
    dev.write("words.py", "HELLO = \n")
    assert "words.py:1: invalid syntax" in dev.tells("waiting for a change")
    # Whoever calls meanwhile is told, too, and does not wait for the next change.
    refused = dev.http.get("/v1/flows")
    assert (refused.status_code, refused.json()["code"]) == (503, "not-loaded")
    assert "words.py:1: invalid syntax" in refused.json()["error"]
    assert dev.http.get("/v1/flows", headers={"Origin": "https://e.example"}).status_code == 403
    dev.write("words.py", "HELLO = unknown\n")
    assert "words.py:1 cannot be loaded: NameError" in dev.tells("waiting for a change")
    dev.write("words.py", WORDS.replace("Hello", "Hi"))
    dev.says("ready")
    assert '"delta":"Hi"' in dev.post("", flow={"id": "greet"})


def test_what_cannot_be_loaded_at_first_is_told_to_callers_too(tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text("import nothing_of_that_name\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with started("serve", "flows.py", "--dev", "--port", str(port), cwd=tmp_path) as process:
        assert process.stderr is not None
        while "waiting for a change" not in process.stderr.readline():
            assert process.poll() is None
        asked = dispatch("flows", "--url", f"http://127.0.0.1:{port}", cwd=tmp_path)
    assert asked.code == 1
    assert "the flows can't be loaded" in asked.err
    assert "imports nothing_of_that_name, which is not installed" in asked.err


def test_what_would_not_survive_a_restart_is_told_with_its_line(dev: Dev) -> None:
    line = 1 + FLOWS.splitlines().index('    yield tool(f"at_{datetime.now().timestamp()}")')
    dev.begin("greet")
    id = dev.begin("hasty")
    told = dev.tells("would not survive")
    assert "flow hasty would not survive a restart: divergence" in told
    assert f"flows.py:{line}" in told
    assert told.count("tool at_") == 2
    assert "into a @step" in told
    assert f"execution_id={id}" in told
    # And what its source alone gives away, when it was loaded.
    assert "WARNING dispatch.flow: hasty" in told
    # What has ended is looked at, too; and what is live was not disturbed by it.
    assert '"success":true' in dev.post("", flow={"id": "swings"})
    assert "flow swings would not survive a restart" in dev.tells("would not survive")


def test_a_signal_ends_one_that_waits_for_a_change(dev: Dev) -> None:
    dev.write("words.py", "HELLO = \n")
    dev.tells("waiting for a change")
    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(PATIENCE_SECONDS) == 130
