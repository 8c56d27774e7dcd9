"""Wakes tails when a journal grows, and keeps a bounded ring of each live execution's latest
chunks.

The one thing to know: what a subscriber costs here does not depend on how far behind it is. There
is no queue; `publish` appends to one ring per execution and sets one event that all its subscribers
wait for. A ring is contiguous or reset, so a tail whose cursor it does not cover reads the store.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import anyio
import msgspec

from dispatch.core import wire
from dispatch.core.clock import Clock
from dispatch.core.ids import ExecutionId
from dispatch.store.base import Chunk, Committed

#: What a tail takes at a time: enough that a send costs little per event, and all that one holds.
TAKE_BYTES = 64 * 1024
#: Roughly what Python adds to a chunk's frames.
_CHUNK_OVERHEAD = 512
#: Silence is measured in this many parts of `ping_seconds`, so a ping is at most one of them early.
_TICKS = 10


class StreamBroken(Exception):
    """A stream ends in the middle: its reader is to come back with its cursor.

    It passes through the ASGI application after the answer has begun, and the server closes the
    connection without a final chunk (design.md 6).
    """


def take(chunks: Sequence[Chunk], after: int, start: int = 0) -> list[Chunk]:
    """The first chunks from `start` on, of about `TAKE_BYTES`; the first is cut to begin behind
    `after`.
    """
    taken: list[Chunk] = []
    size = 0
    for i in range(start, len(chunks)):
        size += len(chunks[i].frames)
        if taken and size > TAKE_BYTES:
            break
        taken.append(chunks[i])
    if taken and taken[0].first_seq <= after:
        taken[0] = _cut(taken[0], after)
    return taken


def _cut(chunk: Chunk, after: int) -> Chunk:
    count = after + 1 - chunk.first_seq
    return msgspec.structs.replace(
        chunk,
        first_seq=after + 1,
        head=False,
        origins=chunk.origins[count:],
        frames=wire.skip_frames(chunk.frames, count),
        private=chunk.private and chunk.private[count:],
    )


class _Channel:
    """One execution: its ring, how far its journal is known to reach, and who follows it."""

    __slots__ = ("_grown", "chunks", "last_seq", "size", "subscribers")

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.size = 0
        self.last_seq = 0
        self.subscribers: set[Subscriber] = set()
        self._grown: anyio.Event | None = None

    def add(self, chunk: Chunk, limit_bytes: int) -> None:
        if chunk.first_seq != self.last_seq + 1:
            self.reset()
        if chunk.private is not None:
            # Subscribers never see it, and it may be as large as all the frames beside it.
            chunk = msgspec.structs.replace(chunk, private=None)
        self.chunks.append(chunk)
        self.size += len(chunk.frames) + _CHUNK_OVERHEAD
        self.last_seq = max(self.last_seq, chunk.last_seq)
        count = 0
        while self.size > limit_bytes:
            self.size -= len(self.chunks[count].frames) + _CHUNK_OVERHEAD
            count += 1
        del self.chunks[:count]

    def reach(self, last_seq: int) -> None:
        """The journal is known to reach so far. What the ring does not cover is in the store."""
        if last_seq > self.last_seq:
            self.reset()
            self.last_seq = last_seq
            self.wake()

    def reset(self) -> None:
        self.chunks.clear()
        self.size = 0

    def wake(self) -> None:
        event, self._grown = self._grown, None
        if event is not None:
            event.set()

    async def wait(self) -> None:
        if self._grown is None:
            self._grown = anyio.Event()
        await self._grown.wait()


class Subscriber:
    """One open stream: what the hub knows of it is when it last sent something.

    `is_over` is its tail's: what it gave last is the end.
    """

    __slots__ = ("_channel", "_hub", "_scope", "_sent_at", "execution_id", "is_over")

    def __init__(
        self, hub: Hub, channel: _Channel, execution_id: ExecutionId, scope: anyio.CancelScope
    ):
        self.execution_id = execution_id
        self.is_over = False
        self._hub, self._channel, self._scope = hub, channel, scope
        self._sent_at = hub.ticks

    @property
    def known_seq(self) -> int:
        """How far the journal is known to reach."""
        return self._channel.last_seq

    @property
    def is_silent(self) -> bool:
        """Nothing was sent for `ping_seconds`."""
        return self._hub.ticks - self._sent_at >= _TICKS

    def sent(self) -> None:
        self._sent_at = self._hub.ticks

    def take(self, after: int) -> list[Chunk] | None:
        """Some of the chunks behind `after`, none if there are none; None if the ring can't say."""
        channel = self._channel
        if after >= channel.last_seq:
            return []
        chunks = channel.chunks
        if not chunks or after + 1 < chunks[0].first_seq or after >= chunks[-1].last_seq:
            return None
        return take(chunks, after, bisect_right(chunks, after, key=_last_seq))

    async def wait(self) -> None:
        """Return when the journal has grown, or a ping may be due."""
        await self._channel.wait()

    def break_off(self) -> None:
        self._scope.cancel()


