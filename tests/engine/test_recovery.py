"""What outlives a worker: replay after a death, divergence, missing versions, strikes.

A death is a copy of the file: what a SIGKILL at that moment would leave to the next worker.
"""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatch import Cancelled, Flow, Run, StepFailed, flow, race, result, sleep, step, tool
from dispatch.core.errors import Conflict
from dispatch.core.lifecycle import Status
from dispatch.engine.recovery import AT_ONCE
from dispatch.flow import FlowVersion
from dispatch.store.base import STRIKE
from tests.engine.worker import Bench, Play


async def test_a_suspended_execution_goes_on_after_a_death(bench: Bench) -> None:
    @flow("pauses")
    async def pauses(run: Run[Any]) -> Flow:
        yield "one "
        first = yield tool("a", {"key": run.uuid(), "drawn": run.random.random()})
        yield f"two {first} "
        second = yield tool("b", {"key": run.uuid(), "drawn": run.random.random()})
        yield result([first, second])

    async with bench.worker(pauses) as worker:
        play = await worker.play(pauses)
        before = await play.entries()
        copy = await worker.killed()
    async with bench.worker(pauses, path=copy) as worker:
        play = play.at(worker)
        await play.answer("a", 1)
        await play.answer("b", 2)
        assert await play.result() == [1, 2]
        assert await play.text() == "one two 1 "
        assert (await play.entries())[: len(before)] == before
        assert (await play.execution()).strikes == 0


async def test_what_was_only_dispatched_begins(bench: Bench) -> None:
    @flow("begins")
    async def begins(run: Run[dict[str, int]]) -> Flow:
        yield result(run.inputs["number"])

    @flow("begins")
    async def blocks(run: Run[dict[str, int]]) -> Flow:
        await anyio.sleep_forever()
        yield ""

    async with bench.worker(blocks) as worker:
        play = await worker.dispatch(blocks, {"number": 4})
        copy = await worker.killed()
    async with bench.worker(begins, path=copy) as worker:
        play = play.at(worker)
        await play.rest()
        assert await play.result() == 4


async def test_text_is_shown_exactly_once(bench: Bench) -> None:
    times = []

    @flow("talks")
    async def talks(run: Run[Any]) -> Flow:
        times.append(1)
        yield "one "
        yield "two "
        if len(times) == 1:
            await anyio.sleep_forever()
        yield "three"

    async with bench.worker(talks) as worker:
        play = await worker.dispatch(talks)
        await play.sees("text_delta", times=2)
        copy = await worker.killed()
    async with bench.worker(talks, path=copy) as worker:
        play = play.at(worker)
        await play.rest()
        assert await play.text() == "one two three"
        # The block that the death left open is gone on with.
        assert len(await play.facts("text_start")) == 1


async def test_a_step_that_was_cut_off_is_attempted_again_at_no_cost(bench: Bench) -> None:
    attempts = []

    @step(retries=1, backoff=0)
    async def works() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            await anyio.sleep_forever()
        raise ValueError(f"attempt {len(attempts)}")

    @flow("works")
    async def work(run: Run[Any]) -> Flow:
        try:
            yield works()
        except StepFailed as failed:
            yield result(str(failed))

    async with bench.worker(work) as worker:
        play = await worker.dispatch(work)
        await play.sees("dispatch.step_attempt")
        copy = await worker.killed()
    async with bench.worker(work, path=copy) as worker:
        play = play.at(worker)
        await play.rest()
        assert await play.result() == "attempt 3"
        started = [fact["value"]["attempt"] for fact in await play.facts("dispatch.step_attempt")]
        assert started == [1, 2, 3]
        assert [fact["attempt"] for fact in await play.facts("error")] == [2]


