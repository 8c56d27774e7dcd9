"""Client-token mode: what a page without a secret may do, and what no other page may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from dispatch.api.client_sessions import make_token
from dispatch.api.guard import Guard
from dispatch.app import create_app
from dispatch.core.errors import Unavailable
from dispatch.settings import Settings
from dispatch.store.base import Store
from dispatch.store.sqlite import SqliteStore
from tests.api.caller import Caller, Told, refusal
from tests.api.flows import Gate, flows
from tests.serving import serve
from tests.store.entries import TickingClock

PAGE = "https://shop.example"
MESSAGES = [{"id": "m1", "role": "user", "content": "hi"}]
LOOK = {"name": "look", "description": "Looks", "origin": "webmcp"}


class Page:
    """A browser's page from an origin, as far as a server can tell."""

    def __init__(self, caller: Caller, store: Store, origin: str = PAGE):
        self.caller, self.store, self.origin = caller, store, origin
        self.session = ""

    def of(self, origin: str) -> Page:
        return Page(self.caller, self.store, origin)

    async def token(self, flow: str = "one", *origins: str) -> str:
        text, kept = make_token(flow, origins or (PAGE,), 1.0)
        await self.store.sessions.add_token(kept)
        return text

    async def post(self, path: str, body: Any) -> httpx.Response:
        return await self.caller.post(path, body, Origin=self.origin)

    async def begin(self, flow: str = "one", **more: Any) -> dict[str, Any]:
        token = more.pop("token", None) or await self.token(flow)
        answer = await self.post("/v1/client/init", {"token": token, **more})
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        self.session = document["sessionId"]
        return document

    async def stream(self, path: str, **body: Any) -> Told:
        body = {"sessionId": self.session, **body}
        return await self.caller.stream("POST", path, body, headers={"Origin": self.origin})

    async def chat(self, **body: Any) -> Told:
        return await self.stream("/v1/client/chat", messages=MESSAGES, **body)

    async def resume(self, told: Told, output: Any = "fog", **body: Any) -> Told:
        outputs = {told.calls[0]: output}
        return await self.stream(
            "/v1/client/resume",
            executionId=told.id,
            toolOutputs=outputs,
            streamResponse=True,
            **body,
        )

    async def refused(self, path: str, **body: Any) -> tuple[int, str, Any]:
        known = {"sessionId": self.session} if self.session else {}
        return refusal(await self.post(path, {**known, **body}))


@pytest.fixture
def session_seconds() -> float:
    return 3600.0


@pytest.fixture(name="made_flows")
def _made_flows() -> Any:
    return flows(Gate())


@pytest.fixture
async def page(tmp_path: Path, made_flows: Any, session_seconds: float) -> AsyncIterator[Page]:
    clock = TickingClock()
    store = SqliteStore(tmp_path / "dispatch.db", clock=clock)
    app = create_app(made_flows, store, Settings(session_seconds=session_seconds))
    async with serve(app) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        yield Page(Caller(http, app, Gate()), store)


# --- what it may do -------------------------------------------------------------------------------


async def test_a_conversation(page: Page) -> None:
    document = await page.begin()
    assert document["flow"]["id"] == "one"
    assert document["config"]["placeholder"]
    expires = datetime.fromisoformat(document["expiresAt"])
    assert (expires - datetime.now(UTC)).total_seconds() > 60
    told = await page.chat()
    assert told.types[-1] == "await"
    assert told.headers["access-control-allow-origin"] == PAGE
    leg = await page.resume(told)
    assert leg.text == "seen: fog; messages: 1"
    assert leg.types[-1] == "execution_complete"


async def test_a_page_can_reconnect(page: Page) -> None:
    await page.begin()
    told = await page.chat()
    url = f"/v1/client/executions/{told.id}/events?sessionId={page.session}&after=2"
    leg = await page.resume(told)
    events = await page.caller.stream("GET", url, headers={"Origin": PAGE})
    assert events.events == (told.events + leg.events)[2:]


async def test_a_session_is_gone_on_with(page: Page) -> None:
    token = await page.token()
    first = await page.begin(token=token)
    again = await page.begin(token=token, sessionId=first["sessionId"])
    assert again["sessionId"] == first["sessionId"]
    assert again["conversationId"] == first["conversationId"]
    other = await page.begin(token=token, sessionId="session_made_up")
    assert other["sessionId"] not in (first["sessionId"], "session_made_up")


async def test_inputs_and_context_reach_the_flow(page: Page) -> None:
    await page.begin("echo")
    told = await page.chat(inputs={"a": 1})
    assert '{"a":1}' in told.events[-1]["finalOutput"]


