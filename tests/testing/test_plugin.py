"""The pytest plugin, in a project of its own: what passes, what fails and how that reads."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPLAYS = Path(__file__).parent.parent / "replay" / "0.1.0"

FLOWS = """
from typing import Any

from dispatch import Flow, Run, flow, result, tool
from dispatch.examples import agent, echo

@flow("weather")
async def weather(run: Run[dict[str, str]]) -> Flow:
    report = yield tool("get_rain", {"city": "Lima"})
    yield result(report)
"""

LAZY = """
import sys

def test_nothing_is_loaded_for_nothing():
    loaded = {"dispatch.exports", "dispatch.engine", "dispatch.store"} & sys.modules.keys()
    assert not loaded
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def put(folder: Path, name: str, *, without_inputs: bool = False) -> None:
    lines = (REPLAYS / f"{name}.jsonl").read_text()
    if without_inputs:
        lines = re.sub(r'"private":{"seed":("\w+").*?}}?$', _redacted, lines, count=1, flags=re.M)
    (folder / f"{name}.jsonl").write_text(lines)


def _redacted(found: re.Match[str]) -> str:
    return f'"private":{{"seed":{found[1]}}},"withheld":["inputs"]}}'


@pytest.mark.slow
def test_goldens_pass_fail_and_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\ndispatch_flows = my_flows.py\n")
    (tmp_path / "my_flows.py").write_text(FLOWS)
    goldens = tmp_path / "executions"
    goldens.mkdir()
    (goldens / "data.jsonl").write_text('{"not": "an export"}\n')
    put(goldens, "agent")
    put(goldens, "echo", without_inputs=True)
    put(goldens, "slow")
    put(goldens, "weather_unanswered")
    whole = (REPLAYS / "agent.jsonl").read_text()
    (goldens / "cut_off.jsonl").write_text(whole[: whole.index('{"seq":9')])
    ended = pytest_in(tmp_path, "-rs")
    told = ended.stdout
    assert "3 failed, 1 passed, 1 skipped" in told, told + ended.stderr
    assert "data.jsonl" not in told
    # What diverges, with both sides, the line and the ways out.
    (diverged,) = re.findall(r"^.*weather_unanswered.jsonl\n(weather v1: .*)\n(.*)", told, re.M)
    assert re.fullmatch(
        r"weather v1: the journal says tool get_weather {\"city\":\"Lima\"} \(\w+\) \(seq 5\), "
        r"the flow now does tool get_rain {\"city\":\"Lima\"} \(\w+\) at .*my_flows.py:9\. "
        r"Ways out: .* \(code divergence\)",
        diverged[0],
    )
    assert diverged[1] == "If no such execution is open any more, delete the file."
    # What is not there to be replayed, and what was cut off.
    assert "no flow is called 'slow'" in told
    assert "it was cut off" in told
    assert "the export was made without --private" in told


@pytest.mark.slow
def test_without_the_setting_nothing_happens(tmp_path: Path) -> None:
    (tmp_path / "test_lazy.py").write_text(LAZY)
    put(tmp_path, "weather_unanswered")
    ended = pytest_in(tmp_path)
    assert "1 passed" in ended.stdout, ended.stdout + ended.stderr
