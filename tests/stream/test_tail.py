"""Tails: no gap, no repeat, from every cursor, whatever is in the ring; and the ways they end."""

import random
from functools import partial
from pathlib import Path
from types import AsyncGeneratorType
from typing import Any, cast

import anyio
import pytest

from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.core.wire import FrameDecoder
from dispatch.store.base import Chunk
from dispatch.stream.hub import StreamBroken
from dispatch.stream.tail import follow_events, follow_leg, follow_legs, frames
from tests.stream.journals import (
    Journals,
    Reader,
    call,
    final,
    head,
    journals,
    output,
    parked,
    text,
    turn,
)

RINGS = {"ring": {}, "store": {"ring_bytes": 0}, "both": {"ring_bytes": 3_000}}
rings = pytest.mark.parametrize("ring", list(RINGS.values()), ids=list(RINGS))


async def read_events(made: Journals, id: ExecutionId, after: int = 0) -> Reader:
    """All that a finished execution's tail tells."""
    reader, row = Reader(), await made.store.get(id)
    follow = partial(follow_events, made.store, after=after)
    with anyio.fail_after(10):
        await reader.read(made.hub, id, lambda one: follow(one), row.last_seq)
    return reader


async def read_leg(made: Journals, id: ExecutionId, first_seq: int, *, whole: bool) -> Reader:
    reader, row = Reader(), await made.store.get(id)
    follow = follow_legs if whole else follow_leg
    with anyio.fail_after(10):
        await reader.read(
            made.hub, id, lambda one: follow(made.store, one, first_seq), row.last_seq
        )
    return reader


async def told(made: Journals, *commits: list[Draft]) -> ExecutionId:
    id = await made.create()
    for drafts in commits:
        await made.append(id, *drafts)
    return id


# --- from where -----------------------------------------------------------------------------------


@rings
async def test_every_cursor_gets_exactly_the_rest(tmp_path: Path, ring: dict[str, int]) -> None:
    async with journals(tmp_path / "d.db", **ring) as made:
        id = await told(made, [text()] * 3, [text()], [text()] * 4, [text(), final()])
        for after in range(11):
            reader = await read_events(made, id, after)
            assert reader.error is None
            assert reader.seqs == list(range(after + 1, 12))


@rings
@pytest.mark.parametrize("seed", range(5))
async def test_readers_that_come_at_any_moment_see_one_sequence(
    tmp_path: Path, ring: dict[str, int], seed: int
) -> None:
    draw = random.Random(seed)
    async with journals(tmp_path / "d.db", **ring) as made:
        id = await told(made)
        readers: list[tuple[int, Reader]] = []
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                row = await made.store.get(id)
                if draw.random() < 0.4:
                    after, reader = draw.randint(0, row.last_seq), Reader()
                    readers.append((after, reader))
                    tasks.start_soon(
                        reader.read,
                        made.hub,
                        id,
                        lambda one, after=after: follow_events(made.store, one, after),
                        row.last_seq,
                    )
                await made.append(id, *[text("y" * draw.randint(1, 400))] * draw.randint(1, 6))
            await made.append(id, final())
        last = (await made.store.get(id)).last_seq
        assert readers
        for after, reader in readers:
            assert reader.error is None
            assert reader.seqs == list(range(after + 1, last + 1))


async def test_a_reader_far_behind_is_given_bounded_pieces(tmp_path: Path) -> None:
    async with journals(tmp_path / "d.db", ring_bytes=10_000) as made:
        id = await told(made, *[[text("z" * 1_000)] * 20 for _ in range(60)], [final()])
        sizes: list[int] = []
        with made.subscribe(id, 1202) as subscriber:
            async for batch in follow_events(made.store, subscriber, 0):
                sizes.append(sum(len(chunk.frames) for chunk in batch))
        assert max(sizes) <= 64 * 1024
        # Many frames a piece: a send costs the same however much is in it.
        assert len(sizes) < 50


async def test_a_deleted_execution_breaks_its_streams_off(tmp_path: Path) -> None:
    async with journals(tmp_path / "d.db", ring_bytes=0) as made:
        id = await told(made, [text(), final()])
        with made.subscribe(id, 3) as subscriber:
            await made.store.delete(id)
            with pytest.raises(StreamBroken, match="deleted"):
                await anext(follow_events(made.store, subscriber, 0))


# --- how legs end ---------------------------------------------------------------------------------