async def test_feedback_is_kept(page: Page) -> None:
    await page.begin()
    body = {"type": "upvote", "messageId": "m2", "comment": "good"}
    answer = await page.post("/v1/client/feedback", {"sessionId": page.session, **body})
    assert answer.json()["success"] is True
    assert answer.json()["feedbackId"]


async def test_feedback_with_another_sessions_token_is_401(page: Page) -> None:
    await page.begin()
    other = await page.token("two")
    body = {"sessionId": page.session, "type": "nps", "rating": 9}
    for token in (other, "ct_made_up"):
        answer = await page.post("/v1/client/feedback", {**body, "token": token})
        assert refusal(answer)[:2] == (401, "client-token-invalid")


async def test_a_page_approves_what_it_started(page: Page) -> None:
    await page.begin("decide")
    told = await page.chat()
    body = {"executionId": told.id, "approvalId": told.calls[0], "decision": "approved"}
    leg = await page.caller.stream(
        "POST", "/v1/agents/virtual/approve", body, headers={"Origin": PAGE}
    )
    assert leg.text == "approved: None"


# --- tools ----------------------------------------------------------------------------------------


async def test_tools_are_remembered_by_their_fingerprint(page: Page) -> None:
    await page.begin()
    first = await page.chat(clientTools=[LOOK], clientToolsFingerprint="f1")
    assert first.of("await")[0]["origin"] == "webmcp"
    again = await page.chat(clientToolsFingerprint="f1")
    assert again.of("await")[0]["origin"] == "webmcp"
    without = await page.chat()
    assert "origin" not in without.of("await")[0]


async def test_an_unknown_fingerprint_asks_for_the_tools(page: Page) -> None:
    await page.begin()
    await page.chat(clientTools=[LOOK], clientToolsFingerprint="f1")
    answer = await page.post(
        "/v1/client/chat",
        {"sessionId": page.session, "messages": MESSAGES, "clientToolsFingerprint": "f2"},
    )
    assert answer.status_code == 409
    assert answer.json()["error"] == "client_tools_resend_required"


async def test_a_resume_may_clear_the_tools(page: Page) -> None:
    await page.begin()
    told = await page.chat(clientTools=[LOOK], clientToolsFingerprint="f1")
    await page.resume(told, clientTools=[])
    found = await page.refused("/v1/client/chat", messages=MESSAGES, clientToolsFingerprint="f1")
    assert found[:2] == (409, "client-tools-resend-required")


async def test_a_refused_resume_changes_no_tools(page: Page) -> None:
    await page.begin()
    told = await page.chat(clientTools=[LOOK], clientToolsFingerprint="f1")
    body = {"executionId": told.id, "toolOutputs": {"unknown": 1}, "clientTools": []}
    assert (await page.refused("/v1/client/resume", **body))[:2] == (400, "unknown-call")
    again = await page.chat(clientToolsFingerprint="f1")
    assert again.of("await")[0]["origin"] == "webmcp"


async def test_an_open_stream_ends_when_its_token_is_revoked(page: Page) -> None:
    await page.begin()
    told = await page.chat()
    url = f"/v1/client/executions/{told.id}/events?sessionId={page.session}"
    async with page.caller.beginning("GET", url) as opened:
        await opened.until(lambda seen: "await" in seen.types)
        (kept,) = await page.store.sessions.tokens()
        await page.store.sessions.revoke_token(kept.id, 2.0)
        leg = await page.caller.resume(told.id, {told.calls[0]: "fog"})
        assert leg.types[-1] == "execution_complete"
        assert (await opened.rest()).is_broken
    assert opened.told.types == told.types


# --- what it may not ------------------------------------------------------------------------------


async def test_an_unknown_or_revoked_token_is_401(page: Page) -> None:
    token = await page.token()
    (kept,) = await page.store.sessions.tokens()
    await page.begin(token=token)
    await page.store.sessions.revoke_token(kept.id, 2.0)
    # With its last token gone a page of that origin is any foreign page; others are told why.
    await page.token("one", "https://other.example")
    stranger = page.of("http://localhost:3000")
    found = await stranger.refused("/v1/client/init", token=token)
    assert found[:2] == (401, "client-token-invalid")
    found = await stranger.refused("/v1/client/init", token="ct_made_up")
    assert found[:2] == (401, "client-token-invalid")
    stranger.session = page.session
    found = await stranger.refused("/v1/client/chat", messages=MESSAGES)
    assert found[:2] == (401, "session-invalid")


