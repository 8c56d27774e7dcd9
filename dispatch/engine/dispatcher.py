"""One method per command. Each is one store transaction, and wakes whoever drives the execution.

A command that is refused raises before anything has changed. What it answers with is the leg that
it began: where in the journal the caller's stream starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import anyio
import msgspec

from dispatch.core import canonical, drafts
from dispatch.core.clock import Clock, iso
from dispatch.core.errors import Busy, Conflict, Unavailable
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import (
    CancelRequested,
    ClientTool,
    Origin,
    StartPrivate,
    draft,
)
from dispatch.core.lifecycle import TRANSITIONS, Command, Status
from dispatch.core.projection import CANCEL_TIMER
from dispatch.engine import awaits
from dispatch.flow import Registry
from dispatch.store.base import Change, Decide, Execution, NewExecution, Store


class Leg(NamedTuple):
    """What one POST streams, from the entry `first_seq`.

    `whole`: everything from there over all later legs to the current suspension or the end, leaving
    out awaits that have been settled since (a resume that only repeats what is recorded).
    `repeated`: the execution is an earlier request's, with the same idempotency key.
    """

    execution: Execution
    first_seq: int
    whole: bool = False
    repeated: bool = False


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What an execution is started with."""

    flow: str
    version: int | None = None
    inputs: Any = msgspec.field(default_factory=dict)
    messages: list[Any] = []
    client_tools: list[ClientTool] = []
    context: Any = None
    record: Any = None
    metadata: Any = None
    conversation_id: str | None = None
    #: Outputs for calls to come, by the name of their tool.
    tool_outputs: Mapping[str, Any] = {}
    #: How long the execution may take, and each step that has no timeout of its own, in seconds.
    timeout: float | None = None
    step_timeout: float | None = None
    #: Digest of the page's session that it belongs to.
    session: str | None = None
    #: The caller's name for its request, and a digest of all that it asked for.
    idempotency_key: str | None = None
    request_digest: str = ""


class Driving(Protocol):
    """What the dispatcher needs of the engine."""

    store: Store
    registry: Registry
    clock: Clock
    worker: str
    cancel_seconds: float
    accepting: bool
    max_running: int

    @property
    def running_count(self) -> int:
        """How many executions this worker drives: those that merely wait are not among them."""
        ...

    def new_id(self) -> ExecutionId: ...

    def new_seed(self) -> str: ...

    def timer_set(self) -> None: ...

    async def ended(self, execution_id: ExecutionId) -> Execution:
        """Return its row once its final event is durable."""
        ...


