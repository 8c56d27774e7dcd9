"""Which executions there are: newest first, by status and flow, a page at a time."""

from __future__ import annotations

from typing import Any

import pytest

from dispatch.core.ids import execution_id
from tests.api.caller import Caller, refusal


async def listed(caller: Caller, query: str = "") -> list[Any]:
    answer = await caller.get(f"/v1/executions{query}")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["executions"])


async def test_executions_are_listed_newest_first(caller: Caller) -> None:
    assert await listed(caller) == []
    ids = [(await caller.dispatch(flow)).id for flow in ("talk", "boom", "one", "decide", "talk")]
    assert [one["executionId"] for one in await listed(caller)] == ids[::-1]
    one = (await listed(caller, "?limit=1"))[0]
    assert (one["flow"], one["status"]) == ("talk", "completed")
    assert len(await listed(caller, "?limit=2")) == 2
    assert [one["executionId"] for one in await listed(caller, "?flow=talk")] == [ids[4], ids[0]]
    assert [one["executionId"] for one in await listed(caller, "?status=suspended")] == ids[3:1:-1]
    behind = await listed(caller, f"?before={ids[3]}&limit=2")
    assert [one["executionId"] for one in behind] == [ids[2], ids[1]]
    assert await listed(caller, "?flow=unknown") == []


@pytest.mark.parametrize(
    "query",
    ["status=paused", "status=", "limit=0", "limit=1001", "limit=-1", "limit=x", "before=exec_1"],
)
async def test_nonsense_is_400(caller: Caller, query: str) -> None:
    answer = await caller.get(f"/v1/executions?{query}")
    assert refusal(answer)[:2] == (400, "query-invalid")


async def test_a_place_that_is_not_there_any_more_has_nothing_behind_it(caller: Caller) -> None:
    assert await listed(caller, f"?before={execution_id(1.0, bytes(10))}") == []
