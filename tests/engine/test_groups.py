"""gather and race, nested in each other; and helpers, which a flow delegates to."""

from typing import Any

import anyio
import pytest

from dispatch import (
    Failed,
    Flow,
    Ok,
    Run,
    StepFailed,
    WaitFailed,
    approval,
    flow,
    gather,
    race,
    result,
    sleep,
    step,
    tool,
)
from dispatch.core.errors import Conflict
from dispatch.core.lifecycle import Status
from tests.engine.worker import Bench


@step
async def double(number: int) -> int:
    return 2 * number


@step
async def fail(message: str) -> None:
    raise ValueError(message)


async def test_gather_answers_in_argument_order(bench: Bench) -> None:
    @flow("both")
    async def both(run: Run[Any]) -> Flow:
        answers = yield gather(tool("a"), double(2), tool("b"))
        yield result(answers)

    async with bench.worker(both) as worker:
        play = await worker.play(both)
        assert [fact["toolName"] for fact in await play.facts("await")] == ["a", "b"]
        await play.answer("b", "B")
        assert await play.status() is Status.SUSPENDED
        assert [fact["toolName"] for fact in await play.facts("await")] == ["a", "b", "a"]
        await play.answer("a", "A")
        assert await play.result() == ["A", 4, "B"]


async def test_the_callers_turn_is_told_once_a_leg(bench: Bench) -> None:
    @flow("beside")
    async def beside(run: Run[Any]) -> Flow:
        answer, _ = yield gather(tool("a"), sleep(60))
        yield result(answer)

    async with bench.worker(beside) as worker:
        play = await worker.play(beside)
        await play.pass_time(61)
        # The timer has fired and decides nothing: it is still the caller's turn.
        assert await play.kinds() == [
            "execution_start",
            "tool_start",
            "dispatch.timer_set",
            "await",
            "dispatch.timer_fired",
        ]
        await play.resume({})
        await play.rest()
        assert len(await play.facts("await")) == 2
        await play.answer("a", "A")
        assert await play.result() == "A"


async def test_the_callers_turn_comes_when_no_step_runs(bench: Bench) -> None:
    go = anyio.Event()

    @step
    async def slow() -> int:
        await go.wait()
        return 1

    @flow("turns")
    async def turns(run: Run[Any]) -> Flow:
        answers = yield gather(slow(), tool("a"))
        yield result(answers)

    async with bench.worker(turns) as worker:
        play = await worker.dispatch(turns)
        await play.sees("dispatch.step_attempt")
        assert "await" not in await play.kinds()
        go.set()
        await play.rest()
        assert (await play.kinds())[-2:] == ["step_complete", "await"]
        await play.answer("a", 2)
        assert await play.result() == [1, 2]


async def test_an_output_while_a_step_still_runs_begins_a_leg(bench: Bench) -> None:
    go = anyio.Event()

    @step
    async def slow() -> int:
        await go.wait()
        return 1

    @flow("early")
    async def early(run: Run[Any]) -> Flow:
        answers = yield gather(slow(), tool("a"))
        yield result(answers)

    async with bench.worker(early) as worker:
        play = await worker.dispatch(early)
        await play.sees("dispatch.step_attempt")
        await worker.engine.dispatcher.resume(play.id, {"a": 2}, None)
        go.set()
        await play.rest()
        assert await play.result() == [1, 2]
        assert (await play.kinds())[3:7] == [
            "dispatch.step_attempt",
            "execution_start",
            "tool_complete",
            "step_complete",
        ]


async def test_gather_raises_the_first_failure_and_abandons_the_rest(bench: Bench) -> None:
    @flow("fails")
    async def fails(run: Run[Any]) -> Flow:
        try:
            yield gather(tool("a"), approval("b"), sleep(60), fail("first"))
        except StepFailed as failed:
            yield tool("pause")
            yield result(str(failed))

    async with bench.worker(fails) as worker:
        play = await worker.play(fails)
        rows = await worker.store.waits(play.id)
        assert [(row.name, row.status) for row in rows] == [
            ("a", "abandoned"),
            ("b", "abandoned"),
            ("sleep", "abandoned"),
            ("pause", "open"),
        ]
        with pytest.raises(Conflict) as late:
            await play.resume({rows[0].id: 1})
        assert late.value.code == "await-abandoned"
        await play.answer("pause", None)
        assert await play.result() == "first"


async def test_settle_answers_all_as_ok_or_failed(bench: Bench) -> None:
    @flow("settles")
    async def settles(run: Run[Any]) -> Flow:
        one, two = yield gather(double(1), fail("no"), settle=True)
        yield tool("pause")
        assert isinstance(one, Ok)
        assert isinstance(two, Failed)
        assert isinstance(two.error, WaitFailed)
        yield result([one.ok, one.value, two.ok, str(two.error)])

    async with bench.worker(settles) as worker:
        play = await worker.play(settles)
        await play.answer("pause", None)
        assert await play.result() == [True, 2, False, "no"]


