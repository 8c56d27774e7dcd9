"""The commands that look after a database, beside a server or without one: doctor and backup.

They work on the file, and never change it. What is wrong about what `store.inspection` found is
said here, each with what to do about it.
"""

from __future__ import annotations

import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from dispatch.core.clock import parse_iso
from dispatch.legs import FAILED, OK
from dispatch.place import Usage, existing, own_version
from dispatch.settings import Settings
from dispatch.store.backup import NotPossible, back_up
from dispatch.store.inspection import Inspection, Work, inspect
from dispatch.terminal import Screen, labelled

MIB = 1024 * 1024
_DB = Settings().db
#: A log larger than this is held up by something: servers cut it back at a quarter of it.
LARGE_LOG_BYTES = 256 * MIB
#: Less room on the disk than this is too little.
LITTLE_ROOM_BYTES = 512 * MIB

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SPANS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))

Database = Annotated[str, Parameter(name="--db", help="SQLite file of the journals.")]
AsJson = Annotated[
    bool,
    Parameter(
        name="--json", negative=(), show_default=False, help="A JSON document on stdout instead."
    ),
]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong; the message says what to do."""

    name: str
    message: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    dispatch: str
    python: str
    database: Inspection
    findings: list[Finding]


# --- doctor ---------------------------------------------------------------------------------------


def doctor(
    *,
    db: Database = _DB,
    thorough: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Compare indexes with tables too: takes longer."
        ),
    ] = False,
    json: AsJson = False,
) -> int:
    """Look a database over, beside a running server or without one.

    Exit code 1 if something is wrong, each with what to do. It changes nothing.
    """
    found = inspect(existing(db), now=time.time(), thorough=thorough)
    report = Report(
        dispatch=own_version(),
        python=platform.python_version(),
        database=found,
        findings=list(findings(found)),
    )
    screen = Screen(as_json=json)
    if json:
        screen.document(report)
    else:
        _show(screen, report)
    return FAILED if report.findings else OK


def findings(found: Inspection) -> Iterator[Finding]:
    """What is wrong, the worst first."""
    if found.problems:
        yield Finding(
            name="damaged",
            message="The file is damaged: stop the server, keep the file for later, and put the "
            "newest backup in its place.",
        )
    if found.schema > found.known_schema:
        yield Finding(
            name="newer",
            message=f"A newer dispatch wrote this file (schema {found.schema}, and this one knows "
            f"{found.known_schema}): use that one, or newer.",
        )
    if found.work is not None and found.work.deserted:
        yield Finding(
            name="deserted",
            message=f"{_count(found.work.deserted, 'execution')} would go on, and no server is at "
            "work: start `dispatch serve` with the flows and this --db.",
        )
    if found.is_network:
        yield Finding(
            name="network",
            message=f"The file is on a network file system ({found.file_system}), where it will be "
            "damaged sooner or later: stop the server, and move it to a local disk.",
        )
    for one in found.work.workers if found.work is not None else ():
        if one.state == "still":
            yield Finding(
                name="still",
                message=f"Server {one.pid} lives and does nothing (stopped, or swapped out): let "
                "it go on (SIGCONT), or end it.",
            )
    if found.log_bytes > LARGE_LOG_BYTES:
        yield Finding(
            name="large-log",
            message=f"The log has grown to {_size(found.log_bytes)}: end whatever has been "
            "reading the file for long, or start a server if there is none; it will shrink then.",
        )
    if found.disk_free_bytes < LITTLE_ROOM_BYTES:
        yield Finding(
            name="disk-full",
            message=f"Only {_size(found.disk_free_bytes)} are left on the disk: make room, or "
            "flows will wait and commands be refused.",
        )


def _show(screen: Screen, report: Report) -> None:
    found = report.database
    facts = [
        ("database", found.path),
        ("size", f"{_size(found.bytes)}, {_size(found.unused_bytes)} of it unused"),
        ("log", _size(found.log_bytes)),
        (
            "disk",
            f"{_size(found.disk_free_bytes)} free, {found.file_system or 'unknown file system'}",
        ),
        ("schema", f"{found.schema}, and this dispatch knows {found.known_schema}"),
        ("integrity", found.problems[0] if found.problems else "ok"),
        *(("", problem) for problem in found.problems[1:]),
        (
            "versions",
            f"dispatch {report.dispatch}, Python {report.python}, SQLite {found.sqlite}",
        ),
    ]
    screen.facts(facts if found.work is None else [*facts, *_facts(found.work)])
    if found.work is not None:
        _show_tables(screen, found.work)
    screen.line("")
    for one in report.findings:
        screen.line(f"✗ {one.message}", "red")
    if not report.findings:
        screen.line("✓ Nothing is wrong.", "green")


def _facts(work: Work) -> list[tuple[str, str]]:
    by_status = [f"{count} {status}" for status, count in work.executions.items() if count]
    by_code = [f"{count} {code}" for code, count in work.parked_codes.items()]
    facts = [("", ""), ("executions", ", ".join(by_status) or "none")]
    if by_code:
        facts.append(("parked", ", ".join(by_code)))
    if work.oldest_wait is not None:
        one = work.oldest_wait
        flow = labelled(one.flow, one.version)
        facts.append(
            (
                "oldest wait",
                f"{one.kind} {one.name} of {flow}, {_age(one.since)} ({one.execution_id})",
            )
        )
    if not work.workers:
        facts.append(("servers", "none"))
    return facts


def _show_tables(screen: Screen, work: Work) -> None:
    if work.workers:
        screen.line("")
        screen.table(
            ("server", "pid", "is", "synchronous", "holds", "started"),
            [
                (
                    one.id,
                    str(one.pid),
                    one.state,
                    one.synchronous,
                    str(one.executions),
                    _age(one.since),
                )
                for one in work.workers
            ],
        )
    if work.parked:
        screen.line("")
        screen.table(
            ("parked", "flow", "code", "when"),
            [
                (one.execution_id, labelled(one.flow, one.version), one.code, _age(one.since))
                for one in work.parked
            ],
        )
        screen.line("Mend the cause, then `dispatch retry EXECUTION`.", "dim")


def _size(size: int) -> str:
    exact, unit = float(size), 0
    while exact >= 1024 and unit < len(_UNITS) - 1:
        exact, unit = exact / 1024, unit + 1
    return f"{exact:.1f} {_UNITS[unit]}" if unit else f"{size} B"


def _age(since: str) -> str:
    seconds = max(time.time() - parse_iso(since), 0.0)
    for length, unit in _SPANS:
        if seconds >= length:
            return f"{_count(int(seconds // length), unit)} ago"
    return "just now"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --- backup ---------------------------------------------------------------------------------------


def backup(
    file: Annotated[Path, Parameter(name="FILE", help="Where the copy goes.")],
    /,
    *,
    db: Database = _DB,
    force: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Replace FILE if it exists.")
    ] = False,
    json: AsJson = False,
) -> int:
    """Copy a database into FILE, whole and checked, beside a running server or without one.

    FILE can be started from: what was going on when it was made goes on then.
    """
    began = time.monotonic()
    try:
        with _ended_as_by_ctrl_c():
            size = back_up(existing(db), file.absolute(), force=force)
    except NotPossible as exc:
        raise Usage(str(exc)) from exc
    seconds = time.monotonic() - began
    screen = Screen(as_json=json)
    if json:
        screen.document({"path": str(file.absolute()), "bytes": size, "seconds": round(seconds, 3)})
    else:
        screen.line(f"{file}: {_size(size)} in {seconds:.1f} s")
    return OK


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, too, leaves no half of a copy behind: whoever limits a backup's time sends that."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
