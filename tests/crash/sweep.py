"""Run a flow to its end in one SQLite file; cut it after every entry; recover all cuts in a fresh
engine, crash that too, finish in a third, and hold the result against the promises (design.md 9).

All cuts of a run share a file, under ids of their own, so that an engine recovers a crowd. After a
crash the file is what the last commit made it. `Covered` counts what the flow stood at, what it was
cut after, and what others then did to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from unittest.mock import patch

import anyio
import msgspec

from dispatch.core.ids import ExecutionId
from dispatch.core.journal import ApprovalOpened, CallPrivate, Edge, Entry, Origin
from dispatch.core.projection import CANCEL_TIMER, WaitOpened, WaitSettled, effects
from dispatch.engine.dispatcher import Start
from tests.crash.cuts import Cut, Journal, read_journals, rows_that_follow, write_cuts
from tests.crash.replays import check_replay, last_result
from tests.crash.watch import Violation, shown
from tests.crash.world import Flows, World, live

BEGIN_AT = 1_750_000_000.0
#: Crowds larger than this are recovered in pieces.
MAX_CROWD = 64

Covered = Counter[tuple[str, str, str]]

_OPENINGS = {"tool_start", "step_start", "dispatch.approval_opened", "dispatch.timer_set"}
_SETTLEMENTS = {
    "tool_complete",
    "step_complete",
    "approval_complete",
    "dispatch.timer_fired",
    "dispatch.abandoned",
}


def sweep(
    flows: Flows,
    starts: Sequence[Start],
    seed: int,
    folder: Path,
    covered: Covered,
    *,
    warm: bool = False,
) -> int:
    """Raise `Violation` at the first broken promise; give back how many cuts were recovered."""
    max_live = 1000 if warm else 0
    try:
        with patch("dispatch.store.writer.LOOP_SHARE", 1.0):  # nobody else needs this loop
            return anyio.run(_sweep, flows, starts, Random(seed), folder, covered, max_live)
    except ExceptionGroup as exc:
        first: BaseException = exc
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from exc


async def _sweep(
    flows: Flows,
    starts: Sequence[Start],
    rng: Random,
    folder: Path,
    covered: Covered,
    max_live: int,
) -> int:
    whole = folder / "whole.db"
    begun: list[ExecutionId] = []

    async def dispatch_and_act(world: World) -> None:
        for start in starts:
            leg = await world.engine.dispatcher.dispatch(start)
            begun.append(leg.execution.id)
        await world.act_until_over(begun)

    await live(whole, flows, dispatch_and_act, rng, now=BEGIN_AT, worker="first", max_live=max_live)
    journals = read_journals(whole)
    for journal in journals:
        with _reported(journal.entries, "at first"):
            check_journal(journal.entries)
            await check_replay(flows, journal)
    check_rows(folder, journals)
    cuts = [
        Cut(journal, length, ExecutionId(f"exec_{number:016x}{length:016x}"))
        for number, journal in enumerate(journals)
        for length in range(1, len(journal.entries) + 1)
    ]
    rng.shuffle(cuts)
    for begin in range(0, len(cuts), MAX_CROWD):
        await _recover(flows, cuts[begin : begin + MAX_CROWD], rng, folder, covered, max_live)
    return len(cuts)


async def _recover(
    flows: Flows,
    cuts: Sequence[Cut],
    rng: Random,
    folder: Path,
    covered: Covered,
    max_live: int,
) -> None:
    path, crash_file = folder / "cut.db", folder / "crash.db"
    remove(folder, path, crash_file)
    write_cuts(path, cuts)
    # As late as the journals end, or as early as they began: then the clock has jumped back.
    last = max(cut.journal.entries[-1].at for cut in cuts)
    now = rng.choice([last + rng.uniform(0, 30), BEGIN_AT])
    left = sum(len(cut.journal.entries) - cut.length for cut in cuts)
    ids = [cut.id for cut in cuts]
    foreign: dict[str, list[str]] = {id: [] for id in ids}
    crashed, lives = True, 0
    while crashed:
        world, crashed = await live(
            path,
            flows,
            lambda world: world.act_until_over(ids),
            rng,
            now=now,
            worker=f"life-{lives}",
            crash_to=None if lives else crash_file,
            crash_at=rng.randint(1, max(1, left)),
            max_live=max_live,
            found=read_journals(path),
        )
        for id in ids:
            foreign[id] += world.foreign[id]
        now = world.clock.now() + rng.uniform(-5, 5)
        path, lives = crash_file if crashed else path, lives + 1
    ended = {journal.execution.id: journal for journal in read_journals(path)}
    for cut in cuts:
        found = ended[cut.id]
        with _reported(found.entries, f"cut after {cut.length}"):
            check_prefix(cut, found.entries)
            check_journal(found.entries)
            check_races(found.entries)
            await check_replay(flows, found)
        cover(covered, cut, foreign[cut.id])


@contextmanager
def _reported(entries: Sequence[Entry], when: str) -> Iterator[None]:
    """Adds the journal that a violation is about."""
    try:
        yield
    except Exception as exc:
        raise Violation(f"{when}: {exc}\n{shown(entries)}") from exc


# --- what must hold -------------------------------------------------------------------------------


def check_prefix(cut: Cut, entries: Sequence[Entry]) -> None:
    for kept, found in zip(cut.entries, entries, strict=False):
        if kept != found:
            raise Violation(f"entry {kept.seq} was {kept}, and is {found}")
    if len(entries) < cut.length:
        raise Violation(f"{cut.length} entries were there, and {len(entries)} are")


def check_journal(entries: Sequence[Entry]) -> None:
    """What is true of every finished journal."""
    check_entries(entries)
    if entries[-1].edge is not Edge.FINAL:
        raise Violation("no final event at the end")
    opened = {id_of(entry) for entry in entries if entry.kind in _OPENINGS}
    settled = {id_of(entry) for entry in entries if entry.kind in _SETTLEMENTS}
    # Whatever is left open by an end that the flow didn't come to is abandoned with it.
    if entries[-1].origin is Origin.FLOW and opened != settled:
        raise Violation(f"left open: {opened - settled}")


def check_entries(entries: Sequence[Entry]) -> None:
    """What is true of every journal at any time."""
    if [entry.seq for entry in entries] != list(range(1, len(entries) + 1)):
        raise Violation("a seq is missing, or there twice")
    if any(entry.edge is Edge.FINAL for entry in entries[:-1]):
        raise Violation("something lies behind a final event")
    opened: set[str] = set()
    settled: set[str] = set()
    attempts: Counter[str] = Counter()
    for entry in entries:
        id = id_of(entry)
        if entry.kind in _OPENINGS:
            if id in opened:
                raise Violation(f"{id} is opened twice, at {entry.seq}")
            opened.add(id)
        elif entry.kind in _SETTLEMENTS:
            if id in settled or id not in opened:
                raise Violation(f"{id} is settled twice, or unopened, at {entry.seq}")
            settled.add(id)
            if entry.kind == "step_complete" and entry.facts.success and not attempts[id]:
                raise Violation(f"{id} has a result and no attempt, at {entry.seq}")
        elif entry.kind == "dispatch.step_attempt":
            attempts[id] += 1
            if id in settled or msgspec.json.decode(entry.facts.value)["attempt"] != attempts[id]:
                raise Violation(f"{id} is attempted out of order, at {entry.seq}")


def id_of(entry: Entry) -> str:
    """Of the wait that `entry` is about."""
    facts = entry.facts
    if entry.kind.startswith("dispatch."):
        value = msgspec.json.decode(bytes(facts.value) or b"{}")
        return str(value.get("id") or value.get("approvalId") or value.get("stepId") or "")
    return facts.tool_call_id or facts.approval_id or facts.id


def check_races(entries: Sequence[Entry]) -> None:
    """A race of calls and steps was won by the branch that was settled first."""
    settled = {id_of(entry): entry.seq for entry in entries if entry.kind in _SETTLEMENTS}
    places = {_place(entry): settled.get(id_of(entry)) for entry in entries}
    trace = last_result(entries)
    for note in trace if isinstance(trace, list) else ():
        match note:
            case ["race", path, int(count), [int(index), _]]:
                seqs = [places.get(f"{path}/{number}") for number in range(count)]
                if None not in seqs and min(seqs, key=lambda seq: seq or 0) != seqs[index]:
                    raise Violation(f"race {path}: settled at {seqs}, and {index} has won")
            case _:
                pass


def _place(entry: Entry) -> str:
    """Where in its plan a call or a step stands, from its entry."""
    match entry.kind:
        case "step_start":
            return entry.facts.name
        case "tool_start":
            kept = entry.hidden(CallPrivate)
            hidden = None if kept is None else kept.parameters
            raw = hidden if isinstance(hidden, msgspec.Raw) else entry.facts.parameters
            return str(msgspec.json.decode(raw).get("at"))
        case "dispatch.approval_opened":
            return str(entry.payload(ApprovalOpened).parameters.get("at"))
        case _:
            return ""


def remove(folder: Path, *databases: Path) -> None:
    """Also what SQLite and workers put beside them."""
    for database in databases:
        for file in folder.glob(f"{database.name}*"):
            file.unlink()


def check_rows(folder: Path, journals: Sequence[Journal]) -> None:
    """The rows beside journals can be made from them."""
    rebuilt = folder / "rebuilt.db"
    write_cuts(
        rebuilt,
        [Cut(journal, len(journal.entries), journal.execution.id) for journal in journals],
    )
    for kept, made in zip(journals, read_journals(rebuilt), strict=True):
        if rows_that_follow(kept) != rows_that_follow(made):
            raise Violation(f"the rows are {kept}, and from the journal follow {made}")
    remove(folder, rebuilt)


# --- what was covered -----------------------------------------------------------------------------


def cover(covered: Covered, cut: Cut, foreign: Sequence[str]) -> None:
    stood, last = standing(cut.entries), cut.entries[-1]
    kind = last.kind if last.seq in cut.journal.ends else f"{last.kind}, within a transaction"
    for what in set(foreign) or {"nothing"}:
        covered[stood, kind, what] += 1


def standing(entries: Sequence[Entry]) -> str:
    """What the flow stands at, by the waits that are open."""
    is_open: dict[str, str] = {}
    for entry in entries:
        if entry.kind == "step_start":
            is_open[entry.facts.id] = "step"
        elif entry.kind == "step_complete":
            is_open.pop(entry.facts.id, None)
        for effect in effects(entry):
            if isinstance(effect, WaitOpened) and effect.id != CANCEL_TIMER:
                is_open[effect.id] = effect.kind
            elif isinstance(effect, WaitSettled):
                is_open.pop(effect.id, None)
    if entries[-1].edge is Edge.FINAL:
        return "the end"
    return " + ".join(sorted(set(is_open.values()))) or "no wait"


def report(covered: Covered) -> str:
    """Which pairs of what it stood at, what it was cut after, and what others did were covered."""
    names = ("stood at", "cut after", "others did")
    lines = [f"{len(covered)} triples, {sum(covered.values())} times"]
    for first, second in (0, 1), (0, 2), (1, 2):
        pairs = Counter[tuple[str, str]]()
        for triple, count in covered.items():
            pairs[triple[first], triple[second]] += count
        lines.append(f"{names[first]} × {names[second]}: {len(pairs)} pairs")
        lines += [f"  {count:6} {one} × {other}" for (one, other), count in sorted(pairs.items())]
    return "\n".join(lines)
