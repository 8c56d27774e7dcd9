"""Executions as files: `dispatch export`, `dispatch import`, `dispatch replay`.

They work on the database file, beside a server or without one, so that what is private never goes
over the network. `core.export` knows what is in a file, `engine.rehearsal` how one is replayed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
from cyclopts import Parameter

from dispatch import loader, place
from dispatch.app import WallClock
from dispatch.core import events
from dispatch.core.errors import InvalidRequest
from dispatch.core.export import Export, Exported, Exporter, decode
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft, Edge, Entry, Origin, draft, entry
from dispatch.core.lifecycle import IMPORTED, Status
from dispatch.engine.inbox import read_journal
from dispatch.engine.rehearsal import rehearse
from dispatch.flow import FlowVersion, Registry
from dispatch.legs import FAILED, OK
from dispatch.settings import Settings
from dispatch.store.base import Execution, Recorded, Store
from dispatch.terminal import Screen

_DEFAULTS = Settings()

File = Annotated[Path, Parameter(name="FILE", help="What `dispatch export` wrote.")]
Db = Annotated[str, Parameter(help="The file of the journals; a server may have it open.")]


# --- export ---------------------------------------------------------------------------------------


def export(
    execution: Annotated[str, Parameter(name="EXECUTION", help="Its id.")],
    /,
    *,
    db: Db = _DEFAULTS.db,
    private: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="With inputs, messages, private parameters and results: a replay needs them.",
        ),
    ] = False,
) -> int:
    """Write an execution to stdout, a line for each entry: a bug report in one file."""
    exporting = partial(_export, ExecutionId(execution), private, place.own_version())
    return place.with_store(str(place.existing(db)), exporting)


async def _export(execution_id: ExecutionId, private: bool, version: str, store: Store) -> int:
    row = await store.get(execution_id)
    exported = Exported(
        id=row.id,
        flow=row.flow,
        version=row.version,
        kind=row.kind,
        status=row.status,
        code=row.code,
    )
    exporter, out = Exporter(exported, private=private), sys.stdout.buffer
    out.write(exporter.header(last_seq=row.last_seq, dispatch_version=version))
    async for past in read_journal(store, row.id, 0, row.last_seq):
        out.write(exporter.line(past))
    return OK


# --- import ---------------------------------------------------------------------------------------


def import_(file: File, /, *, db: Db = _DEFAULTS.db) -> int:
    """Put an exported execution into a database, under its own id.

    It does not begin to run there: one that was not over is parked as `imported`, until somebody retries or cancels it.
    """  # noqa: E501 - cyclopts prints the lines as they are
    found = _read(file)
    if found.withheld:
        raise InvalidRequest(_withheld(found, min(found.withheld)), code="export-incomplete")
    return place.with_store(db, partial(_import, found))


async def _import(found: Export, store: Store) -> int:
    entries = list(found.entries)
    if entries[-1].edge is not Edge.FINAL:
        entries.append(entry(_parking(), len(entries) + 1, WallClock().now()))
    added = await store.add(_recorded(found, entries))
    screen = Screen()
    screen.line(f"{added.id} {added.status}")
    if not added.status.is_final:
        screen.say(f"it rests here until: dispatch retry {added.id}, or dispatch cancel")
    return OK


def _parking() -> Draft:
    message = "it came from a file: retry it, or cancel it"
    error = events.ErrorInfo(code=IMPORTED, message=message)
    return draft(events.Error(error=error, code=IMPORTED, recoverable=False), Origin.ENGINE)


# --- replay ---------------------------------------------------------------------------------------


class Verdict(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a replay up to `last_seq` came to: `match`, `incomplete`, or the code of the problem."""

    verdict: str
    message: str
    last_seq: int


def replay(
    file: File,
    /,
    *sources: Annotated[
        str,
        Parameter(
            name="MODULE_OR_FILE",
            help="The flows to replay it with: my_flows.py, or a dotted module; else the examples.",
        ),
    ],
    json: Annotated[
        bool, Parameter(negative=(), show_default=False, help="A JSON document on stdout instead.")
    ] = False,
) -> int:
    """Replay an exported execution with the flows of today: do they still do what it says?

    Nothing is done but to run the flow's own body: no step begins. Exit code 0 is a match.
    """
    verdict = judge(file, loader.load(sources or (place.EXAMPLES,)))
    screen = Screen(as_json=json)
    if json:
        screen.document(verdict)
    else:
        screen.line(f"{verdict.verdict}: {verdict.message}")
    return OK if verdict.verdict == "match" else FAILED


def judge(file: Path, flows: Iterable[FlowVersion]) -> Verdict:
    """What `flows` make of the execution in `file`."""
    found = _read(file)
    return anyio.run(_replay, Registry(flows), found, backend_options=place.LOOP_OPTIONS)


async def _replay(registry: Registry, found: Export) -> Verdict:
    begun = max(
        (past.seq for past in found.entries if past.kind == "dispatch.continued"), default=1
    )
    # Only the last segment is replayed, so what is missing before it is not missed.
    lacking = min((seq for seq in found.withheld if seq >= begun), default=None)
    entries = found.entries if lacking is None else found.entries[: lacking - 1]
    if lacking == begun:
        entries = []

    def verdict(word: str, message: str) -> Verdict:
        return Verdict(verdict=word, message=message, last_seq=len(entries))

    if lacking is not None and not entries:
        return verdict("incomplete", _withheld(found, lacking))
    its = found.execution
    execution = Execution(
        id=its.id,
        flow=its.flow,
        version=its.version,
        kind=its.kind,
        status=Status.RUNNING,
        last_seq=len(entries),
        leg_seq=1,
        segment_seq=begun,
        created_at=entries[0].at,
        updated_at=entries[-1].at,
    )
    rehearsal = await rehearse(registry, execution, entries, clock=WallClock())
    label = f"{its.flow} v{its.version}"
    if rehearsal.problem is not None:
        return verdict(rehearsal.problem.code, f"{label}: {rehearsal.problem.message}")
    done = f"{label} does what its journal says up to entry {len(entries)}"
    if lacking is not None:
        return verdict("incomplete", f"{done}; for the rest {_withheld(found, lacking)}")
    following = rehearsal.next
    goes_on = f", and would go on with {following[0].kind}" if following else ""
    return verdict("match", done + goes_on)


# --- files and stores -----------------------------------------------------------------------------


def _read(file: Path) -> Export:
    try:
        with file.open("rb") as lines:
            return decode(lines)
    except OSError as exc:
        raise place.Usage(f"{file} cannot be read: {exc.strerror}") from exc


def _withheld(found: Export, seq: int) -> str:
    names = ", ".join(found.withheld[seq])
    return (
        f"the export was made without --private: it lacks the {names} of entry {seq}"
        + (" and more" if max(found.withheld) > seq else "")
        + f"; ask for `dispatch export {found.execution.id} --private`"
    )


def _recorded(found: Export, entries: Sequence[Entry]) -> Recorded:
    its = found.execution
    return Recorded(id=its.id, flow=its.flow, version=its.version, kind=its.kind, entries=entries)