def _last_seq(chunk: Chunk) -> int:
    return chunk.last_seq


class Hub:
    """All channels, those that nobody follows in the order of their last growth."""

    def __init__(
        self,
        clock: Clock,
        *,
        ping_seconds: float = 10.0,
        ring_bytes: int = 1024 * 1024,
        rings_bytes: int = 16 * 1024 * 1024,
    ):
        self.clock = clock
        self.ticks = 0
        self._tick_seconds = ping_seconds / _TICKS
        self._ring_bytes, self._rings_bytes = ring_bytes, rings_bytes
        self._channels: OrderedDict[ExecutionId, _Channel] = OrderedDict()
        self._followed: dict[ExecutionId, _Channel] = {}
        self._size = 0
        self._closed = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Measure silence while the context is entered; leaving it breaks off all that is open."""
        self._closed = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tick)
            try:
                yield
            finally:
                self.close()
                tasks.cancel_scope.cancel()

    def close(self) -> None:
        """Break off every stream, and those that are opened from now on."""
        self._closed = True
        for execution_id in self._followed:
            self.break_off(execution_id)

    async def _tick(self) -> None:
        while True:
            await self.clock.sleep(self._tick_seconds)
            self.ticks += 1
            for channel in self._followed.values():
                if any(subscriber.is_silent for subscriber in channel.subscribers):
                    channel.wake()

    def publish(self, committed: Committed) -> None:
        """Keep what was committed, and wake those who follow its execution."""
        execution_id = committed.execution.id
        channel = self._channels.get(execution_id)
        if channel is None:
            channel = self._channels[execution_id] = _Channel()
            # An execution that nobody followed until now: its ring may begin anywhere.
            channel.last_seq = committed.first_seq - 1
        else:
            self._channels.move_to_end(execution_id)
        self._size -= channel.size
        for chunk in committed.chunks:
            channel.add(chunk, self._ring_bytes)
        self._size += channel.size
        channel.wake()
        while self._size > self._rings_bytes:
            self._evict()

    def _evict(self) -> None:
        execution_id, channel = next(iter(self._channels.items()))
        self._size -= channel.size
        channel.reset()
        if channel.subscribers:
            self._channels.move_to_end(execution_id)
        else:
            del self._channels[execution_id]

    @property
    def followed(self) -> Collection[ExecutionId]:
        """The executions that somebody follows."""
        return self._followed.keys()

    def grown(self, execution_id: ExecutionId, last_seq: int) -> None:
        """The journal reaches so far, perhaps by another worker's doing."""
        channel = self._followed.get(execution_id)
        if channel is not None and channel.last_seq < last_seq:
            self._size -= channel.size
            channel.reach(last_seq)

    def break_off(self, execution_id: ExecutionId) -> None:
        """Break off the streams of one execution: it is deleted, or there is no more to tell."""
        channel = self._followed.get(execution_id)
        if channel is not None:
            for subscriber in channel.subscribers:
                subscriber.break_off()

    @contextmanager
    def subscribe(self, execution_id: ExecutionId, known_seq: int) -> Iterator[Subscriber]:
        """Follow an execution whose journal is known to reach `known_seq`.

        Raises `StreamBroken` when it is broken off, in place of what was going on inside.
        """
        channel = self._channels.get(execution_id)
        if channel is None:
            channel = self._channels[execution_id] = _Channel()
        if channel.last_seq < known_seq:
            # Committed, and not yet published, or by another worker.
            self._size -= channel.size
            channel.reach(known_seq)
        with anyio.CancelScope() as scope:
            subscriber = Subscriber(self, channel, execution_id, scope)
            channel.subscribers.add(subscriber)
            self._followed[execution_id] = channel
            if self._closed:
                # Not refused: a POST's answer still says where its events will be.
                scope.cancel()
            try:
                yield subscriber
            finally:
                channel.subscribers.discard(subscriber)
                if not channel.subscribers:
                    del self._followed[execution_id]
                    if not channel.chunks:
                        del self._channels[execution_id]
        if scope.cancelled_caught:
            raise StreamBroken("the server is stopping, or the execution is deleted")
