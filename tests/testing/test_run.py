"""`dispatch.testing.run`: who answers, how time passes, and what fails a test."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from msgspec import Struct

from dispatch import (
    Cancelled,
    Flow,
    Run,
    ToolFailed,
    ToolTimeout,
    approval,
    continue_as,
    flow,
    gather,
    race,
    result,
    sleep,
    step,
    tool,
)
from dispatch.core.errors import FlowMistake, Unprocessable
from dispatch.core.events import Await, StepComplete
from dispatch.core.lifecycle import Status
from dispatch.examples.refund import Order, refund
from dispatch.examples.timing import failing
from dispatch.examples.weather import weather
from dispatch.testing import run


@flow("asking")
async def asking(run: Run[Any]) -> Flow:
    """Ask until there is an answer in time."""
    try:
        answer = yield tool("ask", {"again": False}, timeout=60)
    except ToolTimeout:
        answer = yield tool("ask", {"again": True}, returns=int)
    except ToolFailed as exc:
        answer = str(exc)
    yield result(answer)


@flow("poll")
async def poll(run: Run[Any]) -> Flow:
    while (yield look()) != "there":
        yield sleep(3600)
    yield result(run.now)


@step(retries=5, backoff=10)
async def look() -> str:
    raise ConnectionError("nobody is there")


@flow("stubborn")
async def stubborn(run: Run[Any]) -> Flow:
    """Race a step that keeps failing against the time."""
    index, _ = yield race(look(), sleep(100))
    yield result(index)


@flow("careful")
async def careful(run: Run[Any]) -> Flow:
    try:
        yield gather(tool("ask"), approval("go"))
    except Cancelled:
        yield "Undoing. "
        yield undo()


@step(retries=3, backoff=1)
async def undo() -> None: ...


@flow("stuck")
async def stuck(run: Run[Any]) -> Flow:
    await asyncio.get_running_loop().create_future()
    yield "never"


@flow("hanging")
async def hanging(run: Run[Any]) -> Flow:
    yield hang()


@step
async def hang() -> None:
    await asyncio.get_running_loop().create_future()


@flow("endless")
async def endless(run: Run[Any]) -> Flow:
    yield tool("ask")
    yield race(tool("ask"), tool("tell"))


@flow("brought")
async def brought(run: Run[Any]) -> Flow:
    yield result([run.context, run.record, run.metadata, run.conversation_id, run.now])


@flow("greeting", version=1)
async def greeting_1(run: Run[Any]) -> Flow:
    yield continue_as("on", upgrade=True)


@flow("greeting", version=2)
async def greeting_2(run: Run[Any]) -> Flow:
    yield result(f"{run.state} to {run.version}")


# --- what is given --------------------------------------------------------------------------------


async def test_a_tool_that_is_not_given_fails_the_test_and_is_named() -> None:
    told = r'weather waits for the tool get_weather {"city":"Oslo"}.* write tools={"get_weather"'
    with pytest.raises(AssertionError, match=told):
        async with run(weather, tools={"get_time": 1}):
            pass
    with pytest.raises(AssertionError, match=told):
        async with run(weather) as r:
            assert r.result == "dry"


async def test_an_approval_that_is_not_given_is_named_too() -> None:
    with pytest.raises(AssertionError, match=r'the approval send_refund {"amount":42}'):
        async with run(refund, tools={"get_purchase_history": []}, approvals={"other": True}):
            pass


@pytest.mark.parametrize("given", [ToolTimeout("late"), ToolTimeout])
async def test_a_tool_times_out_at_once(given: Any) -> None:
    async with run(asking, tools={"ask": given}) as r:
        assert r.waiting == ["ask"]  # again, and without an end
        assert r.now.minute == 1
        await r.answer("ask", 7)
        assert r.result == 7


async def test_what_nobody_ever_answers_is_told() -> None:
    with pytest.raises(AssertionError, match=r"waits for ever for the tool ask .* no timeout="):
        async with run(asking, tools={"ask": ToolTimeout}):
            pass


async def test_what_a_tool_raises_is_the_flows_but_an_assertion_is_the_tests() -> None:
    def ask(parameters: dict[str, Any]) -> None:
        assert parameters["again"], "it should not have to ask"

    async with run(asking, tools={"ask": lambda _: 1 // 0}) as r:
        assert r.result == "ZeroDivisionError: integer division or modulo by zero"
    with pytest.raises(AssertionError, match="it should not have to ask"):
        async with run(asking, tools={"ask": ask}):
            pass


def check_no_frames_of_the_engine(refused: pytest.ExceptionInfo[BaseException]) -> None:
    """What the author reads ends with the author's own line."""
    assert refused.value.__cause__ is None
    modules = {one.frame.f_globals["__name__"] for one in refused.traceback}
    assert modules <= {__name__, "contextlib", "dispatch.testing", "dispatch.testing.trial"}


