"""What any replay engine must get right: a table of cases, held against this one.

The cases are those of `aws-durable-execution-conformance-tests` 1.0.0 (PyPI, Apache-2.0, Copyright
Amazon.com, Inc. or its affiliates) that mean something here. Their numbers are kept; sentences,
flows and expectations are written anew in our words and our API, and where we differ by design the
row says so and holds us to what we do. Each row is played warm, cold, and from what a crash would
leave after each of its commits.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import ModuleType

import anyio.to_thread
import msgspec
import pytest

from dispatch.core.ids import ExecutionId
from dispatch.core.journal import AttemptStarted, Entry, Origin
from dispatch.core.lifecycle import Status
from tests.conformance import approvals, callbacks, contexts, parallel, steps
from tests.conformance.case import Case, words
from tests.conformance.lab import LAB, Lab, attempts_by_name
from tests.conformance.playing import Player
from tests.crash.cuts import Cut, Journal, read_journals, write_cuts
from tests.engine.worker import Bench, FakeClock

NUMBERS = """
    1-4 1-5 1-6 1-7 1-8 1-9 1-10 1-11 1-12 1-13 1-14 1-17 1-18 1-19 1-20
    2-1 2-3
    3-4 3-5 3-6 3-9 3-12 3-13 3-17 3-18
    4-3 4-4 4-5 4-6 4-7 4-8 4-9 4-10 4-11 4-12 4-13 4-14 4-17 4-18 4-19
    7-4 7-5 7-6 7-7 7-9 7-13 7-14 7-15
    8-5 8-6 8-7 8-8 8-9 8-10 8-11 8-14 8-16 8-20 8-21
"""


def rows(module: ModuleType) -> list[Case]:
    return [row for row in vars(module).values() if isinstance(row, Case)]


TABLE = [
    row for family in (steps, contexts, callbacks, approvals, parallel) for row in rows(family)
]
#: What an attempt of a step ends with.
ENDS = ("error", "step_complete")

each_case = pytest.mark.parametrize("case", TABLE, ids=[row.number for row in TABLE])


def test_no_case_is_forgotten() -> None:
    assert sorted(row.number for row in TABLE) == sorted(NUMBERS.split())


@each_case
@pytest.mark.parametrize("max_live", [1000, 0], ids=["warm", "cold"])
async def test_case(case: Case, max_live: int, tmp_path: Path) -> None:
    player, journal = await begin(case, Bench(tmp_path / "dispatch.db", max_live))
    id = journal.execution.id
    told = []
    for entry, said in zip(journal.entries, words(journal.entries), strict=True):
        told += said
        if (id, entry.seq) in player.rests:
            told.append(f"/{player.rests[id, entry.seq]}/")
    assert " ".join(told) == case.journal
    check_end(case, journal)
    assert player.lab.calls[id] == case.runs


@each_case
async def test_case_after_a_crash_at_any_commit(case: Case, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "dispatch.db", max_live=1000)
    player, journal = await begin(case, bench)
    crashes = defaultdict(list)
    for length in sorted(journal.ends):
        cut = Cut(journal, length, ExecutionId(f"exec_{length:032x}"))
        crashes[journal.entries[length - 1].at].append(cut)
    # At each time that a crash can have happened at, all of them at once.
    for number, (at, cuts) in enumerate(crashes.items()):
        bench.clock = FakeClock(at)
        path = tmp_path / f"crash-{number}.db"
        await anyio.to_thread.run_sync(write_cuts, path, cuts)
        for cut in cuts:
            player.lab.found(cut.id, cut.entries)
        path = await player.finish([cut.id for cut in cuts], path)
        ended = {found.execution.id: found for found in await read(path)}
        for cut in cuts:
            found = ended[cut.id]
            assert told(found.entries) == told(repeated(journal.entries, cut.length)), cut.length
            assert found.entries[: cut.length] == cut.entries
            check_end(case, found)
            assert player.lab.calls[cut.id] == attempts_by_name(found.entries)


async def begin(case: Case, bench: Bench) -> tuple[Player, Journal]:
    lab = Lab()
    LAB.set(lab)
    player = Player(case, lab, bench)
    (journal,) = await read(await player.begin())
    return player, journal


async def read(path: Path) -> list[Journal]:
    return await anyio.to_thread.run_sync(read_journals, path)


def told(entries: list[Entry]) -> list[str]:
    return [word for said in words(entries) for word in said]


def repeated(entries: list[Entry], length: int) -> list[Entry]:
    """A journal as it has to be if a crash came after `length` entries: attempts that it cut off
    are made again, with all that they tell, and nothing else is.
    """
    kept, rest = entries[:length], entries[length:]
    cut_off = []
    for attempt in kept:
        if attempt.kind == "dispatch.step_attempt":
            step = step_of(attempt)
            later = [e.kind for e in entries[attempt.seq :] if step_of(e) == step]
            ended = any(e.kind in ENDS and step_of(e) == step for e in kept[attempt.seq :])
            if not ended and later[0] != "dispatch.step_attempt":
                cut_off.append(attempt)
    if not cut_off:
        return entries
    texts = [
        e for e in kept[cut_off[0].seq :] if e.origin is Origin.WORLD and e.kind == "text_delta"
    ]
    return [*kept, *cut_off, *texts, *rest]


def step_of(entry: Entry) -> str:
    """The step that an entry is about, if it is about its attempts or its end."""
    if entry.kind == "dispatch.step_attempt":
        return entry.payload(AttemptStarted).step_id
    if entry.kind == "step_complete":
        return entry.facts.id
    return entry.facts.step_id if entry.kind == "error" else ""


def check_end(case: Case, journal: Journal) -> None:
    """Hold the end against the row."""
    status, final = journal.execution.status, journal.entries[-1].facts
    if case.fails is not None:
        code, message = case.fails
        assert (status, journal.execution.code) == (Status.FAILED, code)
        assert msgspec.json.decode(final.error)["message"].startswith(message)
        return
    assert status is Status.COMPLETED, final
    results = [e for e in journal.entries if e.kind == "dispatch.result"]
    given = msgspec.json.decode(results[-1].facts.value).get("value") if results else None
    assert given == case.result
