"""The Store protocol. Its docstrings are the contract, and `tests/store` holds every store to it.

A store keeps journals, and beside each one a few rows that follow from it (`core.projection`),
changed in the same transaction. It knows nothing of flows: it is told what to append and on what
condition.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import msgspec

from dispatch.core import wire
from dispatch.core.counters import Counters
from dispatch.core.errors import Unavailable
from dispatch.core.events import Kind
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft, Edge, Entry, entry
from dispatch.core.lifecycle import Status
from dispatch.store.sessions import Sessions


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """An execution's row: what follows from its journal, and who drives it."""

    id: ExecutionId
    flow: str
    version: int
    kind: Kind
    status: Status
    code: str | None = None
    phase: str | None = None
    last_seq: int
    leg_seq: int  # head of the newest leg
    segment_seq: int  # where a replay begins
    created_at: float
    updated_at: float
    ended_at: float | None = None
    worker: str | None = None
    token: int = 0
    runnable: bool = False
    strikes: int = 0  # in quarters, see STRIKE

    def is_lost_to(self, worker: str, token: int) -> bool:
        """Whether what `worker` took with `token` has been taken from it since."""
        # A lower token: the row is from before that was durable (`Store.ahead`).
        return self.worker != worker and (self.token, self.runnable) > (token, False)


