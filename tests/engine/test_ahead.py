"""Drivers that go ahead of the commit of what they stand on: nobody sees, and nothing is done,
before that is durable; and if it comes to nothing it was never so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatch import Cancelled, Flow, Run, flow, result, step, tool
from dispatch.core.errors import Unavailable
from dispatch.core.lifecycle import Status
from dispatch.engine.strays import LOOK_SECONDS
from dispatch.store.sqlite import SqliteStore
from tests.engine.worker import PATIENCE_SECONDS, Bench, Play, Worker
from tests.store.test_faults import Failing


async def until(fact: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while not fact():
            await anyio.lowlevel.checkpoint()


def sqlite_of(worker: Worker) -> SqliteStore:
    assert isinstance(worker.store, SqliteStore)
    return worker.store


def fail_next_commit(worker: Worker) -> None:
    store = sqlite_of(worker)
    failing = Failing(store._writer._db, "COMMIT", sqlite3.SQLITE_FULL)
    store._writer._db = failing  # type: ignore[assignment]


class Misreported:
    """A connection whose next COMMIT is carried out, and reports an error all the same."""

    def __init__(self, db: Any):
        self._db, self._times = db, 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, statement: str, *parameters: Any) -> Any:
        done = self._db.execute(statement, *parameters)
        if statement == "COMMIT" and self._times:
            self._times = 0
            error = sqlite3.OperationalError("it is carried out")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return done


async def works_again(worker: Worker) -> None:
    """The fault is over, and nothing is left of who had gone ahead."""
    await until(lambda: worker.store.fault is None)
    await until(lambda: worker.engine.running_count == 0)


@flow("asks")
async def asks(run: Run[Any]) -> Flow:
    yield "Let me see. "
    output = yield tool("look")
    yield f"I see {output}."
    yield result(output)


async def test_a_cycle_is_two_commits_if_it_is_warm(bench: Bench) -> None:
    async with bench.worker(asks) as worker:
        counters = worker.store.counters
        commits = counters.commits
        play = await worker.play(asks)
        assert counters.commits == commits + 1
        await play.answer("look", "snow")
        # Cold it is read from the store first, for which it has to be there.
        assert counters.commits == commits + (3 if bench.max_live == 0 else 2)
        assert await play.result() == "snow"
        published = [(entry.seq, entry.kind) for entry in worker.hub.published[play.id]]
        assert published == [(entry.seq, entry.kind) for entry in await play.entries()]


async def test_a_step_begins_behind_the_commit_of_what_led_to_it(bench: Bench) -> None:
    seen: list[str] = []

    @step
    async def look() -> str:
        seen.extend(await play_of[0].kinds())
        return "seen"

    @flow("steps")
    async def steps(run: Run[Any]) -> Flow:
        play_of.append(Play(worker, run.id))
        yield result((yield look()))

    play_of: list[Play] = []
    async with bench.worker(steps) as worker:
        await worker.play(steps)
        assert seen == ["execution_start", "step_start", "dispatch.step_attempt"]


async def test_of_a_dispatch_that_could_not_be_committed_nothing_is_left(bench: Bench) -> None:
    begun: list[str] = []
    done: list[str] = []

    @step
    async def pay() -> None:
        done.append("paid")

    @flow("pays")
    async def pays(run: Run[Any]) -> Flow:
        begun.append(run.id)
        yield "Paying. "
        yield pay()
        yield result("paid")

    async with bench.worker(pays) as worker:
        fail_next_commit(worker)
        with pytest.raises(Unavailable) as full:
            await worker.dispatch(pays)
        assert full.value.code == "store-full"
        await works_again(worker)
        assert (len(begun), done, worker.hub.published) == (1, [], {})
        assert await worker.store.executions() == []

        play = await worker.play(pays)
        assert await play.result() == "paid"
        assert done == ["paid"]
        assert list(worker.hub.published) == [play.id]


async def test_a_resume_that_could_not_be_committed_can_be_asked_for_again(bench: Bench) -> None:
    said: list[Any] = []

    @flow("repeats")
    async def repeats(run: Run[Any]) -> Flow:
        output = yield tool("look")
        said.append(output)
        yield f"I see {output}."
        yield result((yield tool("look")))

    async with bench.worker(repeats) as worker:
        play = await worker.play(repeats)
        before = await play.entries()
        fail_next_commit(worker)
        (call,) = await play.open("look")
        with pytest.raises(Unavailable):
            await play.resume({call.id: "fog"})
        await works_again(worker)
        assert (await play.entries(), await play.status()) == (before, Status.SUSPENDED)
        assert said == ([] if bench.max_live == 0 else ["fog"])

        # Another answer than the one that came to nothing: it is the first.
        await play.answer("look", "snow")
        assert await play.text() == "I see snow."
        await play.answer("look", "sun")
        assert await play.result() == "sun"


async def test_a_cancel_that_could_not_be_committed_has_cancelled_nothing(bench: Bench) -> None:
    @flow("undoes")
    async def undoes(run: Run[Any]) -> Flow:
        try:
            yield result((yield tool("look")))
        except Cancelled:
            yield "undone"

    async with bench.worker(undoes) as worker:
        play = await worker.play(undoes)
        fail_next_commit(worker)
        with pytest.raises(Unavailable):
            await play.cancel()
        await works_again(worker)
        assert await play.status() is Status.SUSPENDED
        await play.answer("look", "snow")
        assert await play.result() == "snow"
        assert await play.text() == ""


async def test_who_went_ahead_of_a_commit_that_failed_is_called_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[str] = []

    @flow("hangs")
    async def hangs(run: Run[Any]) -> Flow:
        try:
            await anyio.sleep_forever()
            yield "never"
        finally:
            closed.append(run.id)

    async with bench.worker(hangs) as worker:
        fail_next_commit(worker)
        with pytest.raises(Unavailable):
            await worker.dispatch(hangs)
        await works_again(worker)
        assert len(closed) == 1
        assert "could not let go" not in caplog.text


async def test_a_commit_that_lands_and_reports_an_error_leaves_nobody_stuck(bench: Bench) -> None:
    gate = anyio.Event()

    @flow("gated")
    async def gated(run: Run[Any]) -> Flow:
        output = yield tool("look")
        await gate.wait()
        yield result(output)

    async with bench.worker(gated) as worker:
        play = await worker.play(gated)
        (call,) = await play.open("look")
        store = sqlite_of(worker)
        store._writer._db = Misreported(store._writer._db)  # type: ignore[assignment]
        with pytest.raises(Unavailable):
            await play.resume({call.id: "snow"})
        gate.set()
        with anyio.fail_after(PATIENCE_SECONDS):
            while await play.status() is not Status.COMPLETED:
                worker.clock.advance(LOOK_SECONDS)
                await anyio.lowlevel.checkpoint()
        assert await play.result() == "snow"


async def test_a_time_limit_begins_when_its_call_is_made(bench: Bench) -> None:
    @flow("holds")
    async def holds(run: Run[Any]) -> Flow:
        worker.clock.advance(10)  # as one that holds the loop for so long
        yield result((yield tool("look", timeout=1)))

    async with bench.worker(holds) as worker:
        play = await worker.play(holds)
        (wait,) = await play.open("look")
        assert wait.due_at == worker.clock.now() + 1


async def test_whoever_dies_before_the_commit_has_left_what_was_before(bench: Bench) -> None:
    left: list[int] = []

    @flow("dies")
    async def dies(run: Run[Any]) -> Flow:
        # What a SIGKILL here would leave: only what is committed.
        left.extend(row.last_seq for row in worker.store.peek([run.id]))
        output = yield tool("look")
        left.extend(row.last_seq for row in worker.store.peek([run.id]))
        yield result(output)

    async with bench.worker(dies) as worker:
        play = await worker.play(dies)
        assert left == []
        await play.answer("look", "snow")
        assert left == ([3] if bench.max_live else [5, 5])


async def test_a_caller_who_leaves_has_begun_it_all_the_same(bench: Bench) -> None:
    async with bench.worker(asks) as worker:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.dispatch, asks)
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        await until(lambda: bool(worker.hub.published))
        (id,) = worker.hub.published
        await Play(worker, id).rest()
        assert await Play(worker, id).status() is Status.SUSPENDED


async def test_a_flow_that_takes_its_time_keeps_nobody_waiting(bench: Bench) -> None:
    gate = anyio.Event()

    @flow("slow")
    async def slow(run: Run[Any]) -> Flow:
        await gate.wait()
        yield result("at last")

    async with bench.worker(slow) as worker:
        with anyio.fail_after(PATIENCE_SECONDS):
            play = await worker.dispatch(slow)
        assert await play.kinds() == ["execution_start"]
        gate.set()
        await play.rest()
        assert await play.result() == "at last"


REQUEST: ContextVar[str] = ContextVar("REQUEST", default="none")


async def test_a_flow_does_not_find_the_context_of_whoever_dispatched_it(bench: Bench) -> None:
    seen: list[str] = []

    @flow("looks")
    async def looks(run: Run[Any]) -> Flow:
        seen.append(REQUEST.get())
        yield tool("look")

    async with bench.worker(looks) as worker:
        REQUEST.set("mine")
        await worker.play(looks)
        assert seen == ["none"]