async def test_a_step_whose_result_is_there_is_not_run_again(bench: Bench) -> None:
    runs = []

    @step
    async def once() -> AsyncGenerator[str, None]:
        runs.append(1)
        yield "streamed "

    @flow("once")
    async def flows(run: Run[Any]) -> Flow:
        text = yield once()
        yield sleep(60)
        yield result(text)

    async with bench.worker(flows) as worker:
        play = await worker.play(flows)
        copy = await worker.killed()
    async with bench.worker(flows, path=copy) as worker:
        play = play.at(worker)
        await play.pass_time(60)
        assert await play.result() == "streamed "
        assert await play.text() == "streamed "
        assert len(runs) == 1


async def test_a_backoff_outlives_a_death(bench: Bench) -> None:
    attempts = []

    @step(retries=1, backoff=60)
    async def flaky() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError
        return len(attempts)

    @flow("flaky")
    async def flows(run: Run[Any]) -> Flow:
        yield result((yield flaky()))

    async with bench.worker(flows) as worker:
        play = await worker.dispatch(flows)
        await play.sees("error")
        copy = await worker.killed()
    bench.clock.advance(59)
    async with bench.worker(flows, path=copy) as worker:
        play = play.at(worker)
        with anyio.fail_after(5):
            while (await play.execution()).runnable:
                await anyio.lowlevel.checkpoint()
        assert len(attempts) == 1
        bench.clock.advance(1)
        await play.rest()
        assert await play.result() == 2


async def test_timers_fire_for_the_dead(bench: Bench) -> None:
    @flow("late")
    async def late(run: Run[Any]) -> Flow:
        yield result((yield race(tool("a"), sleep(60))))

    async with bench.worker(late) as worker:
        play = await worker.play(late)
        copy = await worker.killed()
    bench.clock.advance(100)
    async with bench.worker(late, path=copy) as worker:
        play = play.at(worker)
        await play.timers_fired()
        await play.rest()
        assert await play.result() == [1, None]


# --- cancel ---------------------------------------------------------------------------------------


@step
async def undo() -> str:
    return "undone"


@flow("saga")
async def saga(run: Run[Any]) -> Flow:
    try:
        yield tool("a")
    except Cancelled:
        yield (yield undo())


async def test_cancel_of_a_cold_execution_runs_its_compensation(bench: Bench) -> None:
    async with bench.worker(saga) as worker:
        play = await worker.play(saga)
        copy = await worker.killed()
    async with bench.worker(saga, path=copy) as worker:
        play = play.at(worker)
        assert (await play.cancel()).status is Status.CANCELLED
        assert await play.text() == "undone"


async def test_a_cancel_that_was_asked_for_outlives_a_death(bench: Bench) -> None:
    times = []

    @flow("blocks")
    async def blocks(run: Run[Any]) -> Flow:
        times.append(1)
        try:
            yield "one "
            if len(times) == 1:
                await anyio.sleep_forever()
            yield "two "
            yield tool("a")
        except Cancelled:
            yield (yield undo())

    async with bench.worker(blocks) as worker:
        play = await worker.dispatch(blocks)
        await play.sees("text_delta")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play.cancel)
            await play.sees("dispatch.cancel_requested")
            copy = await worker.killed()
            tasks.cancel_scope.cancel()
    async with bench.worker(blocks, path=copy) as worker:
        play = play.at(worker)
        assert (await play.rest()).status is Status.CANCELLED
        assert await play.text() == "one undone"


# --- divergence and versions ----------------------------------------------------------------------


@step
async def deed() -> None:
    raise AssertionError("done before the divergence was seen")


@flow("shop")
async def shop(run: Run[Any]) -> Flow:
    yield "Welcome. "
    answer = yield tool("a", {"n": 1})
    yield result(answer)


@flow("shop")
async def other_parameters(run: Run[Any]) -> Flow:
    yield tool("a", {"n": 2})
    yield deed()


@flow("shop")
async def other_wait(run: Run[Any]) -> Flow:
    yield deed()