class WaitRow(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call, an approval or a timer of an execution, open or not."""

    id: str
    kind: str
    name: str
    status: str  # open, settled, timeout, abandoned
    issued: bool
    opened_seq: int
    settled_seq: int | None = None
    leg_seq: int | None = None  # head of the leg that it was settled in
    due_at: float | None = None
    timeout: float | None = None
    digest: str = ""
    returns: bytes | None = None
    private: bool = False
    raw: bool = False


class Chunk(msgspec.Struct, frozen=True):
    """Entries of one execution and one commit, side by side, as the frames that clients read.

    A chunk never crosses the edge of a leg: a head is its first entry, and the last of a run of
    awaits, a parking or a final event its last. `end` names the latter.
    """

    first_seq: int
    last_seq: int
    at: float
    head: bool
    end: Edge
    origins: str
    frames: bytes
    private: list[bytes | None] | None = None

    def entries(self) -> list[Entry]:
        return list(wire.entries(self.first_seq, self.origins, self.frames, self.at, self.private))


class Committed(msgspec.Struct, frozen=True):
    """What one call appended to one execution, told to the store's listener in commit order.

    `to_drive`: that made it this worker's, and nobody has gone `ahead` with it.
    """

    execution: Execution
    first_seq: int
    at: float
    drafts: Sequence[Draft]
    chunks: Sequence[Chunk]
    to_drive: bool = False

    def entries(self) -> list[Entry]:
        return [entry(draft, self.first_seq + i, self.at) for i, draft in enumerate(self.drafts)]


Listener = Callable[[Committed], None]
Ahead = Callable[[Committed], Callable[[], None] | None]

#: `Execution.strikes` counts in quarters: a death that is nobody's doing for all one knows is one.
STRIKE = 4


class NewExecution(msgspec.Struct, frozen=True, kw_only=True):
    """`start` is the first entry. With `worker` the execution is that worker's from the start."""

    id: ExecutionId
    flow: str
    version: int
    kind: Kind
    start: Draft
    worker: str | None = None
    idempotency_key: str | None = None
    request_digest: str = ""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An execution whose whole journal was recorded elsewhere."""

    id: ExecutionId
    flow: str
    version: int
    kind: Kind
    entries: Sequence[Entry]


class Created(NamedTuple):
    execution: Execution
    existed: bool


class Appended(NamedTuple):
    """`last_seq` is the journal's after the append; `landed` is False if `firm` was refused."""

    last_seq: int
    landed: bool


class Change(NamedTuple):
    """What a command does. `wake`: the execution has to be driven."""

    drafts: Sequence[Draft] = ()
    wake: bool = False


class Changed(NamedTuple):
    """`execution` after the command, and `first_seq` of what it appended (if nothing, of what will
    be next); `taken` if `take_for` now has it.
    """

    execution: Execution
    first_seq: int
    taken: bool


class Held(NamedTuple):
    """An execution that is a worker's, by this token."""

    execution_id: ExecutionId
    token: int


class Due(NamedTuple):
    execution_id: ExecutionId
    wait: WaitRow


Decide = Callable[[Execution, Sequence[WaitRow]], Change]


class Store(Protocol):
    """All methods raise `Unavailable` when the store cannot work: `store-full`, `store-failed`, or
    `store-corrupt` where data is damaged. Then a write may have been carried out all the same.

    `listener` is called on the event loop, in commit order, once for each call that appended
    something, before that call returns.

    `ahead` may be asked before the commit whether somebody drives, from now on, what a `create` or
    a `transact` has just made this worker's. If so the commit waits a moment for the driver's first
    append, and is one for both. None of it is durable yet, or can be read: nobody may be told, and
    nothing done, but on the strength of an append that has returned. If it comes to nothing, what
    `ahead` gave back is called, and the driver's appends are refused (`LeaseLost`), for its token
    is never given to anybody again.
    """

    listener: Listener
    ahead: Ahead

    @property
    def sessions(self) -> Sessions:
        """Tokens and sessions of pages."""
        ...

    counters: Counters

    @property
    def fault(self) -> Unavailable | None:
        """Why it cannot be written to, or read; None once that works again."""
        ...

    @property
    def last_words(self) -> int:
        """The descriptor of a file to which a process writes that dies by its own doing.

        `execution ID …` blames that execution, anything else all that the worker drives.
        """
        ...

    @property
    def is_leased(self) -> bool:
        """Whether nobody can have taken this worker for dead. Once it is not so, because it stood
        still or cannot show that it lives, only `renew` makes it so again.
        """
        ...

    @property
    def standstills(self) -> int:
        """How often it was found not to be so."""
        ...

    def renew(self, standstills: int) -> bool:
        """Make it so again, for one that has seen (`peek`) what others have taken since that many
        `standstills`: if there were more meanwhile, it has to look again. False if it cannot show
        that it lives.
        """
        ...

    @property
    def is_alone(self) -> bool:
        """Whether there was no other worker when `bury_dead` was called last."""
        ...

    def session(self, worker: str) -> AbstractAsyncContextManager[None]:
        """Open the store for this worker, which is alive until the context is left or the process
        dies.
        """
        ...

    # --- writing ---

    async def create(self, new: NewExecution) -> Created:
        """Add an execution with its first entry; status `pending`. Without a `worker` it is
        runnable.

        With an idempotency key that is known, nothing is added: the execution it named is given
        back if `request_digest` is the same, else `Conflict` (`idempotency-mismatch`) is raised.
        """
        ...

    async def add(self, recorded: Recorded) -> Execution:
        """Add an execution with its journal, which keeps its times. It is nobody's and not
        runnable: one that is not over is to be parked by its last entry.

        Raises `Conflict` (`execution-exists`), or `Gone` (`execution-deleted`) while there is a
        tombstone.
        """
        ...

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
        """Append for the worker that drives; durable on return.

        `drafts` are appended whatever else has arrived. Then `firm` is, all or nothing, if before
        this call the journal ended at `expected_seq`. With `release` the execution is nobody's
        afterwards, under the same condition (also if `firm` is empty). Raises `LeaseLost`, and
        appends nothing, if `token` is not the newest or the execution is nobody's, and `Conflict`
        (`final`) after its final event. Appends are applied in the order of their calls. One that
        has been called is carried out even if its caller is cancelled.
        """
        ...

    async def transact(
        self,
        execution_id: ExecutionId,
        decide: Decide,
        *,
        keys: Sequence[str] = (),
        take_for: str | None = None,
    ) -> Changed:
        """One command: `decide` sees the row and its waits, and says what to append, all in one
        transaction.

        It is given every open wait, and those whose id or name is among `keys`, in the order they
        were opened. Whatever it raises is raised here, and nothing has changed. If the change is to
        `wake` an execution that is nobody's, it becomes `take_for`'s (its token grows), or, without
        one, or if nothing is appended, is marked runnable. Raises `NotFound`
        (`execution-unknown`), or `Gone` (`execution-deleted`) while there is a tombstone.
        """
        ...

    async def acquire(self, execution_id: ExecutionId, worker: str) -> Execution | None:
        """Make it this worker's, with a token one higher; None if somebody's, final or gone."""
        ...

    async def release(self, execution_id: ExecutionId, *, token: int, runnable: bool) -> None:
        """Let go of it, if it is this worker's by that token; else nothing happens."""
        ...

    async def delete(self, execution_id: ExecutionId) -> None:
        """Delete a final execution, leaving a tombstone for 30 days. `Conflict` (`not-final`)
        otherwise.
        """
        ...

    # --- reading ---

    async def get(self, execution_id: ExecutionId) -> Execution:
        """Its row. Raises `NotFound` and `Gone` as `transact` does."""
        ...

    async def created_with(self, idempotency_key: str, request_digest: str) -> Execution | None:
        """What `create` would give back for this key, without adding anything: None if it is new.
        Raises `Conflict` (`idempotency-mismatch`) as that does.
        """
        ...

    async def waits(self, execution_id: ExecutionId) -> list[WaitRow]:
        """All waits it ever opened, in order. For tests and people."""
        ...

    async def read(
        self, execution_id: ExecutionId, *, after: int, until: int | None = None, limit: int = 256
    ) -> list[Chunk]:
        """Committed chunks behind `after` up to `until`, the first and last cut to fit.

        At most `limit`, and fewer if they are large. Only an empty list means that there are none,
        or no such execution.
        """
        ...

    async def executions(
        self,
        *,
        status: Status | None = None,
        flow: str | None = None,
        limit: int = 100,
        before: ExecutionId | None = None,
    ) -> list[Execution]:
        """Newest first; `before` goes on behind that execution."""
        ...

    # --- what is to be done ---

    async def runnable(self, limit: int) -> list[Execution]:
        """Executions that have to be driven and are nobody's, those with fewer strikes and oldest
        first.
        """
        ...

    async def held(self) -> list[Held]:
        """What is this session's worker's."""
        ...

    async def due(self, now: float, limit: int) -> list[Due]:
        """Open waits of living executions whose time has come, earliest first.

        Not those of an execution that is parked as `imported`, but for the time limit of a cancel.
        """
        ...

    async def next_due(self) -> float | None:
        """When the next wait is due, in Unix seconds."""
        ...

    async def bury_dead(self) -> int:
        """Make runnable what dead workers hold; how many there were.

        It is a strike for the execution that a worker has named with its last words; for all that
        it drove, if those name nobody; and a quarter of one, if there are none. Progress (a display
        entry of the flow, a settled wait) that an `append` brings clears them.

        Dead are also workers that have stood still for a lease, as far as this one has seen. An
        execution that a dead worker held while it was `suspended` gets no strike. To be called more
        often than once in a lease.
        """
        ...

    # --- what other workers do --------------------------------------------------------------------

    def has_changed(self) -> bool:
        """Whether anything was committed since this was asked last, by whomever. Cheap."""
        ...

    def peek(self, execution_ids: Collection[ExecutionId]) -> list[Execution]:
        """The rows of those that there are, at once: so none is older than what the listener was
        told.
        """
        ...