class Dispatcher:
    """The commands of the Dispatch family."""

    def __init__(self, engine: Driving):
        self._engine = engine

    async def dispatch(self, start: Start) -> Leg:
        """Start an execution, or find the one that was started with this idempotency key.

        Raises `NotFound` (`flow-unknown`), `Unprocessable` (`inputs-invalid`), `Conflict`
        (`idempotency-mismatch`: the key was used for another request), `Busy` (`too-many-running`).
        """
        engine = self._engine
        self._check_accepting()
        # Only what is new is held back: what has begun must be able to end.
        if engine.running_count >= engine.max_running:
            key = start.idempotency_key
            known = key and await engine.store.created_with(key, start.request_digest)
            if known:
                return Leg(known, 1, whole=True, repeated=True)
            raise Busy(
                f"{engine.running_count} executions are running, and {engine.max_running} is the "
                "limit: try again when some have ended or wait",
                retry_after_seconds=1,
                code="too-many-running",
            )
        flow = engine.registry.find(start.flow, start.version)
        inputs = canonical.encode(start.inputs)
        flow.decode_inputs(inputs)
        private = StartPrivate(
            seed=engine.new_seed(),
            inputs=msgspec.Raw(inputs),
            messages=start.messages,
            client_tools=start.client_tools,
            context=start.context,
            record=start.record,
            metadata=start.metadata,
            conversation_id=start.conversation_id,
            tool_outputs={
                name: msgspec.Raw(canonical.encode(output))
                for name, output in start.tool_outputs.items()
            },
            timeout=start.timeout,
            step_timeout=start.step_timeout,
            session=start.session,
        )
        head = drafts.head(flow.kind, flow.id, engine.clock.now(), flow_version=flow.version)
        first = draft(head, Origin.WORLD, private)
        new = NewExecution(
            id=engine.new_id(),
            flow=flow.id,
            version=flow.version,
            kind=flow.kind,
            start=first,
            worker=engine.worker,
            idempotency_key=start.idempotency_key,
            request_digest=start.request_digest,
        )
        # A caller who goes away now must not leave its time limit unknown to the timers.
        with anyio.CancelScope(shield=True):
            execution, existed = await engine.store.create(new)
        if existed:
            return Leg(execution, 1, whole=True, repeated=True)
        if start.timeout is not None:
            engine.timer_set()
        return Leg(execution, 1)

    async def resume(
        self, execution_id: ExecutionId, outputs: Mapping[str, Any], messages: list[Any] | None
    ) -> Leg:
        """Settle calls with the caller's outputs (design.md 7)."""
        raw = awaits.encode_outputs(outputs)
        keys = [*raw, *(drafts.bare(key) for key in raw), *(f"webmcp:{key}" for key in raw)]
        return await self._rule(
            execution_id,
            keys,
            lambda execution, waits: awaits.rule_resume(
                execution, waits, raw, messages, self._engine.clock.now()
            ),
        )

    async def approve(
        self,
        execution_id: ExecutionId,
        approval_id: str,
        decision: str,
        reason: str | None,
        *,
        remember: bool = False,
    ) -> Leg:
        """Decide an approval; `decision` is `approved` or `denied`. `remember`: also later ones of
        its name.
        """
        return await self._rule(
            execution_id,
            [approval_id],
            lambda execution, waits: awaits.rule_approval(
                execution, waits, approval_id, decision, reason, remember, self._engine.clock.now()
            ),
        )

    async def retry(self, execution_id: ExecutionId) -> Leg:
        """Replay a parked execution. Raises `Conflict` (`not-parked`)."""
        return await self._rule(
            execution_id,
            (),
            lambda execution, waits: awaits.rule_retry(execution, self._engine.clock.now()),
        )

    async def cancel(self, execution_id: ExecutionId, reason: str | None) -> Execution:
        """Cancel, and return when the final event is durable. Raises `Conflict` (`final`).

        Of an execution that is being cancelled, or was, it changes nothing and answers the same.
        """
        engine = self._engine
        self._check_accepting()
        now = engine.clock.now()
        requested = CancelRequested(deadline=iso(now + engine.cancel_seconds), reason=reason)

        def decide(execution: Execution, waits: Any) -> Change:
            if execution.status is Status.CANCELLED:
                return Change()
            if (execution.status, Command.CANCEL) not in TRANSITIONS:
                raise Conflict(
                    f"{execution.id} is {execution.status}: it cannot be cancelled", code="final"
                )
            if any(row.id == CANCEL_TIMER for row in waits):
                return Change()
            return Change([draft(requested, Origin.WORLD)], wake=True)

        changed = await self._transact(execution_id, (), decide)
        engine.timer_set()
        return await engine.ended(changed.id)

    async def _rule(
        self,
        execution_id: ExecutionId,
        keys: Any,
        rule: Any,
    ) -> Leg:
        self._check_accepting()
        ruling: awaits.Ruling = awaits.Ruling()

        def decide(execution: Execution, waits: Any) -> Change:
            nonlocal ruling
            ruling = rule(execution, waits)
            return Change(ruling.drafts, wake=bool(ruling.drafts))

        execution = await self._transact(execution_id, keys, decide)
        if ruling.repeat_from is not None:
            return Leg(execution, ruling.repeat_from, whole=True)
        return Leg(execution, execution.leg_seq)

    async def _transact(self, execution_id: ExecutionId, keys: Any, decide: Decide) -> Execution:
        engine = self._engine
        with anyio.CancelScope(shield=True):
            changed = await engine.store.transact(
                execution_id, decide, keys=keys, take_for=engine.worker
            )
        return changed.execution

    def _check_accepting(self) -> None:
        if not self._engine.accepting:
            raise Unavailable("the server is shutting down: try again", code="shutting-down")
