"""JSON as the journal holds it, and the canonical form by which two values are called equal."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from dispatch.core.errors import FlowMistake
from dispatch.core.ids import derive

T = TypeVar("T")

_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """`value` as JSON bytes, by msgspec's rules (Structs, dataclasses, datetimes, enums, sets …).

    Raises `FlowMistake` for what JSON cannot hold: unknown types, NaN, infinities, lone surrogates.
    """
    try:
        raw = _encoder.encode(value)
        # msgspec writes NaN as null; looking for it costs nothing where there is no null at all.
        if b"null" in raw:
            _refuse_nan(msgspec.to_builtins(value, enc_hook=_plain))
    except (TypeError, ValueError, OverflowError, RecursionError, UnicodeEncodeError) as exc:
        raise FlowMistake(
            f"a value of type {type(value).__name__} cannot be written to the journal as JSON: "
            f"{exc}",
            code="not-json",
        ) from exc
    return raw


def _refuse_nan(value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as exc:
        raise ValueError("it holds NaN or an infinity, which JSON does not have") from exc


def _plain(value: Any) -> None:
    """A Raw, which `to_builtins` doesn't know, is JSON already."""
    if not isinstance(value, msgspec.Raw):
        raise NotImplementedError


def encode_ordered(value: Any) -> bytes:
    """`encode`, with sets in an order that is the same in every process."""
    raw = encode(value)
    in_order = _encoder_sorted.encode(value)
    return raw if canonical(raw) == canonical(in_order) else in_order


def canonical(raw: bytes) -> bytes:
    """The one spelling of a JSON value: keys sorted, no white space, 1.0 written as 1."""
    return _encoder_sorted.encode(_normalised(msgspec.json.decode(raw)))


_encoder_sorted = msgspec.json.Encoder(order="deterministic")


def _normalised(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_normalised(item) for item in value]
    if isinstance(value, dict):
        return {key: _normalised(item) for key, item in value.items()}
    return value


def hidden(raw: bytes) -> dict[str, Any]:
    """What events show of a private value: its JSON type and a digest."""
    value = msgspec.json.decode(raw)
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return {"private": True, "type": names.get(type(value), "number"), "digest": digest(raw)}


def digest(raw: bytes) -> str:
    """16 hex digits by which two JSON values are called equal."""
    return derive("", canonical(raw).decode())
