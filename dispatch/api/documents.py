"""The JSON documents of the Dispatch family (wire 4), made of the events of a leg.

Pure. Documents carry the events as they were committed, byte for byte; what is beside them is read
from the last one: the final event, the awaits of a suspension, or the error that parked the
execution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dispatch.core.clock import iso
from dispatch.core.events import ErrorInfo
from dispatch.core.journal import INTERNAL, Edge, Entry
from dispatch.core.lifecycle import POLL, Status
from dispatch.store.base import Execution


class PausedReason(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="type",
    tag="local_action",
):
    """The first open call. An approval has no type of its own: it is told by `approvalId` (wire
    4.3).
    """

    execution_id: str
    tool_id: str
    tool_name: str
    parameters: Mapping[str, Any]
    approval_id: str | None = None
    await_reason: str | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The counters of the final event."""

    success: bool
    stop_reason: str | None = None
    duration_ms: int | None = None
    total_steps: int | None = None
    successful_steps: int | None = None
    failed_steps: int | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What a leg came to (wire 4.1, 4.2)."""

    execution_id: str
    status: str
    success: bool
    decision: str | None = None
    events: Sequence[msgspec.Raw] | None = None
    total_events: int | None = None
    truncated: bool | None = None
    flow_id: str | None = None
    execution_summary: Summary | None = None
    paused_reason: PausedReason | None = None
    result: str | None = None
    stop_reason: str | None = None
    iterations: int | None = None
    error: str | None = None
    code: str | None = None


class Handle(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Accepted, and goes on without the caller (wire 4.4)."""

    execution_id: str
    status: str
    status_url: str
    events_url: str
    target_kind: str
    target_id: str
    conversation_id: str | None = None
    accepted: bool | None = None


