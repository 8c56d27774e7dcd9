"""Short soaks; and that their judge sees what it is there to see."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

import anyio
import pytest

from tests.crash.clients import Told
from tests.crash.judge import judge
from tests.crash.soak import Enough, soak, summary

SECONDS = 6.0
ENOUGH = Enough(kills=2, executions=30, duplicates=5)


def tampered(folder: Path, statement: str) -> Path:
    """A copy of the soaked database, changed."""
    copy = folder / "tampered.db"
    copy.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(folder / "soak.db")) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        target.execute(statement)
        target.commit()
    return copy


TAMPERINGS = {
    "an event that was seen is lost": (
        "DELETE FROM journal WHERE rowid IN (SELECT max(rowid) FROM journal GROUP BY execution_key)"
    ),
    "an event is another one than was seen": (
        "UPDATE journal SET frames = CAST(replace(CAST(frames AS TEXT), 'I see', 'I saw') AS BLOB)"
    ),
    "an event is there twice": (
        "INSERT INTO journal SELECT execution_key, last_seq + length(origins), at, head, end_, "
        "origins, frames, private FROM journal WHERE rowid IN "
        "(SELECT max(rowid) FROM journal GROUP BY execution_key)"
    ),
    "an acknowledged execution is lost": "DELETE FROM executions WHERE key % 2",
    "nobody waits for anything, and it is not over": (
        "UPDATE executions SET status = 'running', ended_at = NULL"
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_what_clients_saw_holds_when_their_server_is_killed(tmp_path: Path) -> None:
    told = anyio.run(soak, tmp_path, SECONDS, ENOUGH, Random(1))
    assert told.violations == [], summary(told)
    _check_the_judge(tmp_path, told)


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_what_clients_saw_holds_when_one_of_two_servers_is_killed_or_frozen(tmp_path: Path) -> None:
    two = partial(soak, processes=2, clients=8, pause_seconds=1.0)
    told = anyio.run(two, tmp_path, 2.0, Enough(1, 20, 3, freezes=1), Random(2))
    assert told.violations == [], summary(told)


def _check_the_judge(folder: Path, told: Told) -> None:
    """It sees what it is there to see. A soak is too dear to have one for each of these."""
    traces = folder / "traces.txt"
    for what, statement in TAMPERINGS.items():
        assert judge(told, tampered(folder, statement), traces), what
    lines = traces.read_text().splitlines()
    traces.write_text("")
    assert any("never called" in one for one in judge(told, folder / "soak.db", traces))
    late = [" ".join([*line.split(" ")[:-2], "99999999999.0", "1"]) for line in lines]
    traces.write_text("\n".join([*lines, *late]))
    assert any("its result is of" in one for one in judge(told, folder / "soak.db", traces))
