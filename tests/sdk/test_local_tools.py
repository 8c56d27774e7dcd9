"""The published client's local-tools loop: it runs what the flow asks for, and resumes."""

from collections.abc import Iterator
from typing import Any

import pytest
from runtype import FlowBuilder, FlowResult, LocalToolEntry, Runtype, StreamCallbacks
from runtype import runtype as facade
from runtype.flow_builder import FlowSummary

from tests.sdk.clients import Event, Overlay, calls_of, flow, text_of, types_of

#: A step of a builder, which this server does not run.
VARIABLE: dict[str, Any] = {"name": "x", "variable_name": "x", "value": 1}
STREAMING = pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])


def weather(parameters: dict[str, Any]) -> str:
    return f"sunny in {parameters['city']}"


def summary_of(done: FlowResult) -> FlowSummary:
    summary = done.get_summary()
    assert summary is not None
    return summary


@STREAMING
async def test_one_tool(overlay: Overlay, stream: bool) -> None:
    done = await overlay.with_tools(flow("one_tool"), {"get_weather": weather}, stream=stream)
    assert done.get_result("keep") == {"weather": "sunny in Oslo"}
    assert text_of(done.events) == "In Oslo: sunny in Oslo"
    summary = summary_of(done)
    assert (summary.flow_name, summary.success) == ("one_tool", True)
    assert (summary.total_steps, summary.successful_steps, summary.failed_steps) == (1, 1, 0)


@STREAMING
async def test_two_parallel_calls_of_one_tool(overlay: Overlay, stream: bool) -> None:
    asked: list[str] = []

    def get_weather(parameters: dict[str, Any]) -> dict[str, str]:
        asked.append(parameters["city"])
        return {"sky": f"as in {parameters['city']}"}

    done = await overlay.with_tools(
        flow("parallel_tools"), {"get_weather": get_weather}, stream=stream
    )
    assert asked == ["Oslo", "Lima"]
    assert len(calls_of(done.events)) == 2
    text = text_of(done.events)
    assert text == 'In Oslo: {"sky": "as in Oslo"}. In Lima: {"sky": "as in Lima"}.'


@STREAMING
async def test_a_loop_of_several_turns(overlay: Overlay, stream: bool) -> None:
    asked: list[Any] = []

    def get_time(parameters: dict[str, Any]) -> str:
        asked.append(parameters["city"])
        return "noon"

    done = await overlay.with_tools(
        {"agent": {"agentId": "agent"}},
        {"get_weather": weather, "get_time": get_time},
        stream=stream,
    )
    assert asked == ["Oslo", "Lima", "Accra"]
    assert "sunny in Accra" in text_of(done.events)


@STREAMING
async def test_a_handler_that_raises_leaves_the_execution_waiting(
    overlay: Overlay, stream: bool
) -> None:
    begun: list[Event] = []

    def broken(parameters: dict[str, Any]) -> str:
        begun.append(parameters)
        raise OSError("no thermometer")

    seen: list[str] = []
    with pytest.raises(RuntimeError, match="no thermometer"):
        await overlay.with_tools(
            flow("weather"),
            {"get_weather": broken},
            StreamCallbacks(on_execution_start=lambda event: seen.append(event.execution_id)),
            stream=stream,
        )
    assert len(begun) == 1
    if not stream:
        return  # the client throws the document away before it calls back
    # Nothing was posted: whoever has a thermometer can still answer.
    status = await overlay.get(f"/executions/{seen[0]}/status")
    assert status["status"] == "paused"
    rest = await overlay.resume(seen[0], {"get_weather": "mild"})
    assert "It is mild." in text_of(rest)


async def test_a_handler_that_is_missing_leaves_the_execution_waiting(overlay: Overlay) -> None:
    with pytest.raises(ValueError, match="get_weather"):
        await overlay.with_tools(flow("weather"), {"get_time": weather}, stream=True)


async def test_callbacks_see_every_leg(overlay: Overlay) -> None:
    seen: list[str] = []
    unknown: list[object] = []
    callbacks = StreamCallbacks(
        on_execution_start=lambda event: seen.append(f"start {getattr(event, 'resumed', False)}"),
        on_await=lambda event: seen.append(f"await {event.tool_name}"),
        on_tool_complete=lambda event: seen.append(f"tool {event.success}"),
        on_execution_complete=lambda event: seen.append(f"end {event.success}"),
        on_unknown_event=unknown.append,
    )
    await overlay.with_tools(flow("weather"), {"get_weather": weather}, callbacks)
    assert seen == ["start False", "await get_weather", "start True", "tool True", "end True"]
    assert unknown == []


