"""Every status, at the endpoints that may answer with it, as both layers of the client see it.

The overlay has an exception for each of four statuses and one for the rest; the generated layer has
one for each status that it knows of an endpoint, else its plain `ApiError` (wire 5.2).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import Any

import pytest
from runtype import APIError, AuthenticationError, NotFoundError, RateLimitError
from runtype._generated import errors
from runtype._generated.core.api_error import ApiError

from dispatch.core.ids import execution_id
from dispatch.flow import FlowVersion
from tests.api.caller import Told
from tests.api.flows import Gate, flows
from tests.sdk.clients import AsyncOverlay, Event, SyncOverlay
from tests.sdk.refusals import (
    AGENT_APPROVE,
    AGENT_EVENTS,
    AGENT_EXECUTE,
    AGENT_RESUME,
    APPROVE,
    CONTINUE,
    DISPATCH,
    EVENTS,
    JOURNAL,
    MAX_BODY,
    MESSAGES,
    PAGE_CHAT,
    PAGE_FEEDBACK,
    PAGE_INIT,
    PAGE_RESUME,
    RESUME,
    STATUS,
    Endpoint,
    Scene,
    ask_generated,
    ask_overlay,
    disk_full,
    failing,
    full,
    playing,
)

# The generated layer's models are built when they are first used, which takes seconds.
pytestmark = pytest.mark.slow


# --- what is asked --------------------------------------------------------------------------------


def to(flow: str, **more: Any) -> Event:
    return {"flow": {"id": flow}, **more}


def agent(id: str, **more: Any) -> Event:
    return {"agent_id": id, **more}


def outputs(told: Told, output: Any = 1, key: str = "") -> Event:
    return {
        "agent_id": "any",
        "executionId": told.id,
        "toolOutputs": {key or told.calls[0]: output},
    }


def decision(told: Told, **more: Any) -> Event:
    asked = {"executionId": told.id, "approvalId": told.calls[0], "decision": "approved"}
    return {"agent_id": "any", **asked, **more}


def within(type: str, asked: Event) -> Event:
    """A resume, or a decision, as `continue` takes it."""
    return {"executionId": asked["executionId"], "continuation": {"type": type, **asked}}


def events(told: Told, after: str = "0") -> Event:
    return {"agent_id": "any", "id": told.id, "after": after}


def of(told: Told) -> Event:
    return {"id": told.id}


def chat(scene: Scene, **more: Any) -> Event:
    return {"sessionId": scene.session, "messages": MESSAGES, **more}


def page(scene: Scene, told: Told) -> Event:
    given = outputs(told)
    del given["agent_id"]
    return {**given, "sessionId": scene.session}


def feedback(scene: Scene, **more: Any) -> Event:
    return {"sessionId": scene.session, "token": scene.token, "type": "csat", **more}


NOBODY = str(execution_id(1.0, bytes(10)))
NOBODYS: Event = {"agent_id": "any", "executionId": NOBODY, "toolOutputs": {}}
LARGE = {"text": "x" * MAX_BODY}
SECRETS: Event = {"secrets": {"key": "value"}}
NO_SECRETS = "RUNTIME_FLOW_TRANSIENT_SECRETS_UNSUPPORTED"

# --- the table ------------------------------------------------------------------------------------

Row = tuple[Endpoint, int, str, Callable[[Scene], Event]]

ROWS: list[Row] = [
    (DISPATCH, 400, NO_SECRETS, lambda _: to("talk", **SECRETS)),
    (DISPATCH, 403, "origin-forbidden", lambda _: to("talk")),
    (DISPATCH, 404, "flow-unknown", lambda _: to("nowhere")),
    (DISPATCH, 409, "idempotency-mismatch", lambda _: to("talk")),
    (DISPATCH, 413, "body-too-large", lambda _: to("talk", inputs=LARGE)),
    (DISPATCH, 422, "inputs-invalid", lambda _: to("order", inputs={"id": "x"})),
    (DISPATCH, 429, "too-many-running", lambda _: to("talk")),
    (DISPATCH, 500, "internal", lambda _: to("talk")),
    (DISPATCH, 503, "store-full", lambda _: to("talk")),
    (RESUME, 400, "unknown-call", lambda s: outputs(s.waiting, key="stare")),
    (RESUME, 403, "origin-forbidden", lambda s: outputs(s.waiting)),
    (RESUME, 404, "execution-unknown", lambda _: NOBODYS),
    (RESUME, 409, "await-settled", lambda s: outputs(s.settled)),
    (RESUME, 409, "wrong-kind", lambda s: outputs(s.deciding)),
    (RESUME, 410, "await-expired", lambda s: outputs(s.late)),
    (RESUME, 410, "execution-deleted", lambda s: NOBODYS | {"executionId": s.deleted.id}),
    (RESUME, 413, "body-too-large", lambda s: outputs(s.waiting, LARGE)),
    (RESUME, 422, "output-invalid", lambda s: outputs(s.measuring, "long")),
    (RESUME, 500, "internal", lambda s: outputs(s.waiting)),
    (RESUME, 503, "store-full", lambda s: outputs(s.waiting)),
    (APPROVE, 400, "body-invalid", lambda s: decision(s.deciding, decision="maybe")),
    (APPROVE, 403, "origin-forbidden", lambda s: decision(s.deciding)),
    (APPROVE, 404, "approval-unknown", lambda s: decision(s.deciding, approvalId="another")),
    (APPROVE, 409, "wrong-kind", lambda s: decision(s.waiting)),
    (APPROVE, 410, "await-expired", lambda s: decision(s.decided_late)),
    (CONTINUE, 400, "body-invalid", lambda s: within("approval", outputs(s.waiting))),
    (CONTINUE, 404, "execution-unknown", lambda _: within("tool-output", NOBODYS)),
    (CONTINUE, 409, "await-settled", lambda s: within("tool-output", outputs(s.settled))),
    (CONTINUE, 409, "wrong-kind", lambda s: within("approval", decision(s.waiting))),
    (CONTINUE, 410, "await-expired", lambda s: within("approval", decision(s.decided_late))),
    (CONTINUE, 422, "output-invalid", lambda s: within("tool-output", outputs(s.measuring, ""))),
    (EVENTS, 400, "cursor-ahead", lambda s: events(s.waiting, "999")),
    (EVENTS, 400, "cursor-invalid", lambda s: events(s.waiting, "1.5")),
    (EVENTS, 403, "origin-forbidden", lambda s: events(s.waiting)),
    (EVENTS, 404, "execution-unknown", lambda _: {"id": NOBODY, "after": "0"}),
    (EVENTS, 410, "execution-deleted", lambda s: events(s.deleted)),
    (STATUS, 404, "execution-unknown", lambda _: {"id": NOBODY}),
    (STATUS, 410, "execution-deleted", lambda s: of(s.deleted)),
    (STATUS, 503, "store-full", lambda s: of(s.waiting)),
    (JOURNAL, 404, "execution-unknown", lambda _: {"id": NOBODY}),
    (JOURNAL, 410, "execution-deleted", lambda s: of(s.deleted)),
    (AGENT_EXECUTE, 400, NO_SECRETS, lambda _: agent("asker", **SECRETS)),
    (AGENT_EXECUTE, 404, "flow-unknown", lambda _: agent("talk")),
    (AGENT_EXECUTE, 409, "idempotency-mismatch", lambda _: agent("asker")),
    (AGENT_EXECUTE, 413, "body-too-large", lambda _: agent("asker", inputs=LARGE)),
    (AGENT_EXECUTE, 429, "too-many-running", lambda _: agent("asker")),
    (AGENT_EXECUTE, 503, "store-full", lambda _: agent("asker")),
    (AGENT_RESUME, 400, "unknown-call", lambda s: outputs(s.waiting, key="stare")),
    (AGENT_RESUME, 404, "execution-unknown", lambda _: NOBODYS),
    (AGENT_RESUME, 409, "await-settled", lambda s: outputs(s.settled)),
    (AGENT_RESUME, 410, "await-expired", lambda s: outputs(s.late)),
    (AGENT_APPROVE, 400, "body-invalid", lambda s: decision(s.deciding, decision="maybe")),
    (AGENT_APPROVE, 404, "approval-unknown", lambda s: decision(s.deciding, approvalId="other")),
    (AGENT_APPROVE, 409, "wrong-kind", lambda s: decision(s.waiting)),
    (AGENT_APPROVE, 410, "await-expired", lambda s: decision(s.decided_late)),
    (AGENT_EVENTS, 400, "cursor-ahead", lambda s: events(s.waiting, "999")),
    (
        AGENT_EVENTS,
        404,
        "execution-unknown",
        lambda _: {"agent_id": "any", "id": NOBODY, "after": ""},
    ),
    (PAGE_INIT, 401, "client-token-invalid", lambda _: {"token": "ct_made_up"}),
    (PAGE_INIT, 403, "client-token-flow", lambda s: {"token": s.token, "flowId": "two"}),
    (PAGE_INIT, 403, "origin-forbidden", lambda s: {"token": s.token}),
    (PAGE_CHAT, 400, "body-invalid", lambda s: chat(s, clientTools=[{}])),
    (PAGE_CHAT, 401, "session-invalid", lambda s: chat(s, sessionId="made_up")),
    (PAGE_CHAT, 403, "origin-forbidden", lambda s: chat(s)),
    (PAGE_CHAT, 409, "client-tools-resend-required", lambda s: chat(s, clientToolsFingerprint="x")),
    (PAGE_CHAT, 429, "too-many-running", lambda s: chat(s)),
    (PAGE_RESUME, 401, "session-invalid", lambda s: page(s, s.paged) | {"sessionId": "made_up"}),
    (PAGE_RESUME, 404, "execution-unknown", lambda s: page(s, s.waiting)),
    (PAGE_RESUME, 409, "await-settled", lambda s: page(s, s.paged)),
    (PAGE_FEEDBACK, 400, "body-invalid", lambda s: feedback(s, type="rage")),
    (PAGE_FEEDBACK, 401, "client-token-invalid", lambda s: feedback(s, token="ct_made_up")),
]

#: What it takes to be refused so, beside the body.
HEADERS = {
    "origin-forbidden": {"Origin": "https://evil.example"},
    "idempotency-mismatch": {"idempotency-key": "of-another-request"},
}
CONDITIONS = {"too-many-running": full, "internal": failing, "store-full": disk_full}

OVERLAY: dict[int, type[APIError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    429: RateLimitError,
}
GENERATED: dict[int, type[ApiError]] = {
    400: errors.BadRequestError,
    401: errors.UnauthorizedError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    410: errors.GoneError,
    413: errors.ContentTooLargeError,
    422: errors.UnprocessableEntityError,
    429: errors.TooManyRequestsError,
    500: errors.InternalServerError,
    503: errors.ServiceUnavailableError,
}
#: What the generated layer doesn't know of an endpoint.
PLAIN = {
    *((one, 410) for one in (EVENTS, STATUS, JOURNAL)),
    *((one, 413) for one in (DISPATCH, RESUME)),
    *((one, 422) for one in (RESUME, CONTINUE)),
    *((one, 503) for one in (RESUME, STATUS)),
    (AGENT_EXECUTE, 429),
    (AGENT_RESUME, 409),
}


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def own_flows(gate: Gate) -> list[FlowVersion]:
    return flows(gate)


@pytest.fixture(scope="module")
async def scene(
    anyio_backend: str,
    own_flows: list[FlowVersion],
    gate: Gate,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Scene]:
    path = tmp_path_factory.mktemp("refusals") / "dispatch.db"
    async with playing(own_flows, gate, path) as scene:
        yield scene


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0].path}-{row[1]}-{row[2]}")
async def test_a_refusal(scene: Scene, row: Row) -> None:
    endpoint, status, code, asks = row
    headers, condition = HEADERS.get(code, {}), CONDITIONS.get(code, nullcontext)
    if "idempotency-key" in headers:
        await scene.caller.post("/v1/dispatch", to("one"), **headers)
    overlays = scene.overlays
    if headers:
        overlays = [make(scene.url, headers) for make in (SyncOverlay, AsyncOverlay)]
    async with condition(scene):
        for overlay in overlays:
            with pytest.raises(APIError) as told:
                await ask_overlay(overlay, endpoint, asks(scene))
            _check_told(told.value, status, code)
        for api in scene.apis:
            with pytest.raises(ApiError) as seen:
                await ask_generated(api, endpoint, asks(scene), headers)
            kind = ApiError if (endpoint, status) in PLAIN else GENERATED[status]
            _check_seen(seen.value, kind, status, code)
    for overlay in overlays if headers else ():
        await overlay.close()


def _check_told(error: APIError, status: int, code: str) -> None:
    assert type(error) is OVERLAY.get(status, APIError)
    assert (error.status_code, error.response_body["code"]) == (status, code)
    assert error.message == error.response_body["error"]
    if isinstance(error, RateLimitError):
        assert isinstance(error.retry_after, int)


def _check_seen(error: ApiError, kind: type[ApiError], status: int, code: str) -> None:
    assert type(error) is kind
    body = error.body if isinstance(error.body, dict) else error.body.model_dump()
    assert (error.status_code, body["code"]) == (status, code)
    # Whole seconds: a date crashes the overlay.
    assert (status in (429, 503)) == (error.headers or {}).get("retry-after", "").isdigit()