@flow("shop")
async def other_group(run: Run[Any]) -> Flow:
    yield race(tool("a", {"n": 1}), sleep(1))


@flow("shop")
async def no_wait(run: Run[Any]) -> Flow:
    yield "Goodbye."


@pytest.mark.parametrize(
    ("changed", "yielded"),
    [
        (other_parameters, 'tool a {"n":2}'),
        (other_wait, "step deed"),
        (other_group, 'tool a {"n":1}'),
        (no_wait, "the end: completed"),
    ],
    ids=lambda value: value.fn.__name__ if isinstance(value, FlowVersion) else "",
)
async def test_a_divergence_parks_before_any_side_effect_and_says_where(
    bench: Bench, changed: FlowVersion, yielded: str
) -> None:
    async with bench.worker(shop) as worker:
        play = await worker.play(shop)
    async with bench.worker(changed) as worker:
        play = play.at(worker)
        await play.answer("a", "yes")
        assert await play.status() is Status.INTERRUPTED
        failure = await play.failure()
        assert failure.code == "divergence"
        assert 'the journal says tool a {"n":1}' in failure.message
        assert f"the flow now does {yielded}" in failure.message
        assert changed is no_wait or f"{__file__}:" in failure.message
        assert "retry" in failure.message
    async with bench.worker(shop) as worker:
        play = play.at(worker)
        await play.retry()
        assert await play.result() == "yes"
        assert await play.text() == "Welcome. "
        with pytest.raises(Conflict) as refused:
            await play.retry()
        assert refused.value.code == "not-parked"


async def test_a_resume_un_parks_too(bench: Bench) -> None:
    @flow("shop")
    async def two(run: Run[Any]) -> Flow:
        a = yield tool("a")
        yield result([a, (yield tool("b"))])

    async with bench.worker(two) as worker:
        play = await worker.play(two)
        await play.answer("a", 1)
    async with bench.worker(shop) as worker:
        play = play.at(worker)
        await play.answer("b", 2)
        assert await play.status() is Status.INTERRUPTED
    async with bench.worker(two) as worker:
        play = play.at(worker)
        await play.resume({"b": 2})
        assert await play.result() == [1, 2]


async def test_what_is_parked_can_be_cancelled(bench: Bench) -> None:
    async with bench.worker(saga) as worker:
        play = await worker.play(saga)
    async with bench.worker() as worker:
        play = play.at(worker)
        await play.answer("a", 1)
        assert await play.status() is Status.INTERRUPTED
        assert (await play.cancel()).status is Status.CANCELLED


async def test_an_edited_text_parks_nobody(bench: Bench) -> None:
    @flow("shop")
    async def edited(run: Run[Any]) -> Flow:
        yield "Welcome "
        yield "to our shop. "
        answer = yield tool("a", {"n": 1})
        yield f"So {answer}. "
        yield result(answer)

    async with bench.worker(shop) as worker:
        play = await worker.play(shop)
    async with bench.worker(edited) as worker:
        play = play.at(worker)
        await play.answer("a", "yes")
        assert await play.result() == "yes"
        assert await play.text() == "Welcome. So yes. "


async def test_a_version_that_is_missing_parks_until_it_is_there(bench: Bench) -> None:
    @flow("shop", version=2)
    async def newer(run: Run[Any]) -> Flow:
        yield "new"

    async with bench.worker(shop) as worker:
        play = await worker.play(shop)
    async with bench.worker(newer) as worker:
        play = play.at(worker)
        await play.answer("a", "yes")
        assert (await play.failure()).code == "version-missing"
    async with bench.worker(shop, newer) as worker:
        play = play.at(worker)
        await play.retry()
        assert await play.result() == "yes"
        fresh = await worker.play("shop")
        assert await fresh.text() == "new"
        old = await worker.play("shop", version=1)
        assert await old.text() == "Welcome. "