async def test_a_page_tool_is_run_by_its_bare_name(overlay: Overlay) -> None:
    def color(parameters: dict[str, Any]) -> str:
        return f"{parameters['element']} is blue"

    done = await overlay.with_tools(flow("page_tool"), {"get_page_color": color}, stream=True)
    assert "box is blue" in text_of(done.events)


async def test_tools_of_a_turn_are_declared_and_keep_their_origin(overlay: Overlay) -> None:
    entry = LocalToolEntry(
        description="The weather in a city",
        parameters_schema={"type": "object", "properties": {"city": {"type": "string"}}},
        execute=weather,
        origin="sdk",
        page_origin="https://page.example",
    )
    done = await overlay.with_tools(
        flow("weather"), {"get_weather": entry}, scope="turn", stream=True
    )
    [call] = calls_of(done.events)
    assert (call["origin"], call["pageOrigin"]) == ("sdk", "https://page.example")
    assert "sunny in Oslo" in text_of(done.events)


# --- builders -------------------------------------------------------------------------------------


@STREAMING
async def test_a_builder_runs_a_registered_flow(overlay: Overlay, stream: bool) -> None:
    builder = FlowBuilder().use_existing_flow("weather").with_inputs({"city": "Lima"})
    done = await overlay.build(builder, stream=stream, local_tools={"get_weather": weather})
    assert isinstance(done, FlowResult)
    assert "sunny in Lima" in text_of(done.events)


async def test_a_builder_without_tools_gives_what_the_first_leg_said(overlay: Overlay) -> None:
    builder = (
        FlowBuilder()
        .use_existing_flow("echo")
        .with_messages([{"role": "user", "content": "Hello"}])
    )
    done = await overlay.build(builder)
    assert isinstance(done, FlowResult)
    assert done.get_result("echo") == "Hello"


async def test_a_builder_with_callbacks_gives_a_summary(overlay: Overlay) -> None:
    deltas: list[str] = []
    callbacks = StreamCallbacks(on_text_delta=lambda event: deltas.append(event.delta))
    builder = FlowBuilder().use_existing_flow("tokens").with_inputs({"count": 3})
    done = await overlay.build(builder, callbacks=callbacks)
    assert isinstance(done, FlowSummary)
    assert done.success
    assert deltas == ["xxxx"] * 3


async def test_steps_of_a_builder_are_not_run_but_its_name_is_looked_up(overlay: Overlay) -> None:
    builder = (
        FlowBuilder().create_flow(name="weather").set_variable(name="x", variable_name="x", value=1)
    )
    done = await overlay.build(builder, local_tools={"get_weather": weather})
    assert isinstance(done, FlowResult)
    assert "sunny in Oslo" in text_of(done.events)


@pytest.fixture
def runtype(address: str) -> Iterator[type[Runtype]]:
    """The static facade, whose client is one of the process."""
    before = facade._global_config
    facade._global_config = facade.RuntypeConfig()
    Runtype.configure(api_key="key", base_url=address)
    yield Runtype
    facade._global_config = before
    Runtype.configure()


def test_the_facade_runs_flows_sync(runtype: type[Runtype]) -> None:
    try:
        done = runtype.flows.use("weather").with_local_tools({"get_weather": weather}).result_sync()
        assert types_of(done.events).count("execution_start") == 2
        assert summary_of(done).success
    finally:
        runtype.get_client().close()


async def test_the_facade_runs_flows_async(runtype: type[Runtype]) -> None:
    try:
        used = (
            await runtype.flows.use("weather").with_local_tools({"get_weather": weather}).stream()
        )
        assert "sunny in Oslo" in text_of(used.events)
        executed = await runtype.flows.execute(
            "echo", messages=[{"role": "user", "content": "Hello"}]
        )
        assert executed.get_result("echo") == "Hello"
    finally:
        await runtype.get_async_client().close()


async def test_an_upsert_finds_the_registered_flow_by_name(runtype: type[Runtype]) -> None:
    try:
        upsert = runtype.flows.upsert(name="weather").set_variable(
            name="x", variable_name="x", value=1
        )
        done = await upsert.with_local_tools({"get_weather": weather}).stream()
        assert "sunny in Oslo" in text_of(done.events)
    finally:
        await runtype.get_async_client().close()


async def test_an_upsert_of_an_unknown_flow_is_probed_by_hash_and_then_refused(
    runtype: type[Runtype],
) -> None:
    try:
        upsert = runtype.flows.upsert(name="new").set_variable(**VARIABLE)
        with pytest.raises(Exception, match="steps that come with a dispatch are not run"):
            await upsert.stream()
    finally:
        await runtype.get_async_client().close()
