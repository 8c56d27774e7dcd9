"""A JSON answer that takes too long: the handle for a dispatch, the detached form for the rest."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.api.caller import Caller

JSON = {"streamResponse": False}


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"json_wait_seconds": 0.02}


async def test_a_dispatch_is_answered_with_a_handle(caller: Caller) -> None:
    answer = await caller.post("/v1/dispatch", {"flow": {"id": "nap"}, "options": JSON})
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert "preference-applied" not in answer.headers


async def test_a_resume_is_answered_as_detached(caller: Caller) -> None:
    dispatch = {"flow": {"id": "beside"}}
    async with caller.beginning("POST", "/v1/dispatch", dispatch) as opened:
        told = await opened.until(lambda seen: "dispatch.step_attempt" in str(seen.events))
    with anyio.fail_after(10):
        while not caller.gate.waiting:
            await anyio.lowlevel.checkpoint()
    resume = {"executionId": told.id, "toolOutputs": {"look": "sky"}, **JSON}
    answer = await caller.post("/v1/dispatch/resume", resume)
    assert answer.status_code == 200
    assert answer.json() == {
        "executionId": told.id,
        "status": "running",
        "pauseKind": "client_tool",
    }
    caller.gate.open()
    assert (await caller.events(told.id)).text == "sky held"


async def test_an_approval_is_answered_as_detached(caller: Caller) -> None:
    told = await caller.dispatch("decide_nap")
    body = {"executionId": told.id, "approvalId": told.calls[0], "decision": "approved", **JSON}
    answer = await caller.post("/v1/dispatch/approve", body)
    assert answer.status_code == 200
    assert answer.json() == {
        "executionId": told.id,
        "status": "running",
        "approvalId": told.calls[0],
    }