async def test_a_page_of_another_origin_is_403(page: Page) -> None:
    token = await page.token()
    for origin in ("https://evil.example", "http://localhost:3000", "null"):
        found = await page.of(origin).refused("/v1/client/init", token=token)
        assert found[:2] == (403, "origin-forbidden")
    await page.begin(token=token)
    stranger = page.of("http://localhost:3000")
    stranger.session = page.session
    found = await stranger.refused("/v1/client/chat", messages=MESSAGES)
    assert found[:2] == (403, "origin-forbidden")


async def test_a_token_for_anywhere_is_for_anywhere(page: Page) -> None:
    token = await page.token("one", "*")
    await page.of("https://any.example").begin(token=token)


@pytest.mark.parametrize(
    "path",
    ["/v1/dispatch", "/v1/dispatch/resume", "/v1/dispatch/approve", "/v1/agents/listener/execute"],
)
async def test_a_token_opens_nothing_else(page: Page, path: str) -> None:
    await page.begin()
    assert (await page.refused(path))[:2] == (403, "origin-forbidden")


async def test_a_token_is_for_one_flow(page: Page) -> None:
    token = await page.token("one")
    assert (await page.post("/v1/client/init", {"token": token, "flowId": "one"})).is_success
    found = await page.refused("/v1/client/init", token=token, flowId="two")
    assert found[:2] == (403, "client-token-flow")


async def test_what_another_session_started_is_not_there(page: Page) -> None:
    token = await page.token()
    await page.begin(token=token)
    told = await page.chat()
    other = page.of(PAGE)
    await other.begin(token=token)
    body = {"executionId": told.id, "toolOutputs": {"look": 1}}
    assert (await other.refused("/v1/client/resume", **body))[:2] == (404, "execution-unknown")
    url = f"/v1/client/executions/{told.id}/events?sessionId={other.session}"
    assert refusal(await page.caller.get(url, Origin=PAGE))[:2] == (404, "execution-unknown")
    # It is as it was.
    assert (await page.resume(told)).types[-1] == "execution_complete"


async def test_what_was_started_without_a_session_is_not_there(page: Page) -> None:
    await page.begin("decide")
    told = await page.caller.dispatch("decide")
    body = {"executionId": told.id, "approvalId": told.calls[0], "decision": "approved"}
    answer = await page.post("/v1/agents/virtual/approve", body)
    assert refusal(answer)[:2] == (404, "execution-unknown")
    waiting = await page.caller.get(f"/v1/executions/{told.id}/status")
    assert waiting.json()["status"] == "paused"


@pytest.mark.parametrize("session_seconds", [0.0])
async def test_a_session_ends(page: Page) -> None:
    await page.begin()
    found = await page.refused("/v1/client/chat", messages=MESSAGES)
    assert found[:2] == (401, "session-invalid")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/client/init", {}),
        ("/v1/client/init", {"token": 7}),
        ("/v1/client/chat", {"messages": "hi"}),
        ("/v1/client/chat", {"messages": [{"role": "nobody", "content": "x"}]}),
        ("/v1/client/resume", {}),
        ("/v1/client/feedback", {"type": "rage"}),
    ],
)
async def test_what_cannot_be_read_is_400(page: Page, path: str, body: dict[str, Any]) -> None:
    await page.begin()
    assert (await page.refused(path, **body))[:2] == (400, "body-invalid")


async def test_preflights_of_pages_with_a_token(page: Page) -> None:
    await page.token()
    for origin, status in ((PAGE, 204), ("https://evil.example", 403)):
        answer = await page.caller.http.options(
            "/v1/client/init",
            headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
        )
        assert answer.status_code == status


async def test_pages_of_an_application_that_is_mounted(tmp_path: Path, made_flows: Any) -> None:
    store = SqliteStore(tmp_path / "dispatch.db", clock=TickingClock())
    inner = create_app(made_flows, store)
    outer = Starlette(routes=[Mount("/flows", inner)], lifespan=inner.router.lifespan_context)
    async with serve(outer) as url, httpx.AsyncClient(base_url=f"{url}/flows", timeout=10) as http:
        page = Page(Caller(http, inner, Gate()), store)
        await page.begin()
        assert (await page.chat()).types[-1] == "await"
        foreign = await page.post("/v1/dispatch", {"flow": {"id": "one"}})
        assert refusal(foreign)[:2] == (403, "origin-forbidden")


async def test_pages_are_told_when_tokens_cannot_be_read() -> None:
    async def fails(path: str, origin: str) -> bool:
        raise Unavailable("made to fail", code="store-failed")

    guarded = Guard(Starlette(), hosts=(), origins=(), has_token=fails)
    transport = httpx.ASGITransport(guarded)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.post("/v1/client/init", headers={"Origin": PAGE})
    assert refusal(answer)[:2] == (503, "store-failed")
