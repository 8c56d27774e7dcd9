"""What clients were told, held against the journals: the promises of design.md 9."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from dispatch.core.clock import parse_iso
from dispatch.core.journal import AttemptStarted, Edge, Entry
from dispatch.core.lifecycle import Status
from tests.crash.clients import ASKING, Call, Execution, Told
from tests.crash.cuts import Journal, each_journal
from tests.crash.sweep import check_entries, id_of
from tests.crash.watch import Violation, shown

#: A step's call, and the entry of its completion, are timed by two clocks that read alike, one of
# them to the millisecond.
TICK_SECONDS = 0.002


Answers = dict[str, dict[Call, list[str]]]


def judge(told: Told, db: Path, traces: Path) -> list[str]:
    """All violations, each with the execution that it is about and both sides."""
    found = list(told.violations)
    calls = _calls(traces)
    answers: Answers = defaultdict(dict)
    for call, taken in told.answers.items():
        answers[call.execution_id][call] = taken
    missing = set(told.executions)
    for journal in each_journal(db):
        one = told.of(journal.execution.id)
        missing.discard(one.id)
        wrong = [
            *_against(told, answers[one.id], one, journal),
            *_steps(journal, calls.get(one.id, {})),
        ]
        found += [f"{one.id} ({one.flow}): {what}" for what in wrong]
        if wrong:
            found.append(shown(journal.entries))
    return [*found, *(f"{id} was acknowledged, and is not there" for id in sorted(missing))]


def _against(
    told: Told, answers: dict[Call, list[str]], one: Execution, journal: Journal
) -> Iterable[str]:
    entries = journal.entries
    try:
        check_entries(entries)
    except Violation as exc:
        yield str(exc)
    for seq, data in sorted(one.events.items()):
        recorded = entries[seq - 1].data.decode() if seq <= len(entries) else "nothing"
        if recorded != data:
            yield f"a client saw {data} at {seq}, and recorded is {recorded}"
    for id, expected, seq in told.gaps:
        if id == one.id:
            # What only repeats a resume leaves out the calls that were settled since.
            left_out = {entry.kind for entry in entries[expected - 1 : seq - 1]}
            if not left_out <= set(ASKING) or seq <= expected:
                yield f"a stream went from {expected - 1} to {seq}, over {left_out}"
    settled = {id_of(entry): entry for entry in entries if entry.kind in _ANSWERS}
    for call, taken in answers.items():
        yield from _answered(call, taken, settled.get(call.id))
    # Taken for a duplicate of another client's, or never answered: then it may be recorded.
    allowed = {marker for taken in answers.values() for marker in taken}
    journal_text = b"".join(entry.data for entry in entries)
    for marker, why in told.refused[one.id].items():
        is_allowed = marker in allowed or marker in told.maybe
        if not is_allowed and marker.encode() in journal_text:
            yield f"{marker} was refused ({why}), and is recorded"
    yield from _end(one, journal)


_ANSWERS = ("tool_complete", "approval_complete")


def _answered(call: Call, answers: list[str], settled: Entry | None) -> Iterable[str]:
    for answer in answers:
        if settled is None:
            yield f"{call} was answered {answer}, and is not settled"
            continue
        facts = settled.facts
        recorded = facts.decision if call.kind == "approval_start" else bytes(facts.result).decode()
        if answer not in (recorded, recorded.strip('"')):
            yield f"{call} was answered {answer}, and recorded is {settled.data.decode()}"


def _end(one: Execution, journal: Journal) -> Iterable[str]:
    row, last = journal.execution, journal.entries[-1]
    is_open = [wait for wait in journal.waits if wait.status == "open"]
    if row.status.is_final:
        if last.edge is not Edge.FINAL:
            yield f"it is {row.status}, and ends with {last.kind}"
        if one.is_cancelled and row.status is not Status.CANCELLED:
            yield f"its cancel was acknowledged, and it is {row.status}"
    elif one.is_final or one.is_cancelled:
        yield f"a client saw it end, and it is {row.status}"
    elif row.status is Status.INTERRUPTED:
        if row.code != "crash-loop":
            yield f"it is parked: {row.code}"
    elif not is_open:
        yield f"it is {row.status}, and waits for nothing"
    if row.worker is not None and not is_open:
        yield f"nobody is there, and it is held by {row.worker}"


# --- steps ----------------------------------------------------------------------------------------


class Trace(msgspec.Struct, frozen=True):
    """One line of what steps left."""

    is_durable: bool
    at: float


def _calls(traces: Path) -> dict[str, dict[str, list[Trace]]]:
    calls: dict[str, dict[str, list[Trace]]] = defaultdict(lambda: defaultdict(list))
    for line in traces.read_text().splitlines() if traces.exists() else ():
        execution_id, rest = line.split(" ", 1)
        name, durable, at, _ = rest.rsplit(" ", 3)
        calls[execution_id][name].append(Trace(durable == "1", float(at)))
    return calls


def _steps(journal: Journal, calls: dict[str, list[Trace]]) -> Iterable[str]:
    """At least once before the result is durable, never after, never before what led to it."""
    names = {e.facts.id: e.facts.name for e in journal.entries if e.kind == "step_start"}
    attempts: Counter[str] = Counter()
    for entry in journal.entries:
        if entry.kind == "dispatch.step_attempt":
            attempts[names[entry.payload(AttemptStarted).step_id]] += 1
        elif entry.kind == "step_complete" and entry.facts.success:
            name = names[entry.facts.id]
            completed_at = msgspec.json.decode(entry.data)["completedAt"]
            if not calls.get(name):
                yield f"step {name} has a result, and was never called"
            for trace in calls.get(name, ()):
                if trace.at > parse_iso(completed_at) + TICK_SECONDS:
                    yield f"step {name} was called at {trace.at}, its result is of {completed_at}"
    for name, traces in calls.items():
        if len(traces) > attempts[name]:
            yield f"step {name} was called {len(traces)} times, in {attempts[name]} attempts"
        if not all(trace.is_durable for trace in traces):
            yield f"step {name} was called before its attempt was durable"
