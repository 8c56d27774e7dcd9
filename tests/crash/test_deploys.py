"""Servers that come and go under load, and one execution that kills its server: who is parked.

`DISPATCH_DEPLOYS=20` makes it as many deaths and deploys as an issue would.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from tests.child import Child
from tests.crash.test_faulty import begin, counters, line_of, serving

TIMES = int(os.environ.get("DISPATCH_DEPLOYS", "2"))
IS_LONG = TIMES > 2
PATIENCE_SECONDS = 20 + 2 * TIMES
#: Enough for all that is killed meanwhile, and the steps that it takes twice.
STEPS = 2 * TIMES


def status(child: Child, execution_id: str) -> dict[str, Any]:
    url = f"{child.url}/v1/executions/{execution_id}/status"
    told: dict[str, Any] = httpx.get(url, trust_env=False).json()
    return told


def until_over(child: Child, execution_ids: list[str]) -> list[dict[str, Any]]:
    """Their status once none of them runs any more."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        told = [status(child, execution_id) for execution_id in execution_ids]
        if all(one["status"] in ("completed", "failed") for one in told):
            return told
        assert time.monotonic() < deadline, told
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(60 + 6 * TIMES)
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_nobody_is_parked_when_servers_come_and_go(tmp_path: Path, how: str) -> None:
    rng, db = Random(how), tmp_path / "faulty.db"
    running: list[str] = []
    for life in range(TIMES):
        with serving(db) as child:
            for flow in ("works", "works", "works-in-threads"):
                running.append(begin(child, flow, "step_start", count=STEPS, seconds=1.0))
            # In the middle of a step, and of what begins meanwhile.
            time.sleep(rng.uniform(0.3, 3.0) if IS_LONG else 0.3)
            assert child.stop() == 0 if how == "stop" else child.kill() is None, life
    with serving(db) as child:
        if IS_LONG:
            told = until_over(child, running)
            assert {one["status"] for one in told} == {"completed"}, told
        begin(child, "stalls", "execution_complete", seconds=0)
        told = [status(child, one) for one in running]
        assert {one.get("code") for one in told} == {None}, told
        assert counters(child)["parked"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("flow", ["deadly", "crashes", *(["deadly-loop"] if IS_LONG else [])])
def test_what_kills_its_server_is_parked_and_its_neighbours_lose_nothing(
    tmp_path: Path, flow: str
) -> None:
    db = tmp_path / "faulty.db"
    with serving(db) as child:
        neighbours = [begin(child, "works", "step_start", count=2, seconds=0.2) for _ in range(4)]
        guilty = begin(child, flow, "execution_start")
        code = child.process.wait(PATIENCE_SECONDS)
    for _ in range(2):
        with serving(db) as child:
            # It is taken up again, and kills again.
            assert child.process.wait(PATIENCE_SECONDS) == code
    with serving(db) as child:
        *others, parked = until_over(child, [*neighbours, guilty])
        assert [one["status"] for one in others] == ["completed"] * len(neighbours)
        assert (parked["status"], parked["code"]) == ("failed", "crash-loop")
        assert child.stop() == 0
    log = child.log.read_text()
    if flow == "crashes":
        assert "died by its own doing: Fatal Python error: Segmentation fault" in log
    else:
        function = "exits" if flow == "deadly" else "exits_on_the_loop"
        assert f"execution {guilty} called os._exit(3) at {line_of(function, 'os._exit')}" in log
