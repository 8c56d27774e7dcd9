"""Tails: catch up after a cursor, then follow; no gap, no repeat.

A tail is a cursor and nothing else. Each time its consumer is ready it takes what was committed
since, from the hub's ring or, below that, from the store, and forgets it again; so a client that
stops reading costs a socket and an integer. Where a tail ends is told by the chunks themselves:
none crosses the edge of a leg (design.md 6). A generator that returns has told everything; one that
raises `StreamBroken` has more to tell, elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import anyio.lowlevel
import msgspec

from dispatch.core import wire
from dispatch.core.clock import Clock, iso
from dispatch.core.journal import Edge
from dispatch.store.base import Chunk, Store
from dispatch.stream.hub import TAKE_BYTES, StreamBroken, Subscriber, take

#: What a tail gives its consumer: chunks side by side, or nothing after a silence. The consumer
#: clears it before it does anything slow, so that nobody holds on to what was taken.
Batch = list[Chunk]

#: Chunks of one read from the store: as many as were about `TAKE_BYTES` last time.
_FIRST_PAGE = 16
_LARGEST_PAGE = 1024
#: The response keeps the last piece that it was given while nothing comes: none larger than this.
_LARGEST_KEPT = 4 * 1024


class _Cursor:
    """How far one consumer has read. `next` is asked for again when the last batch was dealt
    with.
    """

    def __init__(self, store: Store, subscriber: Subscriber, after: int):
        self._store, self._subscriber, self._seq = store, subscriber, after
        self._page = _FIRST_PAGE
        self._is_busy = False

    async def next(self) -> Batch:
        """Some of what was committed since; nothing after a silence."""
        subscriber = self._subscriber
        if self._is_busy:
            subscriber.sent()
            # A server's `send` returns at once until the socket is full: others get a turn here.
            await anyio.lowlevel.checkpoint()
        self._is_busy = True
        while True:
            batch = subscriber.take(self._seq)
            if batch is None:
                batch = await self._read()
            elif not batch:
                if subscriber.is_silent:
                    return batch
                await subscriber.wait()
            if batch:
                self._seq = batch[-1].last_seq
                return batch

    async def _read(self) -> Batch:
        subscriber, known_seq = self._subscriber, self._subscriber.known_seq
        chunks = await self._store.read(subscriber.execution_id, after=self._seq, limit=self._page)
        if not chunks and subscriber.known_seq == known_seq:
            raise StreamBroken(f"{subscriber.execution_id} was deleted")
        size = sum(len(chunk.frames) for chunk in chunks)
        self._page = min(max(len(chunks) * TAKE_BYTES // max(size, 1), 1), _LARGEST_PAGE)
        return take(chunks, self._seq)


async def follow_events(
    store: Store, subscriber: Subscriber, after: int
) -> AsyncGenerator[Batch, None]:
    """Everything behind `after` until the final event."""
    cursor = _Cursor(store, subscriber, after)
    while not subscriber.is_over:
        batch = await cursor.next()
        subscriber.is_over = bool(batch) and batch[-1].end is Edge.FINAL
        yield batch


async def follow_leg(
    store: Store, subscriber: Subscriber, first_seq: int
) -> AsyncGenerator[Batch, None]:
    """The leg whose head is `first_seq`. Raises `StreamBroken` if the next one's head ends it."""
    cursor = _Cursor(store, subscriber, first_seq - 1)
    while not subscriber.is_over:
        batch = await cursor.next()
        count, subscriber.is_over = _count_in_leg(batch, first_seq)
        is_cut_off = count < len(batch) and not subscriber.is_over
        del batch[count:]
        if batch or not is_cut_off:
            yield batch
        if is_cut_off:
            raise StreamBroken("another request has begun the next leg")


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

    The awaits and approvals of suspensions that have passed are left out: they are settled, or
    repeated by the next suspension, and a client that saw one twice would run its tool twice (wire
    3.4).
    """
    cursor = _Cursor(store, subscriber, first_seq - 1)
    while not subscriber.is_over:
        batch = await cursor.next()
        for i, chunk in enumerate(batch):
            if chunk.end is Edge.NONE:
                continue
            if chunk.last_seq >= subscriber.known_seq:
                subscriber.is_over = True
                del batch[i + 1 :]
                break
            if chunk.end is Edge.TURN:
                batch[i] = _without_turns(chunk)
        yield batch


def _without_turns(chunk: Chunk) -> Chunk:
    kept = [
        frame
        for frame, entry in zip(wire.split_frames(chunk.frames), chunk.entries(), strict=True)
        if entry.edge is not Edge.TURN
    ]
    return msgspec.structs.replace(chunk, frames=b"".join(kept))


async def frames(
    batches: AsyncIterator[Batch], subscriber: Subscriber, after: int, clock: Clock
) -> AsyncGenerator[bytes, None]:
    """`batches` as they are sent: their frames as one piece, or a ping. An empty piece is not sent:
    it takes the place of a large one.
    """
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
            if len(piece) > _LARGEST_KEPT:
                piece = b""
                yield piece


def events(batch: Batch) -> list[msgspec.Raw]:
    """The events of `batch` as JSON, for documents."""
    return [
        msgspec.Raw(wire.frame_data(frame))
        for chunk in batch
        for frame in wire.split_frames(chunk.frames)
    ]