async def test_inputs_that_no_longer_fit_park(bench: Bench) -> None:
    @flow("typed")
    async def before(run: Run[dict[str, str]]) -> Flow:
        yield tool("a")

    @flow("typed")
    async def after(run: Run[dict[str, int]]) -> Flow:
        yield tool("a")

    async with bench.worker(before) as worker:
        play = await worker.play(before, {"number": "one"})
    async with bench.worker(after) as worker:
        play = play.at(worker)
        await play.answer("a", None)
        assert (await play.failure()).code == "inputs-invalid"
        assert await play.status() is Status.INTERRUPTED


# --- many at once ---------------------------------------------------------------------------------


async def test_a_few_at_a_time_catch_up_and_new_dispatches_do_not_wait(bench: Bench) -> None:
    gate, begun = anyio.Event(), list[int]()

    @flow("gated")
    async def gated(run: Run[dict[str, int]]) -> Flow:
        begun.append(run.inputs["number"])
        await gate.wait()
        yield tool("a")

    @flow("fresh")
    async def fresh(run: Run[Any]) -> Flow:
        yield "at once"

    async with bench.worker(gated) as worker:
        plays = [await worker.dispatch(gated, {"number": i}) for i in range(3 * AT_ONCE)]
        path = await worker.killed()
    begun.clear()
    async with bench.worker(gated, fresh, path=path) as worker:
        with anyio.fail_after(5):
            while len(begun) < AT_ONCE:
                await anyio.lowlevel.checkpoint()
        assert await (await worker.play(fresh)).text() == "at once"
        assert begun == list(range(AT_ONCE))
        gate.set()
        for play in plays:
            assert (await play.at(worker).rest()).status is Status.SUSPENDED
    assert len(begun) == len(plays)


