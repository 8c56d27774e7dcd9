"""Two workers on one file: each sees what the other does to what it drives, or is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from dispatch import Flow, Run, flow, gather, result, step, tool
from dispatch.core.errors import Unavailable
from dispatch.core.ids import ExecutionId
from dispatch.core.lifecycle import Status
from dispatch.flow import FlowVersion
from dispatch.store.base import Execution, Store
from tests.engine.worker import PATIENCE_SECONDS, Bench, Play, Worker

Pair = tuple[Worker, Worker]


class Gate:
    """Steps wait at it until it is opened."""

    def __init__(self) -> None:
        self.opened = anyio.Event()
        self.begun = self.cancelled = 0

    async def wait(self) -> str:
        self.begun += 1
        try:
            await self.opened.wait()
        except BaseException:
            self.cancelled += 1
            raise
        return "held"


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def flows(gate: Gate) -> list[FlowVersion]:
    @step
    async def hold() -> str:
        return await gate.wait()

    @flow("asks")
    async def asks(run: Run[Any]) -> Flow:
        answer = yield tool("look", {})
        yield f"seen {answer}"
        yield result((answer, (yield tool("look", {"again": True}))))

    @flow("beside")
    async def beside(run: Run[Any]) -> Flow:
        yield result((yield gather(tool("look", {}), hold())))

    @flow("holds")
    async def holds(run: Run[Any]) -> Flow:
        yield result((yield hold()))

    return [asks, beside, holds]


@asynccontextmanager
async def pair(bench: Bench, flows: list[FlowVersion]) -> AsyncIterator[Pair]:
    async with bench.worker(*flows) as one, bench.worker(*flows) as other:
        yield one, other


async def until(worker: Worker, is_so: Callable[[], bool]) -> None:
    """Let time pass, as the watch sees it, until that is so."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while not is_so():
            worker.clock.advance(0.03)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()


@contextmanager
def time_passing(tasks: anyio.abc.TaskGroup, worker: Worker) -> Iterator[None]:
    tasks.start_soon(until, worker, lambda: False)
    yield
    tasks.cancel_scope.cancel()


def warm(worker: Worker, play: Play) -> bool:
    return play.id in worker.engine._runners


async def test_a_warm_generator_is_dropped_when_another_drove(
    bench: Bench, flows: list[FlowVersion]
) -> None:
    async with pair(bench, flows) as (one, other):
        play = await one.play("asks")
        if bench.max_live:
            assert warm(one, play)
        # While it is suspended it is nobody's: whoever goes on with it takes it over from nobody.
        assert (await play.execution()).worker is None
        await play.at(other).answer("look", 1)
        await until(one, lambda: not warm(one, play))
        await play.answer("look", 2)
        assert await play.result() == [1, 2]
        assert (one.store.counters.taken_over, other.store.counters.taken_over) == (0, 0)


async def test_what_another_appends_reaches_the_driver(
    bench: Bench, flows: list[FlowVersion], gate: Gate
) -> None:
    async with pair(bench, flows) as (one, other):
        play = await one.dispatch("beside")
        await play.sees("tool_start")
        call = (await play.open("look"))[0].id
        await other.engine.dispatcher.resume(play.id, {call: "sun"}, None)
        runner = one.engine._runners[play.id]
        await until(one, lambda: not runner._inbox and runner._inbox.seen_seq > 5)
        gate.opened.set()
        await play.rest()
        assert await play.result() == ["sun", "held"]
        assert gate.cancelled == 0


async def test_a_cancel_given_to_another_ends_what_is_driven_here(
    bench: Bench, flows: list[FlowVersion], gate: Gate
) -> None:
    async with pair(bench, flows) as (one, other), anyio.create_task_group() as tasks:
        play = await one.dispatch("holds")
        await play.sees("dispatch.step_attempt")
        with time_passing(tasks, one):
            ended = await other.engine.dispatcher.cancel(play.id, None)
        assert ended.status is Status.CANCELLED
        assert gate.cancelled == 1


