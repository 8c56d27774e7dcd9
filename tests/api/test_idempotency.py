"""A dispatch with an `idempotency-key` happens once, however often it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from dispatch.app import create_app
from dispatch.flow import FlowVersion
from tests.api.caller import Caller, Told, refusal
from tests.api.flows import Gate, flows
from tests.serving import serve

DISPATCH = "/v1/dispatch"


def asked(flow: str, **more: Any) -> dict[str, Any]:
    return {"flow": {"id": flow}, **more}


async def stream(caller: Caller, key: str, body: dict[str, Any]) -> Told:
    return await caller.stream("POST", DISPATCH, body, headers={"Idempotency-Key": key})


async def test_the_same_request_is_answered_by_the_same_events(caller: Caller) -> None:
    first = await stream(caller, "same", asked("talk"))
    again = await stream(caller, "same", asked("talk"))
    assert again.events == first.events
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"


async def test_the_same_request_as_json_is_answered_by_the_same_document(caller: Caller) -> None:
    body = asked("talk", options={"streamResponse": False})
    first = await caller.post(DISPATCH, body, **{"idempotency-key": "json"})
    again = await caller.post(DISPATCH, body, **{"idempotency-key": "json"})
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


async def test_the_same_request_for_a_handle_names_the_same_execution(caller: Caller) -> None:
    headers = {"idempotency-key": "handle", "prefer": "respond-async"}
    first = await caller.post(DISPATCH, asked("talk"), **headers)
    again = await caller.post(DISPATCH, asked("talk"), **headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["executionId"] == first.json()["executionId"]
    assert again.headers["preference-applied"] == "respond-async"


async def test_the_order_of_keys_makes_no_other_request(caller: Caller) -> None:
    first = await stream(caller, "order", asked("echo", inputs={"a": 1, "b": 2}))
    again = await stream(caller, "order", {"inputs": {"b": 2.0, "a": 1}, "flow": {"id": "echo"}})
    assert again.id == first.id


@pytest.mark.parametrize("other", [asked("talk", inputs={"n": 1}), asked("echo")])
async def test_another_request_is_409_and_starts_nothing(
    caller: Caller, other: dict[str, Any]
) -> None:
    key = f"other-{len(str(other))}"
    await stream(caller, key, asked("talk"))
    before = (await caller.get("/v1/executions")).json()
    answer = await caller.post(DISPATCH, other, **{"idempotency-key": key})
    assert refusal(answer)[:2] == (409, "idempotency-mismatch")
    assert (await caller.get("/v1/executions")).json() == before


@pytest.mark.parametrize("key", ["", "two words", "x" * 256])
async def test_a_key_that_is_none_is_400(caller: Caller, key: str) -> None:
    answer = await caller.post(DISPATCH, asked("talk"), **{"idempotency-key": key})
    assert refusal(answer)[:2] == (400, "idempotency-key-invalid")


async def test_one_that_waits_is_repeated_to_its_current_suspension(caller: Caller) -> None:
    first = await stream(caller, "waits", asked("two"))
    assert len(first.calls) == 2
    await caller.resume(first.id, {"look": 1})
    again = await stream(caller, "waits", asked("two"))
    assert again.id == first.id
    # Only what is still open: a call that a client sees twice, it carries out twice.
    assert [event["toolName"] for event in again.of("await")] == ["see"]
    assert again.seqs[0] == 1


async def test_fifty_at_once_start_one_execution(caller: Caller) -> None:
    told: list[Told] = []

    async def one() -> None:
        told.append(await stream(caller, "fifty", asked("talk")))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
    assert len({one.id for one in told}) == 1
    assert all(one.events == told[0].events for one in told)
    assert sum("idempotency-replayed" not in one.headers for one in told) == 1


async def test_an_agent_in_the_path_is_part_of_the_request(caller: Caller) -> None:
    headers = {"idempotency-key": "agent"}
    body: dict[str, Any] = {"messages": []}
    answer = await caller.post("/v1/agents/listener/execute", body, **headers)
    assert answer.status_code == 200
    answer = await caller.post(DISPATCH, asked("talk") | body, **headers)
    assert refusal(answer)[:2] == (409, "idempotency-mismatch")


@pytest.fixture
def registered() -> list[FlowVersion]:
    return flows(Gate())


async def test_a_key_holds_across_a_restart(tmp_path: Path, registered: list[FlowVersion]) -> None:
    ids = []
    for _ in range(2):
        app = create_app(registered, tmp_path / "dispatch.db")
        async with serve(app) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
            caller = Caller(http, app, Gate())
            ids.append((await stream(caller, "restart", asked("one"))).id)
    assert ids[0] == ids[1]
