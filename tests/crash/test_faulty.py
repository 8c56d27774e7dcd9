"""Code that never ends, blocks or kills: what becomes of the server that runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.child import Child
from tests.crash import faulty


@contextmanager
def serving(db: Path) -> Iterator[Child]:
    log = db.with_suffix(".log")
    with log.open("a") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.faulty", str(db)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready"), log.read_text()
            yield Child(line.split()[-1], process, log)
        finally:
            process.kill()


def begin(child: Child, flow: str, until: str, **inputs: Any) -> str:
    """Dispatch, and return when the stream has `until` in it; gives the execution's id, which each
    event has.
    """
    body = {"flow": {"name": flow}, "inputs": inputs}
    execution_id, seen = "", False
    with httpx.stream("POST", f"{child.url}/v1/dispatch", json=body, trust_env=False) as answer:
        for line in answer.iter_lines():
            execution_id = execution_id or _id_in(line)
            seen = seen or until in line
            if seen and execution_id:
                return execution_id
    raise AssertionError(f"the stream of {flow} ended without {until!r}")


def _id_in(line: str) -> str:
    _, _, rest = line.partition('"executionId":"')
    return rest.partition('"')[0]


def counters(child: Child) -> dict[str, Any]:
    told: dict[str, Any] = httpx.get(f"{child.url}/v1/counters", trust_env=False).json()
    return told


def line_of(function: str, text: str) -> str:
    """`file:line` of the first line with `text` in that function."""
    file = Path(faulty.__file__)
    lines = list(enumerate(file.read_text().splitlines(), 1))
    begins = next(number for number, line in lines if f"def {function}(" in line)
    return f"{file}:{next(number for number, line in lines[begins:] if text in line)}"


@pytest.mark.slow
def test_code_that_never_ends_keeps_no_server_from_ending(tmp_path: Path) -> None:
    with serving(tmp_path / "faulty.db") as child:
        begin(child, "hung", "step_start")
        begin(child, "deaf", "step_start")
        begin(child, "talks", "more")
        begin(child, "unclosable", "tool_start")
        begin(child, "late", "execution_error")
        assert counters(child)["stepsLeftBehind"] == 1
        assert child.stop() == 0
    log = child.log.read_text()
    for name, text in (("hangs_in_a_thread", "wait"), ("hangs_too_long", "wait")):
        assert f"step {name} of exec_" in log
        assert f"is not wanted any more ({line_of(name, text)})" in log
    assert f"is not wanted any more ({line_of('swallows', 'sleep')})" in log
    assert "flow unclosable of exec_" in log
    # A clean stop all the same: nobody has a strike, and the next one serves.
    with serving(tmp_path / "faulty.db") as child:
        begin(child, "stalls", "execution_complete", seconds=0)
        assert counters(child)["parked"] == {}


@pytest.mark.slow
def test_who_blocks_the_loop_is_named(tmp_path: Path) -> None:
    with serving(tmp_path / "faulty.db") as child:
        execution_id = begin(child, "stalls", "execution_complete", seconds=1.0)
        begin(child, "stalls", "execution_complete", seconds=0.2)
        assert counters(child)["loopStalls"] == 1
        assert child.stop() == 0
    stalls = [line for line in child.log.read_text().splitlines() if "event loop" in line]
    who = f"step blocks of {execution_id} ({line_of('blocks', 'time.sleep')})"
    assert len(stalls) == 2, stalls
    assert f"blocked for more than 0.5 s: {who}" in stalls[0]
    assert "turns again after 1." in stalls[1]
    assert who in stalls[1]


@pytest.mark.slow
def test_neither_a_busy_loop_nor_a_stopped_process_is_blocked(tmp_path: Path) -> None:
    with serving(tmp_path / "faulty.db") as child:
        begin(child, "busy", "execution_complete", seconds=1.2)
        child.process.send_signal(signal.SIGSTOP)
        # Longer than what it calls a stall.
        time.sleep(0.8)
        child.process.send_signal(signal.SIGCONT)
        begin(child, "stalls", "execution_complete", seconds=0)
        assert counters(child)["loopStalls"] == 0
        assert child.stop() == 0
    assert "event loop" not in child.log.read_text()


@pytest.mark.slow
def test_a_server_whose_clock_is_set_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path / "faulty.db") as child:
        sleeper = begin(child, "sleeps", "timer_set", seconds=3600)
        begin(child, "jumps", "execution_complete", seconds=3601)
        url = f"{child.url}/v1/executions/{sleeper}/events"
        with httpx.stream("GET", url, trust_env=False) as answer:
            events = [line for line in answer.iter_lines() if line.startswith("event: ")]
        assert events[-1] == "event: execution_complete"
        begin(child, "jumps", "execution_complete", seconds=-7200)
        begin(child, "sleeps", "execution_complete", seconds=0.1)
        assert child.stop() == 0


@pytest.mark.slow
def test_who_ends_a_blocked_server_at_once_blames_no_flow(tmp_path: Path) -> None:
    with serving(tmp_path / "faulty.db") as child:
        begin(child, "stalls", "begun", seconds=60)
        while child.process.poll() is None:  # two at the same moment are one
            child.process.send_signal(signal.SIGINT)
            os.sched_yield()
        assert child.process.returncode == -signal.SIGINT
    [words] = tmp_path.glob("*-words-*")
    assert words.read_text() == ""
