"""Settlements as values: what a flow receives is decoded from the entry that settled its wait.

Also the first time, so that a value never changes type because of a restart (design.md 3, rule 7).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from dispatch.core import canonical
from dispatch.core.errors import StepFailed, ToolFailed, ToolTimeout, WaitFailed
from dispatch.core.journal import Entry, ResultPrivate
from dispatch.core.waits import ApprovalWait, Decision, Leaf, SleepWait, StepWait, ToolWait


class Settled(NamedTuple):
    """How and by which entry a node is decided."""

    seq: int
    at: float
    value: Any
    error: WaitFailed | None


def settled(wait: Leaf[Any], entry: Entry) -> Settled:
    """What `entry` answers `wait` with."""
    facts = entry.facts
    match wait:
        case SleepWait():
            value, error = None, None
        case ApprovalWait():
            outcome: Any = facts.decision
            value, error = Decision(outcome, facts.reason), None
        case StepWait():
            value, error = _step_value(wait, entry)
        case ToolWait():
            value, error = _tool_value(wait, entry)
        case _:
            raise AssertionError(wait)
    return Settled(entry.seq, entry.at, value, error)


def _result_of(entry: Entry) -> bytes:
    private = entry.hidden(ResultPrivate)
    return bytes(private.result if private is not None else entry.facts.result) or b"null"


def _message_of(entry: Entry) -> str:
    raw = bytes(entry.facts.error) or b'""'
    error = msgspec.json.decode(raw)
    return error if isinstance(error, str) else str(error.get("message", error))


def _why(wait: StepWait[Any] | ToolWait[Any], error: msgspec.ValidationError) -> str:
    # The decoder names values, and a flow that fails by this shows it to everybody.
    return "" if wait.private else f": {error}"


def _step_value(wait: StepWait[Any], entry: Entry) -> tuple[Any, WaitFailed | None]:
    if not entry.facts.success:
        return None, StepFailed(
            _message_of(entry), name=wait.name, type_name=entry.facts.error_type
        )
    try:
        return msgspec.json.decode(_result_of(entry), type=wait.returns), None
    except msgspec.ValidationError as exc:
        return None, StepFailed(
            f"the result of {wait.name} does not fit {wait.returns}{_why(wait, exc)}",
            name=wait.name,
            type_name="ResultInvalid",
        )


def _tool_value(wait: ToolWait[Any], entry: Entry) -> tuple[Any, WaitFailed | None]:
    if entry.facts.code == "timeout":
        return None, ToolTimeout(
            f"no output for {wait.name} in time", name=wait.name, type_name="ToolTimeout"
        )
    if not entry.facts.success:
        return None, ToolFailed(
            _message_of(entry), name=wait.name, type_name=entry.facts.code or "ToolFailed"
        )
    raw = _result_of(entry)
    if not wait.raw:
        raw, failure = unwrap_mcp(raw, parse=wait.returns is not str and wait.returns is not Any)
        if failure is not None:
            return None, ToolFailed(failure, name=wait.name)
    try:
        return msgspec.json.decode(raw, type=wait.returns), None
    except msgspec.ValidationError as exc:
        return None, ToolFailed(
            f"the output of {wait.name} does not fit {wait.returns}{_why(wait, exc)}",
            name=wait.name,
            type_name="OutputInvalid",
        )


def unwrap_mcp(raw: bytes, *, parse: bool) -> tuple[bytes, str | None]:
    """The value inside an MCP tool result (its specification, "Tool Result"), or why it failed.

    `structuredContent` if it is there, else the joined text, which `parse` takes as JSON if it is
    JSON. What has not that shape is the value itself.
    """
    output = msgspec.json.decode(raw)
    if not isinstance(output, dict) or not isinstance(output.get("content"), list):
        return raw, None
    parts = output["content"]
    if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts):
        return raw, None
    text = "".join(str(part.get("text", "")) for part in parts if part["type"] == "text")
    if output.get("isError") is True:
        return raw, text or "the tool failed"
    if output.get("structuredContent") is not None:
        return canonical.encode(output["structuredContent"]), None
    if parse:
        try:
            msgspec.json.decode(text)
        except msgspec.DecodeError:
            pass
        else:
            return text.encode(), None
    return canonical.encode(text), None
