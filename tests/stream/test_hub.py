"""The ring: contiguous or reset, bounded, and waking those who follow."""

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Edge
from dispatch.core.lifecycle import Status
from dispatch.store.base import Chunk, Committed, Execution
from dispatch.stream.hub import TAKE_BYTES, Hub, StreamBroken
from tests.engine.worker import FakeClock
from tests.stream.journals import journals, text

ID = ExecutionId("exec_1")


def committed(
    first: int, last: int, *, id: ExecutionId = ID, size: int = 10, private: bytes | None = None
) -> Committed:
    """Entries `first` to `last`, each a frame of about `size` bytes, in one chunk."""
    frames = b"".join(b"data: %d%b\n\n" % (seq, b"." * size) for seq in range(first, last + 1))
    count = last - first + 1
    chunk = Chunk(
        first,
        last,
        0.0,
        first == 1,
        Edge.NONE,
        "f" * count,
        frames,
        [private] * count if private else None,
    )
    row = Execution(
        id=id,
        flow="f",
        version=1,
        kind="flow",
        status=Status.RUNNING,
        last_seq=last,
        leg_seq=1,
        segment_seq=1,
        created_at=0.0,
        updated_at=0.0,
    )
    return Committed(row, first, 0.0, (), [chunk])


def seqs(chunks: list[Chunk] | None) -> list[int] | None:
    if chunks is None:
        return None
    told = [seq for chunk in chunks for seq in range(chunk.first_seq, chunk.last_seq + 1)]
    frames = b"".join(chunk.frames for chunk in chunks)
    assert [int(frame[6:].rstrip(b".")) for frame in frames.split(b"\n\n")[:-1]] == told
    return told


@pytest.mark.parametrize("after", range(8))
async def test_any_cursor_within_the_ring_is_answered_exactly(after: int) -> None:
    hub = Hub(FakeClock())
    for first, last in ((1, 1), (2, 4), (5, 7)):
        hub.publish(committed(first, last))
    with hub.subscribe(ID, 7) as subscriber:
        assert seqs(subscriber.take(after)) == list(range(after + 1, 8))


async def test_a_cursor_below_the_ring_is_for_the_store() -> None:
    hub = Hub(FakeClock(), ring_bytes=4_000)
    for seq in range(1, 100):
        hub.publish(committed(seq, seq, size=200))
    with hub.subscribe(ID, 99) as subscriber:
        assert subscriber.take(1) is None
        assert seqs(subscriber.take(98)) == [99]


async def test_a_gap_resets_the_ring() -> None:
    hub = Hub(FakeClock())
    hub.publish(committed(1, 3))
    hub.publish(committed(6, 7))
    with hub.subscribe(ID, 7) as subscriber:
        assert subscriber.take(2) is None
        assert seqs(subscriber.take(5)) == [6, 7]


async def test_what_is_committed_and_not_yet_published_is_for_the_store() -> None:
    hub = Hub(FakeClock())
    hub.publish(committed(1, 3))
    with hub.subscribe(ID, known_seq=4) as subscriber:
        assert subscriber.take(3) is None
        assert subscriber.take(4) == []
        hub.publish(committed(4, 4))
        hub.publish(committed(5, 5))
        assert seqs(subscriber.take(3)) == [4, 5]


async def test_rings_of_all_executions_together_are_bounded_and_the_oldest_go_first() -> None:
    hub = Hub(FakeClock(), rings_bytes=20_000)
    for number in range(50):
        hub.publish(committed(1, 1, id=ExecutionId(f"exec_{number}"), size=1_000))
    with hub.subscribe(ExecutionId("exec_49"), 1) as newest:
        assert seqs(newest.take(0)) == [1]
    with hub.subscribe(ExecutionId("exec_0"), 1) as oldest:
        assert oldest.take(0) is None


async def test_a_followed_execution_survives_the_loss_of_its_ring() -> None:
    hub = Hub(FakeClock(), rings_bytes=20_000)
    hub.publish(committed(1, 1))
    with hub.subscribe(ID, 1) as subscriber:
        for number in range(50):
            hub.publish(committed(1, 1, id=ExecutionId(f"exec_x{number}"), size=1_000))
        assert subscriber.take(0) is None
        hub.publish(committed(2, 2))
        assert seqs(subscriber.take(1)) == [2]


