"""`dispatch doctor` and `dispatch backup`, with and without a server on the file."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import msgspec
import pytest

from dispatch import upkeep
from dispatch.cli import main
from dispatch.core.clock import iso
from dispatch.store.inspection import Inspection, SeenWorker, Work
from dispatch.store.migrate import newest
from tests.cli.process import SERVED, Ended, Server, end, serving, started

pytestmark = pytest.mark.slow


class Shell:
    """Command lines carried out in this process, in a folder of their own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ended:
        code = main(arguments)
        return Ended(code, *self._capsys.readouterr())


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(capsys)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """On `dispatch.db`; one execution waits, and one takes a minute."""
    with serving(SERVED, cwd=tmp_path) as server:
        url = f"{server.url}/v1/dispatch"
        httpx.post(url, json={"flow": {"id": "number"}}, trust_env=False)
        with httpx.stream("POST", url, json={"flow": {"id": "long"}}, trust_env=False) as going:
            assert next(going.iter_bytes())
        yield server


def test_a_server_that_lives_and_one_that_was_killed(shell: Shell, server: Server) -> None:
    beside = shell("doctor")
    assert beside.code == 0
    lines = [line.split() for line in beside.out.splitlines()]
    assert ["executions", "1", "running,", "1", "suspended"] in lines
    assert any(line[:4] == ["oldest", "wait", "tool", "get_number"] for line in lines)
    assert [line[2:4] for line in lines if line and line[0].startswith("worker_")] == [
        ["alive", "NORMAL"]
    ]
    assert beside.out.endswith("✓ Nothing is wrong.\n")
    document = shell("doctor", "--json", "--thorough").json
    assert document["findings"] == []
    assert document["database"]["work"]["executions"]["suspended"] == 1
    assert shell("backup", "copy.db").code == 0
    server.process.kill()
    server.process.wait()
    alone = shell("doctor")
    assert alone.code == 1
    assert (
        "✗ 1 execution would go on, and no server is at work: start `dispatch serve`" in alone.out
    )
    assert [one["name"] for one in shell("doctor", "--json").json["findings"]] == ["deserted"]


def test_a_backup_is_started_from(shell: Shell, server: Server, tmp_path: Path) -> None:
    done = shell("backup", "copy.db")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("copy.db: ")
    refused = shell("backup", "copy.db")
    assert (refused.code, refused.out) == (2, "")
    assert "copy.db exists: --force replaces it" in refused.err
    replaced = shell("backup", "copy.db", "--force", "--json").json
    assert replaced["path"] == str(tmp_path / "copy.db")
    assert replaced["bytes"] == (tmp_path / "copy.db").stat().st_size
    # It is answered in the copy, and goes on there.
    listed = shell("executions", SERVED, "--db", "copy.db", "--json").json["executions"]
    [id] = [one["executionId"] for one in listed if one["flow"] == "number"]
    resumed = shell("resume", id, SERVED, "--db", "copy.db", "--output", "get_number=42")
    assert resumed.code == 0
    assert shell("executions", "--status", "suspended", "--url", server.url, "--json").json[
        "executions"
    ]


def test_a_backup_that_is_ended_leaves_nothing(shell: Shell, tmp_path: Path) -> None:
    assert shell("flows", SERVED).code == 0  # makes dispatch.db
    with closing(sqlite3.connect(tmp_path / "dispatch.db")) as db:
        db.executescript(
            "CREATE TABLE large (a); WITH RECURSIVE n(i) AS "
            "(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) "
            "INSERT INTO large SELECT randomblob(1000000) FROM n"
        )
    folder = tmp_path / "copies"
    folder.mkdir()
    with started("backup", "copies/copy.db", cwd=tmp_path) as process:
        while not list(folder.iterdir()):
            assert process.poll() is None
        assert end(process, signal.SIGTERM).code == 130
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", [("doctor",), ("backup", "copy.db")])
def test_a_database_that_is_not_there_is_not_made(
    shell: Shell, command: tuple[str, ...], tmp_path: Path
) -> None:
    missing = shell(*command, "--db", "none.db")
    assert missing.code == 2
    assert missing.err.startswith("error: there is no file")
    assert list(tmp_path.iterdir()) == []


def test_every_finding_says_what_to_do(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert shell("flows", SERVED).code == 0  # makes dispatch.db
    assert shell("doctor").code == 0
    monkeypatch.setattr(upkeep, "LITTLE_ROOM_BYTES", 2**62)
    monkeypatch.setattr(upkeep, "LARGE_LOG_BYTES", -1)
    with closing(sqlite3.connect(tmp_path / "dispatch.db")) as db:
        db.executescript(
            "PRAGMA user_version = 999; PRAGMA writable_schema = 1; "
            "UPDATE sqlite_schema SET sql = replace(sql, 'phase TEXT', 'phase TEXT NOT NULL'); "
            "INSERT INTO executions VALUES (1, '', '', 1, '', '', '', NULL, 1, 1, 1, 0.0, 0.0, "
            "NULL, NULL, 0, 0, 0)"
        )
    found = shell("doctor")
    assert found.code == 1
    told = [line for line in found.out.splitlines() if line.startswith("✗")]
    assert [line.partition(":")[0] for line in told] == [
        "✗ The file is damaged",
        f"✗ A newer dispatch wrote this file (schema 999, and this one knows {newest()})",
        "✗ The log has grown to 0 B",
        f"✗ Only {told[-1].split()[2]} {told[-1].split()[3]} are left on the disk",
    ]


def test_what_is_wrong_is_found_the_worst_first() -> None:
    still = SeenWorker(id="w", pid=1, since=iso(0), state="still", synchronous="FULL", executions=1)
    work = Work(
        executions={}, parked_codes={}, parked=[], oldest_wait=None, workers=[still], deserted=1
    )
    well = Inspection(
        path="dispatch.db",
        sqlite="3",
        schema=1,
        known_schema=1,
        bytes=1,
        unused_bytes=0,
        log_bytes=0,
        disk_free_bytes=2**40,
        file_system="ext4",
        is_network=False,
        problems=[],
        work=msgspec.structs.replace(work, workers=[], deserted=0),
    )
    assert list(upkeep.findings(well)) == []
    ill = msgspec.structs.replace(
        well, schema=2, log_bytes=2**40, disk_free_bytes=0, is_network=True, work=work
    )
    ill = msgspec.structs.replace(ill, problems=["a page is lost"])
    found = [one.name for one in upkeep.findings(ill)]
    assert found == ["damaged", "newer", "deserted", "network", "still", "large-log", "disk-full"]
    described = (Path(upkeep.__file__).parent / "docs" / "operating.md").read_text()
    assert [f"| `{name}` |" in described for name in found] == [True] * len(found)
