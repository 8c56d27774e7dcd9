"""Which resolution settles which call: the tables of design.md 7, as pure functions.

Each is given an execution's row and its waits, and says what a resume or an approval amounts to, or
raises the refusal. They run inside the store's transaction, so what they see is what is so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dispatch.core import canonical, drafts
from dispatch.core.clock import iso
from dispatch.core.drafts import bare, resumed_head
from dispatch.core.errors import Conflict, Detail, Gone, InvalidRequest, NotFound
from dispatch.core.journal import Draft
from dispatch.core.lifecycle import TRANSITIONS, Command, Status
from dispatch.engine.outputs import check_output
from dispatch.store.base import Execution, WaitRow


class Ruling(NamedTuple):
    """Either `drafts` begin a new leg, or everything is recorded already, from the leg
    `repeat_from` on.
    """

    drafts: Sequence[Draft] = ()
    repeat_from: int | None = None


def rule_resume(
    execution: Execution,
    waits: Sequence[WaitRow],
    outputs: Mapping[str, bytes],
    messages: list[Any] | None,
    now: float,
) -> Ruling:
    """What a resume with these outputs (JSON bytes by key) amounts to."""
    matched = _match(execution, waits, outputs)
    for row, _ in matched:
        if row.status == "timeout":
            raise Gone(f"{row.name} ({row.id}) timed out", code="await-expired")
    for row, _ in matched:
        if row.status == "abandoned":
            raise Conflict(
                f"nobody waits for {row.name} ({row.id}) any more", code="await-abandoned"
            )
    fresh = [(row, raw) for row, raw in matched if row.status == "open"]
    for row, raw in matched:
        if row.status == "settled" and row.digest != canonical.digest(raw):
            raise _settled_otherwise(row)
    for row, raw in fresh:
        check_output(row, raw)
    parked = execution.status is Status.INTERRUPTED
    if not fresh and matched and not parked:
        return Ruling(repeat_from=min(row.leg_seq or 1 for row, _ in matched))
    if not fresh and not parked:
        _refuse_unless_calls_are_open(execution, waits)
    fresh.sort(key=lambda pair: pair[0].opened_seq)
    head = resumed_head(execution.kind, execution.flow, now, messages)
    settled = [drafts.output(row.id, row.name, raw, row.private) for row, raw in fresh]
    return Ruling([head, *settled])


def rule_approval(
    execution: Execution,
    waits: Sequence[WaitRow],
    approval_id: str,
    decision: str,
    reason: str | None,
    remember: bool,
    now: float,
) -> Ruling:
    """What that decision amounts to."""
    row = next((row for row in waits if row.id == approval_id), None)
    if row is None:
        raise NotFound(f"no approval has the id {approval_id!r}", code="approval-unknown")
    if row.kind != "approval":
        raise Conflict(
            f"{approval_id} is a tool call: resume it with its output", code="wrong-kind"
        )
    if row.status == "timeout":
        raise Gone(f"{row.name} ({row.id}) timed out", code="await-expired")
    if row.status == "abandoned":
        raise Conflict(f"nobody waits for {row.name} ({row.id}) any more", code="await-abandoned")
    if row.status == "settled":
        if row.digest != decision:
            raise _settled_otherwise(row)
        if execution.status is Status.INTERRUPTED:
            return Ruling([resumed_head(execution.kind, execution.flow, now)])
        return Ruling(repeat_from=row.leg_seq or 1)
    decided = drafts.decision(row.id, decision, now, reason=reason, remember=remember)
    return Ruling([resumed_head(execution.kind, execution.flow, now), decided])


def rule_retry(execution: Execution, now: float) -> Ruling:
    """Replaying a parked execution."""
    if (execution.status, Command.RETRY) not in TRANSITIONS:
        raise Conflict(
            f"only a parked execution can be retried; {execution.id} is {execution.status}",
            code="not-parked",
        )
    return Ruling([resumed_head(execution.kind, execution.flow, now)])


def _match(
    execution: Execution, waits: Sequence[WaitRow], outputs: Mapping[str, bytes]
) -> list[tuple[WaitRow, bytes]]:
    """The call that each key means (wire/dispatch-api.md 7.3)."""
    calls = [row for row in waits if row.kind == "tool"]
    open_calls = [row for row in calls if row.status == "open"]
    matched: dict[str, tuple[str, WaitRow, bytes]] = {}
    for key, raw in outputs.items():
        row = _call_of(key, calls, open_calls, waits, execution)
        if row.id in matched:
            raise InvalidRequest(
                f"{matched[row.id][0]!r} and {key!r} are the same call, {row.id}", code="call-twice"
            )
        matched[row.id] = (key, row, raw)
    return [(row, raw) for _, row, raw in matched.values()]


def _call_of(
    key: str,
    calls: Sequence[WaitRow],
    open_calls: Sequence[WaitRow],
    waits: Sequence[WaitRow],
    execution: Execution,
) -> WaitRow:
    for row in waits:
        if row.id == key:
            if row.kind == "tool":
                return row
            if row.kind == "approval":
                raise Conflict(f"{key} is an approval: decide it with approve", code="wrong-kind")
    named = [row for row in open_calls if bare(row.name) == bare(key)]
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(row.id for row in named)
        raise InvalidRequest(
            f"{key} is open {len(named)} times: name the call by its id, one of {ids}",
            code="ambiguous-call",
        )
    earlier = [row for row in calls if bare(row.name) == bare(key)]
    if earlier:
        return max(earlier, key=lambda row: row.opened_seq)
    approvals = [row for row in waits if row.kind == "approval" and row.status == "open"]
    if approvals and not open_calls:
        raise Conflict(
            f"{execution.id} waits for a decision on {approvals[0].name} ({approvals[0].id}), "
            "not for a tool",
            code="wrong-kind",
        )
    listed = ", ".join(f"{row.name} ({row.id})" for row in open_calls) or "none"
    raise InvalidRequest(f"{key!r} fits no call; open are: {listed}", code="unknown-call")


def _settled_otherwise(row: WaitRow) -> Conflict:
    return Conflict(
        f"{row.name} ({row.id}) is settled differently since seq {row.settled_seq}",
        code="await-settled",
        details=[Detail(message=f"settled at seq {row.settled_seq}", path=row.id)],
    )


def _refuse_unless_calls_are_open(execution: Execution, waits: Sequence[WaitRow]) -> None:
    if any(row.status == "open" and row.kind in ("tool", "approval") for row in waits):
        return
    timers = [row for row in waits if row.status == "open" and row.kind == "timer"]
    if execution.status.is_final:
        state = f"it is {execution.status}"
    elif timers:
        state = f"it waits for a timer, until {iso(timers[0].due_at or 0.0)}"
    else:
        state = f"it is {execution.status}"
    raise Conflict(f"{execution.id} waits for no call: {state}", code="not-waiting")


def encode_outputs(outputs: Mapping[str, Any]) -> dict[str, bytes]:
    return {key: canonical.encode(value) for key, value in outputs.items()}