class Detached(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A continuation was taken, and goes on without the caller (wire 4.2)."""

    execution_id: str
    status: str
    pause_kind: str | None = None
    approval_id: str | None = None


class StatusDocument(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The poll (wire 4.5); once final, `result` is what a JSON dispatch would have answered."""

    execution_id: str
    created_at: str
    status: str
    target_kind: str
    target_id: str
    updated_at: str
    last_seq: int
    target_version: int
    phase: str | None = None
    completed_at: str | None = None
    http_status: int | None = None
    result: Document | None = None
    error: str | None = None
    code: str | None = None


class _Last(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What documents read of the last event, whatever its type."""

    type: str
    success: bool = False
    error: str | ErrorInfo | None = None
    code: str | None = None
    final_output: str | None = None
    stop_reason: str | None = None
    duration_ms: int | None = None
    total_steps: int | None = None
    successful_steps: int | None = None
    failed_steps: int | None = None
    iterations: int | None = None


class _Turn(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    type: str
    tool_call_id: str = ""
    approval_id: str | None = None
    tool_name: str = ""
    parameters: Any = None


_TURNS = ("await", "approval_start")
_last = msgspec.json.Decoder(_Last)
_turn = msgspec.json.Decoder(_Turn)


def document(execution: Execution, events: Sequence[msgspec.Raw], end: Edge) -> Document:
    """What the leg of `events`, which has ended with `end`, came to."""
    common: dict[str, Any] = {
        "execution_id": execution.id,
        "events": events,
        "total_events": len(events),
        "flow_id": execution.flow if execution.kind == "flow" else None,
    }
    if end is Edge.TURN:
        return Document(
            status="paused",
            success=True,
            paused_reason=_paused_reason(execution, events),
            result="" if execution.kind == "agent" else None,
            **common,
        )
    last = _last.decode(events[-1])
    error = last.error.message if isinstance(last.error, ErrorInfo) else last.error
    summary = Summary(
        success=last.success,
        stop_reason=last.stop_reason,
        duration_ms=last.duration_ms,
        total_steps=last.total_steps,
        successful_steps=last.successful_steps,
        failed_steps=last.failed_steps,
    )
    is_cancelled = last.stop_reason == "cancelled"
    return Document(
        status="completed" if last.success else "failed",
        success=last.success,
        execution_summary=summary if end is Edge.FINAL else None,
        # Required of an agent's document (wire 4.1); a flow's caller finds it in the final event.
        result=(last.final_output or "") if execution.kind == "agent" else None,
        stop_reason=last.stop_reason,
        iterations=last.iterations,
        error=error or ("the execution was cancelled" if is_cancelled else None),
        code=last.code or ("cancelled" if is_cancelled else None) or _code(last.error),
        **common,
    )


def _code(error: str | ErrorInfo | None) -> str | None:
    return error.code if isinstance(error, ErrorInfo) else None


def _paused_reason(execution: Execution, events: Sequence[msgspec.Raw]) -> PausedReason:
    first = _turn.decode(events[-1])
    for event in reversed(events):
        turn = _turn.decode(event)
        if turn.type not in _TURNS:
            break
        first = turn
    return PausedReason(
        execution_id=execution.id,
        tool_id=first.tool_call_id or first.approval_id or "",
        tool_name=first.tool_name,
        parameters=first.parameters if isinstance(first.parameters, dict) else {},
        approval_id=first.approval_id,
        await_reason="approval_required" if first.approval_id else None,
    )


def continuation(done: Document, decision: str | None) -> Document:
    """`done` as the answer to a resume, or to an approval: that has no `events`, or the published
    client takes it for the other (wire 4.2).
    """
    if decision is None:
        return msgspec.structs.replace(done, total_events=None, flow_id=None)
    return msgspec.structs.replace(
        done, events=None, total_events=None, flow_id=None, decision=decision
    )


def handle(execution: Execution, root: str, conversation_id: str | None) -> Handle:
    """`root` is the path that the application is mounted at."""
    interrupted = execution.status is Status.INTERRUPTED
    return Handle(
        execution_id=execution.id,
        status="interrupted" if interrupted else POLL[execution.status],
        status_url=f"{root}/v1/executions/{execution.id}/status",
        events_url=events_path(root, execution),
        target_kind=execution.kind,
        target_id=execution.flow,
        conversation_id=conversation_id,
        accepted=True,
    )


def events_path(root: str, execution: Execution) -> str:
    return f"{root}/v1/executions/{execution.id}/events"


def status_document(execution: Execution, result: Document | None) -> StatusDocument:
    """`result` is of the newest leg, if that has ended for good or was parked."""
    is_final = execution.status.is_final
    return StatusDocument(
        execution_id=execution.id,
        created_at=iso(execution.created_at),
        updated_at=iso(execution.updated_at),
        completed_at=None if execution.ended_at is None else iso(execution.ended_at),
        status=POLL[execution.status],
        target_kind=execution.kind,
        target_id=execution.flow,
        target_version=execution.version,
        last_seq=execution.last_seq,
        phase=execution.phase,
        http_status=200 if is_final else None,
        result=result if is_final else None,
        error=result.error if result else None,
        code=(result.code if result else None) or execution.code,
    )


# --- the journal as a document --------------------------------------------------------------------

#: What one answer holds at most (wire 4.6).
JOURNAL_ROWS = 1000


class JournalRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An event, as its subscribers see it, and where it lies."""

    id: str
    seq: int
    event_name: str
    payload: msgspec.Raw
    created_at: str
    step_id: str | None = None
    attempt: int | None = None


class Journal(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`truncated`: there are more, behind the last of these (`?after=`)."""

    execution_id: str
    journal_events: Sequence[JournalRow]
    truncated: bool


def journal_row(entry: Entry) -> JournalRow:
    facts = entry.facts
    return JournalRow(
        id=str(entry.seq),
        seq=entry.seq,
        event_name="custom" if entry.kind.startswith(INTERNAL) else entry.kind,
        payload=msgspec.Raw(entry.data),
        created_at=iso(entry.at),
        step_id=facts.step_id or (facts.id if entry.kind in _STEPS else None),
        attempt=facts.attempt or None,
    )


_STEPS = ("step_start", "step_complete")


# --- which executions there are -------------------------------------------------------------------


class Listed(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An execution in a list. Published clients know no lists, so this has our own statuses, which
    tell what is parked from what has failed.
    """

    execution_id: str
    flow: str
    version: int
    kind: str
    status: Status
    code: str | None = None
    phase: str | None = None
    last_seq: int
    created_at: str
    updated_at: str
    completed_at: str | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    executions: Sequence[Listed]


def listing(executions: Sequence[Execution]) -> Listing:
    return Listing(
        executions=[
            Listed(
                execution_id=one.id,
                flow=one.flow,
                version=one.version,
                kind=one.kind,
                status=one.status,
                code=one.code,
                phase=one.phase,
                last_seq=one.last_seq,
                created_at=iso(one.created_at),
                updated_at=iso(one.updated_at),
                completed_at=None if one.ended_at is None else iso(one.ended_at),
            )
            for one in executions
        ]
    )
