"""Client-token mode through the published client: what a page does, done by a program."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from runtype._generated.client_runtime.types.post_v1client_init_request_session_id import (
    PostV1ClientInitRequestSessionId as WithSession,
)
from runtype._generated.client_runtime.types.post_v1client_init_request_zero import (
    PostV1ClientInitRequestZero as WithoutSession,
)
from runtype._generated.errors.conflict_error import ConflictError
from runtype._generated.errors.forbidden_error import ForbiddenError
from runtype._generated.errors.not_found_error import NotFoundError
from runtype._generated.errors.unauthorized_error import UnauthorizedError
from runtype._generated.types.dispatch_tool_output_continuation_json_response import (
    DispatchToolOutputContinuationJsonResponse,
)

from tests.sdk.clients import Event, text_of
from tests.sdk.generated import DISPATCH, PAGE_CHAT, PAGE_FEEDBACK, PAGE_INIT, PAGE_RESUME, Api
from tests.sdk.generated import target as flow

# Its models are built when they are first used, which takes seconds.
pytestmark = pytest.mark.slow

PAGE = "https://shop.example"
HEADERS = {"Origin": PAGE}
MESSAGES: Any = [{"id": "m1", "role": "user", "content": "How is it?"}]
TOOL: Event = {
    "name": "get_weather",
    "description": "The weather in a city",
    "origin": "webmcp",
    "pageOrigin": PAGE,
    "parametersSchema": {"type": "object", "properties": {}},
}


@pytest.fixture(scope="module")
def token(address: str, db: Path) -> str:
    """Made on the command line, on the file of the server that runs."""
    command = [sys.executable, "-m", "dispatch", "token", "create", "weather", "--origin", PAGE]
    done = subprocess.run(
        [*command, "--db", str(db), "--json"], capture_output=True, text=True, check=True
    )
    token: str = json.loads(done.stdout)["token"]
    return token


async def begin(api: Api, token: str, *, origin: str = PAGE, **more: Any) -> Event:
    kind = WithSession if "sessionId" in more else WithoutSession
    asked = kind.model_validate({"token": token, **more})
    return await api.ask(PAGE_INIT, request=asked, headers={"Origin": origin})


async def chat(api: Api, session: Event, **more: Any) -> list[Event]:
    return await api.read(
        PAGE_CHAT,
        session_id=session["sessionId"],
        messages=MESSAGES,
        headers=HEADERS,
        **more,
    )


async def test_a_session_is_begun_and_gone_on_with(api: Api, token: str) -> None:
    session = await begin(api, token, flowId="weather")
    assert session["targetId"] == session["flow"]["id"] == "weather"
    assert session["config"]["placeholder"]
    expires = datetime.fromisoformat(session["expiresAt"])
    assert expires > datetime.now(UTC) + timedelta(seconds=60)
    again = await begin(api, token, sessionId=session["sessionId"])
    for name in ("sessionId", "conversationId"):
        assert again[name] == session[name]


async def test_a_conversation(api: Api, token: str) -> None:
    session = await begin(api, token)
    first = await chat(api, session, inputs={"city": "Lima"}, client_tools=[TOOL])
    call = first[-1]
    assert (call["toolName"], call["parameters"]) == ("get_weather", {"city": "Lima"})
    assert (call["origin"], call["pageOrigin"]) == ("webmcp", PAGE)
    done = await api.answer(
        PAGE_RESUME,
        execution_id=call["executionId"],
        session_id=session["sessionId"],
        tool_outputs={call["toolCallId"]: "dry"},
        client_tools=[],
        headers=HEADERS,
    )
    assert isinstance(done, DispatchToolOutputContinuationJsonResponse)
    assert (done.status, done.events[-1].type) == ("completed", "execution_complete")
    assert "It is dry." in text_of([event.model_dump(by_alias=True) for event in done.events])


async def test_tools_are_sent_once_and_then_named(api: Api, token: str) -> None:
    session = await begin(api, token)
    await chat(api, session, client_tools=[TOOL], client_tools_fingerprint="one")
    [*_, call] = await chat(api, session, client_tools_fingerprint="one")
    assert call["origin"] == "webmcp"
    with pytest.raises(ConflictError) as refused:
        await chat(api, session, client_tools_fingerprint="two")
    assert refused.value.body["error"] == "client_tools_resend_required"


async def test_feedback_said_again_takes_the_place_of_the_first(api: Api, token: str) -> None:
    session = await begin(api, token)

    async def say(type: str, **more: Any) -> Event:
        of = {"session_id": session["sessionId"], "token": token, "type": type}
        return await api.ask(PAGE_FEEDBACK, **of, **more, headers=HEADERS)

    first = await say("upvote", message_id="m1")
    assert first["success"] is True
    again = await say("upvote", message_id="m1", comment="Really.")
    assert again["feedbackId"] == first["feedbackId"]
    others = [
        await say("upvote", message_id="m2"),
        await say("copy", message_id="m1"),
        await say("csat", rating=5.0),
        await say("nps", rating=9.0),
    ]
    assert len({one["feedbackId"] for one in [first, *others]}) == 5


async def test_what_a_page_may_not(api: Api, token: str) -> None:
    session = await begin(api, token)
    with pytest.raises(UnauthorizedError):
        await begin(api, "ct_made_up")
    with pytest.raises(ForbiddenError):
        await begin(api, token, flowId="echo")
    with pytest.raises(ForbiddenError):
        await begin(api, token, origin="https://evil.example")
    with pytest.raises(UnauthorizedError):
        await chat(api, {"sessionId": "session_made_up"})
    # A page can carry on what it began, and nothing else.
    elsewhere = (await api.read(DISPATCH, request=flow("weather")))[-1]
    with pytest.raises(NotFoundError):
        await api.ask(
            PAGE_RESUME,
            execution_id=elsewhere["executionId"],
            session_id=session["sessionId"],
            tool_outputs={elsewhere["toolCallId"]: "dry"},
            headers=HEADERS,
        )
