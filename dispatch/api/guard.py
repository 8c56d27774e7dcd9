"""Who may call: loopback Host headers, loopback origins, and what CORS makes of them (design.md 8).

A page anywhere on the web can make a browser send requests to a developer's own machine. Its Origin
gives it away, and its Host does if a name was made to point there. Both are looked at before
anything else is. Pure ASGI: Starlette's `BaseHTTPMiddleware` would stand between a stream and its
server.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dispatch.api.errors import render
from dispatch.core.errors import Forbidden, Unavailable

#: What the published clients send (wire 9.4), and what else a caller may.
ALLOWED_METHODS = "GET, POST, OPTIONS"
ALLOWED_HEADERS = (
    "content-type, x-persona-version, authorization, idempotency-key, prefer, last-event-id"
)
EXPOSED_HEADERS = "Location, X-Execution-Id"
_PREFLIGHT_SECONDS = "600"

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.IGNORECASE)
_LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]", re.IGNORECASE)


#: Whether pages of an origin may call a path because a client token is theirs.
HasToken = Callable[[str, str], Awaitable[bool]]
#: In the scope of a request that is trusted for that alone.
PAGE_ORIGIN = "dispatch.page_origin"


class Guard:
    """ASGI middleware: refuses foreign hosts and origins, and answers preflights."""

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str], origins: Iterable[str], has_token: HasToken
    ):
        self._app, self._has_token = app, has_token
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._answers(hosts[0]):
            refusal = Forbidden(
                f"this server does not answer to the name {', '.join(hosts)[:200]!r}; "
                "it is reached as localhost or 127.0.0.1",
                code="host-forbidden",
            )
            await render(refusal)(scope, receive, send)
            return
        if not origins:
            await self._app(scope, receive, send)
            return
        is_trusted = len(origins) == 1 and self._trusts(origins[0], hosts[0])
        if not is_trusted and len(origins) == 1:
            try:
                is_trusted = await self._has_token(_path(scope), origins[0])
            except Unavailable as exc:  # the store's
                await render(exc)(scope, receive, send)
                return
            # Such a page may do no more than its token says: whoever answers looks at this.
            scope[PAGE_ORIGIN] = origins[0]
        if not is_trusted:
            refusal = Forbidden(
                f"pages from {', '.join(origins)[:200]!r} may not call this server; "
                "--cors-origin allows them",
                code="origin-forbidden",
            )
            await render(refusal)(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await _preflight(origins[0])(scope, receive, send)
            return
        cors = [
            (b"access-control-allow-origin", origins[0].encode("latin-1")),
            (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
            (b"vary", b"Origin"),
        ]

        async def with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *cors]}
            await send(message)

        await self._app(scope, receive, with_cors)

    def _answers(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].lower()
        return bool(_LOOPBACK.fullmatch(name)) or name in self._hosts or "*" in self._hosts

    def _trusts(self, origin: str, host: str) -> bool:
        if origin.lower() in self._origins:
            return True
        scheme, _, place = origin.partition("://")
        found = _HOST.fullmatch(place)
        if scheme not in ("http", "https") or found is None:
            return False
        # A page of this very host was served by the application that this server is mounted in.
        return bool(_LOOPBACK.fullmatch(found[1])) or place.lower() == host.lower()


def _path(scope: Scope) -> str:
    """As its routes see it, also where the application is mounted in another."""
    path, mounted = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(mounted) if path.startswith(f"{mounted}/") else path


def _preflight(origin: str) -> Response:
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": ALLOWED_METHODS,
            "Access-Control-Allow-Headers": ALLOWED_HEADERS,
            "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
            "Vary": "Origin",
        },
    )


def check_origin(origin: str) -> str:
    """`origin` as a setting. Raises `ValueError` for what is not one, `*` included: that takes
    keys.
    """
    parts = urlsplit(origin)
    if origin == "*":
        raise ValueError("--cors-origin '*' would let every web page drive this server")
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ValueError(f"{origin!r} is not an origin: write it like https://app.example:8443")
    return origin
