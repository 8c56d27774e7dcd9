"""The 33 event types, as on the wire (wire/dispatch-api.md 6.3), one frozen Struct each.

A Struct holds what is particular to its type; `executionId` and `seq` belong to the place in a
journal and are added when the frame is made (`core.wire`). Fields are snake_case here and camelCase
on the wire; those that are None are left out.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

import msgspec

Role = Literal["user", "assistant", "system"]
StopReason = Literal["end_turn", "max_tool_calls", "length", "content_filter", "error", "unknown"]
ToolOrigin = Literal["webmcp", "sdk"]
Kind = Literal["flow", "agent"]


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class EventBase(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag=_snake,
    rename="camel",
    omit_defaults=True,
):
    """What all 33 share. `type_name()` is the type as on the wire."""

    @classmethod
    def type_name(cls) -> str:
        return str(cls.__struct_config__.tag)


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The object form of an error: a code for programs, a sentence for people."""

    code: str
    message: str
    details: Any = None


class Tokens(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    input: int
    output: int


class ExecutionStart(EventBase, frozen=True):
    kind: Kind
    started_at: str
    flow_id: str | None = None
    flow_name: str | None = None
    flow_version: int | None = None
    agent_id: str | None = None
    agent_name: str | None = None
    total_steps: int | None = None
    max_turns: int | None = None
    source: str | None = None
    config: Any = None
    resumed: bool | None = None


class ExecutionComplete(EventBase, frozen=True):
    kind: Kind
    success: bool
    completed_at: str | None = None
    duration_ms: int | None = None
    final_output: str | None = None
    total_steps: int | None = None
    successful_steps: int | None = None
    failed_steps: int | None = None
    iterations: int | None = None
    stop_reason: str | None = None
    total_cost: float | None = None
    total_tokens: Tokens | None = None
    details: Any = None


class ExecutionError(EventBase, frozen=True):
    kind: Kind
    error: str | ErrorInfo
    completed_at: str | None = None
    code: str | None = None
    upgrade_url: str | None = None
    stop_reason: str | None = None
    final_output: str | None = None


class TurnStart(EventBase, frozen=True):
    id: str
    role: Role
    iteration: int | None = None
    turn_index: int | None = None


class TurnComplete(EventBase, frozen=True):
    id: str
    role: Role
    iteration: int | None = None
    content: Any = None
    tokens: Tokens | None = None
    cost: float | None = None
    stop_reason: StopReason | None = None
    completed_at: str | None = None
    fallback: Any = None


class StepStart(EventBase, frozen=True):
    id: str
    name: str | None = None
    step_type: str | None = None
    index: int | None = None
    total_steps: int | None = None
    started_at: str | None = None
    output_variable: str | None = None


class StepComplete(EventBase, frozen=True):
    id: str
    name: str | None = None
    step_type: str | None = None
    success: bool | None = None
    duration_ms: int | None = None
    result: Any = None
    error: str | None = None
    code: str | None = None
    error_type: str | None = None
    stop_reason: StopReason | None = None
    completed_at: str | None = None
    unresolved_variables: Any = None
    fallback: Any = None


class StepSkip(EventBase, frozen=True):
    id: str
    name: str | None = None
    step_type: str | None = None
    index: int | None = None
    total_steps: int | None = None
    when: str | None = None
    skipped_at: str | None = None


class TextStart(EventBase, frozen=True):
    id: str
    role: Role | None = None
    turn_id: str | None = None
    step_id: str | None = None
    parent_tool_call_id: str | None = None


class TextDelta(EventBase, frozen=True):
    id: str
    delta: str


class TextComplete(EventBase, frozen=True):
    id: str
    text: str | None = None


class ReasoningStart(EventBase, frozen=True):
    id: str
    scope: Literal["turn", "loop"] | None = None
    parent_tool_call_id: str | None = None


class ReasoningDelta(EventBase, frozen=True):
    id: str
    delta: str


class ReasoningComplete(EventBase, frozen=True):
    id: str
    text: str | None = None
    scope: Literal["turn", "loop"] | None = None


class MediaStart(EventBase, frozen=True):
    id: str
    media_type: str
    role: Role | None = None
    tool_call_id: str | None = None


class MediaDelta(EventBase, frozen=True):
    id: str
    delta: str


class MediaComplete(EventBase, frozen=True):
    id: str
    media_type: str | None = None
    url: str | None = None
    data: str | None = None
    tool_call_id: str | None = None


class ArtifactFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    path: str
    mime_type: str
    language: str | None = None


class ArtifactStart(EventBase, frozen=True):
    id: str
    artifact_type: Literal["markdown", "component"]
    title: str | None = None
    component: str | None = None
    file: ArtifactFile | None = None


class ArtifactDelta(EventBase, frozen=True):
    id: str
    delta: str


class ArtifactUpdate(EventBase, frozen=True):
    id: str
    component: str
    props: Any


class ArtifactComplete(EventBase, frozen=True):
    id: str


class Source(EventBase, frozen=True):
    id: str | None = None
    url: str | None = None
    title: str | None = None
    source_type: str | None = None


class ToolStart(EventBase, frozen=True):
    tool_call_id: str
    tool_name: str
    tool_type: str
    parameters: Any = None
    step_id: str | None = None
    iteration: int | None = None
    started_at: str | None = None
    origin: ToolOrigin | None = None
    page_origin: str | None = None
    hidden_parameter_names: list[str] | None = None


class ToolInputDelta(EventBase, frozen=True):
    tool_call_id: str
    delta: str


class ToolInputComplete(EventBase, frozen=True):
    tool_call_id: str
    parameters: dict[str, Any]
    tool_name: str | None = None
    hidden_parameter_names: list[str] | None = None


class ToolOutputDelta(EventBase, frozen=True):
    tool_call_id: str
    delta: str


class ToolComplete(EventBase, frozen=True):
    tool_call_id: str
    success: bool
    # Equal to toolCallId: without it Persona shows a nameless row on a continuation leg (wire 6.4).
    tool_id: str | None = None
    tool_name: str | None = None
    result: Any = None
    error: str | None = None
    code: str | None = None
    execution_time: float | None = None
    step_id: str | None = None
    iteration: int | None = None


class ApprovalStart(EventBase, frozen=True):
    approval_id: str
    tool_name: str
    tool_call_id: str | None = None
    tool_type: str | None = None
    description: str | None = None
    reason: str | None = None
    parameters: Any = None
    timeout: float | None = None
    started_at: str | None = None
    iteration: int | None = None


class ApprovalComplete(EventBase, frozen=True):
    approval_id: str
    decision: Literal["approved", "denied", "timeout"]
    resolved_by: Literal["user", "system"] | None = None
    reason: str | None = None
    remember: bool | None = None
    code: str | None = None
    completed_at: str | None = None


class Await(EventBase, frozen=True):
    tool_call_id: str | None = None
    tool_id: str | None = None
    tool_name: str | None = None
    parameters: Any = None
    origin: ToolOrigin | None = None
    page_origin: str | None = None
    awaited_at: str | None = None
    await_reason: str | None = None
    step_id: str | None = None
    crawl_id: str | None = None
    elicitation: Any = None


class Error(EventBase, frozen=True):
    error: str | ErrorInfo
    recoverable: bool | None = None
    code: str | None = None
    step_id: str | None = None
    attempt: int | None = None
    retry_at: str | None = None


class Ping(EventBase, frozen=True):
    timestamp: str


class Custom(EventBase, frozen=True):
    name: str
    value: Any = None


Event = (
    ExecutionStart
    | ExecutionComplete
    | ExecutionError
    | TurnStart
    | TurnComplete
    | StepStart
    | StepComplete
    | StepSkip
    | TextStart
    | TextDelta
    | TextComplete
    | ReasoningStart
    | ReasoningDelta
    | ReasoningComplete
    | MediaStart
    | MediaDelta
    | MediaComplete
    | ArtifactStart
    | ArtifactDelta
    | ArtifactUpdate
    | ArtifactComplete
    | Source
    | ToolStart
    | ToolInputDelta
    | ToolInputComplete
    | ToolOutputDelta
    | ToolComplete
    | ApprovalStart
    | ApprovalComplete
    | Await
    | Error
    | Ping
    | Custom
)

TYPES: dict[str, type[EventBase]] = {event.type_name(): event for event in get_args(Event)}
