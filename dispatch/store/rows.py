"""Rows of the SQLite store as the Structs of `store.base`, and the chunks that a reader asked
for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dispatch.core import wire
from dispatch.core.events import Kind
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Edge
from dispatch.core.lifecycle import Status
from dispatch.store.base import Chunk, Execution, WaitRow

EXECUTION = (
    "id, flow, version, kind, status, code, phase, last_seq, leg_seq, segment_seq, "
    "created_at, updated_at, ended_at, worker, token, runnable, strikes"
)
WAIT = (
    "id, kind, name, status, issued, opened_seq, settled_seq, leg_seq, due_at, timeout, "
    "digest, returns, private, raw"
)
CHUNK = "last_seq, at, head, end_, origins, frames, private"

_KINDS: dict[str, Kind] = {"flow": "flow", "agent": "agent"}
_STATUSES = {status.value: status for status in Status}
_EDGES = {edge.value: edge for edge in Edge}
_encode_private = msgspec.msgpack.Encoder().encode
_decode_private = msgspec.msgpack.Decoder(list[bytes | None]).decode


def to_execution(row: Sequence[Any]) -> Execution:
    """Of the columns `EXECUTION`."""
    return Execution(
        id=ExecutionId(row[0]),
        flow=sys.intern(row[1]),  # with each warm execution a row is kept
        version=row[2],
        kind=_KINDS[row[3]],
        status=_STATUSES[row[4]],
        code=row[5],
        phase=row[6],
        last_seq=row[7],
        leg_seq=row[8],
        segment_seq=row[9],
        created_at=row[10],
        updated_at=row[11],
        ended_at=row[12],
        worker=row[13],
        token=row[14],
        runnable=bool(row[15]),
        strikes=row[16],
    )


def to_wait(row: Sequence[Any]) -> WaitRow:
    """Of the columns `WAIT`."""
    return WaitRow(
        id=row[0],
        kind=row[1],
        name=row[2],
        status=row[3],
        issued=bool(row[4]),
        opened_seq=row[5],
        settled_seq=row[6],
        leg_seq=row[7],
        due_at=row[8],
        timeout=row[9],
        digest=row[10],
        returns=row[11],
        private=bool(row[12]),
        raw=bool(row[13]),
    )


def from_chunk(chunk: Chunk) -> tuple[Any, ...]:
    """The columns `CHUNK`."""
    private = None if chunk.private is None else _encode_private(chunk.private)
    return (
        chunk.last_seq,
        chunk.at,
        chunk.head,
        chunk.end,
        chunk.origins,
        chunk.frames,
        private,
    )


def to_chunk(row: Sequence[Any]) -> Chunk:
    """Of the columns `CHUNK`."""
    last_seq, at, head, end, origins, frames, private = row
    return Chunk(
        last_seq - len(origins) + 1,
        last_seq,
        at,
        bool(head),
        _EDGES[end],
        origins,
        frames,
        None if private is None else _decode_private(private),
    )


def cut(chunk: Chunk, after: int, until: int | None) -> Chunk:
    """The part of `chunk` behind `after`, up to `until`."""
    start = max(after + 1 - chunk.first_seq, 0)
    stop = len(chunk.origins) if until is None else until + 1 - chunk.first_seq
    if start == 0 and stop >= len(chunk.origins):
        return chunk
    whole_end = stop >= len(chunk.origins)
    frames = wire.skip_frames(chunk.frames, start)
    if not whole_end:
        frames = frames[: len(frames) - len(wire.skip_frames(frames, stop - start))]
    return Chunk(
        chunk.first_seq + start,
        chunk.last_seq if whole_end else chunk.first_seq + stop - 1,
        chunk.at,
        chunk.head and start == 0,
        chunk.end if whole_end else Edge.NONE,
        chunk.origins[start:stop],
        frames,
        None if chunk.private is None else chunk.private[start:stop],
    )


def to_chunks(rows: Iterable[Sequence[Any]], after: int, until: int | None) -> list[Chunk]:
    return [cut(to_chunk(row), after, until) for row in rows]
