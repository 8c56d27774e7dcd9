"""Drafts, executions and a clock as these tests need them, and how to read a journal whole."""

from __future__ import annotations

import os

import msgspec

from dispatch.core import events
from dispatch.core.clock import iso
from dispatch.core.events import ToolOrigin
from dispatch.core.ids import ExecutionId, execution_id
from dispatch.core.journal import (
    Abandoned,
    ApprovalOpened,
    CallPrivate,
    CancelRequested,
    Continued,
    ContinuedPrivate,
    Counts,
    Draft,
    Entry,
    Origin,
    PhaseEntered,
    ResultPrivate,
    StartPrivate,
    TimerFired,
    TimerSet,
    draft,
    text_delta,
)
from dispatch.store.base import Change, Chunk, Decide, Execution, NewExecution, Store

UNKNOWN = ExecutionId("exec_" + "0" * 32)
FLOW, WORLD, ENGINE = Origin.FLOW, Origin.WORLD, Origin.ENGINE
BEGIN = 1_800_000_000.0
PATIENCE_SECONDS = 20.0


class TickingClock:
    """Goes on by an awkward fraction each time it is asked, so that no two commits share a time."""

    def __init__(self) -> None:
        self.at = BEGIN

    def now(self) -> float:
        self.at += 0.1
        return self.at

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a store never sleeps by the clock")


def new(
    id: ExecutionId | None = None,
    *,
    worker: str | None = None,
    flow: str = "f",
    key: str | None = None,
    digest: str = "",
    timeout: float | None = None,
) -> NewExecution:
    return NewExecution(
        id=id or execution_id(BEGIN, os.urandom(10)),
        flow=flow,
        version=1,
        kind="flow",
        start=start(timeout),
        worker=worker,
        idempotency_key=key,
        request_digest=digest,
    )


def start(timeout: float | None = None) -> Draft:
    event = events.ExecutionStart(kind="flow", started_at=iso(BEGIN))
    return draft(event, WORLD, StartPrivate(seed="seed", timeout=timeout))


def head() -> Draft:
    return draft(events.ExecutionStart(kind="flow", started_at=iso(BEGIN), resumed=True), ENGINE)


def text(delta: str = "x", origin: Origin = FLOW) -> Draft:
    return text_delta("text_1", delta, origin)


def texts(count: int) -> list[Draft]:
    return [text(f"{number} ") for number in range(count)]


def call(
    id: str,
    *,
    name: str = "look",
    timeout: float | None = None,
    returns: object = None,
    raw: bool = False,
    private: bool = False,
    origin: ToolOrigin | None = None,
) -> Draft:
    event = events.ToolStart(tool_call_id=id, tool_name=name, tool_type="local", origin=origin)
    hidden = CallPrivate(timeout=timeout, returns=returns, raw=raw, private=private)
    return draft(event, FLOW, hidden)


def turn(id: str) -> Draft:
    return draft(events.Await(tool_call_id=id, tool_name="look", parameters={}), ENGINE)


def output(id: str, result: object = 1) -> Draft:
    return draft(events.ToolComplete(tool_call_id=id, success=True, result=result), WORLD)


def hidden_output(id: str, result: object = 1) -> Draft:
    event = events.ToolComplete(tool_call_id=id, success=True)
    private = ResultPrivate(result=msgspec.Raw(msgspec.json.encode(result)))
    return draft(event, WORLD, private)


def unanswered(id: str, code: str = "timeout") -> Draft:
    return draft(events.ToolComplete(tool_call_id=id, success=False, code=code), WORLD)


def approval(id: str, *, timeout: float | None = None) -> Draft:
    return draft(ApprovalOpened(approval_id=id, tool_name="pay", timeout=timeout), FLOW)


def approval_turn(id: str) -> Draft:
    return draft(events.ApprovalStart(approval_id=id, tool_name="pay"), ENGINE)


def decided(id: str) -> Draft:
    return draft(events.ApprovalComplete(approval_id=id, decision="approved"), WORLD)


def timer(id: str, due_at: float) -> Draft:
    return draft(TimerSet(id=id, due_at=iso(due_at)), FLOW)


def fired(id: str) -> Draft:
    return draft(TimerFired(id=id), WORLD)


def abandoned(id: str) -> Draft:
    return draft(Abandoned(id=id), WORLD)


def cancel(deadline: float) -> Draft:
    return draft(CancelRequested(deadline=iso(deadline)), WORLD)


def phase(name: str) -> Draft:
    return draft(PhaseEntered(name=name), FLOW)


def step_done(id: str) -> Draft:
    return draft(events.StepComplete(id=id, success=True), WORLD)


def continued(segment: int) -> Draft:
    private = ContinuedPrivate(
        state=msgspec.Raw(b"{}"),
        start=StartPrivate(seed="seed"),
        kind="flow",
        flow="f",
        counts=Counts(),
        started_at=BEGIN,
    )
    return draft(Continued(segment=segment), FLOW, private)


def parked() -> Draft:
    event = events.Error(error="diverged", code="divergence", recoverable=False)
    return draft(event, ENGINE)


def final() -> Draft:
    return draft(events.ExecutionComplete(kind="flow", success=True), FLOW)


def failed() -> Draft:
    return draft(events.ExecutionError(kind="flow", error="boom", code="flow-failed"), FLOW)


def cancelled() -> Draft:
    event = events.ExecutionComplete(kind="flow", success=False, stop_reason="cancelled")
    return draft(event, WORLD)


def always(*drafts: Draft, wake: bool = False) -> Decide:
    """A command that appends these whatever it sees."""
    return lambda execution, waits: Change(drafts, wake)


async def held(store: Store) -> Execution:
    """A new execution of the worker `w1`."""
    return (await store.create(new(worker="w1"))).execution


async def chunks(store: Store, id: ExecutionId, after: int = 0) -> list[Chunk]:
    """All chunks behind `after`, page by page."""
    found: list[Chunk] = []
    while page := await store.read(id, after=found[-1].last_seq if found else after):
        found += page
    return found


async def journal(store: Store, id: ExecutionId, after: int = 0) -> list[Entry]:
    return [entry for chunk in await chunks(store, id, after) for entry in chunk.entries()]


async def kinds(store: Store, id: ExecutionId) -> list[str]:
    return [entry.kind for entry in await journal(store, id)]