async def test_who_lost_its_lease_stops_its_steps_and_the_other_begins_them(
    bench: Bench, flows: list[FlowVersion], gate: Gate
) -> None:
    async with pair(bench, flows) as (one, other):
        play = await one.dispatch("holds")
        await play.sees("dispatch.step_attempt")
        row = await play.execution()
        await one.store.release(play.id, token=row.token, runnable=True)
        taken = await other.store.acquire(play.id, other.engine.worker)
        assert taken is not None
        other.engine.drive(taken)
        await until(one, lambda: gate.cancelled == 1 and play.id not in one.engine._runners)
        await play.sees("dispatch.step_attempt", 2)
        gate.opened.set()
        await play.rest()
        assert await play.result() == "held"


async def test_what_somebody_let_go_of_is_taken_up(
    bench: Bench, flows: list[FlowVersion], gate: Gate
) -> None:
    async with bench.worker(*flows) as one:
        async with bench.worker(*flows) as other:
            play = await other.dispatch("holds")
            await play.sees("dispatch.step_attempt")
            await until(one, lambda: not one.store.is_alone)
        mine = play.at(one)
        await until(one, lambda: mine.id in one.engine._runners)
        gate.opened.set()
        await mine.rest()
        assert await mine.result() == "held"


async def test_followers_learn_how_far_the_journal_reaches_and_when_it_is_deleted(
    bench: Bench, flows: list[FlowVersion]
) -> None:
    async with pair(bench, flows) as (one, other):
        play = await other.play("asks")
        one.hub.followed.add(play.id)
        last_seq = (await play.execution()).last_seq
        await until(one, lambda: one.hub.known.get(play.id) == last_seq)
        await play.cancel()
        await other.store.delete(play.id)
        await until(one, lambda: not one.hub.followed)


# --- after a standstill ---------------------------------------------------------------------------


