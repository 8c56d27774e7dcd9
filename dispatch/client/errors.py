"""A server's refusal, and what httpx raises, as the errors of `core.errors`: translated once."""

from __future__ import annotations

import httpx
import msgspec

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

_FAMILIES: dict[int, type[DispatchError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    422: Unprocessable,
}


class Unsent(Unavailable):
    """Nobody listens there."""

    code = "unreachable"


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    """Wire 5.1."""

    error: str
    code: str | None = None
    details: list[Detail] = []


def refusal(response: httpx.Response) -> DispatchError:
    """The error that an answer with an error status, already read, stands for."""
    try:
        body = msgspec.json.decode(response.content, type=_Body)
    except msgspec.DecodeError:
        # Not our server, or something in front of it.
        body = _Body(error=f"{response.url} answered {response.status_code}")
    if response.status_code == 429:
        after = response.headers.get("retry-after", "1")
        seconds = int(after) if after.isdigit() else 1
        return Busy(body.error, retry_after_seconds=seconds, code=body.code)
    family = _FAMILIES.get(response.status_code)
    if family is None:
        family = Unavailable if response.status_code >= 500 else InvalidRequest
    return family(body.error, code=body.code or "refused", details=body.details)


def unreachable(request: httpx.Request, error: httpx.HTTPError) -> Unavailable:
    """`Unsent` if the request can't have arrived."""
    place = f"{request.url.scheme}://{request.url.netloc.decode()}"
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ReadTimeout):
        reason = "it takes connections, and says nothing"
    is_unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    family = Unsent if is_unsent else Unavailable
    return family(f"no answer from {place}: {reason}", code="unreachable")
