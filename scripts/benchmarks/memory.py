"""A store that writes nothing: the server as it would be if durability were free.

It grows journals by the rules that the SQLite store uses (`store.growth`), keeps them in dicts, and
carries each call out at once, without the loop getting a turn. It promises nothing after a crash,
forgets what is over, and knows none of what the measures don't need.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from dispatch.core.clock import Clock
from dispatch.core.counters import Counters
from dispatch.core.errors import LeaseLost, NotFound
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.core.lifecycle import Status
from dispatch.core.projection import StatusChanged, WaitIssued, WaitOpened, WaitSettled
from dispatch.store import rows
from dispatch.store.base import (
    Ahead,
    Appended,
    Change,
    Changed,
    Chunk,
    Committed,
    Created,
    Decide,
    Due,
    Execution,
    Held,
    Listener,
    NewExecution,
    Recorded,
    WaitRow,
)
from dispatch.store.growth import Framers, Growth, WaitChange, grow
from dispatch.store.sessions import ClientSession, ClientToken, Feedback

#: Executions that are over are kept until so many others are, for readers that lag behind.
KEPT = 256


class _Journal:
    def __init__(self, execution: Execution):
        self.execution = execution
        self.chunks: list[Chunk] = []
        self.waits: dict[str, WaitRow] = {}


class _NoSessions:
    """No page ever asks: benchmarks call with a key, or without."""

    async def add_token(self, token: ClientToken) -> None: ...

    async def tokens(self) -> list[ClientToken]:
        return []

    async def token(self, digest: str) -> ClientToken | None:
        return None

    async def revoke_token(self, id: str, at: float) -> bool:
        return False

    async def put_session(self, session: ClientSession, now: float) -> None: ...

    async def session(self, digest: str) -> tuple[ClientSession, ClientToken] | None:
        return None

    async def put_feedback(self, feedback: Feedback) -> None: ...


class MemoryStore:
    """`store.base`'s protocol, with nothing behind it."""

    fault = None
    last_words = 2  # stderr
    is_leased = is_alone = True
    standstills = 0

    def __init__(self, clock: Clock):
        self.listener: Listener = lambda _: None
        self.ahead: Ahead = lambda _: None  # of what? there are no commits
        self.counters = Counters()
        self.sessions = _NoSessions()
        self._clock = clock
        self._framers = Framers()
        self._journals: dict[ExecutionId, _Journal] = {}
        self._over: deque[ExecutionId] = deque()

    @asynccontextmanager
    async def session(self, worker: str) -> AsyncIterator[None]:
        yield

    # --- writing ----------------------------------------------------------------------------------

    async def create(self, new: NewExecution) -> Created:
        now = self._clock.now()
        empty = Execution(
            id=new.id,
            flow=new.flow,
            version=new.version,
            kind=new.kind,
            status=Status.PENDING,
            last_seq=0,
            leg_seq=0,
            segment_seq=0,
            created_at=now,
            updated_at=now,
            worker=new.worker,
            token=1,
        )
        journal = self._journals[new.id] = _Journal(empty)
        growth = grow(empty, (new.start,), now, self._framers.of(new.id))
        self._write(journal, growth, (new.start,), taken=True)
        return Created(journal.execution, existed=False)

    async def add(self, recorded: Recorded) -> Execution:
        raise NotImplementedError("no benchmark imports")

    async def append(
        self,
        execution_id: ExecutionId,
        drafts: Sequence[Draft],
        firm: Sequence[Draft] = (),
        *,
        expected_seq: int = 0,
        token: int,
        release: bool = False,
    ) -> Appended:
        journal = self._find(execution_id)
        before = journal.execution
        if token != before.token or before.worker is None:
            raise LeaseLost(f"execution {execution_id} was let go of")
        landed = not (firm or release) or before.last_seq == expected_seq
        if firm and landed:
            drafts = [*drafts, *firm]
        growth = grow(before, drafts, self._clock.now(), self._framers.of(execution_id))
        if release and landed:
            growth = _with(growth, worker=None)
        self._write(journal, growth, drafts)
        return Appended(growth.execution.last_seq, landed)

    async def transact(
        self,
        execution_id: ExecutionId,
        decide: Decide,
        *,
        keys: Sequence[str] = (),
        take_for: str | None = None,
    ) -> Changed:
        journal = self._find(execution_id)
        before = journal.execution
        waits = sorted(journal.waits.values(), key=lambda row: row.opened_seq)
        asked = [row for row in waits if row.status == "open" or row.id in keys or row.name in keys]
        change: Change = decide(before, asked)
        growth = grow(before, change.drafts, self._clock.now(), self._framers.of(execution_id))
        taken = change.wake and growth.execution.worker is None and take_for is not None
        if taken:
            growth = _with(growth, worker=take_for, token=before.token + 1)
        self._write(journal, growth, change.drafts, taken)
        return Changed(growth.execution, before.last_seq + 1, taken)

    async def acquire(self, execution_id: ExecutionId, worker: str) -> Execution | None:
        return None

    async def release(self, execution_id: ExecutionId, *, token: int, runnable: bool) -> None:
        pass

    async def delete(self, execution_id: ExecutionId) -> None:
        del self._journals[execution_id]

    # --- reading ----------------------------------------------------------------------------------

    async def get(self, execution_id: ExecutionId) -> Execution:
        return self._find(execution_id).execution

    async def created_with(self, idempotency_key: str, request_digest: str) -> Execution | None:
        return None

    async def waits(self, execution_id: ExecutionId) -> list[WaitRow]:
        return list(self._find(execution_id).waits.values())

    async def read(
        self, execution_id: ExecutionId, *, after: int, until: int | None = None, limit: int = 256
    ) -> list[Chunk]:
        found = [
            rows.cut(chunk, after, until)
            for chunk in self._find(execution_id).chunks
            if chunk.last_seq > after and (until is None or chunk.first_seq <= until)
        ]
        return found[:limit]

    async def executions(
        self,
        *,
        status: Status | None = None,
        flow: str | None = None,
        limit: int = 100,
        before: ExecutionId | None = None,
    ) -> list[Execution]:
        return []

    # --- what is to be done -----------------------------------------------------------------------

    async def runnable(self, limit: int) -> list[Execution]:
        return []

    async def held(self) -> list[Held]:
        return []

    async def due(self, now: float, limit: int) -> list[Due]:
        return []

    async def next_due(self) -> float | None:
        return None

    async def bury_dead(self) -> int:
        return 0

    def has_changed(self) -> bool:
        return False

    def peek(self, execution_ids: Collection[ExecutionId]) -> list[Execution]:
        return [self._journals[id].execution for id in execution_ids if id in self._journals]

    def renew(self, standstills: int) -> bool:
        return True

    # --- rows -------------------------------------------------------------------------------------

    def _find(self, execution_id: ExecutionId) -> _Journal:
        journal = self._journals.get(execution_id)
        if journal is None:
            raise NotFound(f"there is no execution {execution_id}", code="execution-unknown")
        return journal

    def _write(
        self, journal: _Journal, growth: Growth, drafts: Sequence[Draft], taken: bool = False
    ) -> None:
        execution = journal.execution = growth.execution
        if not drafts:
            return
        for change in growth.waits:
            self._change_wait(journal.waits, change)
        journal.chunks += growth.chunks
        if execution.status.is_final:
            self._over.append(execution.id)
            if len(self._over) > KEPT:
                del self._journals[self._over.popleft()]
        first_seq = growth.chunks[0].first_seq
        self.listener(
            Committed(execution, first_seq, execution.updated_at, drafts, growth.chunks, taken)
        )

    def _change_wait(self, waits: dict[str, WaitRow], change: WaitChange) -> None:
        seq, leg_seq, effect = change
        match effect:
            case WaitOpened():
                waits[effect.id] = WaitRow(
                    id=effect.id,
                    kind=effect.kind,
                    name=effect.name,
                    status="open",
                    issued=False,
                    opened_seq=seq,
                    returns=effect.returns,
                    private=effect.private,
                    raw=effect.raw,
                )
            case WaitIssued(wait_id):
                waits[wait_id] = msgspec.structs.replace(waits[wait_id], issued=True)
            case WaitSettled(wait_id, outcome, digest):
                waits[wait_id] = msgspec.structs.replace(
                    waits[wait_id],
                    status=outcome,
                    digest=digest,
                    settled_seq=seq,
                    leg_seq=leg_seq,
                )
            case StatusChanged():
                waits.clear()
            case _:
                raise AssertionError(effect)


def _with(growth: Growth, **changes: Any) -> Growth:
    return growth._replace(execution=msgspec.structs.replace(growth.execution, **changes))
