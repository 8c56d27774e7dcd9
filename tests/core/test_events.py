"""Each of the 33 types as on the wire, and as the published client reads it."""

from typing import Any, get_args

import msgspec
import pytest
from pydantic import TypeAdapter
from runtype._generated.types.execution_stream_event import ExecutionStreamEvent
from runtype._sse import parse_event_data

from dispatch.core import events
from dispatch.core.events import TYPES, ErrorInfo, Event, EventBase, Tokens
from dispatch.core.journal import draft, entry
from tests.core.samples import SAMPLES, origin_of

# type: the required fields and the optional ones, camelCase (wire/dispatch-api.md 6.3). Behind the
# bar what is ours alone: the strict models take other fields, and ignore them.
WIRE = {
    "execution_start": (
        "kind startedAt",
        "flowId flowName agentId agentName totalSteps maxTurns source config resumed | flowVersion",
    ),
    "execution_complete": (
        "kind success",
        "completedAt durationMs finalOutput totalSteps successfulSteps failedSteps iterations"
        " stopReason totalCost totalTokens | details",
    ),
    "execution_error": ("kind error", "completedAt code upgradeUrl stopReason finalOutput"),
    "turn_start": ("id role", "iteration turnIndex"),
    "turn_complete": (
        "id role",
        "iteration content tokens cost stopReason completedAt fallback",
    ),
    "step_start": ("id", "name stepType index totalSteps startedAt outputVariable"),
    "step_complete": (
        "id",
        "name stepType success durationMs result error stopReason completedAt"
        " unresolvedVariables fallback | code errorType",
    ),
    "step_skip": ("id", "name stepType index totalSteps when skippedAt"),
    "text_start": ("id", "role turnId stepId parentToolCallId"),
    "text_delta": ("id delta", ""),
    "text_complete": ("id", "text"),
    "reasoning_start": ("id", "scope parentToolCallId"),
    "reasoning_delta": ("id delta", ""),
    "reasoning_complete": ("id", "text scope"),
    "media_start": ("id mediaType", "role toolCallId"),
    "media_delta": ("id delta", ""),
    "media_complete": ("id", "mediaType url data toolCallId"),
    "artifact_start": ("id artifactType", "title component file"),
    "artifact_delta": ("id delta", ""),
    "artifact_update": ("id component props", ""),
    "artifact_complete": ("id", ""),
    "source": ("", "id url title sourceType"),
    "tool_start": (
        "toolCallId toolName toolType",
        "parameters stepId iteration startedAt origin pageOrigin hiddenParameterNames",
    ),
    "tool_input_delta": ("toolCallId delta", ""),
    "tool_input_complete": ("toolCallId parameters", "toolName hiddenParameterNames"),
    "tool_output_delta": ("toolCallId delta", ""),
    "tool_complete": (
        "toolCallId success",
        "toolName result error executionTime stepId iteration | toolId code",
    ),
    "approval_start": (
        "approvalId toolName",
        "toolCallId toolType description reason parameters timeout startedAt iteration",
    ),
    "approval_complete": ("approvalId decision", "resolvedBy completedAt | reason code remember"),
    "await": (
        "",
        "toolCallId toolId toolName parameters origin pageOrigin awaitedAt awaitReason stepId"
        " crawlId elicitation",
    ),
    "error": ("error", "recoverable | code stepId attempt retryAt"),
    "ping": ("timestamp", ""),
    "custom": ("name", "value"),
}


def fields(kind: str) -> tuple[set[str], set[str], set[str]]:
    """Required, optional, and ours alone."""
    required, optional = WIRE[kind]
    known, _, own = optional.partition("|")
    return set(required.split()), set(known.split()), set(own.split())


def on_the_wire(event: EventBase) -> dict[str, Any]:
    """As a client gets it, from the journal where it can stand in one."""
    kind = event.type_name()
    if kind == "ping":
        data = msgspec.json.encode(event)
    else:
        data = entry(draft(event, origin_of(kind)), 7, 1.0).data
    return {**msgspec.json.decode(data), "executionId": "exec_1", "seq": 7}


def test_there_are_33() -> None:
    assert len(TYPES) == len(get_args(Event)) == len(WIRE) == 33
    assert TYPES.keys() == WIRE.keys() == SAMPLES.keys()


@pytest.mark.parametrize("kind", TYPES)
def test_a_type_has_the_fields_of_the_wire_contract(kind: str) -> None:
    required, optional, own = fields(kind)
    described = msgspec.structs.fields(TYPES[kind])
    assert {field.encode_name for field in described if field.required} == required
    assert {field.encode_name for field in described if not field.required} == optional | own


@pytest.mark.parametrize("kind", TYPES)
def test_an_event_is_what_it_was_after_encoding_and_decoding(kind: str) -> None:
    for event in SAMPLES[kind]:
        raw = msgspec.json.encode(event)
        assert msgspec.json.decode(raw, type=Event) == event
        assert msgspec.json.decode(raw)["type"] == kind


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_required_is_required(kind: str) -> None:
    least = msgspec.to_builtins(SAMPLES[kind][0])
    required, optional, own = fields(kind)
    assert least.keys() == required | {"type"}
    assert msgspec.to_builtins(SAMPLES[kind][1]).keys() == required | optional | own | {"type"}
    for name in required:
        short = {key: value for key, value in least.items() if key != name}
        with pytest.raises(msgspec.ValidationError, match=name):
            msgspec.convert(short, Event)


@pytest.mark.parametrize("kind", TYPES)
def test_the_published_client_takes_every_event(kind: str) -> None:
    generated: TypeAdapter[Any] = TypeAdapter(ExecutionStreamEvent)
    for event in SAMPLES[kind]:
        shown = on_the_wire(event)
        required, _, _ = fields(kind)
        read = parse_event_data(shown)
        assert read.type == kind
        assert required.isdisjoint(read.model_extra or ()), "it does not know what it requires"
        assert (
            read.model_dump(by_alias=True, exclude_none=True, mode="json").items()
            >= {
                key: value for key, value in shown.items() if isinstance(value, str | int | bool)
            }.items()
        )
        assert generated.validate_python(shown).type == kind


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("text_start", "role", "robot"),
        ("turn_complete", "stopReason", "tired"),
        ("approval_complete", "decision", "maybe"),
        ("tool_start", "origin", "mars"),
        ("execution_start", "kind", "job"),
    ],
)
def test_an_enum_takes_only_its_values(kind: str, field: str, value: str) -> None:
    full = msgspec.to_builtins(SAMPLES[kind][1])
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({**full, field: value}, Event)


def test_an_error_is_a_sentence_or_an_object() -> None:
    assert msgspec.to_builtins(events.Error(error="boom")) == {"type": "error", "error": "boom"}
    both = events.Error(error=ErrorInfo(code="c", message="m"))
    assert msgspec.to_builtins(both)["error"] == {"code": "c", "message": "m"}


def test_events_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        events.TextDelta(id="t", delta="d").delta = "e"  # type: ignore[misc]  # that is the test
    assert Tokens(input=1, output=2) == Tokens(input=1, output=2)