class LapsedStore:
    """Its worker is said to have stood still, until it `renews`; it `can_beat`, or not. It does so
    when it has peeked, if it `falls`, or so many turns of the loop after an append: `falls_in`.
    """

    is_leased: bool
    falls: bool
    falls_in: int | None
    standstills: int
    on_fall: Callable[[], None]

    def __init__(self, store: Store, *, can_beat: bool):
        self.__dict__.update(
            _store=store,
            is_leased=True,
            renews=False,
            can_beat=can_beat,
            falls=False,
            falls_in=None,
            standstills=0,
            calls=[],
            on_fall=lambda: None,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            self.__dict__[name] = value
        else:
            setattr(self._store, name, value)

    def peek(self, execution_ids: Collection[ExecutionId]) -> list[Execution]:
        rows: list[Execution] = self._store.peek(execution_ids)
        self.calls.append("peek")
        if self.falls:
            self._fall(0)
        return rows

    async def append(self, *what: Any, **how: Any) -> Any:
        appended = await self._store.append(*what, **how)
        if self.falls_in is not None:
            self._fall(self.falls_in)
        return appended

    def _fall(self, turns: int) -> None:
        self.falls, self.falls_in = False, None
        if turns:
            asyncio.get_running_loop().call_soon(self._fall, turns - 1)
            return
        self.is_leased = False
        self.standstills += 1
        self.calls.append("fall")
        self.on_fall()

    def renew(self, standstills: int) -> bool:
        self.is_leased = self.renews and standstills == self.standstills
        if self.is_leased:
            self.calls.append("renewed")
        return bool(self.can_beat)


def lapsing(made: list[LapsedStore], *, can_beat: bool) -> Callable[[Store], Store]:
    def wrap(store: Store) -> Store:
        made.append(LapsedStore(store, can_beat=can_beat))
        return cast(Store, made[0])

    return wrap


async def test_no_step_begins_before_what_is_lost_has_been_looked_at(
    bench: Bench, flows: list[FlowVersion], gate: Gate
) -> None:
    made: list[LapsedStore] = []
    async with bench.worker(*flows, wrap=lapsing(made, can_beat=True)) as one:
        made[0].is_leased = False
        play = await one.dispatch("holds")
        await play.sees("dispatch.step_attempt")
        for _ in range(50):
            one.clock.advance(0.03)
            await anyio.lowlevel.checkpoint()
        assert gate.begun == 0
        made[0].renews = made[0].can_beat = True
        await until(one, lambda: gate.begun == 1)
        gate.opened.set()
        await play.rest()
        assert (await play.kinds()).count("dispatch.step_attempt") == 1


@pytest.mark.parametrize("turns", range(6))
async def test_no_step_begins_after_a_standstill_at_any_moment(
    bench: Bench, flows: list[FlowVersion], gate: Gate, turns: int
) -> None:
    made: list[LapsedStore] = []
    async with bench.worker(*flows, wrap=lapsing(made, can_beat=True)) as one:
        begun: list[int] = []
        made[0].falls_in, made[0].on_fall = turns, lambda: begun.append(gate.begun)
        play = await one.dispatch("holds")
        await until(one, lambda: bool(begun))
        for _ in range(20):
            one.clock.advance(0.03)
            await anyio.lowlevel.checkpoint()
        assert [gate.begun] == begun
        made[0].renews = True
        await until(one, lambda: gate.begun == 1)
        gate.opened.set()
        await play.rest()
        assert gate.begun == 1


async def test_what_was_seen_before_a_standstill_is_looked_at_again(
    bench: Bench, flows: list[FlowVersion], gate: Gate
) -> None:
    made: list[LapsedStore] = []
    async with bench.worker(*flows, wrap=lapsing(made, can_beat=True)) as one:
        made[0].falls = made[0].renews = True
        play = await one.dispatch("holds")
        await until(one, lambda: "renewed" in made[0].calls)
        calls = made[0].calls
        assert "peek" in calls[calls.index("fall") : calls.index("renewed")]
        gate.opened.set()
        await play.rest()


async def test_who_cannot_beat_drives_nothing_and_takes_nothing(
    bench: Bench, flows: list[FlowVersion], gate: Gate
) -> None:
    made: list[LapsedStore] = []
    async with bench.worker(*flows, wrap=lapsing(made, can_beat=False)) as one:
        play = await one.dispatch("holds")
        await until(one, lambda: gate.begun == 1)
        made[0].is_leased = False
        await until(one, lambda: gate.cancelled == 1 and play.id not in one.engine._runners)
        with anyio.fail_after(PATIENCE_SECONDS):
            while not (row := await play.execution()).runnable:
                await anyio.lowlevel.checkpoint()
        for _ in range(50):
            one.clock.advance(0.1)
            await anyio.lowlevel.checkpoint()
        assert await play.execution() == row
        made[0].renews = made[0].can_beat = True
        await until(one, lambda: gate.begun == 2)
        gate.opened.set()
        await play.rest()
        assert await play.result() == "held"


# --- faults ---------------------------------------------------------------------------------------


class Unreadable:
    """A store that cannot be asked whether others have changed it, once `fails` is set."""

    def __init__(self, store: Store):
        self.__dict__.update(sound=store, fails=False, asked=0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sound, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.sound, name, value)

    def has_changed(self) -> bool:
        self.__dict__["asked"] += 1
        if self.fails:
            raise Unavailable("made to fail", code="store-failed")
        return cast(bool, self.sound.has_changed())


async def test_what_cannot_be_read_is_not_asked_for_again_and_again(
    bench: Bench, flows: list[FlowVersion]
) -> None:
    unreadable: list[Unreadable] = []

    def wrap(store: Store) -> Store:
        unreadable.append(Unreadable(store))
        return cast(Store, unreadable[0])

    async with bench.worker(*flows), bench.worker(*flows, wrap=wrap) as one:
        [store] = unreadable
        await until(one, lambda: not store.is_alone and store.asked > 3)
        store.__dict__["fails"] = True
        failed_from = store.asked
        await until(one, lambda: store.asked > failed_from)
        failed_at, before = one.clock.now(), store.asked
        await until(one, lambda: one.clock.now() >= failed_at + 0.5)
        assert store.asked == before
        await until(one, lambda: store.asked > before)
