"""What the machine has the driver write, as drafts.

One function for each thing that happens to a flow by its own doing: a wait is opened, an attempt
begun, the caller's turn announced, a loser abandoned, a leg begun, an execution ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from dispatch.core import canonical, events
from dispatch.core.clock import iso, millis
from dispatch.core.errors import FlowMistake
from dispatch.core.journal import (
    Abandoned,
    ApprovalOpened,
    AttemptStarted,
    CallPrivate,
    ClientTool,
    Counts,
    Draft,
    Origin,
    Payload,
    ResultPrivate,
    ResumePrivate,
    TimerSet,
    draft,
)
from dispatch.core.nodes import LeafNode, StepNode
from dispatch.core.waits import ApprovalWait, Leaf, SleepWait, StepWait, ToolWait

FLOW, WORLD, ENGINE = Origin.FLOW, Origin.WORLD, Origin.ENGINE

Tools = Mapping[str, ClientTool]


def head(kind: events.Kind, flow: str, now: float, **more: Any) -> events.ExecutionStart:
    """The event at the head of a leg, which names the flow as its kind is named on the wire."""
    name: dict[str, Any] = {f"{kind}_id": flow, f"{kind}_name": flow}
    return events.ExecutionStart(kind=kind, started_at=iso(now), **name, **more)


def resumed_head(
    kind: events.Kind, flow: str, now: float, messages: list[Any] | None = None
) -> Draft:
    """The entry that begins any leg but the first."""
    private = None if messages is None else ResumePrivate(messages=messages)
    return draft(head(kind, flow, now, resumed=True), ENGINE, private)


def parameters_of(wait: Leaf[Any]) -> bytes:
    """The JSON that a tool or approval is asked with. Raises `FlowMistake` if it is none."""
    if isinstance(wait, ToolWait | ApprovalWait):
        return canonical.encode_ordered(dict(wait.parameters))
    return b""


def opening(wait: Leaf[Any], id: str, parameters: bytes, tools: Tools, now: float) -> Draft:
    """The flow entry of a wait: what a replay is compared with.

    Raises `FlowMistake` if the journal can't hold it.
    """
    match wait:
        case StepWait():
            event = events.StepStart(id=id, name=wait.name, step_type="step", started_at=iso(now))
            return draft(event, FLOW)
        case ToolWait():
            return _tool_opening(wait, id, parameters, tools, now)
        case ApprovalWait():
            opened = ApprovalOpened(
                approval_id=id,
                tool_name=wait.name,
                parameters=msgspec.Raw(parameters),
                reason=wait.reason,
                timeout=wait.timeout_seconds,
            )
            return draft(opened, FLOW)
        case SleepWait():
            due = wait.due_at if wait.due_at is not None else now + (wait.seconds or 0.0)
            try:
                due_at = iso(due)
            except (ValueError, OverflowError) as exc:
                raise FlowMistake(f"sleep until {due:g} (Unix seconds): {exc}") from exc
            return draft(TimerSet(id=id, due_at=due_at), FLOW)
        case _:
            raise AssertionError(wait)


def _tool_opening(
    wait: ToolWait[Any], id: str, parameters: bytes, tools: Tools, now: float
) -> Draft:
    tool = _declared(wait, tools)
    event = events.ToolStart(
        tool_call_id=id,
        tool_name=wait.name,
        tool_type="local",
        parameters=canonical.hidden(parameters) if wait.private else msgspec.Raw(parameters),
        started_at=iso(now),
        origin=tool.origin if tool else None,
        page_origin=tool.page_origin if tool else None,
    )
    private = CallPrivate(
        parameters=msgspec.Raw(parameters) if wait.private else msgspec.UNSET,
        timeout=wait.timeout_seconds,
        returns=None if wait.returns is Any else _schema(wait),
        raw=wait.raw,
        private=wait.private,
    )
    return draft(event, FLOW, private)


def _schema(wait: ToolWait[Any]) -> dict[str, Any]:
    try:
        return msgspec.json.schema(wait.returns)
    except (TypeError, NameError) as exc:
        raise FlowMistake(
            f"returns={wait.returns!r} of tool {wait.name} has no JSON Schema: {exc}"
        ) from exc


def _declared(wait: ToolWait[Any], tools: Tools) -> ClientTool | None:
    return tools.get(bare(wait.name))


def bare(name: str) -> str:
    """A tool's name without the prefix by which Persona marks a page's tools."""
    return name.removeprefix("webmcp:")


def attempts(steps: Sequence[StepNode], now: float) -> list[Draft]:
    """The attempts that can begin now; marks their steps as begun."""
    drafts = []
    for step in steps:
        step.begun = step.attempts.retry_at <= now
        if step.begun:
            started = AttemptStarted(step_id=step.id, attempt=step.attempts.started + 1)
            drafts.append(draft(started, WORLD))
    return drafts


def turn(leaves: Sequence[LeafNode], tools: Tools, now: float) -> list[Draft]:
    """The caller's turn: an `await` or an `approval_start` for each open call."""
    drafts = []
    for leaf in leaves:
        wait = leaf.wait
        if isinstance(wait, ToolWait):
            tool = _declared(wait, tools)
            event: events.EventBase = events.Await(
                tool_call_id=leaf.id,
                tool_id=leaf.id,
                tool_name=wait.name,
                parameters=msgspec.Raw(leaf.parameters),
                origin=tool.origin if tool else None,
                page_origin=tool.page_origin if tool else None,
                awaited_at=iso(now),
            )
        elif isinstance(wait, ApprovalWait):
            event = events.ApprovalStart(
                approval_id=leaf.id,
                tool_name=wait.name,
                tool_type="local",
                reason=wait.reason,
                parameters=msgspec.Raw(leaf.parameters),
                timeout=wait.timeout_seconds,
                started_at=iso(now),
            )
        else:
            continue
        drafts.append(draft(event, ENGINE))
    return drafts


