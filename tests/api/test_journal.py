"""The journal as a document: a thousand rows at a time, behind any cursor."""

from __future__ import annotations

from typing import Any

from dispatch.core.ids import execution_id
from tests.api.caller import Caller, refusal


async def journal(caller: Caller, id: str, after: int | str = 0) -> Any:
    answer = await caller.get(f"/v1/executions/{id}/journal?after={after}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_rows_are_the_events(caller: Caller) -> None:
    body = {"flow": {"id": "beside"}}
    told = await caller.stream(
        "POST",
        "/v1/dispatch",
        body,
        until=lambda told: told.events[-1].get("name") == "dispatch.step_attempt",
    )
    document = await journal(caller, told.id)
    assert document["executionId"] == told.id
    assert document["truncated"] is False
    rows = document["journalEvents"]
    assert [row["payload"] for row in rows][: len(told.events)] == told.events
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["id"] for row in rows] == [str(row["seq"]) for row in rows]
    assert all(row["eventName"] == row["payload"]["type"] for row in rows)
    assert all(row["createdAt"].endswith("Z") for row in rows)
    steps = {row["stepId"] for row in rows if "stepId" in row}
    assert len(steps) == 1
    caller.gate.open()


async def test_a_long_one_is_truncated_and_goes_on_behind_its_last_row(caller: Caller) -> None:
    told = await caller.dispatch("tokens", {"count": 1500, "size": 1})
    first = await journal(caller, told.id)
    assert (len(first["journalEvents"]), first["truncated"]) == (1000, True)
    rest = await journal(caller, told.id, first["journalEvents"][-1]["id"])
    assert rest["truncated"] is False
    rows = first["journalEvents"] + rest["journalEvents"]
    assert [row["payload"] for row in rows] == told.events


async def test_exactly_a_thousand_are_all(caller: Caller) -> None:
    told = await caller.dispatch("tokens", {"count": 1500, "size": 1})
    last = told.events[-1]["seq"]
    document = await journal(caller, told.id, last - 1000)
    assert (len(document["journalEvents"]), document["truncated"]) == (1000, False)
    assert (await journal(caller, told.id, last))["journalEvents"] == []


async def test_private_parts_are_not_among_them(caller: Caller) -> None:
    told = await caller.dispatch("echo", {"password": "s3cret-input"}, messages=[])
    answer = await caller.get(f"/v1/executions/{told.id}/journal")
    first = answer.json()["journalEvents"][0]["payload"]
    assert first["type"] == "execution_start"
    assert "inputs" not in first


async def test_cursors_that_are_none(caller: Caller) -> None:
    told = await caller.dispatch("talk")
    for after, code in (("x", "cursor-invalid"), ("9999", "cursor-ahead")):
        answer = await caller.get(f"/v1/executions/{told.id}/journal?after={after}")
        assert refusal(answer)[:2] == (400, code)
    answer = await caller.get(f"/v1/executions/{execution_id(1.0, bytes(10))}/journal")
    assert refusal(answer)[:2] == (404, "execution-unknown")
