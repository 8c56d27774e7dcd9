"""`GET /v1/executions`: which there are."""

from __future__ import annotations

import pytest

from dispatch.core.ids import execution_id
from tests.api.caller import Caller


async def test_executions_are_listed_newest_first_a_page_at_a_time(caller: Caller) -> None:
    ids = [(await caller.dispatch("talk")).id for _ in range(3)][::-1]
    first = (await caller.get("/v1/executions?flow=talk&limit=2")).json()["executions"]
    assert [one["executionId"] for one in first] == ids[:2]
    behind = f"/v1/executions?flow=talk&limit=1&before={ids[1]}"
    assert [one["executionId"] for one in (await caller.get(behind)).json()["executions"]] == [
        ids[2]
    ]


async def test_a_listed_execution_says_where_it_stands(caller: Caller) -> None:
    told = await caller.dispatch("talk")
    (one,) = (await caller.get("/v1/executions?limit=1")).json()["executions"]
    assert one.pop("createdAt") <= one.pop("updatedAt") == one.pop("completedAt")
    assert one == {
        "executionId": told.id,
        "flow": "talk",
        "version": 1,
        "kind": "flow",
        "status": "completed",
        "lastSeq": told.seqs[-1],
    }


async def test_only_those_of_a_status(caller: Caller) -> None:
    await caller.dispatch("talk")
    listed = (await caller.get("/v1/executions?status=completed")).json()["executions"]
    assert {one["status"] for one in listed} == {"completed"}
    assert (await caller.get("/v1/executions?flow=nothing")).json() == {"executions": []}


async def test_a_page_behind_an_execution_that_is_not_there_is_empty_or_older(
    caller: Caller,
) -> None:
    unknown = execution_id(0.0, bytes(10))
    answer = await caller.get(f"/v1/executions?before={unknown}")
    assert (answer.status_code, answer.json()) == (200, {"executions": []})


@pytest.mark.parametrize(
    "query",
    ["status=nonsense", "status=", "limit=0", "limit=1001", "limit=-1", "limit=x", "before=x"],
)
async def test_queries_that_make_no_sense(caller: Caller, query: str) -> None:
    answer = await caller.get(f"/v1/executions?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "query-invalid")