async def test_bodies_that_hang_do_not_keep_the_others_for_good(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatch.engine.recovery.CATCH_UP_SECONDS", 0.01)

    @flow("hangs")
    async def hangs(run: Run[Any]) -> Flow:
        await anyio.sleep_forever()
        yield ""

    @flow("sound")
    async def sound(run: Run[Any]) -> Flow:
        yield tool("a")

    async with bench.worker(hangs, sound) as worker:
        for _ in range(AT_ONCE):
            await worker.dispatch(hangs)
        play = await worker.dispatch(sound)
        path = await worker.killed()
    async with bench.worker(hangs, sound, path=path) as worker:
        with anyio.fail_after(5):
            while await play.at(worker).status() is not Status.SUSPENDED:
                worker.clock.advance(1.0)
                await anyio.lowlevel.checkpoint()


# --- strikes --------------------------------------------------------------------------------------


@flow("deadly")
async def deadly(run: Run[Any]) -> Flow:
    yield "about to. "
    await anyio.sleep_forever()


async def until_driven(play: Play) -> None:
    """Return when this worker drives it."""
    with anyio.fail_after(5):
        while (await play.execution()).worker != play.worker.engine.worker:
            await anyio.lowlevel.checkpoint()


def blamed(play: Play) -> str:
    return f"execution {play.id} called os._exit(1) at flows.py:1"


@pytest.mark.slow
async def test_the_third_death_by_its_own_doing_parks(bench: Bench) -> None:
    async with bench.worker(deadly) as worker:
        play = await worker.dispatch(deadly)
        await play.sees("text_delta")
        path = await worker.killed(said=blamed(play))
    for strikes in (1, 2):
        async with bench.worker(deadly, path=path) as worker:
            play = play.at(worker)
            await until_driven(play)
            assert (await play.execution()).strikes == strikes * STRIKE
            path = await worker.killed(said=blamed(play))
    async with bench.worker(deadly, path=path) as worker:
        play = play.at(worker)
        row = await play.rest()
        assert (row.status, row.code) == (Status.INTERRUPTED, "crash-loop")
        assert "3 strikes" in (await play.failure()).message
        assert worker.store.counters.parked == {"crash-loop": 1}


async def test_progress_clears_the_strikes(bench: Bench) -> None:
    times: list[int] = []

    @flow("slow")
    async def slow(run: Run[Any]) -> Flow:
        times.append(1)
        yield f"{len(times)} "
        await anyio.sleep_forever() if len(times) == 1 else None
        yield f"{len(times)} "
        await anyio.sleep_forever()

    async with bench.worker(slow) as worker:
        play = await worker.dispatch(slow)
        await play.sees("text_delta")
        path = await worker.killed()
    async with bench.worker(slow, path=path) as worker:
        play = play.at(worker)
        await until_driven(play)
        await play.sees("text_delta", times=2)
        assert (await play.execution()).strikes == 0


async def test_a_death_that_is_nobodys_doing_is_a_quarter_of_a_strike(bench: Bench) -> None:
    path = bench.path
    plays: list[Play] = []
    for deaths in range(4):
        async with bench.worker(deadly, path=path) as worker:
            plays = plays or [await worker.dispatch(deadly) for _ in range(2)]
            for play in plays:
                # Up to a whole strike nobody waits for another.
                await play.at(worker).sees("text_delta")
                await until_driven(play.at(worker))
                assert (await play.at(worker).execution()).strikes == deaths * STRIKE // 4
            path = await worker.killed()


async def test_what_may_have_killed_a_server_is_recovered_alone(bench: Bench) -> None:
    gate = anyio.Event()

    @step
    async def waits() -> None:
        await gate.wait()

    @flow("gated")
    async def gated(run: Run[Any]) -> Flow:
        yield waits()
        yield "further"
        await anyio.sleep_forever()

    @flow("fresh")
    async def fresh(run: Run[Any]) -> Flow:
        yield waits()

    async with bench.worker(gated, deadly) as worker:
        first, second = [await worker.dispatch(one) for one in (gated, deadly)]
        await first.sees("step_start")
        await second.sees("text_delta")
        path = await worker.killed(said="Fatal Python error: Segmentation fault")
    async with bench.worker(gated, deadly, fresh, path=path) as worker:
        first, second = first.at(worker), second.at(worker)
        await first.sees("dispatch.step_attempt", times=2)
        # Caught up, and its step runs: that is when it would kill.
        new = await worker.dispatch(fresh)
        await new.sees("step_start")
        assert (await second.execution()).runnable
        gate.set()
        await until_driven(second)
        assert (await first.execution()).strikes == 0
        assert (await second.execution()).strikes == STRIKE


# --- several workers ------------------------------------------------------------------------------


async def test_a_warm_generator_is_not_used_once_another_worker_has_driven(bench: Bench) -> None:
    @flow("moves")
    async def moves(run: Run[Any]) -> Flow:
        answers = []
        for name in ("a", "b", "c"):
            answers.append((yield tool(name)))
        yield result(answers)

    async with bench.worker(moves) as here, bench.worker(moves) as there:
        play = await here.play(moves)
        await play.at(there).answer("a", 1)
        await play.at(here).answer("b", 2)
        await play.at(there).answer("c", 3)
        assert await play.result() == [1, 2, 3]


@pytest.mark.slow
async def test_a_journal_of_many_pages_is_replayed_whole(bench: Bench) -> None:
    @flow("long")
    async def long(run: Run[Any]) -> Flow:
        for number in range(20_000):
            yield f"{number} "
        answer = yield tool("a")
        yield result(answer)

    async with bench.worker(long) as worker:
        play = await worker.play(long)
        before = len(await play.entries())
        copy = await worker.killed()
    async with bench.worker(long, path=copy) as worker:
        play = play.at(worker)
        await play.answer("a", 1)
        assert await play.result() == 1
        kinds = [entry.kind for entry in (await play.entries())[before:]]
        assert kinds == [
            "execution_start",
            "tool_complete",
            "dispatch.result",
            "execution_complete",
        ]
