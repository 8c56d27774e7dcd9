"""Decisions through the published client: it shows an approval, the caller decides."""

import pytest
from runtype import APIError, NotFoundError, StreamCallbacks

from tests.sdk.clients import (
    Decision,
    Event,
    Overlay,
    calls_of,
    dumped,
    flow,
    text_of,
    types_of,
)


async def asked(overlay: Overlay) -> Event:
    """The approval that the example waits for."""
    events = await overlay.stream(flow("approval"))
    assert events[-1]["type"] == "approval_start"
    return events[-1]


@pytest.mark.parametrize(
    ("decision", "said"), [("approved", "was approved"), ("denied", "was denied")]
)
async def test_a_decision_is_streamed_on(overlay: Overlay, decision: Decision, said: str) -> None:
    approval = await asked(overlay)
    assert approval["toolName"] == "delete_record"
    assert approval["reason"] == "It cannot be brought back."
    leg = dumped(
        await overlay.approve(
            approval["executionId"], approval["approvalId"], decision, reason="so be it"
        )
    )
    assert types_of(leg)[:2] == ["execution_start", "approval_complete"]
    decided = leg[1]
    assert (decided["decision"], decided["resolvedBy"]) == (decision, "user")
    assert said in text_of(leg)
    assert leg[-1]["type"] == "execution_complete"
    assert '"so be it"' in leg[-1]["finalOutput"]


@pytest.mark.parametrize("decision", ["approved", "denied"])
async def test_a_decision_is_answered_with_a_document(overlay: Overlay, decision: Decision) -> None:
    approval = await asked(overlay)
    done = await overlay.approve_document(approval["executionId"], approval["approvalId"], decision)
    assert (done["status"], done["decision"]) == ("completed", decision)
    assert "events" not in done


async def test_a_document_names_the_approval_it_waits_for(overlay: Overlay) -> None:
    paused = await overlay.document(flow("approval"))
    reason = paused["pausedReason"]
    assert (paused["status"], reason["type"]) == ("paused", "local_action")
    assert (reason["toolName"], reason["awaitReason"]) == ("delete_record", "approval_required")
    done = await overlay.approve_document(paused["executionId"], reason["approvalId"], "approved")
    assert done["status"] == "completed"


async def test_the_same_decision_again_gives_the_same_leg(overlay: Overlay) -> None:
    approval = await asked(overlay)
    ids = approval["executionId"], approval["approvalId"]
    once = await overlay.approve(*ids, "approved")
    assert await overlay.approve(*ids, "approved") == once
    with pytest.raises(APIError) as refused:
        await overlay.approve(*ids, "denied")
    assert refused.value.status_code == 409


async def test_outputs_for_an_approval_are_refused(overlay: Overlay) -> None:
    approval = await asked(overlay)
    with pytest.raises(APIError) as refused:
        await overlay.resume(approval["executionId"], {"delete_record": "done"})
    assert refused.value.status_code in (400, 409)


async def test_the_local_tools_loop_does_not_approve_by_itself(overlay: Overlay) -> None:
    """The client mistakes the pause of a document for a tool call (wire 4.3): it is refused."""
    deleted: list[Event] = []
    with pytest.raises(APIError) as refused:
        await overlay.with_tools(flow("approval"), {"delete_record": deleted.append}, stream=False)
    assert refused.value.status_code == 409
    assert refused.value.response_body["code"] == "wrong-kind"


async def test_an_unknown_approval_is_not_found(overlay: Overlay) -> None:
    approval = await asked(overlay)
    with pytest.raises(NotFoundError) as refused:
        await overlay.approve(approval["executionId"], "approval_of_another_day", "approved")
    assert refused.value.response_body["code"] == "approval-unknown"


async def test_a_call_and_an_approval_open_at_once(overlay: Overlay) -> None:
    first = await overlay.stream(flow("tool_beside_approval"))
    [call] = calls_of(first)
    [approval] = [event for event in first if event["type"] == "approval_start"]
    second = await overlay.resume(call["executionId"], {call["toolCallId"]: "Oslo"})
    assert second[-1]["type"] == "approval_start"
    assert second[-1]["approvalId"] == approval["approvalId"]
    leg = dumped(await overlay.approve(call["executionId"], approval["approvalId"], "approved"))
    assert text_of(leg) == "Oslo: approved"


async def test_callbacks_hear_of_approvals(overlay: Overlay) -> None:
    heard: list[str] = []
    unknown: list[object] = []
    callbacks = StreamCallbacks(
        on_approval_start=lambda event: heard.append(event.approval_id),
        on_approval_complete=lambda event: heard.append(event.decision),
        on_unknown_event=unknown.append,
    )
    leg = dumped(await overlay.typed("/dispatch", flow("approval"), callbacks))
    await overlay.approve(leg[0]["executionId"], heard[0], "denied", callbacks=callbacks)
    assert heard[1:] == ["denied"]
    assert unknown == []
