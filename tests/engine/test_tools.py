"""Tools at the caller: outputs, their types, errors, time limits; and approvals and sleeps."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec import Struct

from dispatch import (
    Decision,
    Flow,
    Run,
    ToolFailed,
    ToolTimeout,
    approval,
    flow,
    result,
    sleep,
    sleep_until,
    tool,
)
from dispatch.core.errors import Gone, Unprocessable
from dispatch.core.journal import ClientTool
from dispatch.core.lifecycle import Status
from tests.engine.worker import Bench


class Weather(Struct):
    celsius: float


def mcp(text: str, **more: Any) -> dict[str, Any]:
    """A tool result as the Model Context Protocol shapes it."""
    return {"content": [{"type": "text", "text": text}], **more}


async def test_a_tool_suspends_and_its_output_goes_on(bench: Bench) -> None:
    @flow("one")
    async def one(run: Run[Any]) -> Flow:
        yield "Let me see. "
        output = yield tool("get", {"city": "Oslo"})
        yield f"It is {output}."

    async with bench.worker(one) as worker:
        play = await worker.play(one)
        assert await play.status() is Status.SUSPENDED
        await play.answer("get", "mild")
        assert await play.text() == "Let me see. It is mild."
        assert await play.kinds() == [
            "execution_start",
            "text_delta",
            "tool_start",
            "await",
            "execution_start",
            "tool_complete",
            "text_delta",
            "execution_complete",
        ]
        (waiting,) = await play.facts("await")
        (started,) = await play.facts("tool_start")
        assert waiting["toolCallId"] == waiting["toolId"] == started["toolCallId"]
        assert waiting["parameters"] == started["parameters"] == {"city": "Oslo"}


@pytest.mark.parametrize(
    ("options", "output", "expected"),
    [
        pytest.param({}, {"celsius": 3}, {"celsius": 3}, id="plain JSON"),
        pytest.param({"returns": Weather}, {"celsius": 3}, Weather(3.0), id="returns"),
        pytest.param({}, mcp("mild"), "mild", id="MCP text"),
        pytest.param({}, mcp("3"), "3", id="MCP text is text"),
        pytest.param({"returns": Weather}, mcp('{"celsius":3}'), Weather(3.0), id="MCP JSON"),
        pytest.param({"returns": str}, mcp("3"), "3", id="MCP text as str"),
        pytest.param(
            {"returns": Weather}, mcp("", structuredContent={"celsius": 3}), Weather(3.0), id="MCP"
        ),
        pytest.param({"raw": True}, mcp("mild"), mcp("mild"), id="raw"),
    ],
)
async def test_what_the_flow_receives(
    bench: Bench, options: dict[str, Any], output: Any, expected: Any
) -> None:
    received = []

    @flow("receives")
    async def receives(run: Run[Any]) -> Flow:
        received.append((yield tool("get", **options)))
        yield tool("pause")

    async with bench.worker(receives) as worker:
        play = await worker.play(receives)
        await play.answer("get", output)
        await play.answer("pause", None)
        assert await play.status() is Status.COMPLETED
        assert received == [expected] * len(received)


async def test_an_error_that_the_tool_reports_is_raised(bench: Bench) -> None:
    @flow("fails")
    async def fails(run: Run[Any]) -> Flow:
        try:
            yield tool("get", returns=Weather)
        except ToolFailed as failed:
            yield tool("pause")
            yield result([failed.name, str(failed)])

    async with bench.worker(fails) as worker:
        play = await worker.play(fails)
        await play.answer("get", mcp("no such city", isError=True))
        await play.answer("pause", None)
        assert await play.result() == ["get", "no such city"]


async def test_an_output_that_does_not_fit_is_refused_and_the_call_stays_open(
    bench: Bench,
) -> None:
    @flow("fits")
    async def fits(run: Run[Any]) -> Flow:
        weather: Weather = yield tool("get", returns=Weather)
        yield result(weather.celsius)

    async with bench.worker(fits) as worker:
        play = await worker.play(fits)
        before = await play.kinds()
        with pytest.raises(Unprocessable) as refused:
            await play.answer("get", {"celsius": "mild"})
        assert refused.value.code == "output-invalid"
        assert refused.value.details[0].path == "$.celsius"
        assert await play.kinds() == before
        await play.answer("get", {"celsius": 4})
        assert await play.result() == 4


async def test_private_parameters_and_outputs_are_in_the_await_alone(bench: Bench) -> None:
    @flow("private")
    async def private(run: Run[Any]) -> Flow:
        output = yield tool("login", {"password": "hunter2"}, private=True)
        yield tool("pause")
        yield result(len(output))

    async with bench.worker(private) as worker:
        play = await worker.play(private)
        await play.answer("login", "tok-123")
        await play.answer("pause", None)
        assert await play.result() == 7
        showing = [e.kind for e in await play.entries() if b"hunter2" in e.data]
        assert showing == ["await"]
        assert not any(b"tok-123" in entry.data for entry in await play.entries())


async def test_a_tool_that_is_not_answered_in_time(bench: Bench) -> None:
    @flow("patience")
    async def patience(run: Run[Any]) -> Flow:
        try:
            yield tool("get", timeout=timedelta(minutes=1))
        except ToolTimeout as late:
            yield result(late.name)

    async with bench.worker(patience) as worker:
        play = await worker.play(patience)
        call = (await play.open("get"))[0].id
        await play.pass_time(59)
        assert await play.status() is Status.SUSPENDED
        await play.pass_time(1)
        assert await play.result() == "get"
        with pytest.raises(Gone) as late:
            await play.resume({call: "mild"})
        assert late.value.code == "await-expired"


async def test_what_the_caller_declared_is_in_the_await(bench: Bench) -> None:
    @flow("page")
    async def page(run: Run[Any]) -> Flow:
        yield tool("webmcp:get_color")
        yield tool("get_color")

    declared = [ClientTool(name="get_color", origin="webmcp", page_origin="http://localhost")]
    async with bench.worker(page) as worker:
        play = await worker.play(page, client_tools=declared)
        await play.resume({"get_color": 1})
        await play.resume({"webmcp:get_color": 2})
        assert await play.status() is Status.COMPLETED
        assert [(fact["toolName"], fact["origin"]) for fact in await play.facts("await")] == [
            ("webmcp:get_color", "webmcp"),
            ("get_color", "webmcp"),
        ]


# --- approvals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", ["approved", "denied"])
async def test_a_decision_is_answered(bench: Bench, decision: str) -> None:
    @flow("asks")
    async def asks(run: Run[Any]) -> Flow:
        decided: Decision = yield approval("delete", {"id": 1}, reason="for good")
        yield tool("pause")
        yield result([decided.outcome, decided.approved, decided.reason])

    async with bench.worker(asks) as worker:
        play = await worker.play(asks)
        (start,) = await play.facts("approval_start")
        assert (start["toolName"], start["parameters"], start["reason"]) == (
            "delete",
            {"id": 1},
            "for good",
        )
        await play.decide(decision, "because")
        await play.answer("pause", None)
        assert await play.result() == [decision, decision == "approved", "because"]


async def test_an_approval_that_nobody_decides(bench: Bench) -> None:
    @flow("asks")
    async def asks(run: Run[Any]) -> Flow:
        decided: Decision = yield approval("delete", timeout=60)
        yield result(decided.outcome)

    async with bench.worker(asks) as worker:
        play = await worker.play(asks)
        await play.pass_time(60)
        assert await play.result() == "timeout"


# --- sleeps ---------------------------------------------------------------------------------------


async def test_a_sleep_is_wall_time(bench: Bench) -> None:
    @flow("naps")
    async def naps(run: Run[Any]) -> Flow:
        began = run.now
        yield sleep(60)
        yield sleep(timedelta(hours=1))
        yield sleep_until(run.now + timedelta(days=1))
        yield result((run.now - began).total_seconds())

    async with bench.worker(naps) as worker:
        play = await worker.play(naps)
        await play.pass_time(59)
        assert (await play.kinds())[-1] == "dispatch.timer_set"
        assert await play.status() is Status.RUNNING
        await play.pass_time(1)
        await play.pass_time(3_600)
        assert (await play.kinds()).count("dispatch.timer_fired") == 2
        await play.pass_time(86_400)
        assert await play.result() == 60 + 3_600 + 86_400


async def test_a_clock_that_jumps_ahead_fires_and_one_that_jumps_back_delays(
    bench: Bench,
) -> None:
    @flow("jumps")
    async def jumps(run: Run[Any]) -> Flow:
        yield sleep(60)
        yield sleep(60)

    async with bench.worker(jumps) as worker:
        play = await worker.play(jumps)
        await play.pass_time(1_000_000)
        await play.pass_time(-1_000)
        await play.pass_time(1_059)
        assert (await play.kinds()).count("dispatch.timer_fired") == 1
        await play.pass_time(1)
        assert await play.status() is Status.COMPLETED
