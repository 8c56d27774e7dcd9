"""Exported executions as golden tests for pytest: today's flows must still replay them.

With the setting `dispatch_flows` every file that `dispatch export` wrote, wherever pytest looks for
tests, is one. pytest loads this in every project: without the setting nothing happens, and of
dispatch no more than the package's own names is imported before the first of them is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dispatch.flow import FlowVersion

SETTING = "dispatch_flows"
#: How the first line of an export begins.
_HEADER = b'{"dispatchExport":'

_flows = pytest.StashKey["list[FlowVersion]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        SETTING,
        "Flows, as for `dispatch serve`, that must still replay the exported executions (*.jsonl) "
        "among the tests.",
        type="args",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != ".jsonl" or not parent.config.getini(SETTING):
        return None
    with file_path.open("rb") as lines:
        is_export = lines.read(len(_HEADER)) == _HEADER
    return ExportedExecution.from_parent(parent, path=file_path) if is_export else None


class ExportedExecution(pytest.File):
    def collect(self) -> Iterator[pytest.Item]:
        yield ReplayTest.from_parent(self, name="replay")


class ReplayTest(pytest.Item):
    """Fails unless the flows of today do what the file says; what an export without `--private`
    does not tell is skipped.
    """

    def runtest(self) -> None:
        from dispatch.exports import judge

        verdict = judge(self.path, _load_flows(self.config))
        if verdict.verdict == "incomplete":
            pytest.skip(verdict.message)
        if verdict.verdict != "match":
            raise AssertionError(f"{verdict.message} (code {verdict.verdict})")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: Any) -> str:
        """A sentence; of what is no finding, but went wrong, the traceback too."""
        from dispatch.core.errors import DispatchError

        told = str(excinfo.value)
        if not isinstance(excinfo.value, AssertionError | DispatchError):
            return str(super().repr_failure(excinfo))
        if "divergence" in told:
            told += "\nIf no such execution is open any more, delete the file."
        return f"{self.path}\n{told}"

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"replay of {self.path.name}"


def _load_flows(config: pytest.Config) -> list[FlowVersion]:
    if _flows not in config.stash:
        from dispatch import loader

        home = config.inipath.parent if config.inipath is not None else config.rootpath
        sources = [
            str(home / one) if one.partition(":")[0].endswith(".py") else one
            for one in config.getini(SETTING)
        ]
        config.stash[_flows] = loader.load(sources)
    return config.stash[_flows]
