"""What an error is over HTTP: one table from families to statuses, and the body of wire 5.1.

`ErrorBoundary` stands around all routes. What is raised on purpose is answered by the table;
anything else is a bug, logged with its traceback and told without detail. Once an answer has begun
its status is spent, and the exception passes: the server closes the connection.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dispatch.api.body import ClientGone
from dispatch.core.errors import (
    Busy,
    Conflict,
    Detail,
    DispatchError,
    Forbidden,
    Gone,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unprocessable,
)

logger = logging.getLogger(__name__)

#: Family -> status. What is not here is an outcome of flow code, and never an answer.
STATUSES: dict[type[DispatchError], int] = {
    InvalidRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    Gone: 410,
    TooLarge: 413,
    Unprocessable: 422,
    Busy: 429,
    Unavailable: 503,
}

#: Seconds after which what will pass may have passed: the store tries each second.
_RETRY_AFTER = {503: 1}

#: Codes of what HTTP itself refuses.
_HTTP_CODES = {404: "not-found", 405: "method-not-allowed", 408: "body-slow"}


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Wire 5.1: an object with a string `error`, always."""

    error: str
    code: str
    details: Sequence[Detail] = ()
    #: Where the guide explains the code: a path within this application.
    guide: str


def _body(error: str, code: str, details: Sequence[Detail] = ()) -> ErrorBody:
    return ErrorBody(error=error, code=code, details=details, guide=f"/guide/errors#{code}")


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        msgspec.json.encode(value), status, headers=headers, media_type="application/json"
    )


def status_of(error: DispatchError) -> int | None:
    """The status of its family, or None if it has none."""
    for family in type(error).__mro__:
        if issubclass(family, DispatchError) and family in STATUSES:
            return STATUSES[family]
    return None


def render(exc: Exception) -> Response:
    """The answer to `exc`."""
    match exc:
        case HTTPException():
            code = _HTTP_CODES.get(exc.status_code, "http")
            return json_response(_body(exc.detail, code), exc.status_code, exc.headers)
        case DispatchError() if (status := status_of(exc)) is not None:
            # Whole seconds: a date crashes the published client (wire 5.2).
            after = exc.retry_after_seconds if isinstance(exc, Busy) else _RETRY_AFTER.get(status)
            headers = None if after is None else {"Retry-After": str(int(after))}
            body = _body(exc.message, exc.code, exc.details)
            return json_response(body, status, headers)
        case _:
            return json_response(_body("internal error", "internal"), 500)


async def answer_http(request: Request, exc: Exception) -> Response:
    """Starlette's handler of its own exceptions: no such path, no such method."""
    assert isinstance(exc, HTTPException)
    if exc.status_code == 405 and request.method == "OPTIONS":
        allowed = (exc.headers or {}).get("Allow", "")
        return Response(status_code=204, headers={"Allow": f"{allowed}, OPTIONS"})
    if exc.status_code == 404 and exc.detail == "Not Found":
        exc.detail = f"there is no {request.url.path}"
    elif exc.status_code == 405:
        exc.detail = f"{request.url.path} does not take {request.method}"
    return render(exc)


class ErrorBoundary:
    """ASGI middleware: every exception becomes an answer, as long as none has begun."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientGone:
            pass
        except Exception as exc:  # whatever it is: one request fails, the server goes on
            if begun:
                raise
            if not isinstance(exc, DispatchError | HTTPException) or (
                isinstance(exc, DispatchError) and status_of(exc) is None
            ):
                logger.exception("%s %s failed", scope["method"], scope["path"])
            await render(exc)(scope, receive, send)
