"""What a flow yields only to be seen, as drafts, and what it came to, as an outcome."""

from __future__ import annotations

from typing import Any

import msgspec

from dispatch import mistakes
from dispatch.core import canonical, events
from dispatch.core.errors import Cancelled, FlowMistake, StepFailed, ToolFailed, ToolTimeout
from dispatch.core.journal import (
    DISPLAYS,
    MAX_ENTRY_BYTES,
    Draft,
    Origin,
    PhaseEntered,
    ResultSet,
    display,
    draft,
)
from dispatch.core.moves import Outcome
from dispatch.yields import Phase, Result

#: Text that is longer, or not ASCII, may be more than an entry holds, or no text at all.
PLAIN_CHARACTERS = 1024 * 1024
MAX_RESULT_BYTES = MAX_ENTRY_BYTES - 64 * 1024


def is_plain(text: str) -> bool:
    """Whether `text` is sure to fit an entry, and not empty: almost all text is."""
    if not 0 < len(text) <= PLAIN_CHARACTERS:
        return False
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def display_draft(yielded: Any) -> Draft:
    """A display that is not text. Raises `FlowMistake` for what can't be yielded, or recorded."""
    match yielded:
        case Result(value):
            return draft(ResultSet(value=_recordable(value)), Origin.FLOW)
        case Phase(name):
            return draft(PhaseEntered(name=name), Origin.FLOW)
        case events.EventBase() if yielded.type_name() in DISPLAYS:
            return display(yielded, Origin.FLOW)
    raise mistakes.explain_yield(yielded)


def _recordable(result: Any) -> msgspec.Raw:
    try:
        raw = canonical.encode(result)
    except FlowMistake as exc:
        raise FlowMistake(f"the result can't be recorded: {exc.message}", code=exc.code) from exc
    # In the final event it stands as text.
    size = len(raw if isinstance(result, str) else msgspec.json.encode(raw.decode()))
    if size > MAX_RESULT_BYTES:
        raise FlowMistake(
            f"the result has {size} bytes; {MAX_RESULT_BYTES} is the limit", code="entry-too-large"
        )
    return msgspec.Raw(raw)


class _Value(msgspec.Struct):
    value: msgspec.Raw = msgspec.Raw(b"null")


class _Custom(msgspec.Struct):
    value: _Value


def result_raw(placed: Draft) -> msgspec.Raw:
    """The JSON of a result that has just been drafted."""
    return msgspec.json.decode(b'{"type":"custom"' + placed.rest, type=_Custom).value.value


def outcome_of(error: BaseException | None) -> Outcome:
    """What the end of a flow's generator is called on the wire."""
    if error is None:
        return Outcome()
    message = mistakes.message_of(error) or type(error).__name__
    match error:
        case FlowMistake():
            return Outcome(error, error.code, message)
        case ToolTimeout():
            return Outcome(error, "tool-timeout", message)
        case ToolFailed():
            return Outcome(error, "tool-failed", f"{error.name}: {message}")
        case StepFailed():
            return Outcome(error, "step-failed", f"{error.name}: {error.type_name}: {message}")
        case Cancelled():
            return Outcome(
                error, "flow-failed", "Cancelled was raised, and no cancel was asked for"
            )
        case _:
            return Outcome(error, "flow-failed", f"{type(error).__name__}: {message}")
