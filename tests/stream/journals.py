"""Journals as these tests write them: drafts appended straight to a real store, no engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import anyio

from dispatch.core import events
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import CallPrivate, Draft, Origin, StartPrivate, draft, text_delta
from dispatch.core.wire import FrameDecoder
from dispatch.store.base import NewExecution
from dispatch.store.sqlite import SqliteStore
from dispatch.stream.hub import Hub, Subscriber
from dispatch.stream.tail import Batch
from tests.engine.worker import FakeClock

AT = "2026-01-01T00:00:00.000Z"
PATIENCE_SECONDS = 10.0


def start() -> Draft:
    event = events.ExecutionStart(kind="flow", started_at=AT, flow_id="f")
    return draft(event, Origin.WORLD, StartPrivate(seed="seed"))


def head() -> Draft:
    event = events.ExecutionStart(kind="flow", started_at=AT, resumed=True)
    return draft(event, Origin.ENGINE)


def text(delta: str = "x") -> Draft:
    return text_delta("text_1", delta, Origin.FLOW)


def call(id: str) -> Draft:
    event = events.ToolStart(tool_call_id=id, tool_name="look", tool_type="local")
    return draft(event, Origin.FLOW, CallPrivate())


def turn(id: str) -> Draft:
    return draft(events.Await(tool_call_id=id, tool_name="look", parameters={}), Origin.ENGINE)


def output(id: str) -> Draft:
    return draft(events.ToolComplete(tool_call_id=id, success=True, result=1), Origin.WORLD)


def parked() -> Draft:
    event = events.Error(error="diverged", code="divergence", recoverable=False)
    return draft(event, Origin.ENGINE)


def final() -> Draft:
    return draft(events.ExecutionComplete(kind="flow", success=True), Origin.FLOW)


class Journals:
    """A store and a hub that listens to it. `append` is one commit each."""

    def __init__(self, store: SqliteStore, hub: Hub, clock: FakeClock):
        self.store, self.hub, self.clock = store, hub, clock
        self._ids = count(1)

    async def create(self) -> ExecutionId:
        id = ExecutionId(f"exec_{next(self._ids):032x}")
        await self.store.create(
            NewExecution(id=id, flow="f", version=1, kind="flow", start=start(), worker="w")
        )
        return id

    async def append(self, id: ExecutionId, *drafts: Draft) -> None:
        row = await self.store.get(id)
        if row.worker is None:
            taken = await self.store.acquire(id, "w")
            assert taken is not None
            row = taken
        await self.store.append(
            id, (), drafts, expected_seq=row.last_seq, token=row.token, release=False
        )

    @contextmanager
    def subscribe(self, id: ExecutionId, known_seq: int = 1) -> Iterator[Subscriber]:
        with self.hub.subscribe(id, known_seq) as subscriber:
            yield subscriber


@asynccontextmanager
async def journals(path: Path, **rings: int) -> AsyncIterator[Journals]:
    clock = FakeClock()
    store = SqliteStore(path, clock=clock)
    hub = Hub(clock, **rings)
    store.listener = hub.publish
    async with store.session("w"), hub.open():
        yield Journals(store, hub, clock)


class Reader:
    """What one tail has told so far; reads in a task of its own."""

    def __init__(self) -> None:
        self.frames = b""
        self.silences = 0
        self.error: BaseException | None = None
        self.ended = anyio.Event()
        self._changed = anyio.Event()

    async def read(
        self,
        hub: Hub,
        id: ExecutionId,
        follow: Callable[[Subscriber], AsyncIterator[Batch]],
        known_seq: int = 1,
    ) -> None:
        try:
            with hub.subscribe(id, known_seq) as subscriber:
                async for batch in follow(subscriber):
                    self.frames += b"".join(chunk.frames for chunk in batch)
                    self.silences += not batch
                    self._tell()
        except Exception as exc:
            self.error = exc
        self.ended.set()
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, is_so: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            while not is_so():
                await self._changed.wait()

    @property
    def seqs(self) -> list[int]:
        return [int(frame.id or "-1") for frame in FrameDecoder().feed(self.frames)]

    @property
    def types(self) -> list[str]:
        return [frame.event for frame in FrameDecoder().feed(self.frames)]