@rings
async def test_a_leg_ends_with_the_final_event(tmp_path: Path, ring: dict[str, int]) -> None:
    async with journals(tmp_path / "d.db", **ring) as made:
        id = await told(made, [text()], [text(), final()])
        reader = await read_leg(made, id, 1, whole=False)
        assert (reader.error, reader.seqs) == (None, [1, 2, 3, 4])


@rings
async def test_a_leg_ends_with_the_last_await_of_a_suspension(
    tmp_path: Path, ring: dict[str, int]
) -> None:
    async with journals(tmp_path / "d.db", **ring) as made:
        id = await told(
            made,
            [call("a"), call("b"), turn("a"), turn("b")],
            [head(), output("a"), output("b")],
            [final()],
        )
        first = await read_leg(made, id, 1, whole=False)
        assert (first.error, first.types[-2:]) == (None, ["await", "await"])
        second = await read_leg(made, id, 6, whole=False)
        assert second.error is None
        assert first.seqs + second.seqs == list(range(1, 10))


@rings
async def test_a_leg_ends_when_the_execution_is_parked(
    tmp_path: Path, ring: dict[str, int]
) -> None:
    async with journals(tmp_path / "d.db", **ring) as made:
        id = await told(made, [text()], [parked()], [head()], [final()])
        reader = await read_leg(made, id, 1, whole=False)
        assert (reader.error, reader.types[-1]) == (None, "error")
        assert reader.seqs == [1, 2, 3]


@rings
async def test_the_head_of_the_next_leg_breaks_a_leg_off(
    tmp_path: Path, ring: dict[str, int]
) -> None:
    async with journals(tmp_path / "d.db", **ring) as made:
        id = await told(made, [call("a"), text()], [head(), output("a")], [final()])
        reader = await read_leg(made, id, 1, whole=False)
        assert isinstance(reader.error, StreamBroken)
        assert reader.seqs == [1, 2, 3]


async def test_a_leg_goes_on_while_nothing_ends_it(tmp_path: Path) -> None:
    async with journals(tmp_path / "d.db") as made, anyio.create_task_group() as tasks:
        id, reader = await told(made, [text()]), Reader()
        tasks.start_soon(reader.read, made.hub, id, lambda one: follow_leg(made.store, one, 1), 2)
        await reader.until(lambda: reader.seqs == [1, 2])
        await made.append(id, text())
        await reader.until(lambda: reader.seqs == [1, 2, 3])
        assert not reader.ended.is_set()
        await made.append(id, final())
        await reader.until(reader.ended.is_set)
        assert reader.error is None


@rings
async def test_a_whole_leg_leaves_out_what_is_not_open_any_more(
    tmp_path: Path, ring: dict[str, int]
) -> None:
    async with journals(tmp_path / "d.db", **ring) as made:
        id = await told(
            made,
            [call("a"), call("b"), turn("a"), turn("b")],
            [head(), output("a")],
            [text(), turn("b")],
            [parked()],
            [head(), output("b")],
            [call("c"), turn("c")],
        )
        reader = await read_leg(made, id, 1, whole=True)
        assert reader.error is None
        # 4, 5 and 9 asked for a and b; only c is still open.
        assert reader.seqs == [1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14]
        assert reader.types.count("await") == 1


async def test_a_whole_leg_of_a_finished_execution_goes_to_its_end(tmp_path: Path) -> None:
    async with journals(tmp_path / "d.db") as made:
        id = await told(made, [call("a"), turn("a")], [head(), output("a")], [text()], [final()])
        reader = await read_leg(made, id, 1, whole=True)
        assert (reader.error, reader.seqs) == (None, [1, 2, 4, 5, 6, 7])


async def test_a_whole_leg_follows_what_still_runs(tmp_path: Path) -> None:
    async with journals(tmp_path / "d.db") as made, anyio.create_task_group() as tasks:
        id = await told(made, [call("a"), turn("a")], [head(), output("a")])
        reader = Reader()
        tasks.start_soon(reader.read, made.hub, id, lambda one: follow_legs(made.store, one, 4), 5)
        await reader.until(lambda: reader.seqs == [4, 5])
        await made.append(id, call("b"), turn("b"))
        await reader.until(reader.ended.is_set)
        assert (reader.error, reader.seqs) == (None, [4, 5, 6, 7])


