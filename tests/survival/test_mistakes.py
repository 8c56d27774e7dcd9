"""What would not survive a restart is caught, by a warning when the flow is registered or by a
replay: the table says which, and the guide says what neither sees.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster

from dispatch import Flow, Run, flow, loader
from dispatch.app import create_app
from dispatch.engine.rehearsal import Problem, rehearse
from dispatch.examples import FLOWS
from dispatch.flow import FlowVersion, Registry
from tests.docs.pages import GUIDES
from tests.engine.worker import Bench, FakeClock
from tests.serving import serve
from tests.survival.cases import CASES, REMEDIES, Case
from tests.survival.harmless import harmless

each = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])


@pytest.fixture(autouse=True)
def _python_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules and import paths of a test are gone after it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site-packages"), *sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def registered(case: Case, folder: Path) -> FlowVersion:
    for name, text in (case.files | {"flows.py": case.text}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (made,) = loader.load([str(folder / "flows.py")])
    return made


def line_in(text: str) -> int | None:
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, 1) if line.endswith("# here")), None)


@each
def test_what_reading_a_flow_finds_names_the_line_and_the_remedy(
    case: Case, tmp_path: Path
) -> None:
    warnings = registered(case, tmp_path).warnings
    line = line_in(case.text)
    assert case.registered == (line is not None)
    if line is None:
        assert warnings == []
        return
    named = [one for one in warnings if f"({tmp_path / 'flows.py'}:{line}" in one]
    assert len(named) == 1, warnings
    told = case.told or REMEDIES[case.mistake]
    assert told in named[0] or (case.variant == "awaited" and "@step" in named[0])
    if case.variant in ("helper", "library") and case.mistake != "scope across a yield":
        (there,) = set(case.files) - {"model.py"}
        assert f"→ {tmp_path / there}:" in named[0]


async def after_it_suspended(made: FlowVersion, bench: Bench) -> Problem | None:
    async with bench.worker(made) as worker:
        play = await worker.play(made)
        entries = await play.entries()
        found = await rehearse(Registry([made]), await play.execution(), entries, clock=FakeClock())
        return found.problem


@flow("hasty")
async def hasty(run: Run[Any]) -> Flow:
    yield str(datetime.now(UTC))


async def test_an_application_that_starts_logs_what_its_flows_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(create_app([hasty], tmp_path / "dispatch.db")):
        assert "hasty reads the clock by `datetime.now`: a replay" in caplog.text


@each
async def test_what_a_replay_finds_names_the_line(
    case: Case, tmp_path: Path, blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()  # some of these mistakes block the loop
    made = registered(case, tmp_path)
    problem = await after_it_suspended(made, Bench(tmp_path / "dispatch.db", 1000))
    assert (problem is not None) == case.replayed, problem
    if problem is not None:
        assert problem.code == "divergence"
        assert re.search(rf"{tmp_path}/(flows|helpers).py:\d+", problem.message)


# --- no false alarm -------------------------------------------------------------------------------


@pytest.mark.parametrize("example", FLOWS, ids=[example.id for example in FLOWS])
def test_no_example_is_warned_of(example: FlowVersion) -> None:
    assert example.warnings == []


def test_what_only_looks_like_a_mistake_is_not_warned_of() -> None:
    assert harmless.warnings == []


class Shy:
    """Raises for being looked at."""

    @property  # type: ignore[misc]  # that is what is odd about it
    def __class__(self) -> Any:
        raise RuntimeError("look away")


SHY = Shy()


def test_a_flow_that_cannot_be_read_can_be_registered(caplog: pytest.LogCaptureFixture) -> None:
    @flow("shy")
    async def shy(run: Run[Any]) -> Flow:
        yield str(SHY.name)  # type: ignore[attr-defined]  # nobody gets that far

    assert shy.warnings == []
    assert "shy could not be read" in caplog.text


# --- the guide ------------------------------------------------------------------------------------


def _section() -> str:
    [flows] = [page for page in GUIDES if page.name == "flows.md"]
    found = re.search(r"^### What does not survive.*?(?=^## )", flows.read_text(), re.M | re.S)
    assert found is not None
    return found[0]


def test_the_guide_says_who_catches_what() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", _section(), re.MULTILINE)
    told = {name: (first, second) for name, first, second in rows[2:]}
    assert set(told) == set(REMEDIES)
    for name, (when_registered, on_replay) in told.items():
        usual = {
            case.variant: case
            for case in CASES
            if case.mistake == name and case.variant in ("direct", "aliased", "helper", "library")
        }
        assert len(usual) == 4
        missed = [variant for variant, case in usual.items() if not case.registered]
        assert when_registered == ("yes, but not in a library" if missed == ["library"] else "yes")
        assert missed in ([], ["library"])
        replayed = any(case.replayed for case in CASES if case.mistake == name)
        assert on_replay == ("if a wait becomes another" if replayed else "no")
        assert all(case.registered or case.replayed for case in usual.values())


def test_the_guide_says_what_neither_sees() -> None:
    missed = [case for case in CASES if not case.registered and not case.replayed]
    assert missed
    text = " ".join(_section().split())
    assert [case.told for case in missed if not case.told or case.told not in text] == []
