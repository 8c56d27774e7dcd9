"""Who may call: hosts, origins, preflights; and what is said where there is nothing to call."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from dispatch.api.guard import check_origin
from dispatch.app import create_app
from dispatch.settings import Settings
from tests.api.caller import Caller, refusal

FOREIGN = [
    "https://evil.example",
    "http://localhost.evil.example",
    "http://evil.example:8000",
    "http://127.0.0.1.evil.example",
    "null",
    "file://",
    "chrome-extension://abcdefghijklmnop",
    "http://localhost@evil.example",
    "http://[::2]",
    "https://app.example.evil",
    "http://app.example",
    "nonsense",
    "",
]
TRUSTED = [
    "http://localhost",
    "http://localhost:3000",
    "https://LOCALHOST:3000",
    "http://127.0.0.1:5173",
    "http://127.8.9.10",
    "http://[::1]:8080",
    "https://app.example",
]
FORGED = [
    "evil.example",
    "localhost.evil.example",
    "localhost:80@evil.example",
    "127.0.0.1.nip.example",
    "169.254.1.1",
    "[::2]",
    "localhost:",
    "localhost:x",
    "local host",
    "",
]


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"cors_origins": ("https://app.example",), "hosts": ("dispatch.example",)}


async def raw(caller: Caller, request: bytes) -> bytes:
    """What a request gets whose headers no client library would send."""
    url = caller.http.base_url
    with anyio.fail_after(10):
        async with await anyio.connect_tcp(url.host, url.port or 80) as stream:
            await stream.send(request)
            return await stream.receive()


# --- hosts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", FORGED)
async def test_a_forged_host_is_403(caller: Caller, host: str) -> None:
    answer = await caller.get("/v1/flows", host=host)
    assert refusal(answer)[:2] == (403, "host-forbidden")


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:1", "127.0.0.1:9", "127.1.2.3", "[::1]", "dispatch.example"]
)
async def test_a_loopback_host_and_one_that_was_named_are_answered(
    caller: Caller, host: str
) -> None:
    assert (await caller.get("/v1/flows", host=host)).status_code == 200


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: localhost\r\n"])
async def test_no_host_and_two_hosts_are_refused(caller: Caller, hosts: bytes) -> None:
    answer = await raw(caller, b"GET /v1/flows HTTP/1.1\r\n" + hosts + b"\r\n")
    assert answer.split(b" ")[1] in (b"403", b"400")


# --- origins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
async def test_a_foreign_origin_is_403_before_anything_happens(
    caller: Caller, origin: str, method: str
) -> None:
    before = len(await executions(caller))
    headers = {"origin": origin, "access-control-request-method": "POST"}
    answer = await caller.http.request(
        method, "/v1/dispatch", json={"flowId": "talk"}, headers=headers
    )
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    if method != "HEAD":
        assert refusal(answer)[1] == "origin-forbidden"
    assert len(await executions(caller)) == before


async def executions(caller: Caller) -> list[Any]:
    return list(await caller.app.state.engine.store.executions())


@pytest.mark.parametrize("origin", TRUSTED)
async def test_a_trusted_origin_is_answered_and_told_so(caller: Caller, origin: str) -> None:
    answer = await caller.post("/v1/dispatch", {"flowId": "talk"}, origin=origin)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/dispatch", 400),
        ("GET", "/v1/executions/exec_1/events", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/v1/dispatch", 405),
    ],
)
async def test_errors_have_the_headers_too(
    caller: Caller, method: str, path: str, status: int
) -> None:
    headers = {"origin": "http://localhost:3000"}
    answer = await caller.http.request(method, path, headers=headers)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/dispatch",
        "/v1/dispatch/resume",
        "/v1/agents/virtual/approve",
        "/v1/executions/exec_1/events",
    ],
)
async def test_a_preflight_allows_what_the_widget_sends(caller: Caller, path: str) -> None:
    answer = await caller.http.options(
        path,
        headers={
            "origin": "http://localhost:3000",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type,x-persona-version",
        },
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert answer.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert {"content-type", "x-persona-version", "authorization"} <= set(allowed)
    assert {"idempotency-key", "prefer", "last-event-id"} <= set(allowed)


@pytest.mark.parametrize("origin", ["*", "app.example", "https://app.example/page", "ftp://x", ""])
def test_what_is_no_origin_cannot_be_configured(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        check_origin(origin)
    with pytest.raises(ValueError, match="origin"):
        create_app(settings=Settings(cors_origins=(origin,)))


# --- paths and methods ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v1",
        "/v1/dispatch/",
        "/v1/dispatch/resume/",
        "/v1/executions//events",
        "/v1/executions/a/b/events",
        "/V1/dispatch",
        "/v1/dispatch%2Fresume%00",
    ],
)
async def test_what_is_not_there_is_404_and_never_a_redirect(caller: Caller, path: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        answer = await caller.http.request(method, path)
        assert answer.status_code == 404
        if method != "HEAD":
            assert refusal(answer)[1] == "not-found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/dispatch", "POST"),
        ("HEAD", "/v1/dispatch", "POST"),
        ("PUT", "/v1/dispatch/resume", "POST"),
        ("DELETE", "/v1/executions/exec_1/events", "GET, HEAD"),
        ("POST", "/v1/executions/exec_1/status", "GET, HEAD"),
        ("POST", "/v1/flows", "GET, HEAD"),
    ],
)
async def test_another_method_is_405_and_says_which_are_taken(
    caller: Caller, method: str, path: str, allowed: str
) -> None:
    answer = await caller.http.request(method, path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == set(allowed.split(", "))
    if method != "HEAD":
        assert refusal(answer)[1] == "method-not-allowed"


async def test_options_without_an_origin_says_which_methods_are_taken(caller: Caller) -> None:
    answer = await caller.http.options("/v1/dispatch")
    assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")
    assert (await caller.http.options("/nowhere")).status_code == 404


async def test_head_is_get_without_a_body(caller: Caller) -> None:
    for path in ("/v1/flows", "/health/live", "/health/ready"):
        answer = await caller.http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
