"""An execution that is parked, and the ways out: retry, resume, cancel.

Cold, so that the flow is replayed, and finds itself changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dispatch import Flow, Run, flow, tool
from dispatch.app import create_app
from dispatch.flow import FlowVersion
from dispatch.settings import Settings
from tests.api.caller import Caller, Told
from tests.api.flows import Gate
from tests.serving import serve


class Deployed:
    """Which code the flow is at."""

    name = "look"


def edited_flow(deployed: Deployed) -> FlowVersion:
    @flow("edited")
    async def edited(run: Run[Any]) -> Flow:
        yield f"{(yield tool(deployed.name))}"

    return edited


@pytest.fixture(scope="module")
def deployed() -> Deployed:
    return Deployed()


@pytest.fixture(scope="module")
async def caller(
    anyio_backend: str, deployed: Deployed, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Caller]:
    path = tmp_path_factory.mktemp("store") / "dispatch.db"
    app = create_app([edited_flow(deployed)], path, Settings(max_live=0))
    async with serve(app) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        yield Caller(http, app, Gate())


async def park(caller: Caller, deployed: Deployed) -> tuple[Told, Told]:
    """A dispatch, and the resume that parked it: the tool has another name by then."""
    deployed.name = "look"
    told = await caller.dispatch("edited")
    deployed.name = "stare"
    return told, await caller.resume(told.id, {told.calls[0]: "sun"})


async def test_a_leg_ends_properly_when_the_execution_is_parked(
    caller: Caller, deployed: Deployed
) -> None:
    _, leg = await park(caller, deployed)
    assert not leg.is_broken
    assert leg.types[-1] == "error"
    assert (leg.events[-1]["code"], leg.events[-1]["recoverable"]) == ("divergence", False)


async def test_the_log_tells_what_was_parked_and_why(
    caller: Caller, deployed: Deployed, caplog: pytest.LogCaptureFixture
) -> None:
    _, leg = await park(caller, deployed)
    told = leg.events[-1]["error"]["message"]
    [line] = [one for one in caplog.records if one.name == "dispatch.engine.engine"]
    assert line.getMessage() == f"flow edited is interrupted: {told} (divergence)"


async def test_the_status_says_failed_with_the_reason(caller: Caller, deployed: Deployed) -> None:
    told, leg = await park(caller, deployed)
    status = await caller.status(told.id)
    assert (status["status"], status["code"]) == ("failed", "divergence")
    assert status["error"] == leg.events[-1]["error"]["message"]
    assert "result" not in status


async def test_a_document_says_failed_with_the_reason(caller: Caller, deployed: Deployed) -> None:
    told, _ = await park(caller, deployed)
    answer = await caller.post(f"/v1/executions/{told.id}/retry", {"streamResponse": False})
    body = answer.json()
    assert answer.status_code == 200
    assert (body["status"], body["success"], body["code"]) == ("failed", False, "divergence")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"streamResponse": true}'])
async def test_retry_replays_it_with_the_right_code(
    caller: Caller, deployed: Deployed, body: bytes
) -> None:
    told, leg = await park(caller, deployed)
    deployed.name = "look"
    answer = await caller.post(f"/v1/executions/{told.id}/retry", body)
    assert answer.status_code == 200
    assert answer.text.startswith("event: execution_start\n")
    assert '"delta":"sun"' in answer.text
    assert f'"seq":{leg.seqs[-1] + 1},' in answer.text


@pytest.mark.parametrize("outputs", [{}, {"look": "sun"}], ids=["without", "with"])
async def test_a_resume_unparks_it_with_or_without_outputs(
    caller: Caller, deployed: Deployed, outputs: dict[str, Any]
) -> None:
    told, _ = await park(caller, deployed)
    deployed.name = "look"
    leg = await caller.resume(told.id, outputs)
    assert (leg.text, leg.types[-1]) == ("sun", "execution_complete")


async def test_events_stay_open_until_it_is_over(caller: Caller, deployed: Deployed) -> None:
    told, _ = await park(caller, deployed)
    async with caller.beginning("GET", f"/v1/executions/{told.id}/events") as opened:
        await opened.until(lambda seen: "error" in seen.types)
        deployed.name = "look"
        await caller.post(f"/v1/executions/{told.id}/retry", b"")
        seen = await opened.rest()
    assert not seen.is_broken
    assert seen.types[-1] == "execution_complete"
    assert seen.seqs == list(range(1, len(seen.seqs) + 1))


async def test_it_can_be_cancelled(caller: Caller, deployed: Deployed) -> None:
    told, _ = await park(caller, deployed)
    answer = await caller.post(f"/v1/executions/{told.id}/cancel", b"")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


async def test_what_is_not_parked_cannot_be_retried(caller: Caller, deployed: Deployed) -> None:
    deployed.name = "look"
    told = await caller.dispatch("edited")
    refusal = await caller.refused(f"/v1/executions/{told.id}/retry", b"")
    assert refusal[:2] == (409, "not-parked")
