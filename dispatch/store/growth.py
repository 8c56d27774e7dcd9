"""What appending drafts makes of an execution: its chunks, its new row, and what to do to its
waits.

Pure, so that everything that can be refused is refused before the first write, and so that the rows
beside a journal can only follow from it (`core.projection`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from dispatch.core.errors import Conflict
from dispatch.core.export import drafted
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import DISPLAYS, EDGES, JOURNAL, Draft, Edge, Origin, entry
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
from dispatch.core.wire import Framer
from dispatch.store.base import Chunk, Execution, Recorded

#: A chunk grows no larger than this, unless a single entry is.
MAX_CHUNK_BYTES = 256 * 1024
#: Executions whose framers are kept.
MAX_FRAMERS = 1024

# Looked up by kind alone: hashing an Origin costs more than all else that is done to a text delta.
_NOTABLE = EFFECTIVE | {kind for kind, _ in EDGES}
_PROGRESS = {(kind, Origin.FLOW) for kind in DISPLAYS} | {
    key for key, row in JOURNAL.items() if row.replay == "settles"
}
_ENDS = frozenset({Edge.TURN, Edge.PARKED, Edge.FINAL})


class WaitChange(NamedTuple):
    """`effect` is done to a wait (by a final status: to every open one) by the entry `seq`."""

    seq: int
    leg_seq: int
    effect: WaitOpened | WaitIssued | WaitSettled | StatusChanged


class Growth(NamedTuple):
    execution: Execution
    chunks: list[Chunk]
    waits: list[WaitChange]


class Framers:
    """The framers of the executions written to last: making one costs more than using it."""

    def __init__(self) -> None:
        self._framers: OrderedDict[ExecutionId, Framer] = OrderedDict()

    def of(self, execution_id: ExecutionId) -> Framer:
        framer = self._framers.get(execution_id)
        if framer is None:
            framer = self._framers[execution_id] = Framer(execution_id)
            if len(self._framers) > MAX_FRAMERS:
                self._framers.popitem(last=False)
        else:
            self._framers.move_to_end(execution_id)
        return framer


def grow(execution: Execution, drafts: Sequence[Draft], at: float, framer: Framer) -> Growth:
    """Append `drafts` to `execution` at the time `at`.

    Raises `Conflict` (`final`) if one stands behind a final event.
    """
    if not drafts:
        return Growth(execution, [], [])
    first_seq = execution.last_seq + 1
    notable = [i for i, draft in enumerate(drafts) if draft.kind in _NOTABLE]
    changed: dict[str, Any] = {}
    waits: list[WaitChange] = []
    leg_seq = execution.leg_seq
    for i in notable:
        if drafts[i].edge is Edge.FINAL and i + 1 < len(drafts):
            raise final(execution)
        seq = first_seq + i
        for effect in effects(entry(drafts[i], seq, at)):
            match effect:
                case LegBegun():
                    changed["leg_seq"] = leg_seq = seq
                case SegmentBegun():
                    changed["segment_seq"] = seq
                case PhaseEntered(name):
                    changed["phase"] = name
                case StatusChanged(status, code):
                    changed |= {"status": status, "code": code}
                    if status.is_final or status is Status.INTERRUPTED:
                        changed |= {"worker": None, "runnable": False}
                    if status.is_final:
                        changed["ended_at"] = at
                        waits.append(WaitChange(seq, leg_seq, effect))
                case _:
                    waits.append(WaitChange(seq, leg_seq, effect))
    if execution.status is Status.PENDING and execution.last_seq:
        changed.setdefault("status", Status.RUNNING)
    grown = msgspec.structs.replace(
        execution, last_seq=execution.last_seq + len(drafts), updated_at=at, **changed
    )
    frame = framer.frame
    frames = [frame(draft, seq) for seq, draft in enumerate(drafts, first_seq)]
    return Growth(grown, list(_chunks(drafts, first_seq, frames, notable, at)), waits)


def regrow(recorded: Recorded, framer: Framer) -> Iterator[tuple[Growth, list[Draft]]]:
    """The growths of a journal that was recorded elsewhere, one for each of its times."""
    begun = recorded.entries[0].at
    execution = Execution(
        id=recorded.id,
        flow=recorded.flow,
        version=recorded.version,
        kind=recorded.kind,
        status=Status.PENDING,
        last_seq=0,
        leg_seq=0,
        segment_seq=0,
        created_at=begun,
        updated_at=begun,
    )
    for at, entries in groupby(recorded.entries, key=attrgetter("at")):
        drafts = [drafted(past) for past in entries]
        growth = grow(execution, drafts, at, framer)
        execution = growth.execution
        yield growth, drafts


def is_progress(drafts: Sequence[Draft]) -> bool:
    """Whether the flow got further: something new was shown, or a wait was settled."""
    return any((draft.kind, draft.origin) in _PROGRESS for draft in drafts)


def final(execution: Execution) -> Conflict:
    return Conflict(f"execution {execution.id} is over: nothing is appended to it", code="final")


def _chunks(
    drafts: Sequence[Draft], first_seq: int, frames: list[bytes], notable: list[int], at: float
) -> Iterator[Chunk]:
    cuts = {0, len(drafts)}
    for i in notable:
        edge = drafts[i].edge
        if edge is Edge.HEAD:
            cuts.add(i)
        elif edge in _ENDS and not _goes_on(drafts, i):
            cuts.add(i + 1)
    if sum(map(len, frames)) > MAX_CHUNK_BYTES:
        size = 0
        for i, frame in enumerate(frames):
            if i in cuts or size + len(frame) > MAX_CHUNK_BYTES:
                cuts.add(i)
                size = 0
            size += len(frame)
    bounds = sorted(cuts)
    for start, stop in pairwise(bounds):
        piece, last = drafts[start:stop], drafts[stop - 1].edge
        private = [draft.private for draft in piece]
        yield Chunk(
            first_seq + start,
            first_seq + stop - 1,
            at,
            piece[0].edge is Edge.HEAD,
            last if last in _ENDS and not _goes_on(drafts, stop - 1) else Edge.NONE,
            "".join([draft.origin for draft in piece]),
            b"".join(frames[start:stop]),
            private if private.count(None) < len(private) else None,
        )


def _goes_on(drafts: Sequence[Draft], i: int) -> bool:
    """Whether the run of awaits and approvals goes on behind draft `i`."""
    return drafts[i].edge is Edge.TURN and i + 1 < len(drafts) and drafts[i + 1].edge is Edge.TURN
