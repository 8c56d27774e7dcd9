"""What an entry changes in the rows beside the journal: status, waits, legs.

Pure and stateless: the effects of an entry follow from that entry alone, so the rows can be rebuilt
from the journal (and a test does). Stores apply them in the transaction that appends the entry.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from dispatch.core.canonical import digest
from dispatch.core.clock import parse_iso
from dispatch.core.journal import (
    EDGES,
    Abandoned,
    ApprovalOpened,
    CallPrivate,
    CancelRequested,
    Edge,
    Entry,
    Origin,
    ResultPrivate,
    TimerSet,
)
from dispatch.core.lifecycle import Status

#: Ids of timers that no flow has set: how long a cancelled flow may go on, and an execution in all.
CANCEL_TIMER = "cancel"
DEADLINE = "deadline"


class WaitOpened(NamedTuple):
    """A tool call, an approval or a timer is open. `timeout` (seconds) runs from its first
    `WaitIssued`.
    """

    id: str
    kind: str  # tool, approval, timer, cancel, deadline
    name: str
    due_at: float | None = None
    timeout: float | None = None
    returns: bytes | None = None
    private: bool = False
    raw: bool = False


class WaitIssued(NamedTuple):
    """Its `await` or `approval_start` was appended: a client can see that it is its turn."""

    id: str


class WaitSettled(NamedTuple):
    """`outcome`: settled, timeout or abandoned. `digest` tells a repeated resolution from another
    one.
    """

    id: str
    outcome: str
    digest: str = ""


class StatusChanged(NamedTuple):
    """`code` says why an execution is parked, failed or cancelled. Final: every open wait is
    abandoned.
    """

    status: Status
    code: str | None = None


class LegBegun(NamedTuple):
    """This entry is the head of a leg."""


class SegmentBegun(NamedTuple):
    """A replay begins at this entry."""


class PhaseEntered(NamedTuple):
    name: str


Effect = (
    WaitOpened | WaitIssued | WaitSettled | StatusChanged | LegBegun | SegmentBegun | PhaseEntered
)

#: Kinds of which an entry can have effects; all others need not be asked.
EFFECTIVE = frozenset(
    {
        "execution_start",
        "dispatch.continued",
        "tool_start",
        "dispatch.approval_opened",
        "dispatch.timer_set",
        "await",
        "approval_start",
        "tool_complete",
        "approval_complete",
        "dispatch.timer_fired",
        "dispatch.abandoned",
        "dispatch.cancel_requested",
        "dispatch.phase",
    }
    | {kind for (kind, _), edge in EDGES.items() if edge in (Edge.PARKED, Edge.FINAL)}
)


def effects(entry: Entry) -> list[Effect]:
    """What `entry` changes. Empty for all that is only to be seen."""
    match (entry.kind, entry.origin):
        case ("text_delta", _):
            return []
        case ("execution_start", Origin.WORLD):
            begun: list[Effect] = [StatusChanged(Status.PENDING), LegBegun(), SegmentBegun()]
            return begun + _deadline(entry)
        case ("execution_start", Origin.ENGINE):
            return [StatusChanged(Status.RUNNING), LegBegun()]
        case ("dispatch.continued", _):
            return [SegmentBegun()]
        case ("tool_start", Origin.FLOW):
            return [_tool_opened(entry)]
        case ("dispatch.approval_opened", _):
            opened = entry.payload(ApprovalOpened)
            return [
                WaitOpened(opened.approval_id, "approval", opened.tool_name, timeout=opened.timeout)
            ]
        case ("dispatch.timer_set", _):
            timer = entry.payload(TimerSet)
            return [WaitOpened(timer.id, "timer", "sleep", due_at=parse_iso(timer.due_at))]
        case ("await", _):
            return [WaitIssued(entry.facts.tool_call_id), StatusChanged(Status.SUSPENDED)]
        case ("approval_start", _):
            return [WaitIssued(entry.facts.approval_id), StatusChanged(Status.SUSPENDED)]
        case ("tool_complete", Origin.WORLD):
            return [WaitSettled(entry.facts.tool_call_id, *_tool_outcome(entry))]
        case ("approval_complete", _):
            outcome = entry.facts.code or (
                "timeout" if entry.facts.decision == "timeout" else "settled"
            )
            return [WaitSettled(entry.facts.approval_id, outcome, entry.facts.decision)]
        case ("dispatch.timer_fired", _):
            return [WaitSettled(entry.payload(Abandoned).id, "settled")]
        case ("dispatch.abandoned", _):
            return [WaitSettled(entry.payload(Abandoned).id, "abandoned")]
        case ("dispatch.cancel_requested", _):
            asked = entry.payload(CancelRequested)
            due = parse_iso(asked.deadline)
            return [WaitOpened(CANCEL_TIMER, "cancel", asked.code or "cancel", due_at=due)]
        case ("dispatch.phase", _):
            return [PhaseEntered(entry.payload(_Named).name)]
        case _ if entry.edge is Edge.PARKED:
            return [StatusChanged(Status.INTERRUPTED, entry.facts.code)]
        case _ if entry.edge is Edge.FINAL:
            return [_final(entry)]
        case _:
            return []


class _Named(msgspec.Struct):
    name: str


class _Limited(msgspec.Struct):
    timeout: float | None = None


def _deadline(entry: Entry) -> list[Effect]:
    limited = entry.hidden(_Limited)
    if limited is None or limited.timeout is None:
        return []
    return [WaitOpened(DEADLINE, "deadline", "deadline", due_at=entry.at + limited.timeout)]


def _tool_opened(entry: Entry) -> WaitOpened:
    facts, private = entry.facts, entry.hidden(CallPrivate) or CallPrivate()
    returns = None if private.returns is None else msgspec.json.encode(private.returns)
    return WaitOpened(
        facts.tool_call_id,
        "tool",
        facts.tool_name,
        timeout=private.timeout,
        returns=returns,
        private=private.private,
        raw=private.raw,
    )


def _tool_outcome(entry: Entry) -> tuple[str, str]:
    if entry.facts.code in ("timeout", "abandoned"):
        return entry.facts.code, ""
    private = entry.hidden(ResultPrivate)
    raw = private.result if private is not None else entry.facts.result
    return "settled", digest(bytes(raw) or b"null")


def _final(entry: Entry) -> StatusChanged:
    if entry.kind == "execution_error":
        return StatusChanged(Status.FAILED, entry.facts.code or None)
    if entry.facts.success:
        return StatusChanged(Status.COMPLETED)
    return StatusChanged(Status.CANCELLED, "cancelled")
