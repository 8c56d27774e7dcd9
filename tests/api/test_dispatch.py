"""Which flow a dispatch means, what it starts it with, and the documents of wire 4."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.caller import Caller, Told

DISPATCH = "/v1/dispatch"
JSON = {"streamResponse": False}


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"default_flow": "talk", "json_wait_seconds": 5.0}


async def document(caller: Caller, flow: str, **body: Any) -> Any:
    answer = await caller.post(DISPATCH, {"flow": {"id": flow}, "options": JSON, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- which flow -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        {"flow": {"id": "talk"}},
        {"flow": {"name": "talk"}},
        {"flow": {"id": "unknown", "name": "talk"}},
        {"flow": {"name": "talk", "steps": [{"id": "s"}], "contentHash": "ab"}},
        {"flow": {"name": "talk"}, "options": {"flowMode": "upsert"}},
        {"flow": {"id": "talk", "version": 1}},
        {"flowId": "talk"},
        {},
        {"flow": None, "agent": None, "flowId": None},
    ],
)
async def test_a_flow_is_found(caller: Caller, target: dict[str, Any]) -> None:
    told = await caller.stream("POST", DISPATCH, {"messages": [], **target})
    assert told.events[0]["flowId"] == "talk"
    assert (told.events[0]["kind"], told.text) == ("flow", "one two")


@pytest.mark.parametrize("agent", [{"agentId": "listener"}, {"name": "listener", "model": "x"}])
async def test_an_agent_is_found(caller: Caller, agent: dict[str, Any]) -> None:
    body = {"agent": agent, "messages": [{"role": "user", "content": "hi"}]}
    told = await caller.stream("POST", DISPATCH, body)
    assert (told.events[0]["kind"], told.events[0]["agentId"]) == ("agent", "listener")
    assert told.text == "heard: 1"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"flow": {"id": "unknown"}}, 404, "flow-unknown"),
        ({"flow": {"id": "talk", "version": 7}}, 404, "flow-unknown"),
        ({"flowId": "unknown"}, 404, "flow-unknown"),
        ({"agent": {"agentId": "unknown"}}, 404, "flow-unknown"),
        ({"agent": {"agentId": "talk"}}, 404, "flow-unknown"),
        ({"agent": {"model": "m", "systemPrompt": "p"}}, 400, "inline-agent-unsupported"),
        ({"flow": {}}, 400, "no-target"),
        ({"flow": {"id": "talk"}, "agent": {"agentId": "listener"}}, 400, "two-targets"),
        ({"flow": {"name": "new", "steps": []}}, 400, "inline-steps-unsupported"),
        (
            {"flow": {"name": "new"}, "options": {"flowMode": "virtual"}},
            400,
            "inline-steps-unsupported",
        ),
        ({"flow": {"name": "new", "contentHash": "ab"}}, 422, "FLOW_DEFINITION_REQUIRED"),
        (
            {"flow": {"id": "talk"}, "secrets": {"key": "s"}},
            400,
            "RUNTIME_FLOW_TRANSIENT_SECRETS_UNSUPPORTED",
        ),
        (
            {"flow": {"id": "talk"}, "options": {"resumeFrom": {"executionId": "e"}}},
            400,
            "resume-from-unsupported",
        ),
        ({"flow": {"id": "talk"}, "history": "stored"}, 400, "stored-history-unsupported"),
    ],
)
async def test_a_dispatch_is_refused(
    caller: Caller, body: dict[str, Any], status: int, code: str
) -> None:
    assert (await caller.refused(DISPATCH, body))[:2] == (status, code)


async def test_joining_is_refused_and_other_concurrency_ignored(caller: Caller) -> None:
    body = {"flow": {"id": "talk"}}
    refusal = await caller.refused(DISPATCH, body, **{"x-runtype-concurrency": "join"})
    assert refusal[:2] == (400, "join-unsupported")
    for word in ("reject", "supersede", "queue"):
        answer = await caller.post(DISPATCH, body, **{"x-runtype-concurrency": word})
        assert answer.status_code == 200


# --- what it is started with ----------------------------------------------------------------------


async def test_the_flow_is_given_all_that_came_with_the_dispatch(caller: Caller) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "hi"}], "createdAt": "now"}
    page_tool = {
        "name": "color",
        "description": "of an element",
        "origin": "webmcp",
        "pageOrigin": "https://page.example",
        "annotations": {"readOnly": True},
    }
    told = await caller.dispatch(
        "seen",
        messages=[message],
        clientTools=[
            page_tool,
            {"name": "look", "parametersSchema": {"type": "object"}, "origin": "sdk"},
            {"catalog": "runtype-mcp", "name": "theirs"},
            {"name": "forbidden"},
        ],
        clientToolsPolicy={"allowlist": ["color", "look", "theirs"]},
        context={"page": 1},
        record={"id": "r1"},
        metadata={"m": None},
        secrets={},
        endUser={"id": "u"},
        whatever=[1],
    )
    seen = told.of("custom")[-1]["value"]["value"]
    assert seen == {
        "messages": [message],
        "tools": [
            {
                "name": "color",
                "description": "of an element",
                "origin": "webmcp",
                "pageOrigin": "https://page.example",
            },
            {"name": "look", "parametersSchema": {"type": "object"}, "origin": "sdk"},
        ],
        "context": {"page": 1},
        "record": {"id": "r1"},
        "metadata": {"m": None},
    }


async def test_a_declared_tools_origin_is_carried_into_the_await(caller: Caller) -> None:
    told = await caller.dispatch(
        "pages",
        clientTools=[{"name": "color", "origin": "webmcp", "pageOrigin": "https://page.example"}],
    )
    asked = told.of("await")[0]
    assert (asked["origin"], asked["pageOrigin"]) == ("webmcp", "https://page.example")
    assert asked["toolId"] == asked["toolCallId"]
    assert asked["parameters"] == {"element": "box"}
    assert "awaitReason" not in asked


async def test_inputs_that_do_not_fit_are_422_with_their_path(caller: Caller) -> None:
    assert (await caller.dispatch("order", {"id": 7, "lines": ["a"]})).text == "order 7"
    body = {"flow": {"id": "order"}, "inputs": {"id": 7, "lines": [1]}}
    status, code, details = await caller.refused(DISPATCH, body)
    assert (status, code) == (422, "inputs-invalid")
    assert details[0]["path"] == "$.lines[0]"


@pytest.mark.parametrize("text", ["\x00", "\u2028\r\n", "😀", '"\\', "e\u0301"])
async def test_any_text_comes_back_as_it_went(caller: Caller, text: str) -> None:
    told = await caller.dispatch("echo", {text: text})
    assert told.of("custom")[-1]["value"]["value"] == {text: text}


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 1e308, 0.1, -0.0, 123456789012345678])
async def test_numbers_come_back_as_they_went(caller: Caller, number: float) -> None:
    told = await caller.dispatch("echo", {"n": number})
    assert told.of("custom")[-1]["value"]["value"] == {"n": number}


# --- documents ------------------------------------------------------------------------------------


async def test_the_document_of_a_completed_flow(caller: Caller) -> None:
    body = await document(caller, "talk")
    assert (body["success"], body["status"], body["flowId"]) == (True, "completed", "talk")
    assert body["totalEvents"] == len(body["events"])
    told = await caller.events(body["executionId"])
    assert body["events"] == told.events
    final = told.events[-1]
    assert body["executionSummary"] == {
        key: final[key]
        for key in ("success", "durationMs", "totalSteps", "successfulSteps", "failedSteps")
    }
    assert "error" not in body


async def test_the_document_of_a_failed_flow_is_a_200(caller: Caller) -> None:
    body = await document(caller, "boom")
    assert (body["success"], body["status"]) == (False, "failed")
    assert "boom" in body["error"]
    assert body["code"]
    assert body["events"][-1]["type"] == "execution_error"


async def test_the_document_of_a_paused_flow_names_the_first_open_call(caller: Caller) -> None:
    body = await document(caller, "two")
    first, second = body["events"][-2:]
    assert (body["success"], body["status"]) == (True, "paused")
    assert body["pausedReason"] == {
        "type": "local_action",
        "executionId": body["executionId"],
        "toolId": first["toolCallId"],
        "toolName": "look",
        "parameters": {"n": 1},
    }
    assert second["toolName"] == "see"


async def test_the_document_of_an_agent_has_its_result(caller: Caller) -> None:
    answer = await caller.post(DISPATCH, {"agent": {"name": "listener"}, "options": JSON})
    body = answer.json()
    assert (body["success"], body["result"], body["status"]) == (True, "done", "completed")
    assert "flowId" not in body


async def test_the_document_of_a_resume(caller: Caller) -> None:
    paused = await document(caller, "two")
    outputs = {paused["events"][-1]["toolCallId"]: "sea"}
    resume = {"executionId": paused["executionId"], "toolOutputs": outputs, **JSON}
    body = (await caller.post("/v1/dispatch/resume", resume)).json()
    assert (body["status"], body["pausedReason"]["toolName"]) == ("paused", "look")
    # Only the events of its own leg (wire 3.4).
    assert [event["type"] for event in body["events"]] == [
        "execution_start",
        "tool_complete",
        "await",
    ]
    assert (await caller.post("/v1/dispatch/resume", resume)).json() == body
    resume["toolOutputs"] = {"look": "sky"}
    body = (await caller.post("/v1/dispatch/resume", resume)).json()
    assert (body["status"], body["success"]) == ("completed", True)


async def test_a_result_that_is_no_json_fails_the_flow(caller: Caller) -> None:
    body = await document(caller, "not_a_number")
    assert (body["status"], body["success"]) == ("failed", False)
    assert "NaN" in body["error"] or "JSON" in body["error"] or "nan" in body["error"]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "*/*"])
async def test_what_is_accepted_does_not_matter(caller: Caller, accept: str) -> None:
    answer = await caller.post(DISPATCH, {"flow": {"id": "talk"}}, accept=accept)
    assert answer.headers["content-type"].startswith("text/event-stream")
    answer = await caller.post(DISPATCH, {"flow": {"id": "talk"}, "options": JSON}, accept=accept)
    assert answer.headers["content-type"] == "application/json"


# --- handles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefer", ["respond-async", "wait=10, Respond-Async; x=1"])
@pytest.mark.parametrize("streams", [True, False])
async def test_respond_async_is_answered_with_a_handle(
    caller: Caller, prefer: str, streams: bool
) -> None:
    body = {
        "flow": {"id": "talk"},
        "conversationId": "c1",
        "options": {"streamResponse": streams},
    }
    answer = await caller.post(DISPATCH, body, prefer=prefer)
    handle = answer.json()
    id = handle["executionId"]
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["location"] == f"/v1/executions/{id}/events"
    assert handle["status"] in ("queued", "running", "completed")
    assert (handle["targetKind"], handle["targetId"]) == ("flow", "talk")
    assert (handle["conversationId"], handle["accepted"]) == ("c1", True)
    assert handle["statusUrl"] == f"/v1/executions/{id}/status"
    assert (await caller.events(id)).text == "one two"
    assert (await caller.get(handle["statusUrl"])).json()["status"] == "completed"


# --- status ---------------------------------------------------------------------------------------


async def check_status(caller: Caller, told: Told, status: str) -> Any:
    body = await caller.status(told.id)
    assert body["executionId"] == told.id
    assert body["status"] == status
    assert body["createdAt"].endswith("Z")
    assert body["targetKind"] == "flow"
    assert body["lastSeq"] == told.seqs[-1]
    return body


async def test_the_status_of_a_finished_flow_has_its_document(caller: Caller) -> None:
    told = await caller.dispatch("talk")
    body = await check_status(caller, told, "completed")
    assert body["httpStatus"] == 200
    assert body["result"]["events"] == told.events
    assert body["result"]["status"] == "completed"


async def test_the_status_of_a_failed_flow_has_its_error(caller: Caller) -> None:
    body = await check_status(caller, await caller.dispatch("boom"), "failed")
    assert "boom" in body["error"]
    assert body["result"]["status"] == "failed"


async def test_the_status_of_a_flow_that_waits_has_no_result(caller: Caller) -> None:
    for flow in ("one", "decide"):
        body = await check_status(caller, await caller.dispatch(flow), "paused")
        assert "result" not in body


async def test_the_status_of_a_long_leg_has_its_newest_events(caller: Caller) -> None:
    told = await caller.dispatch("tokens", {"count": 1500, "size": 3})
    body = await check_status(caller, told, "completed")
    assert len(body["result"]["events"]) == 1000
    assert body["result"]["events"] == told.events[-1000:]
    assert (body["result"]["totalEvents"], body["result"]["truncated"]) == (len(told.events), True)


# --- cancel ---------------------------------------------------------------------------------------


async def test_a_cancel_answers_when_it_is_final_and_again_the_same(caller: Caller) -> None:
    told = await caller.dispatch("one")
    path = f"/v1/executions/{told.id}/cancel"
    first = await caller.post(path, {"reason": "enough"})
    body = first.json()
    assert (first.status_code, body["status"], body["code"]) == (200, "cancelled", "cancelled")
    assert body["result"]["events"][-1]["stopReason"] == "cancelled"
    assert (body["result"]["status"], body["result"]["success"]) == ("failed", False)
    again = await caller.post(path, b"")
    assert (again.status_code, again.json()) == (200, body)


@pytest.mark.parametrize("flow", ["talk", "boom"])
async def test_what_is_final_otherwise_cannot_be_cancelled(caller: Caller, flow: str) -> None:
    told = await caller.dispatch(flow)
    assert (await caller.refused(f"/v1/executions/{told.id}/cancel", {}))[:2] == (409, "final")


@pytest.mark.parametrize("command", ["cancel", "retry"])
async def test_commands_on_what_never_was_are_404(caller: Caller, command: str) -> None:
    refusal = await caller.refused(f"/v1/executions/exec_1/{command}", b"")
    assert refusal[:2] == (404, "execution-unknown")
    told = await caller.dispatch("one")
    bodies: list[Any] = [[], "x", {"reason": 1, "streamResponse": 1}]
    for body in bodies:
        refusal = await caller.refused(f"/v1/executions/{told.id}/{command}", body)
        assert refusal[:2] == (400, "body-invalid")
