"""Steps: what they may be, what they answer, how they fail and are attempted again."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from msgspec import Struct

from dispatch import Flow, Run, StepFailed, flow, result, step, tool
from dispatch.core.lifecycle import Status
from dispatch.events import Custom
from tests.engine.worker import Bench


class Order(Struct):
    id: str
    amount: int


async def test_what_a_coroutine_step_returns_is_decoded_as_its_annotation(bench: Bench) -> None:
    @step
    async def load(order_id: str) -> Order:
        return Order(order_id, 7)

    @flow("orders")
    async def orders(run: Run[Any]) -> Flow:
        order = yield load("A")
        assert type(order) is Order
        yield (again := load("B"))
        yield tool("pause")
        assert type(order) is Order
        yield result([order.id, again.result.amount])

    async with bench.worker(orders) as worker:
        play = await worker.play(orders)
        await play.answer("pause", None)
        assert await play.result() == ["A", 7]
        completes = await play.facts("step_complete")
        assert [(fact["name"], fact["success"], fact["result"]["id"]) for fact in completes] == [
            ("load", True, "A"),
            ("load", True, "B"),
        ]


async def test_a_result_has_the_type_that_a_replay_would_give_it(bench: Bench) -> None:
    @step
    async def untyped():  # type: ignore[no-untyped-def]
        return {"when": (1, 2)}

    @flow("plain")
    async def plain(run: Run[Any]) -> Flow:
        value = yield untyped()
        assert value == {"when": [1, 2]}
        yield result(value)

    async with bench.worker(plain) as worker:
        assert await (await worker.play(plain)).result() == {"when": [1, 2]}


async def test_a_plain_function_runs_in_a_thread(bench: Bench) -> None:
    here = threading.get_ident()

    @step
    def elsewhere() -> bool:
        return threading.get_ident() != here

    @flow("threads")
    async def threads(run: Run[Any]) -> Flow:
        yield result((yield elsewhere()))

    async with bench.worker(threads) as worker:
        assert await (await worker.play(threads)).result() is True


async def test_functions_that_are_not_ones_own(bench: Bench) -> None:
    async def fetch(url: str, *, times: int) -> str:
        return url * times

    @flow("foreign")
    async def foreign(run: Run[Any]) -> Flow:
        a = yield step(fetch, "x", times=2)
        b = yield step(max, 1, 3)
        yield result([a, b])

    async with bench.worker(foreign) as worker:
        play = await worker.play(foreign)
        assert await play.result() == ["xx", 3]
        assert [fact["name"] for fact in await play.facts("step_start")] == ["fetch", "max"]


async def test_a_streaming_step_answers_with_its_text_or_its_result(bench: Bench) -> None:
    @step
    async def words() -> AsyncGenerator[str, None]:
        yield "one "
        yield "two"

    @step
    async def counted() -> AsyncGenerator[object, None]:
        yield "three"
        yield Custom(name="progress", value=1)
        yield result(3)

    @flow("streams")
    async def streams(run: Run[Any]) -> Flow:
        yield "zero "
        text = yield words()
        number = yield counted()
        yield tool("pause")
        yield result([text, number])

    async with bench.worker(streams) as worker:
        play = await worker.play(streams)
        await play.answer("pause", None)
        assert await play.result() == ["one two", 3]
        assert await play.text() == "zero one twothree"
        steps = await play.facts("step_start")
        blocks = [fact.get("stepId") for fact in await play.facts("text_start")]
        assert blocks == [None, steps[0]["id"], steps[1]["id"]]


async def test_failed_attempts_are_told_and_the_last_is_raised(bench: Bench) -> None:
    attempts = []

    @step(retries=2, backoff=8)
    async def flaky() -> None:
        attempts.append(bench.clock.now())
        raise ValueError(f"attempt {len(attempts)}")

    @flow("retries")
    async def retries(run: Run[Any]) -> Flow:
        try:
            yield flaky()
        except StepFailed as failed:
            yield result([failed.name, failed.type_name, str(failed)])

    async with bench.worker(retries) as worker:
        play = await worker.dispatch(retries)
        await play.sees("error")
        bench.clock.advance(8)
        await play.sees("error", times=2)
        bench.clock.advance(16)
        await play.rest()
        assert await play.result() == ["flaky", "ValueError", "attempt 3"]
        assert [at - attempts[0] for at in attempts] == [0, 8, 24]
        assert [
            (fact["attempt"], fact["recoverable"], fact["error"])
            for fact in await play.facts("error")
        ] == [(1, True, "ValueError: attempt 1"), (2, True, "ValueError: attempt 2")]
        assert await play.kinds() == [
            "execution_start",
            "step_start",
            "dispatch.step_attempt",
            "error",
            "dispatch.step_attempt",
            "error",
            "dispatch.step_attempt",
            "step_complete",
            "dispatch.result",
            "execution_complete",
        ]


async def test_a_step_that_fails_uncaught_fails_the_execution(bench: Bench) -> None:
    @step
    async def broken() -> None:
        raise OSError("no such thing")

    @flow("uncaught")
    async def uncaught(run: Run[Any]) -> Flow:
        yield "Trying. "
        yield broken()

    async with bench.worker(uncaught) as worker:
        play = await worker.play(uncaught)
        assert await play.status() is Status.FAILED
        failure = await play.failure()
        assert (failure.code, failure.message) == (
            "step-failed",
            "broken: OSError: no such thing",
        )


async def test_an_attempt_that_takes_too_long_is_cut_off(bench: Bench) -> None:
    cut_off = anyio.Event()

    @step(timeout=0.01)
    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cut_off.set()

    @flow("late")
    async def late(run: Run[Any]) -> Flow:
        try:
            yield endless()
        except StepFailed as failed:
            yield result(failed.type_name)

    async with bench.worker(late) as worker:
        assert await (await worker.play(late)).result() == "TimeoutError"
        assert cut_off.is_set()


async def test_a_private_result_is_in_no_event_and_survives_a_replay(bench: Bench) -> None:
    @step(private=True)
    async def secret() -> str:
        return "hunter2"

    @flow("secrets")
    async def secrets(run: Run[Any]) -> Flow:
        word = yield secret()
        yield tool("pause")
        yield result(len(word))

    async with bench.worker(secrets) as worker:
        play = await worker.play(secrets)
        await play.answer("pause", None)
        assert await play.result() == 7
        assert not any(b"hunter2" in entry.data for entry in await play.entries())
        (complete,) = await play.facts("step_complete")
        assert complete["result"]["type"] == "string"


async def test_a_result_that_does_not_fit_its_annotation_is_a_failure(bench: Bench) -> None:
    @step
    async def wrong() -> int:
        return "no number"  # type: ignore[return-value]  # what this is about

    @flow("misfit")
    async def misfit(run: Run[Any]) -> Flow:
        try:
            yield wrong()
        except StepFailed as failed:
            yield result(failed.type_name)

    async with bench.worker(misfit) as worker:
        assert await (await worker.play(misfit)).result() == "ResultInvalid"


async def test_returns_wins_over_the_annotation(bench: Bench) -> None:
    @step(returns=Order)
    async def load() -> dict[str, Any]:
        return {"id": "A", "amount": 1}

    @flow("returns")
    async def returns(run: Run[Any]) -> Flow:
        order = yield load()
        yield result(type(order).__name__)

    async with bench.worker(returns) as worker:
        assert await (await worker.play(returns)).result() == "Order"


async def test_a_system_exit_in_a_step_is_its_failure(bench: Bench) -> None:
    @step
    def leave() -> None:
        raise SystemExit(3)

    @step
    async def interrupt() -> None:
        raise KeyboardInterrupt

    @flow("leaving")
    async def leaving(run: Run[Any]) -> Flow:
        caught = []
        for wait in (leave(), interrupt()):
            try:
                yield wait
            except StepFailed as failed:
                caught.append(failed.message)
        yield result(caught)

    async with bench.worker(leaving) as worker:
        assert await (await worker.play(leaving)).result() == [
            "SystemExit: 3",
            "KeyboardInterrupt: ",
        ]


async def test_a_cancellation_of_its_own_is_its_failure(bench: Bench) -> None:
    @step
    async def cancelled_inside() -> None:
        inner: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        inner.cancel()
        await inner

    @flow("inside")
    async def inside(run: Run[Any]) -> Flow:
        try:
            yield cancelled_inside()
        except StepFailed as failed:
            yield result(str(failed))

    async with bench.worker(inside) as worker:
        assert await (await worker.play(inside)).result() == "CancelledError: "


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("says nothing")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(Mute(), "Mute", id="no message"),
        pytest.param(ValueError("a\udcffb"), "a?b", id="a lone surrogate"),
        pytest.param(ValueError("x" * 9_000_000), "x" * 10_000, id="endless"),
    ],
)
async def test_whatever_an_exception_says_is_recorded(
    bench: Bench, error: Exception, message: str
) -> None:
    @step
    async def fails() -> None:
        raise error

    @flow("fails")
    async def fails_twice(run: Run[Any]) -> Flow:
        try:
            yield fails()
        except StepFailed as failed:
            yield result(str(failed))
        raise error

    async with bench.worker(fails_twice) as worker:
        play = await worker.play(fails_twice)
        assert await play.output() == message
        assert (await play.failure()).message.endswith(message)


async def test_a_step_runs_once_its_attempt_is_durable(bench: Bench) -> None:
    seen: list[str] = []

    @step
    async def look() -> None:
        seen.extend(await play.kinds())

    @flow("durable")
    async def durable(run: Run[Any]) -> Flow:
        yield "before "
        yield tool("go")
        yield look()

    async with bench.worker(durable) as worker:
        play = await worker.play(durable)
        await play.answer("go", None)
        assert seen[-2:] == ["step_start", "dispatch.step_attempt"]
        assert "text_delta" in seen
