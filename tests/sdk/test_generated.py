"""The published client's generated layer (`client.api`): strict models, sync and async.

It skips a frame that it can't read, with a warning on the log; there must be none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from runtype import AsyncRuntypeClient
from runtype._generated.dispatch.types.post_v1dispatch_continue_request_continuation import (
    PostV1DispatchContinueRequestContinuation_Approval as Decide,
)
from runtype._generated.dispatch.types.post_v1dispatch_continue_request_continuation import (
    PostV1DispatchContinueRequestContinuation_ToolOutput as Deliver,
)
from runtype._generated.errors.conflict_error import ConflictError
from runtype._generated.types.async_dispatch_handle import AsyncDispatchHandle
from runtype._generated.types.dispatch_approval_continuation_json_response import (
    DispatchApprovalContinuationJsonResponse,
)
from runtype._generated.types.dispatch_detached_approval_json_response import (
    DispatchDetachedApprovalJsonResponse,
)
from runtype._generated.types.dispatch_detached_tool_output_json_response import (
    DispatchDetachedToolOutputJsonResponse,
)
from runtype._generated.types.dispatch_flow_json_response import DispatchFlowJsonResponse
from runtype._generated.types.dispatch_tool_output_continuation_json_response import (
    DispatchToolOutputContinuationJsonResponse,
)

from dispatch.app import create_app
from dispatch.settings import Settings
from tests.sdk.clients import AsyncOverlay, Overlay, flow, text_of
from tests.sdk.flows import lasting
from tests.sdk.generated import (
    APPROVE,
    CONTINUE,
    DISPATCH,
    EVENTS,
    JOURNAL,
    RESUME,
    STATUS,
    Api,
    target,
)
from tests.serving import serve

# Its models are built when they are first used, which takes seconds.
pytestmark = pytest.mark.slow


CLEAR = {"clientToolOutputs": {"get_weather": "clear"}}


async def test_dispatch_resume_and_status(api: Api) -> None:
    first = await api.read(DISPATCH, request=target("weather", inputs={"city": "Lima"}))
    call, id = first[-1], first[0]["executionId"]
    assert (call["type"], call["toolName"]) == ("await", "get_weather")
    waiting = await api.ask(STATUS, id)
    assert (waiting["status"], waiting["targetId"]) == ("paused", "weather")
    done = await api.ask(RESUME, execution_id=id, tool_outputs={call["toolCallId"]: "dry"})
    assert (done["status"], done["success"]) == ("completed", True)
    assert done["events"][-1]["type"] == "execution_complete"
    status = await api.ask(STATUS, id)
    assert (status["status"], status["httpStatus"]) == ("completed", 200)
    assert status["result"]["status"] == "completed"


async def test_every_event_that_an_author_can_show_is_valid(api: Api) -> None:
    told = await api.read(DISPATCH, request=target("every_event"))
    assert told[-1]["success"] is True
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))


async def test_events_are_replayed_from_a_cursor(api: Api) -> None:
    told = await api.read(DISPATCH, request=target("one_tool", options=CLEAR))
    id = told[0]["executionId"]
    assert await api.read(EVENTS, id) == told
    assert await api.read(EVENTS, id, after=str(int(told[-3]["seq"]))) == told[-2:]
    assert await api.read(EVENTS, id, after=str(int(told[-1]["seq"]))) == []


@pytest.mark.parametrize("decision", ["approved", "denied"])
async def test_approve(api: Api, decision: str) -> None:
    first = await api.read(DISPATCH, request=target("approval"))
    done = await api.ask(
        APPROVE,
        execution_id=first[-1]["executionId"],
        approval_id=first[-1]["approvalId"],
        decision=decision,
        reason="so be it",
    )
    assert (done["status"], done["decision"]) == ("completed", decision)


async def test_two_calls_are_answered_one_by_one(api: Api) -> None:
    first = await api.read(DISPATCH, request=target("parallel_tools"))
    oslo, lima = (event for event in first if event["type"] == "await")
    id = oslo["executionId"]
    paused = await api.ask(RESUME, execution_id=id, tool_outputs={lima["toolCallId"]: "wet"})
    assert (paused["status"], paused["pausedReason"]["type"]) == ("paused", "local_action")
    assert paused["pausedReason"]["toolId"] == oslo["toolCallId"]
    done = await api.ask(RESUME, execution_id=id, tool_outputs={oslo["toolCallId"]: "dry"})
    assert done["status"] == "completed"


async def test_a_failed_run_is_a_document(api: Api) -> None:
    told = await api.read(DISPATCH, request=target("failing"))
    assert told[-1]["type"] == "execution_error"
    status = await api.ask(STATUS, told[0]["executionId"])
    assert (status["status"], status["error"]) == ("failed", "RuntimeError: boom")


# --- continue -------------------------------------------------------------------------------------


async def test_continue_with_outputs(api: Api) -> None:
    first = await api.read(DISPATCH, request=target("weather"))
    id, outputs = first[0]["executionId"], {first[-1]["toolCallId"]: "dry"}
    done = await api.answer(CONTINUE, execution_id=id, continuation=Deliver(tool_outputs=outputs))
    assert isinstance(done, DispatchToolOutputContinuationJsonResponse)
    assert (done.status, done.events[-1].type) == ("completed", "execution_complete")


async def test_continue_with_a_decision(api: Api) -> None:
    """The answer has no `events`, or the client would take it for the other kind."""
    first = await api.read(DISPATCH, request=target("approval"))
    decided = Decide(approval_id=first[-1]["approvalId"], decision="denied", reason="not today")
    id = first[0]["executionId"]
    done = await api.answer(CONTINUE, execution_id=id, continuation=decided)
    assert isinstance(done, DispatchApprovalContinuationJsonResponse)
    assert (done.status, done.decision) == ("completed", "denied")
    assert '"not today"' in (await api.read(EVENTS, id))[-1]["finalOutput"]


async def test_what_goes_on_without_its_caller_is_told_as_that(tmp_path: Path) -> None:
    app = create_app([lasting], tmp_path / "lasting.db", Settings(json_wait_seconds=0))
    async with serve(app) as url, AsyncRuntypeClient(base_url=url) as client:
        api = Api(client.api)
        first = await api.read(DISPATCH, request=target("lasting"))
        id, outputs = first[0]["executionId"], {"get_place": "Oslo"}
        told = await api.answer(RESUME, execution_id=id, tool_outputs=outputs)
        assert isinstance(told, DispatchDetachedToolOutputJsonResponse)
        with anyio.fail_after(5):
            while (await api.ask(STATUS, id))["status"] != "paused":
                pass
        approval = (await api.ask(JOURNAL, id))["journalEvents"][-1]["payload"]["approvalId"]
        decision: Any = {"approval_id": approval, "decision": "approved"}
        decided = await api.answer(APPROVE, execution_id=id, **decision)
        assert isinstance(decided, DispatchDetachedApprovalJsonResponse)


# --- reading --------------------------------------------------------------------------------------


async def test_the_journal_has_the_events_as_rows(api: Api) -> None:
    told = await api.read(DISPATCH, request=target("weather"))
    journal = await api.ask(JOURNAL, told[0]["executionId"])
    rows = journal["journalEvents"]
    assert [row["payload"]["type"] for row in rows] == [event["type"] for event in told]
    assert [row["eventName"] for row in rows] == [event["type"] for event in told]
    assert [row["seq"] for row in rows] == list(range(1, len(told) + 1))
    assert journal["truncated"] is False


async def test_respond_async_is_polled_until_it_is_over(api: Api, address: str) -> None:
    overlay = AsyncOverlay(address, headers={"Prefer": "respond-async"})
    handle = AsyncDispatchHandle.model_validate(
        await overlay.document(flow("tokens", inputs={"count": 3}))
    )
    await overlay.close()
    assert handle.events_url == f"/v1/executions/{handle.execution_id}/events"
    assert handle.status_url == f"/v1/executions/{handle.execution_id}/status"
    with anyio.fail_after(10):
        while (status := await api.ask(STATUS, handle.execution_id))["status"] != "completed":
            assert status["status"] in ("queued", "running")
    result = DispatchFlowJsonResponse.model_validate(status["result"])
    assert result.events[-1].type == "execution_complete"
    assert len(result.events) == result.total_events


async def test_a_document_is_what_the_models_say(overlay: Overlay) -> None:
    for id in ("weather", "approval", "failing", "tokens"):
        DispatchFlowJsonResponse.model_validate(await overlay.document(flow(id)))


# --- what a dispatch settles beforehand -----------------------------------------------------------


async def test_outputs_given_up_front_answer_their_calls(api: Api) -> None:
    told = await api.read(DISPATCH, request=target("weather", options=CLEAR))
    assert told[-1]["type"] == "execution_complete"
    assert "It is clear." in text_of(told)


async def test_a_flow_that_takes_too_long_fails(api: Api) -> None:
    options = {"flowTimeoutMs": 20}
    told = await api.read(DISPATCH, request=target("dozing", options=options))
    assert (told[-1]["type"], told[-1]["code"]) == ("execution_error", "flow-timeout")


async def test_a_step_that_takes_too_long_fails(api: Api) -> None:
    options = {"stepTimeoutMs": 20}
    told = await api.read(DISPATCH, request=target("dozing", options=options))
    [ended] = [event for event in told if event["type"] == "step_complete"]
    assert (ended["success"], ended["error"]) == (False, "no result within 0.02 s")
    assert told[-1]["type"] == "execution_error"


async def test_a_key_finds_the_first_execution_again(
    api: Api, request: pytest.FixtureRequest
) -> None:
    headers = {"idempotency-key": f"of-{request.node.name}"}
    told = await api.read(DISPATCH, request=target("weather"), headers=headers)
    assert await api.read(DISPATCH, request=target("weather"), headers=headers) == told
    with pytest.raises(ConflictError):
        await api.read(DISPATCH, request=target("echo"), headers=headers)


async def test_a_decision_is_remembered(api: Api) -> None:
    first = await api.read(DISPATCH, request=target("asks_twice"))
    id, approval = first[0]["executionId"], first[-1]["approvalId"]
    done = await api.ask(
        APPROVE, execution_id=id, approval_id=approval, decision="denied", remember=True
    )
    assert done["status"] == "completed"
    assert text_of(await api.read(EVENTS, id)) == "denied denied "