@rings
async def test_events_go_on_through_suspensions_and_parking_until_the_end(
    tmp_path: Path, ring: dict[str, int]
) -> None:
    async with journals(tmp_path / "d.db", **ring) as made:
        id = await told(made, [call("a"), turn("a")], [parked()], [head(), output("a")], [final()])
        reader = await read_events(made, id)
        assert (reader.error, reader.seqs) == (None, [1, 2, 3, 4, 5, 6, 7])


# --- silence --------------------------------------------------------------------------------------


async def test_silence_is_told_after_ten_seconds_and_again(tmp_path: Path) -> None:
    async with journals(tmp_path / "d.db") as made, anyio.create_task_group() as tasks:
        id, reader = await told(made), Reader()
        tasks.start_soon(reader.read, made.hub, id, lambda one: follow_leg(made.store, one, 1))
        await reader.until(lambda: reader.seqs == [1])
        for number in (1, 2, 3):
            for _ in range(9):
                await pass_a_second(made)
            assert reader.silences == number - 1
            await pass_a_second(made)
            await reader.until(lambda number=number: reader.silences == number)  # type: ignore[misc]
        tasks.cancel_scope.cancel()


async def test_a_stream_that_is_not_silent_is_not_told_so(tmp_path: Path) -> None:
    async with journals(tmp_path / "d.db") as made, anyio.create_task_group() as tasks:
        id, reader = await told(made), Reader()
        tasks.start_soon(reader.read, made.hub, id, lambda one: follow_leg(made.store, one, 1))
        for seq in range(2, 6):
            for _ in range(9):
                await pass_a_second(made)
            await made.append(id, text())
            await reader.until(lambda seq=seq: seq in reader.seqs)  # type: ignore[misc]
        assert reader.silences == 0
        tasks.cancel_scope.cancel()


async def pass_a_second(made: Journals) -> None:
    """Let the hub's clock tick, and everybody it wakes have their turn."""
    before = made.hub.ticks
    made.clock.advance(1.0)
    with anyio.fail_after(5):
        while made.hub.ticks == before:
            await anyio.lowlevel.checkpoint()
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


async def test_a_ping_has_the_last_seq_and_no_id(tmp_path: Path) -> None:
    async with journals(tmp_path / "d.db") as made:
        id = await told(made, [text()])
        with made.subscribe(id, 2) as subscriber:
            pieces = frames(follow_leg(made.store, subscriber, 1), subscriber, 0, made.clock)
            decoder = FrameDecoder()
            assert [frame.id for frame in decoder.feed(await anext(pieces))] == ["1", "2"]
            async with anyio.create_task_group() as tasks:

                async def ten_seconds() -> None:
                    for _ in range(10):
                        await pass_a_second(made)

                tasks.start_soon(ten_seconds)
                ping = FrameDecoder().feed(await anext(pieces))
            assert [frame.event for frame in ping] == ["ping"]
            assert '"seq":2' in ping[0].data
            assert ping[0].id is None


# --- what a consumer that does not read costs -----------------------------------------------------


async def test_a_tail_holds_nothing_while_its_consumer_is_busy(tmp_path: Path) -> None:
    async with journals(tmp_path / "d.db", ring_bytes=0) as made:
        id = await told(made, *[[text("z" * 1_000)] * 10 for _ in range(40)])
        with made.subscribe(id, 401) as subscriber:
            batches = follow_leg(made.store, subscriber, 1)
            pieces = frames(batches, subscriber, 0, made.clock)
            piece = await anext(pieces)
            assert len(piece) <= 64 * 1024
            frame = cast(AsyncGeneratorType[Any, Any], batches).ag_frame
            assert frame is not None
            held = frame.f_locals
            assert held["batch"] == []
            assert not any(isinstance(value, Chunk) for value in held.values())


async def test_a_silent_tail_leaves_nothing_large_with_its_consumer(tmp_path: Path) -> None:
    async with journals(tmp_path / "d.db", ring_bytes=0) as made:
        id = await told(made, [text("z" * 10_000)])
        with made.subscribe(id, 2) as subscriber:
            pieces = frames(follow_leg(made.store, subscriber, 1), subscriber, 0, made.clock)
            assert len(await anext(pieces)) > 10_000
            # Which has the place of the large one until there is something to send.
            assert await anext(pieces) == b""
            frame = cast(AsyncGeneratorType[Any, Any], pieces).ag_frame
            assert frame is not None
            assert frame.f_locals["piece"] == b""