def output(call_id: str, name: str, raw: bytes, private: bool) -> Draft:
    """What settles a call with the caller's output, which is JSON."""
    complete = events.ToolComplete(
        tool_call_id=call_id,
        tool_id=call_id,
        tool_name=name,
        success=True,
        result=canonical.hidden(raw) if private else msgspec.Raw(raw),
    )
    return draft(complete, WORLD, ResultPrivate(result=msgspec.Raw(raw)) if private else None)


def decision(
    approval_id: str,
    word: str,
    now: float,
    *,
    by: Literal["user", "system"] = "user",
    reason: str | None = None,
    remember: bool = False,
) -> Draft:
    """What settles an approval; `word` is `approved` or `denied`."""
    complete = events.ApprovalComplete(
        approval_id=approval_id,
        decision="approved" if word == "approved" else "denied",
        resolved_by=by,
        reason=reason,
        remember=remember or None,
        completed_at=iso(now),
    )
    return draft(complete, WORLD)


def abandonments(leaves: Sequence[LeafNode]) -> list[Draft]:
    """What settles branches whose answer nobody will ask for any more."""
    drafts = []
    for leaf in leaves:
        match leaf.wait:
            case StepWait(name=name):
                lost: events.EventBase | Payload = events.StepComplete(
                    id=leaf.id,
                    name=name,
                    step_type="step",
                    success=False,
                    error="abandoned",
                    code="abandoned",
                )
            case ToolWait(name=name):
                lost = events.ToolComplete(
                    tool_call_id=leaf.id,
                    tool_id=leaf.id,
                    tool_name=name,
                    success=False,
                    error="abandoned",
                    code="abandoned",
                )
            case ApprovalWait():
                lost = events.ApprovalComplete(
                    approval_id=leaf.id,
                    decision="timeout",
                    resolved_by="system",
                    code="abandoned",
                )
            case _:
                lost = Abandoned(id=leaf.id)
        drafts.append(draft(lost, WORLD))
    return drafts


def final(
    word: str,
    *,
    code: str,
    message: str,
    kind: events.Kind,
    result: msgspec.Raw | None,
    counts: Counts,
    started_at: float,
    now: float,
) -> Draft:
    """The final event: how the flow ended, `result` as text or as its JSON, and its sums."""
    output = None
    if result is not None:
        value = msgspec.json.decode(result)
        output = value if isinstance(value, str) else bytes(result).decode()
    if word == "failed":
        error = events.ErrorInfo(code=code, message=message)
        failed = events.ExecutionError(
            kind=kind,
            error=error,
            code=code,
            completed_at=iso(now),
            final_output=output,
        )
        return draft(failed, FLOW)
    complete = events.ExecutionComplete(
        kind=kind,
        success=word == "completed",
        stop_reason="cancelled" if word == "cancelled" else None,
        completed_at=iso(now),
        duration_ms=millis(started_at, now),
        final_output=output,
        total_steps=counts.total,
        successful_steps=counts.ok,
        failed_steps=counts.failed,
    )
    return draft(complete, FLOW)