async def test_an_output_of_the_wrong_type_is_refused_as_of_any_caller() -> None:
    async with run(asking, tools={"ask": ToolTimeout}) as r:
        assert r.waiting
        with pytest.raises(Unprocessable, match="does not fit") as refused:
            await r.answer("ask", "seven")
        check_no_frames_of_the_engine(refused)
        await r.answer("ask", 7)
        assert r.result == 7


async def test_a_given_output_of_the_wrong_type_is_refused_too() -> None:
    def answer(asked: Any) -> Any:
        return "seven" if asked["again"] else ToolTimeout("ask")

    with pytest.raises(Unprocessable, match="does not fit") as refused:
        async with run(asking, tools={"ask": answer}):
            pass
    check_no_frames_of_the_engine(refused)


async def test_an_answer_that_nobody_waits_for_fails_the_test() -> None:
    async with run(weather, tools={"get_weather": "dry"}) as r:
        with pytest.raises(AssertionError, match="nobody waits for get_weather: weather is compl"):
            await r.answer("get_weather", "wet")


async def test_an_approval_takes_a_bool_or_a_decision() -> None:
    decisions: Any = {"send_refund": 1}
    with pytest.raises(TypeError, match="approval send_refund is answered by True, False or a D"):
        async with run(refund, tools={"get_purchase_history": []}, approvals=decisions):
            pass


# --- steps ----------------------------------------------------------------------------------------


async def test_steps_are_really_done_unless_something_stands_in() -> None:
    loaded = []

    async def load(order_id: str) -> Order:
        loaded.append(order_id)
        return Order(order_id, "Cid", 7)

    async def write(order: Order, history: Any) -> AsyncGenerator[str, None]:
        yield f"To {order.customer}: {history}"

    async with run(
        refund,
        tools={"get_purchase_history": "none"},
        approvals=False,
        steps={"load_order": load, "write_reply": write, "score": 0.5},
    ) as r:
        assert loaded == ["A-17"]
        assert r.text == "Looking at your order… The risk is 0.5. To Cid: none"
        done = [event for event in r.events if isinstance(event, StepComplete)]
        assert [one.name for one in done] == ["load_order", "score", "write_reply"]
    assert loaded == ["A-17"]  # not once more by the check


async def test_a_stand_in_fails_as_a_step_does() -> None:
    async with run(poll, steps={"look": TimeoutError("too slow")}) as r:
        assert r.error is not None
        assert r.error.message == "look: TimeoutError: too slow"


@pytest.mark.slow
async def test_a_step_that_hangs_fails_the_test_and_is_named() -> None:
    with pytest.raises(AssertionError, match=r"nothing for 0.5 s, it works on the step hang:"):
        async with run(hanging, patience_seconds=0.5):
            pass


async def test_a_body_that_hangs_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="its body awaits something"):
        async with run(stuck, check=False, patience_seconds=0.05):
            pass


# --- time -----------------------------------------------------------------------------------------


async def test_time_leaps_over_sleeps_and_backoffs() -> None:
    tries = 0

    def look() -> str:
        nonlocal tries
        tries += 1
        if tries % 3:
            raise ConnectionError
        return "there" if tries == 9 else "not there"

    begins = datetime(2026, 2, 1, 12, tzinfo=UTC)
    async with run(poll, steps={"look": look}, starts_at=begins) as r:
        assert tries == 9
        # Two sleeps of an hour, and six backoffs: 10 and 20 s, three times.
        assert r.now == begins + timedelta(hours=2, seconds=90)
        assert datetime.fromisoformat(r.result) == r.now


