"""Replay a finished journal in a runner that can do nothing else: nothing is new, the end alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import msgspec

from dispatch.core.counters import Counters
from dispatch.core.errors import LeaseLost
from dispatch.core.journal import DISPLAYS, Entry, Origin
from dispatch.engine import runner
from dispatch.engine.abandonable import Abandonable
from dispatch.flow import Registry
from dispatch.store import rows
from dispatch.store.base import Chunk, Execution
from tests.crash.cuts import Journal
from tests.crash.watch import StepLab, Violation
from tests.crash.world import Flows
from tests.engine.worker import FakeClock


class NoWork(StepLab):
    """The side of flows that are only replayed."""

    def __init__(self) -> None:
        self.traces: dict[str, Any] = {}

    async def work(self, execution_id: str, name: str, how: str) -> int:
        raise Violation(f"a replay runs {name}")

    def work_in_thread(self, execution_id: str, name: str) -> int:
        raise Violation(f"a replay runs {name}")


class OnlyReplays:
    """A runner's host, and its store: one that can only be read."""

    close_seconds = 5.0

    def __init__(self, registry: Registry, journal: Journal):
        self.registry, self.store, self._journal = registry, self, journal
        self.clock = FakeClock(journal.entries[-1].at)
        self.abandonable = Abandonable(Counters(), self.close_seconds)
        self.problems: list[str] = []

    async def read(self, _: Any, *, after: int, until: int, limit: int) -> list[Chunk]:
        found = [
            rows.cut(chunk, after, until)
            for chunk in self._journal.chunks
            if chunk.last_seq > after and chunk.first_seq <= until
        ]
        return found[:limit]

    async def append(self, *what: Any, **_: Any) -> Any:
        self.problems.append(f"appends {what}")
        raise LeaseLost("a replay appends")

    def spawn(self, function: Any, *args: Any) -> None:
        self.problems.append(f"does {function} {args}")

    async def park(self, execution: Execution, code: str, message: str) -> None:
        self.problems.append(f"parks it: {code}, {message}")

    fail = park

    async def release(self, execution: Execution) -> None:
        self.problems.append("lets go of it")

    def suspended(self, _: Any) -> None:
        self.problems.append("suspends")

    def timer_set(self) -> None:
        pass

    def caught_up(self, _: Any) -> None:
        pass

    def gone(self, _: Any) -> None:
        pass


class Course:
    """What a replay of one segment did: which segments it began, what became of each display."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.displays: list[str] = []

    def watching(self) -> Any:
        """The machine, taking it down; it stops at the end of its segment."""
        course = self
        obeyed: Any = vars(runner)["Replay"]  # perhaps a broken copy

        class Watching(obeyed):  # type: ignore[misc]
            def __init__(self, base: Entry):
                course.begun.append(base.seq)
                if len(course.begun) > 1:
                    raise LeaseLost("the next segment is another replay's")
                super().__init__(base)

            def display(self) -> Any:
                show = super().display()
                if show.name != "HOLD":
                    course.displays.append(show.name)
                return show

        return Watching


async def check_replay(flows: Flows, journal: Journal) -> None:
    """Raise `Violation` unless a replay of each segment does what is recorded, and nothing else."""
    entries = journal.entries
    bases = [entry.seq for entry in entries if entry.kind == "dispatch.continued" or entry.seq == 1]
    traces: dict[str, Any] = {}
    for base, until in zip(bases, [*bases[1:], len(entries)], strict=True):
        flows.lab = lab = NoWork()
        host, course = OnlyReplays(flows.registry, journal), Course()
        segment = msgspec.structs.replace(journal.execution, segment_seq=base, last_seq=until)
        with patch.object(runner, "Replay", course.watching()):
            await runner.Runner(host, segment).run()  # type: ignore[arg-type]
        shown = [e for e in entries[base:until] if e.origin is Origin.FLOW and e.kind in DISPLAYS]
        if entries[until - 1].origin is Origin.FLOW and len(course.displays) != len(shown):
            raise Violation(f"{len(shown)} displays are recorded, and replayed {course.displays}")
        if host.problems or course.begun != [base, *bases[bases.index(base) + 1 :][:1]]:
            raise Violation(f"a replay of {base} to {until} {host.problems}, {course.begun}")
        traces = lab.traces
    if entries[-1].origin is not Origin.FLOW:
        return  # its flow was not asked
    trace, recorded = traces.get(journal.execution.id), last_result(entries)
    if trace is not None and recorded is not None and _json(trace) != _json(recorded):
        raise Violation(f"a replay gives {trace}, and recorded is {recorded}")


def last_result(entries: Sequence[Entry]) -> Any:
    results = [entry for entry in entries if entry.kind == "dispatch.result"]
    return msgspec.json.decode(results[-1].facts.value)["value"] if results else None


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
