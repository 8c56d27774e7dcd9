"""Tails: catch up after a cursor, then follow; no gap, no repeat.

A tail is a cursor and nothing else. Each time its consumer is ready it takes what was committed
since, from the hub's ring or, below that, from the store, and forgets it again; so a client that
stops reading costs a socket and an integer. Where a tail ends is told by the chunks themselves:
none crosses the edge of a leg (design.md 6). A generator that returns has told everything; one that
raises `StreamBroken` has more to tell, elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection

import anyio.lowlevel
import msgspec

from dispatch.core import wire
from dispatch.core.clock import Clock, iso
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Edge
from dispatch.store.base import Chunk, Store
from dispatch.stream.hub import TAKE_BYTES, StreamBroken, Subscriber, take

#: What a tail gives its consumer: chunks side by side, or nothing after a silence. The consumer
#: clears it before it does anything slow, so that nobody holds on to what was taken.
Batch = list[Chunk]

#: Chunks of one read from the store: as many as were about `TAKE_BYTES` last time.
_FIRST_PAGE = 16
_LARGEST_PAGE = 1024


async def _follow(store: Store, subscriber: Subscriber, after: int) -> AsyncGenerator[Batch, None]:
    """All that is committed behind `after`, for ever; an empty batch after each silence."""
    cursor, page = after, _FIRST_PAGE
    while True:
        known = subscriber.known_seq
        batch = subscriber.take(cursor)
        if batch is None:
            chunks = await store.read(subscriber.execution_id, after=cursor, limit=page)
            if not chunks and subscriber.known_seq == known:
                raise StreamBroken(f"{subscriber.execution_id} was deleted")
            size = sum(len(chunk.frames) for chunk in chunks)
            page = min(max(len(chunks) * TAKE_BYTES // max(size, 1), 1), _LARGEST_PAGE)
            batch = take(chunks, cursor)
            del chunks
            if not batch:
                continue
        if batch:
            cursor = batch[-1].last_seq
            yield batch
            subscriber.sent()
            # A server's `send` returns at once until the socket is full: others have their turn
            # here.
            await anyio.lowlevel.checkpoint()
        elif subscriber.is_silent:
            yield batch
            subscriber.sent()
        else:
            await subscriber.wait()


async def follow_events(
    store: Store, subscriber: Subscriber, after: int
) -> AsyncGenerator[Batch, None]:
    """Everything behind `after` until the final event."""
    async for batch in _follow(store, subscriber, after):
        is_over = bool(batch) and batch[-1].end is Edge.FINAL
        yield batch
        if is_over:
            return


async def follow_leg(
    store: Store, subscriber: Subscriber, first_seq: int
) -> AsyncGenerator[Batch, None]:
    """The leg whose head is `first_seq`. Raises `StreamBroken` if the next one's head ends it."""
    async for batch in _follow(store, subscriber, first_seq - 1):
        count, is_over = _count_in_leg(batch, first_seq)
        is_cut_off = count < len(batch) and not is_over
        del batch[count:]
        if batch or not is_cut_off:
            yield batch
        if is_cut_off:
            raise StreamBroken("another request has begun the next leg")
        if is_over:
            return


def _count_in_leg(batch: Batch, first_seq: int) -> tuple[int, bool]:
    """How many chunks belong to the leg, and whether the last of them ends it."""
    for i, chunk in enumerate(batch):
        if chunk.head and chunk.first_seq > first_seq:
            return i, False
        if chunk.end is not Edge.NONE:
            return i + 1, True
    return len(batch), False


async def follow_legs(
    store: Store, subscriber: Subscriber, first_seq: int
) -> AsyncGenerator[Batch, None]:
    """From the leg whose head is `first_seq` to the current suspension or the end.

    Awaits and approvals that have been settled since are left out: a client that saw one again
    would run its tool again (wire 3.4).
    """
    open_ids: Collection[str] = ()
    looked_at_seq = 0
    async for batch in _follow(store, subscriber, first_seq - 1):
        is_over = False
        for i, chunk in enumerate(batch):
            if chunk.end is not Edge.NONE and chunk.last_seq > looked_at_seq:
                open_ids = await _open_ids(store, subscriber.execution_id)
                looked_at_seq = (await store.get(subscriber.execution_id)).last_seq
            if chunk.end is Edge.TURN:
                batch[i] = _without_settled(chunk, open_ids)
            if chunk.end is not Edge.NONE and chunk.last_seq >= looked_at_seq:
                del batch[i + 1 :]
                is_over = True
                break
        yield batch
        if is_over:
            return


async def _open_ids(store: Store, execution_id: ExecutionId) -> Collection[str]:
    return {row.id for row in await store.waits(execution_id) if row.status == "open"}


def _without_settled(chunk: Chunk, open_ids: Collection[str]) -> Chunk:
    frames = wire.split_frames(chunk.frames)
    entries = chunk.entries()
    kept = [
        frame
        for frame, entry in zip(frames, entries, strict=True)
        if entry.edge is not Edge.TURN
        or (entry.facts.tool_call_id or entry.facts.approval_id) in open_ids
    ]
    return msgspec.structs.replace(chunk, frames=b"".join(kept))


async def frames(
    batches: AsyncIterator[Batch], subscriber: Subscriber, after: int, clock: Clock
) -> AsyncGenerator[bytes, None]:
    """`batches` as they are sent: their frames as one piece, or a ping."""
    cursor = after
    async for batch in batches:
        if not batch:
            yield wire.ping(subscriber.execution_id, cursor, iso(clock.now()))
            continue
        cursor = batch[-1].last_seq
        piece = batch[0].frames if len(batch) == 1 else b"".join([c.frames for c in batch])
        batch.clear()
        if piece:
            yield piece


def events(batch: Batch) -> list[msgspec.Raw]:
    """The events of `batch` as JSON, for documents."""
    return [
        msgspec.Raw(wire.frame_data(frame))
        for chunk in batch
        for frame in wire.split_frames(chunk.frames)
    ]