async def test_a_timer_wins_against_a_step_that_backs_off_for_longer() -> None:
    async with run(stubborn) as r:
        assert r.result == 1
        assert r.now.second == 40


async def test_time_passes_only_so_far() -> None:
    async with run(asking) as r:
        await r.advance(59)
        assert r.waiting == ["ask"]
        assert len(r.calls) == 1
        await r.advance(1)
        assert [call.parameters for call in r.calls] == [{"again": False}, {"again": True}]
        await r.answer("ask", 1)


async def test_a_flow_that_sleeps_for_ever_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatch.testing.trial.LEAPS", 20)
    with pytest.raises(AssertionError, match="poll goes on for ever: time has leapt 20 times"):
        async with run(poll, steps={"look": "not there"}):
            pass


# --- how it ends ----------------------------------------------------------------------------------


async def test_a_cancel_is_played_to_its_end_backoffs_included() -> None:
    tries: list[Any] = [OSError(), OSError(), None]
    async with run(careful, steps={"undo": lambda: tries.pop(0)}) as r:
        assert r.waiting == ["ask", "go"]
        await r.cancel("changed my mind")
        assert r.status is Status.CANCELLED
        assert r.text == "Undoing. "
        assert tries == []


async def test_a_failure_that_the_test_does_not_ask_for_fails_it() -> None:
    with pytest.raises(AssertionError, match="failing failed: flow-failed: RuntimeError: boom"):
        async with run(failing) as r:
            assert r.text
    with pytest.raises(AssertionError, match="failing failed"):
        async with run(failing) as r:
            assert r.result


async def test_the_log_has_the_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with run(failing) as r:
        assert r.error
    assert 'raise RuntimeError("boom")' in caplog.text
    assert logging.getLogger("dispatch.engine").level == logging.NOTSET


async def test_what_the_test_raises_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with run(weather):
            raise KeyError
    with pytest.raises(pytest.fail.Exception):
        async with run(weather):
            pytest.fail("no")
    with anyio.move_on_after(60) as scope:
        async with run(weather):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_what_is_no_flow_is_refused() -> None:
    with pytest.raises(FlowMistake, match="is not a flow: decorate it"):
        async with run(weather.fn):  # type: ignore[arg-type]  # the mistake itself
            pass


# --- the rest -------------------------------------------------------------------------------------


class Trip(Struct):
    to: str
    days: int = 1


@flow("trip")
async def trip(run: Run[Trip]) -> Flow:
    yield result([run.inputs.to, run.inputs.days])


@pytest.mark.parametrize("inputs", [Trip("Oslo"), {"to": "Oslo"}])
async def test_inputs_come_as_the_flows_type(inputs: Any) -> None:
    async with run(trip, inputs) as r:
        assert r.result == ["Oslo", 1]


async def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(Unprocessable, match="inputs do not fit flow trip") as refused:
        async with run(trip, {"days": 2}):
            pass
    check_no_frames_of_the_engine(refused)


async def test_a_flow_is_brought_what_a_dispatch_brings() -> None:
    async with run(brought, context=1, record={"id": 2}, metadata="m", conversation_id="c") as r:
        assert r.result[:4] == [1, {"id": 2}, "m", "c"]
        assert datetime.fromisoformat(r.result[4]) == datetime(2025, 6, 15, 15, tzinfo=UTC)


async def test_other_versions_are_there_to_go_on_with() -> None:
    async with run(greeting_1, flows=[greeting_2]) as r:
        assert r.result == "on to 2"


async def test_events_are_typed() -> None:
    async with run(weather, tools={"get_weather": "dry"}) as r:
        asked = [event for event in r.events if isinstance(event, Await)]
        assert asked[0].tool_name == "get_weather"


def test_it_runs_without_a_plugin() -> None:
    async def main() -> Any:
        async with run(weather, tools={"get_weather": "dry"}) as r:
            return r.result

    assert asyncio.run(main()) == "dry"
    assert anyio.run(main) == "dry"


def test_a_loop_that_is_not_asyncios_is_refused() -> None:
    """As of anyio's plugin under trio, which is not installed here."""

    async def main() -> None:
        async with run(weather):
            pass

    with pytest.raises(RuntimeError, match="fixture `anyio_backend`"):
        main().send(None)
