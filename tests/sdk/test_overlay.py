"""The published client's own layer: streams and documents, sync and async."""

from typing import Any

import pytest
from runtype import APIError, DispatchRequest, NotFoundError
from runtype._models import FlowConfig, Message

from tests.sdk.clients import AsyncOverlay, Overlay, calls_of, flow, text_of, types_of


async def test_a_stream_carries_a_flow_to_its_end(overlay: Overlay) -> None:
    request = DispatchRequest(
        flow=FlowConfig(id="echo"), messages=[Message(role="user", content="Good morning")]
    )
    events = await overlay.stream(request)
    assert [name for name in types_of(events) if name != "custom"] == [
        "execution_start",
        "step_start",
        "text_start",
        "text_delta",
        "text_delta",
        "text_complete",
        "step_complete",
        "execution_complete",
    ]
    assert text_of(events) == "Good morning"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


async def test_a_document_holds_the_events_of_the_leg(overlay: Overlay) -> None:
    document = await overlay.document(flow("echo", messages=[{"role": "user", "content": "Hi"}]))
    assert document["status"] == "completed"
    assert document["success"] is True
    assert document["flowId"] == "echo"
    assert document["totalEvents"] == len(document["events"])
    assert text_of(document["events"]) == "Hi"
    summary = document["executionSummary"]
    assert summary["success"] is True
    assert (summary["totalSteps"], summary["successfulSteps"]) == (1, 1)


async def test_a_stream_is_resumed_by_hand(overlay: Overlay) -> None:
    first = await overlay.stream(flow("weather", inputs={"city": "Lima"}))
    [call] = calls_of(first)
    assert first[-1] == call
    assert (call["toolName"], call["parameters"]) == ("get_weather", {"city": "Lima"})
    rest = await overlay.resume(call["executionId"], {call["toolCallId"]: "dry"})
    assert rest[0]["type"] == "execution_start"
    assert rest[0]["resumed"] is True
    assert rest[-1]["type"] == "execution_complete"
    assert rest[-1]["finalOutput"] == "dry"
    assert not calls_of(rest)
    seqs = [event["seq"] for event in first + rest]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_a_document_is_resumed_by_hand(overlay: Overlay) -> None:
    paused = await overlay.document(flow("weather"))
    assert (paused["status"], paused["success"]) == ("paused", True)
    assert paused["pausedReason"]["type"] == "local_action"
    assert paused["pausedReason"]["toolName"] == "get_weather"
    done = await overlay.resume_document(paused["executionId"], {"get_weather": "wet"})
    assert (done["status"], done["executionId"]) == ("completed", paused["executionId"])
    assert "It is wet." in text_of(done["events"])


async def test_the_same_outputs_again_give_the_same_leg(overlay: Overlay) -> None:
    paused = await overlay.document(flow("weather"))
    once = await overlay.resume(paused["executionId"], {"get_weather": "wet"})
    again = await overlay.resume(paused["executionId"], {"get_weather": "wet"})
    assert again == once


async def test_other_outputs_later_are_refused(overlay: Overlay) -> None:
    paused = await overlay.document(flow("weather"))
    await overlay.resume(paused["executionId"], {"get_weather": "wet"})
    with pytest.raises(APIError) as refused:
        await overlay.resume(paused["executionId"], {"get_weather": "dry"})
    assert refused.value.status_code == 409
    assert refused.value.response_body["code"] == "await-settled"


async def test_messages_of_a_resume_are_taken(overlay: Overlay) -> None:
    paused = await overlay.document(flow("weather"))
    events = await overlay.resume(
        paused["executionId"],
        {"get_weather": "wet"},
        messages=[{"role": "user", "content": "And now?"}],
    )
    assert events[-1]["success"] is True


async def test_a_failing_flow_is_a_failed_document_and_not_an_error(overlay: Overlay) -> None:
    document = await overlay.document(flow("failing"))
    assert (document["status"], document["success"]) == ("failed", False)
    assert "boom" in document["error"]
    assert document["events"][-1]["type"] == "execution_error"


async def test_a_flow_nobody_registered_is_not_found(overlay: Overlay) -> None:
    with pytest.raises(NotFoundError) as refused:
        await overlay.stream(flow("nowhere"))
    assert "nowhere" in str(refused.value)
    assert refused.value.response_body["code"] == "flow-unknown"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "no-target"),
        ({"flow": "weather"}, "body-invalid"),
        ({"flow": {"name": "new", "steps": [{"type": "prompt"}]}}, "inline-steps-unsupported"),
    ],
)
async def test_what_cannot_be_run_is_refused_before_the_stream(
    overlay: Overlay, body: dict[str, Any], code: str
) -> None:
    with pytest.raises(APIError) as refused:
        await overlay.stream(body)
    assert refused.value.status_code == 400
    assert refused.value.response_body["code"] == code


async def test_respond_async_gives_a_handle_whose_status_can_be_polled(address: str) -> None:
    overlay = AsyncOverlay(address, headers={"Prefer": "respond-async"})
    try:
        handle = await overlay.document(flow("weather", conversationId="talk_1"))
        assert (handle["accepted"], handle["conversationId"]) == (True, "talk_1")
        status = await overlay.get(handle["statusUrl"].removeprefix("/v1"))
        assert status["executionId"] == handle["executionId"]
        assert status["status"] in ("queued", "running", "paused")
    finally:
        await overlay.close()
