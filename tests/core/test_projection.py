"""What each kind of entry changes beside the journal."""

from typing import Any

import msgspec
import pytest

from dispatch.core import events
from dispatch.core.canonical import digest
from dispatch.core.journal import (
    JOURNAL,
    Abandoned,
    ApprovalOpened,
    AttemptStarted,
    CallPrivate,
    CancelRequested,
    Continued,
    Edge,
    Entry,
    Origin,
    PhaseEntered,
    ResultPrivate,
    TimerFired,
    TimerSet,
    draft,
    entry,
)
from dispatch.core.lifecycle import Status
from dispatch.core.projection import (
    CANCEL_TIMER,
    EFFECTIVE,
    LegBegun,
    SegmentBegun,
    StatusChanged,
    WaitIssued,
    WaitOpened,
    WaitSettled,
    effects,
)
from dispatch.core.projection import PhaseEntered as InPhase
from tests.core.samples import SAMPLES

FLOW, WORLD, ENGINE = Origin.FLOW, Origin.WORLD, Origin.ENGINE
AT = "2026-01-02T03:04:05.000Z"
DUE = 1_767_323_045.0
START = events.ExecutionStart(kind="flow", started_at=AT)


def of(event: Any, origin: Origin, private: Any = None) -> Entry:
    return entry(draft(event, origin, private), 1, 1.0)


def tool_start(**fields: Any) -> events.ToolStart:
    return events.ToolStart(tool_call_id="c", tool_name="t", tool_type="local", **fields)


def tool_complete(**fields: Any) -> events.ToolComplete:
    return events.ToolComplete(**{"tool_call_id": "c", "success": True, **fields})


PRIVATE = CallPrivate(timeout=5.0, returns={"type": "string"}, raw=True, private=True)
RAW_7 = msgspec.Raw(b"7")

CASES: list[tuple[Entry, list[Any]]] = [
    (of(START, WORLD), [StatusChanged(Status.PENDING), LegBegun(), SegmentBegun()]),
    (of(START, ENGINE), [StatusChanged(Status.RUNNING), LegBegun()]),
    (of(Continued(segment=1), FLOW), [SegmentBegun()]),
    (of(tool_start(), FLOW), [WaitOpened("c", "tool", "t")]),
    (
        of(tool_start(), FLOW, PRIVATE),
        [
            WaitOpened(
                "c",
                "tool",
                "t",
                timeout=5.0,
                returns=b'{"type":"string"}',
                private=True,
                raw=True,
            )
        ],
    ),
    (
        of(ApprovalOpened(approval_id="a", tool_name="t", timeout=9.0), FLOW),
        [WaitOpened("a", "approval", "t", timeout=9.0)],
    ),
    (of(TimerSet(id="s", due_at=AT), FLOW), [WaitOpened("s", "timer", "sleep", due_at=DUE)]),
    (
        of(events.Await(tool_call_id="c"), ENGINE),
        [WaitIssued("c"), StatusChanged(Status.SUSPENDED)],
    ),
    (
        of(events.ApprovalStart(approval_id="a", tool_name="t"), ENGINE),
        [WaitIssued("a"), StatusChanged(Status.SUSPENDED)],
    ),
    (of(tool_complete(result=RAW_7), WORLD), [WaitSettled("c", "settled", digest(b"7"))]),
    (of(tool_complete(), WORLD), [WaitSettled("c", "settled", digest(b"null"))]),
    (
        of(tool_complete(result="hidden"), WORLD, ResultPrivate(result=RAW_7)),
        [WaitSettled("c", "settled", digest(b"7.0"))],
    ),
    (of(tool_complete(success=False, code="timeout"), WORLD), [WaitSettled("c", "timeout")]),
    (of(tool_complete(success=False, code="abandoned"), WORLD), [WaitSettled("c", "abandoned")]),
    (
        of(events.ApprovalComplete(approval_id="a", decision="denied"), WORLD),
        [WaitSettled("a", "settled", "denied")],
    ),
    (
        of(events.ApprovalComplete(approval_id="a", decision="timeout"), WORLD),
        [WaitSettled("a", "timeout", "timeout")],
    ),
    (
        of(events.ApprovalComplete(approval_id="a", decision="timeout", code="abandoned"), WORLD),
        [WaitSettled("a", "abandoned", "timeout")],
    ),
    (of(TimerFired(id="s"), WORLD), [WaitSettled("s", "settled")]),
    (of(Abandoned(id="s"), WORLD), [WaitSettled("s", "abandoned")]),
    (
        of(CancelRequested(deadline=AT), WORLD),
        [WaitOpened(CANCEL_TIMER, "cancel", "cancel", due_at=DUE)],
    ),
    (of(PhaseEntered(name="second"), FLOW), [InPhase("second")]),
    (
        of(events.Error(error="x", code="divergence", recoverable=False), ENGINE),
        [StatusChanged(Status.INTERRUPTED, "divergence")],
    ),
    (of(events.Error(error="x", step_id="s"), WORLD), []),
    (
        of(events.ExecutionComplete(kind="flow", success=True), FLOW),
        [StatusChanged(Status.COMPLETED)],
    ),
    (
        of(events.ExecutionComplete(kind="flow", success=False), WORLD),
        [StatusChanged(Status.CANCELLED, "cancelled")],
    ),
    (
        of(events.ExecutionError(kind="flow", error="x", code="flow-failed"), FLOW),
        [StatusChanged(Status.FAILED, "flow-failed")],
    ),
    (of(events.TextDelta(id="t", delta="hi"), FLOW), []),
    (of(AttemptStarted(step_id="s", attempt=1), WORLD), []),
    (of(events.StepComplete(id="s"), WORLD), []),
]


@pytest.mark.parametrize(
    ("placed", "expected"), CASES, ids=[f"{e.kind}-{e.origin.name}" for e, _ in CASES]
)
def test_an_entry_has_these_effects(placed: Entry, expected: list[Any]) -> None:
    assert effects(placed) == expected


def test_effects_follow_from_the_entry_as_it_is_read_back() -> None:
    for placed, expected in CASES:
        read_back = msgspec.structs.replace(placed, seq=99, at=5.0)
        assert effects(read_back) == expected


def test_entries_without_effects_need_not_be_asked() -> None:
    changing = {placed.kind for placed, expected in CASES if expected}
    assert changing == EFFECTIVE
    for kind, origin in JOURNAL:
        if kind in SAMPLES and kind not in EFFECTIVE:
            assert effects(of(SAMPLES[kind][1], origin)) == []


def test_every_edge_of_a_leg_changes_the_status_or_begins_a_leg() -> None:
    for (kind, origin), row in JOURNAL.items():
        if row.edge is not Edge.NONE:
            found = effects(of(SAMPLES[kind][1], origin))
            assert any(isinstance(effect, StatusChanged) for effect in found)
            assert (LegBegun() in found) is (row.edge is Edge.HEAD)
