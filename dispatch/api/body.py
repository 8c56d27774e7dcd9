"""Request bodies: read within limits, decoded as strict JSON, fitted to a type.

Strict means that no two readers could disagree about a body: no key twice, no number that JSON or
the journal cannot hold, no lone surrogate, no nesting that only some parsers survive. msgspec
refuses most of that; keys and nesting are looked at here, at about the price of another parse.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dispatch.core.errors import Detail, InvalidRequest, TooLarge
from dispatch.settings import Settings

T = TypeVar("T")

MAX_DEPTH = 128
#: A body larger than this is decoded in a thread, so that it holds nobody up.
_THREAD_BYTES = 256 * 1024


class ClientGone(Exception):
    """The client left before its request was complete: nobody is there to be answered."""


async def read(request: Request, *, limit_bytes: int, seconds: float) -> bytes:
    """The body. Raises `TooLarge` (`body-too-large`), 408 for a slow one, `ClientGone`."""
    declared = request.headers.get("content-length")
    if declared is not None and declared.isascii() and declared.isdigit():
        # Spares a client that says how much it has from sending it all.
        _check_size(int(declared), limit_bytes)
    with anyio.move_on_after(seconds):
        return await _read(request, limit_bytes)
    raise HTTPException(
        408,
        f"the body did not arrive within {seconds:g} s",
        headers={"Connection": "close"},  # the rest of it may still be on its way
    )


async def _read(request: Request, limit_bytes: int) -> bytes:
    body = b""
    more: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        size += len(piece)
        _check_size(size, limit_bytes)
        if not message.get("more_body", False):
            return b"".join((*more, piece)) if more else body + piece
        more.append(piece)


def _check_size(size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise TooLarge(f"the body is larger than {limit_bytes} bytes", code="body-too-large")


async def take(
    request: Request, type: type[T], settings: Settings, *, may_be_empty: bool = False
) -> tuple[dict[str, Any], T]:
    """`read`, then `parse`. An empty body is an empty object where it `may_be_empty`."""
    content = await read(request, limit_bytes=settings.body_bytes, seconds=settings.body_seconds)
    return await parse(content or b"{}" if may_be_empty else content, type)


async def parse(body: bytes, type: type[T]) -> tuple[dict[str, Any], T]:
    """The object that `body` is, and the same as a `type`.

    Raises `InvalidRequest` (`json-invalid`, `body-invalid`), saying what is wrong and where.
    """
    if len(body) > _THREAD_BYTES:
        return await anyio.to_thread.run_sync(_parse, body, type)
    return _parse(body, type)


def _parse(body: bytes, type: type[T]) -> tuple[dict[str, Any], T]:
    value = decode(body)
    if not isinstance(value, dict):
        raise _misfit("the body is not a JSON object", "$")
    try:
        return value, msgspec.convert(value, type)
    except msgspec.ValidationError as exc:
        message, _, rest = str(exc).rpartition(" - at `")
        raise _misfit(message or str(exc), rest.removesuffix("`") if message else "$") from exc


def _misfit(message: str, path: str) -> InvalidRequest:
    return InvalidRequest(
        f"the request does not fit: {message} (at {path})",
        code="body-invalid",
        details=[Detail(message=message, path=path, code="body-invalid")],
    )


# --- strict JSON ----------------------------------------------------------------------------------

# Possessive, and taking a string that never ends whole: linear also for what was made to be slow.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def decode(body: bytes) -> Any:
    """The JSON value of `body`. Raises `InvalidRequest` (`json-invalid`), saying what is wrong."""
    if body.startswith(b"\xef\xbb\xbf"):
        raise _invalid("it begins with a byte order mark")
    _check_depth(body)
    try:
        value = msgspec.json.decode(body)
        _twice.decode(body.decode())
    except UnicodeDecodeError as exc:
        raise _invalid(f"it is not UTF-8 (byte {exc.start})") from exc
    except (msgspec.DecodeError, ValueError) as exc:
        raise _invalid(_reason(str(exc), body)) from exc
    if _LONG_NUMBER.search(body):
        _check_integers(value)
    return value


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the body is not JSON that can be taken: {reason}", code="json-invalid")


_NO_NUMBER = re.compile(rb"-?(?:NaN|Infinity)")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _reason(message: str, body: bytes) -> str:
    """msgspec's words, or better ones where it does not know what it has seen."""
    word = _NO_NUMBER.search(_STRING.sub(b"", body))
    if word and "invalid character" in message:
        return f"{word[0].decode()} is not JSON"
    if _SURROGATE.search(body) and ("surrogate" in message or "truncated" in message):
        return "it has half of a surrogate pair"
    return message.removeprefix("JSON is malformed: ").replace(
        "Input data was truncated", "it ends too early"
    )


def _check_depth(body: bytes) -> None:
    # Counting brackets settles it for almost all; strings are taken out only where it doesn't.
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRING.sub(b"", body).translate(None, _OTHERS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise _invalid(f"it is nested deeper than {MAX_DEPTH}")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) != len({key for key, _ in pairs}):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"it has the key {twice[:100]!r} twice in one object")


#: Keeps nothing but the pairs of the innermost objects: it is there for its hook.
_twice = json.JSONDecoder(object_pairs_hook=_no_key_twice)


def _check_integers(value: Any) -> None:
    open_values = [value]
    while open_values:
        one = open_values.pop()
        if isinstance(one, dict):
            open_values.extend(one.values())
        elif isinstance(one, list):
            open_values.extend(one)
        elif isinstance(one, int) and not -(1 << 63) <= one < 1 << 64:
            raise _invalid("it has an integer that does not fit into 64 bits; send it as a string")
