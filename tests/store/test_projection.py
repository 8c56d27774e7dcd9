"""That the rows beside a journal follow from it: they are rebuilt from what is read back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import msgspec
import pytest

from dispatch.core.events import TYPES
from dispatch.core.journal import JOURNAL, Draft, Edge, Entry, Origin
from dispatch.core.lifecycle import Status
from dispatch.core.projection import (
    EFFECTIVE,
    LegBegun,
    PhaseEntered,
    SegmentBegun,
    StatusChanged,
    WaitIssued,
    WaitOpened,
    WaitSettled,
    effects,
)
from dispatch.store.base import Change, Execution, Store, WaitRow
from tests.store.entries import (
    BEGIN,
    abandoned,
    approval,
    approval_turn,
    call,
    cancel,
    cancelled,
    continued,
    decided,
    failed,
    final,
    fired,
    head,
    hidden_output,
    journal,
    new,
    output,
    parked,
    phase,
    text,
    timer,
    turn,
    unanswered,
)

LIVES: dict[str, list[list[Draft]]] = {
    "only begun": [],
    "a tool, answered on the next leg": [
        [text(), call("c", timeout=3.0), turn("c")],
        [head(), output("c", {"a": 1})],
        [text(), final()],
    ],
    "several at once, one by one": [
        [call("c", private=True), approval("a", timeout=5.0), turn("c"), approval_turn("a")],
        [head(), hidden_output("c"), approval_turn("a")],
        [head(), decided("a")],
        [phase("almost"), failed()],
    ],
    "parked and taken up again": [
        [phase("one"), parked()],
        [head(), text()],
        [continued(1), phase("two"), text()],
    ],
    "timers and timeouts": [
        [timer("t1", BEGIN + 1), timer("t2", BEGIN + 2), call("c", timeout=0.5), turn("c")],
        [fired("t1"), abandoned("t2"), unanswered("c")],
    ],
    "cancelled with all open": [
        [call("c"), approval("a"), timer("t", BEGIN + 9), turn("c"), approval_turn("a")],
        [cancel(BEGIN + 10)],
        [cancelled()],
    ],
}


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
@pytest.mark.parametrize("size", [1, 100])
async def test_the_rows_follow_from_the_journal(
    store: Store, life: list[list[Draft]], size: int
) -> None:
    """However it was appended: in the given transactions, or an entry at a time."""
    execution, _ = await store.create(new(worker="w1"))
    for drafts in life:
        for start in range(0, len(drafts), size):
            change = Change(drafts[start : start + size])
            await store.transact(execution.id, partial(_decided, change))
    row, waits = await store.get(execution.id), await store.waits(execution.id)
    rebuilt_row, rebuilt_waits = rebuild(row, await journal(store, execution.id))
    assert row == rebuilt_row
    assert waits == rebuilt_waits


def _decided(change: Change, row: Execution, waits: Sequence[WaitRow]) -> Change:
    return change


def rebuild(row: Execution, entries: Iterable[Entry]) -> tuple[Execution, list[WaitRow]]:
    """From the entries, and of `row` only what no entry says: names, and who drives it."""
    waits: dict[str, WaitRow] = {}
    built = msgspec.structs.replace(
        row, status=Status.PENDING, code=None, phase=None, ended_at=None, last_seq=0, leg_seq=0
    )

    def change(**changes: object) -> None:
        nonlocal built
        built = msgspec.structs.replace(built, **changes)

    def settle(wait: WaitRow, status: str, digest: str, seq: int) -> None:
        if wait.status == "open":
            waits[wait.id] = msgspec.structs.replace(
                wait, status=status, digest=digest, settled_seq=seq, leg_seq=built.leg_seq
            )

    for entry in entries:
        if built.status is Status.PENDING and built.last_seq:
            change(status=Status.RUNNING)
        change(last_seq=entry.seq, updated_at=entry.at)
        for effect in effects(entry):
            match effect:
                case LegBegun():
                    change(leg_seq=entry.seq)
                case SegmentBegun():
                    change(segment_seq=entry.seq)
                case PhaseEntered(name):
                    change(phase=name)
                case StatusChanged(status, code):
                    change(status=status, code=code)
                    if status.is_final:
                        change(ended_at=entry.at)
                        for wait in waits.values():
                            settle(wait, "abandoned", "", entry.seq)
                case WaitOpened():
                    opened = effect._asdict()
                    waits[effect.id] = WaitRow(
                        status="open", issued=False, opened_seq=entry.seq, **opened
                    )
                case WaitIssued(id):
                    wait = waits[id]
                    due_at = wait.due_at
                    if due_at is None and wait.timeout is not None:
                        due_at = entry.at + wait.timeout
                    waits[id] = msgspec.structs.replace(wait, issued=True, due_at=due_at)
                case WaitSettled(id, outcome, digest):
                    settle(waits[id], outcome, digest, entry.seq)
    return built, list(waits.values())


@pytest.mark.parametrize(("kind", "origin"), sorted(set(JOURNAL)))
def test_kinds_that_are_not_asked_for_effects_have_none(kind: str, origin: Origin) -> None:
    if kind in EFFECTIVE:
        return
    data = b'{"type":"custom","name":"x","value":{}}' if kind not in TYPES else b'{"type":"x"}'
    entry = Entry(1, kind, origin, BEGIN, data)
    assert effects(entry) == []
    assert entry.edge is Edge.NONE