async def test_what_is_taken_at_once_is_bounded() -> None:
    hub = Hub(FakeClock())
    for seq in range(1, 200):
        hub.publish(committed(seq, seq, size=2_000))
    with hub.subscribe(ID, 199) as subscriber:
        taken = subscriber.take(0) or []
        assert 0 < sum(len(chunk.frames) for chunk in taken) <= TAKE_BYTES


async def test_private_parts_do_not_stay_in_the_ring() -> None:
    hub = Hub(FakeClock())
    hub.publish(committed(1, 2, private=b"secret"))
    with hub.subscribe(ID, 2) as subscriber:
        assert [chunk.private for chunk in subscriber.take(0) or ()] == [None]


async def test_growth_wakes_all_who_follow() -> None:
    hub = Hub(FakeClock())
    woken: list[int] = []

    async def follow(number: int) -> None:
        with hub.subscribe(ID, 0) as subscriber:
            await subscriber.wait()
            woken.append(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(follow, number)
            while len(hub._channels) == 0 or len(hub._channels[ID].subscribers) < 3:
                await anyio.lowlevel.checkpoint()
            hub.publish(committed(1, 1))
    assert sorted(woken) == [0, 1, 2]


@pytest.mark.parametrize("how", ["close", "break_off"])
async def test_breaking_off_raises_where_the_stream_is(how: str) -> None:
    hub = Hub(FakeClock())
    waiting = anyio.Event()

    async def follow() -> None:
        with pytest.raises(StreamBroken):
            await hang()

    async def hang() -> None:
        with hub.subscribe(ID, 0):
            waiting.set()
            await anyio.sleep_forever()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await waiting.wait()
            if how == "close":
                hub.close()
            else:
                hub.break_off(ID)


async def test_after_closing_a_stream_is_broken_off_at_its_first_wait() -> None:
    hub = Hub(FakeClock())
    hub.close()
    with pytest.raises(StreamBroken), hub.subscribe(ID, 0):
        await anyio.lowlevel.checkpoint()


async def test_an_execution_that_nobody_follows_and_nothing_is_kept_of_leaves_no_trace(
    tmp_path: Path,
) -> None:
    async with journals(tmp_path / "d.db", rings_bytes=0) as made:
        for _ in range(5):
            id = await made.create()
            with made.subscribe(id):
                await made.append(id, text())
        assert not made.hub._channels
        assert not made.hub._followed


# --- what another worker has appended ---------------------------------------------------------


async def test_growth_elsewhere_is_read_from_the_store() -> None:
    hub = Hub(FakeClock())
    hub.publish(committed(1, 3))
    with hub.subscribe(ID, 3) as subscriber:
        assert seqs(subscriber.take(1)) == [2, 3]
        hub.grown(ID, 5)
        assert subscriber.known_seq == 5
        assert subscriber.take(1) is None
        hub.publish(committed(6, 6))
        assert subscriber.take(4) is None
        assert seqs(subscriber.take(5)) == [6]


async def test_what_is_known_already_resets_no_ring() -> None:
    hub = Hub(FakeClock())
    with hub.subscribe(ID, 0) as subscriber:
        hub.publish(committed(1, 3))
        hub.grown(ID, 2)
        hub.grown(ID, 3)
        assert seqs(subscriber.take(0)) == [1, 2, 3]


async def test_nothing_is_kept_of_what_nobody_follows() -> None:
    hub = Hub(FakeClock())
    hub.grown(ID, 5)
    assert not hub._channels
    with hub.subscribe(ID, 0):
        assert list(hub.followed) == [ID]
    assert list(hub.followed) == []


@pytest.mark.parametrize("how", ["told", "by a newcomer"])
async def test_those_who_wait_learn_of_growth_elsewhere(how: str) -> None:
    hub = Hub(FakeClock())
    waiting, woken = anyio.Event(), anyio.Event()

    async def follow() -> None:
        with hub.subscribe(ID, 1) as subscriber:
            waiting.set()
            await subscriber.wait()
            assert subscriber.known_seq == 4
            woken.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await waiting.wait()
            await anyio.lowlevel.checkpoint()
            if how == "told":
                hub.grown(ID, 4)
            else:
                with hub.subscribe(ID, 4):
                    pass
            await woken.wait()
