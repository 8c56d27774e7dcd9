"""Approvals: the same table with `approvalId`, at both of their paths, cold and warm."""

from __future__ import annotations

from typing import Any

import pytest

from dispatch.core.ids import execution_id
from tests.api.caller import Caller, Told

APPROVE = "/v1/dispatch/approve"


@pytest.fixture(scope="module", params=["cold", "warm", "of two servers"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def max_live(kind: str) -> int:
    return 0 if kind == "cold" else 1000


@pytest.fixture(scope="module")
def servers(kind: str) -> int:
    return 2 if kind == "of two servers" else 1


def decision(told: Told, word: str = "approved", **more: Any) -> dict[str, Any]:
    return {"executionId": told.id, "approvalId": told.calls[0], "decision": word, **more}


@pytest.mark.parametrize(
    "changed",
    [
        {"executionId": None},
        {"approvalId": ""},
        {"approvalId": "x" * 201},
        {"decision": "maybe"},
        {"decision": None},
        {"decision": ["approved"]},
        {"reason": 7},
        {"streamResponse": "yes"},
    ],
)
async def test_what_cannot_be_read_is_400(caller: Caller, changed: dict[str, Any]) -> None:
    body = {"executionId": "exec_1", "approvalId": "a", "decision": "approved"} | changed
    assert (await caller.refused(APPROVE, body))[:2] == (400, "body-invalid")


async def test_an_unknown_execution_is_404(caller: Caller) -> None:
    for id in ("exec_1", execution_id(1.0, bytes(10))):
        body = {"executionId": id, "approvalId": "a", "decision": "denied"}
        assert (await caller.refused(APPROVE, body))[:2] == (404, "execution-unknown")


async def test_an_unknown_approval_is_404(caller: Caller) -> None:
    told = await caller.dispatch("decide")
    body = decision(told) | {"approvalId": "approval_0"}
    assert (await caller.refused(APPROVE, body))[:2] == (404, "approval-unknown")


async def test_a_decision_on_a_tool_call_is_409(caller: Caller) -> None:
    told = await caller.dispatch("one")
    assert (await caller.refused(APPROVE, decision(told)))[:2] == (409, "wrong-kind")


async def test_an_approval_that_timed_out_is_410(caller: Caller) -> None:
    told = await caller.dispatch("decide_late")
    seen = await caller.events(told.id, until=lambda seen: "await" in seen.types)
    assert seen.of("approval_complete")[0]["decision"] == "timeout"
    assert (await caller.refused(APPROVE, decision(told)))[:2] == (410, "await-expired")


async def test_an_approval_that_lost_its_race_is_409(caller: Caller) -> None:
    told = await caller.dispatch("decide_either")
    await caller.resume(told.id, {"see": 1})
    body = decision(told) | {"approvalId": told.of("approval_start")[0]["approvalId"]}
    assert (await caller.refused(APPROVE, body))[:2] == (409, "await-abandoned")


async def test_another_decision_than_the_recorded_is_409_with_its_seq(caller: Caller) -> None:
    told = await caller.dispatch("decide")
    leg = await caller.approve(told.id, told.calls[0], "denied")
    status, code, details = await caller.refused(APPROVE, decision(told, "approved"))
    assert (status, code) == (409, "await-settled")
    assert str(leg.of("approval_complete")[0]["seq"]) in details[0]["message"]


@pytest.mark.parametrize("word", ["approved", "denied"])
@pytest.mark.parametrize(
    "path", [APPROVE, "/v1/agents/virtual/approve", "/v1/agents/x%2Fy/approve"]
)
async def test_a_decision_begins_the_next_leg(caller: Caller, word: str, path: str) -> None:
    told = await caller.dispatch("decide")
    assert told.types[-1] == "approval_start"
    if "%2F" in path:  # one more segment, and no such path
        assert (await caller.refused(path, decision(told, word)))[:2] == (404, "not-found")
        return
    leg = await caller.stream("POST", path, decision(told, word, reason="as agreed", remember=True))
    assert leg.types[:2] == ["execution_start", "approval_complete"]
    assert leg.of("approval_complete")[0]["decision"] == word
    assert leg.text == f"{word}: as agreed"
    assert leg.types[-1] == "execution_complete"
    assert told.seqs + leg.seqs == list(range(1, len(told.seqs + leg.seqs) + 1))


async def test_the_same_decision_again_tells_the_same_and_applies_nothing(caller: Caller) -> None:
    told = await caller.dispatch("decide")
    leg = await caller.approve(told.id, told.calls[0], "denied")
    again = await caller.approve(told.id, told.calls[0], "denied")
    assert again.events == leg.events


@pytest.mark.parametrize("word", ["approved", "denied"])
async def test_the_document_has_the_decision_and_no_events(caller: Caller, word: str) -> None:
    told = await caller.dispatch("decide")
    answer = await caller.post(APPROVE, decision(told, word, streamResponse=False))
    body = answer.json()
    assert (answer.status_code, body["status"], body["success"]) == (200, "completed", True)
    assert (body["executionId"], body["decision"]) == (told.id, word)
    # With events the published client takes it for the answer to a resume (wire 4.2).
    assert "events" not in body


async def test_an_approval_pause_is_told_in_a_document(caller: Caller) -> None:
    answer = await caller.post(
        "/v1/dispatch", {"flow": {"id": "decide"}, "options": {"streamResponse": False}}
    )
    body = answer.json()
    assert (body["status"], body["success"]) == ("paused", True)
    assert body["pausedReason"] == {
        "type": "local_action",
        "executionId": body["executionId"],
        "toolId": body["events"][-1]["approvalId"],
        "approvalId": body["events"][-1]["approvalId"],
        "toolName": "erase",
        "parameters": {"record": 7},
        "awaitReason": "approval_required",
    }