async def test_race_is_won_by_the_first_that_is_settled(bench: Bench) -> None:
    @flow("races")
    async def races(run: Run[Any]) -> Flow:
        index, value = yield race(tool("a"), tool("b"), sleep(60))
        yield tool("pause")
        yield result([index, value])

    async with bench.worker(races) as worker:
        play = await worker.play(races)
        await play.answer("b", "B")
        await play.answer("pause", None)
        assert await play.result() == [1, "B"]
        settled = await play.facts("tool_complete")
        assert [(fact["toolName"], fact["success"]) for fact in settled] == [
            ("b", True),
            ("a", False),
            ("pause", True),
        ]


async def test_a_time_limit_by_race(bench: Bench) -> None:
    @flow("limits")
    async def limits(run: Run[Any]) -> Flow:
        index, value = yield race(tool("a"), sleep(60))
        yield result([index, value])

    async with bench.worker(limits) as worker:
        play = await worker.play(limits)
        await play.pass_time(60)
        assert await play.result() == [1, None]


async def test_a_step_that_lost_is_cancelled(bench: Bench) -> None:
    cancelled = anyio.Event()

    @step
    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    @flow("loses")
    async def loses(run: Run[Any]) -> Flow:
        answer = yield race(endless(), double(3))
        yield result(answer)

    async with bench.worker(loses) as worker:
        play = await worker.play(loses)
        assert await play.result() == [1, 6]
        with anyio.fail_after(5):
            await cancelled.wait()
        assert [(f["success"], f.get("code")) for f in await play.facts("step_complete")] == [
            (True, None),
            (False, "abandoned"),
        ]


async def test_a_sleep_that_wins_over_a_step(bench: Bench) -> None:
    @step
    async def endless() -> None:
        await anyio.sleep_forever()

    @flow("patience")
    async def patience(run: Run[Any]) -> Flow:
        yield result((yield race(endless(), sleep(60))))

    async with bench.worker(patience) as worker:
        play = await worker.dispatch(patience)
        await play.sees("dispatch.step_attempt")
        await play.pass_time(60)
        assert await play.result() == [1, None]


async def test_the_first_failure_wins_a_race_too(bench: Bench) -> None:
    @flow("raises")
    async def raises(run: Run[Any]) -> Flow:
        try:
            yield race(tool("a"), fail("at once"))
        except StepFailed as failed:
            yield result(str(failed))

    async with bench.worker(raises) as worker:
        assert await (await worker.play(raises)).result() == "at once"


async def test_groups_nest(bench: Bench) -> None:
    @flow("nests")
    async def nests(run: Run[Any]) -> Flow:
        answer = yield gather(
            race(gather(tool("a"), tool("b")), sleep(60)),
            race(tool("c"), tool("d")),
            double(1),
        )
        yield result(answer)

    async with bench.worker(nests) as worker:
        play = await worker.play(nests)
        await play.answer("d", "D")
        rows = {row.name: row.status for row in await worker.store.waits(play.id)}
        assert rows == {
            "a": "open",
            "b": "open",
            "sleep": "open",
            "c": "abandoned",
            "d": "settled",
        }
        await play.resume({"b": "B", "a": "A"})
        assert await play.result() == [[0, ["A", "B"]], [1, "D"], 2]


# --- delegation -----------------------------------------------------------------------------------


async def test_a_helper_suspends_streams_and_gives_its_last_result(bench: Bench) -> None:
    async def inner(name: str) -> Flow:
        yield f"asking {name}. "
        yield result("not this")
        yield result((yield tool(name)))

    async def outer() -> Flow:
        first = yield inner("a")
        second = yield inner("b")
        yield result(first + second)

    async def silent() -> Flow:
        yield "nothing. "

    @flow("delegates")
    async def delegates(run: Run[Any]) -> Flow:
        total = yield outer()
        nothing = yield silent()
        yield result([total, nothing])

    async with bench.worker(delegates) as worker:
        play = await worker.play(delegates)
        await play.answer("a", 1)
        await play.answer("b", 2)
        assert await play.result() == [3, None]
        assert await play.text() == "asking a. asking b. nothing. "


async def test_what_a_helper_raises_is_raised_where_it_was_yielded(bench: Bench) -> None:
    async def helper() -> Flow:
        yield tool("a")
        raise LookupError("not found")

    @flow("catches")
    async def catches(run: Run[Any]) -> Flow:
        try:
            yield helper()
        except LookupError as exc:
            yield result(str(exc))

    async with bench.worker(catches) as worker:
        play = await worker.play(catches)
        await play.answer("a", None)
        assert await play.result() == "not found"
