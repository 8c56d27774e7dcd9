"""As many executions run at once as may: a dispatch beyond them is refused, nothing else is."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.api.caller import Caller

DISPATCH = "/v1/dispatch"


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"max_running": 1}


async def test_a_dispatch_beyond_the_limit_is_429_and_starts_nothing(caller: Caller) -> None:
    waiting = await caller.dispatch("one")
    same = {"flow": {"id": "talk"}}, {"Idempotency-Key": "before"}
    before = await caller.stream("POST", DISPATCH, same[0], headers=same[1])
    body = {"flow": {"id": "hang"}}
    async with caller.beginning("POST", DISPATCH, body) as hanging:
        await hanging.until(lambda told: "step_start" in told.types)
        answer = await caller.post(DISPATCH, {"flow": {"id": "talk"}})
        assert answer.status_code == 429
        assert answer.json()["code"] == "too-many-running"
        assert answer.headers["retry-after"].isdigit()
        listed = (await caller.get("/v1/executions")).json()["executions"]
        assert [one["flow"] for one in listed] == ["hang", "talk", "one"]
        # Nor is what was begun before begun by being asked for again.
        again = await caller.stream("POST", DISPATCH, same[0], headers=same[1])
        assert again.events == before.events
        other = await caller.post(DISPATCH, body, **{"idempotency-key": "before"})
        assert other.json()["code"] == "idempotency-mismatch"
        new = await caller.post(DISPATCH, body, **{"idempotency-key": "new"})
        assert new.status_code == 429
        # What waits has begun, and is let go on.
        leg = await caller.resume(waiting.id, {"look": "fog"})
        assert leg.types[-1] == "execution_complete"
        caller.gate.open()
    ended = await caller.events(listed[0]["executionId"])
    assert ended.types[-1] == "execution_complete"
    # Between its final event and the end of its task lies a moment.
    with anyio.fail_after(5):
        while (await caller.post(DISPATCH, {"flow": {"id": "talk"}})).status_code == 429:
            pass
