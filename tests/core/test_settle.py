"""Rule 7: what a flow receives is decoded from the journal."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import pytest

from dispatch.core import canonical, events
from dispatch.core.errors import StepFailed, ToolFailed, ToolTimeout
from dispatch.core.journal import Entry, Origin, ResultPrivate, draft, entry
from dispatch.core.settle import settled, unwrap_mcp
from dispatch.core.waits import StepWait, ToolWait


@dataclass
class Order:
    id: str
    placed_at: datetime


ORDER = Order("o1", datetime(2026, 1, 2, tzinfo=UTC))


def completed(kind: Any, result: Any, **fields: Any) -> Entry:
    event = kind(result=msgspec.Raw(canonical.encode(result)), success=True, **fields)
    return entry(draft(event, Origin.WORLD), 7, 70.0)


def step_value(result: Any, returns: Any) -> Any:
    wait: StepWait[Any] = StepWait(len, (), {}, name="load", returns=returns)
    return settled(wait, completed(events.StepComplete, result, id="s"))


def tool_value(output: Any, returns: Any = Any, *, raw: bool = False) -> Any:
    wait: ToolWait[Any] = ToolWait("load", {}, returns=returns, raw=raw)
    return settled(wait, completed(events.ToolComplete, output, tool_call_id="c"))


@pytest.mark.parametrize(
    ("result", "returns", "value"),
    [
        (ORDER, Order, ORDER),
        (ORDER, Any, {"id": "o1", "placed_at": "2026-01-02T00:00:00Z"}),
        ([1, 2], set[int], {1, 2}),
        ((1, "a"), tuple[int, str], (1, "a")),
        (None, Any, None),
        (2, float, 2.0),
    ],
)
def test_a_step_answers_its_type(result: Any, returns: Any, value: Any) -> None:
    decided = step_value(result, returns)
    assert (decided.seq, decided.at, decided.error) == (7, 70.0, None)
    assert decided.value == value
    assert type(decided.value) is type(value)


def test_a_result_that_does_not_fit_its_type_fails() -> None:
    decided = step_value({"id": "o1"}, Order)
    assert isinstance(decided.error, StepFailed)
    assert decided.error.type_name == "ResultInvalid"
    assert "placed_at" in decided.error.message


def test_a_failed_step_tells_type_and_message() -> None:
    failed = events.StepComplete(id="s", success=False, error="boom", error_type="KeyError")
    wait: StepWait[Any] = StepWait(len, (), {}, name="load")
    error = settled(wait, entry(draft(failed, Origin.WORLD), 1, 1.0)).error
    assert isinstance(error, StepFailed)
    assert (error.name, error.type_name, error.message) == ("load", "KeyError", "boom")


def test_a_private_result_is_read_from_the_private_part() -> None:
    secret = canonical.encode({"token": "hunter2"})
    shown = events.StepComplete(id="s", success=True, result=canonical.hidden(secret))
    placed = entry(draft(shown, Origin.WORLD, ResultPrivate(result=msgspec.Raw(secret))), 1, 1.0)
    wait: StepWait[Any] = StepWait(len, (), {}, name="load", private=True)
    assert settled(wait, placed).value == {"token": "hunter2"}
    assert b"hunter2" not in placed.data


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"error": "no such page"}, ToolFailed, "no such page"),
        ({"error": "x", "code": "timeout"}, ToolTimeout, "no output for load in time"),
        ({"code": "abandoned"}, ToolFailed, ""),
    ],
)
def test_a_failed_tool(fields: dict[str, Any], kind: type, message: str) -> None:
    failed = events.ToolComplete(tool_call_id="c", success=False, **fields)
    wait: ToolWait[Any] = ToolWait("load", {})
    error = settled(wait, entry(draft(failed, Origin.WORLD), 1, 1.0)).error
    assert type(error) is kind
    assert str(error) == message


def test_an_output_that_does_not_fit_fails() -> None:
    error = tool_value("many", int).error
    assert isinstance(error, ToolFailed)
    assert error.type_name == "OutputInvalid"


@pytest.mark.parametrize("private", [True, False])
def test_a_value_that_does_not_fit_is_not_told_if_it_is_private(private: bool) -> None:
    wait: ToolWait[Any] = ToolWait("load", {}, returns=Literal["a", "b"], private=private)
    error = settled(wait, completed(events.ToolComplete, "hunter2", tool_call_id="c")).error
    assert ("hunter2" in str(error)) is not private


def text(*parts: str, **more: Any) -> dict[str, Any]:
    """An MCP tool result."""
    return {"content": [{"type": "text", "text": part} for part in parts], **more}


@pytest.mark.parametrize(
    ("output", "returns", "value"),
    [
        (text("red"), Any, "red"),
        (text("re", "d"), str, "red"),
        (text("7"), int, 7),
        (text("7"), str, "7"),
        (text('{"id":"o1","placed_at":"2026-01-02T00:00:00Z"}'), Order, ORDER),
        (text("ignored", structuredContent={"sum": 7}), Any, {"sum": 7}),
        (text("not JSON"), str | int, "not JSON"),
        ({"content": []}, Any, ""),
        ({"content": [{"type": "image", "data": "…"}]}, Any, ""),
        ({"content": "no list"}, Any, {"content": "no list"}),
        ({"content": ["no part"]}, Any, {"content": ["no part"]}),
        ({"isError": True}, Any, {"isError": True}),
        ("plain", Any, "plain"),
        (None, Any, None),
    ],
)
def test_an_mcp_output_is_unwrapped(output: Any, returns: Any, value: Any) -> None:
    decided = tool_value(output, returns)
    assert decided.error is None
    assert decided.value == value


@pytest.mark.parametrize(("says", "message"), [("no", "no"), ("", "the tool failed")])
def test_an_mcp_error_is_raised(says: str, message: str) -> None:
    error = tool_value(text(says, isError=True)).error
    assert isinstance(error, ToolFailed)
    assert error.message == message


def test_raw_hands_an_mcp_output_over_untouched() -> None:
    assert tool_value(text("no", isError=True), raw=True).value == text("no", isError=True)


def test_unwrapping_keeps_what_has_another_shape_to_the_byte() -> None:
    assert unwrap_mcp(b'{ "a" : 1.0 }', parse=True) == (b'{ "a" : 1.0 }', None)
