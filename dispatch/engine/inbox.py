"""What was appended to a live execution, in the order of its journal, until its driver takes it.

The store tells each commit of this process. What it did not tell, because another process committed
it, or nobody was here yet to be told, shows as a gap and is read from the store when it is its
turn.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Protocol

from dispatch.core.errors import LeaseLost
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import DISPLAYS, Draft, Entry, entry
from dispatch.store.base import Appended, Committed

PAGE = 64
#: Of what this process commits the machine need not be fed these: the driver's own displays are
#: counted when they are yielded, those of steps and the edges of blocks change nothing.
_ONLY_SEEN = DISPLAYS | {"text_start", "text_complete"}


class Page(Protocol):
    """Entries side by side."""

    @property
    def last_seq(self) -> int: ...

    def entries(self) -> Sequence[Entry]: ...


class Journal(Protocol):
    """What driving an execution needs of the store; `store.base.Store` says what each promises."""

    async def read(
        self, execution_id: ExecutionId, *, after: int, until: int | None = None, limit: int = 256
    ) -> Sequence[Page]: ...

    async def append(
        self,
        execution_id: ExecutionId,
        drafts: Sequence[Draft],
        firm: Sequence[Draft] = (),
        *,
        expected_seq: int = 0,
        token: int,
        release: bool = False,
    ) -> Appended: ...


class _Unread(NamedTuple):
    """Entries behind `after`, up to `until`."""

    after: int
    until: int


class Inbox:
    """Begins behind `seen_seq`: the inbox, and what was taken from it, reach so far."""

    __slots__ = ("_entries", "_id", "_store", "seen_seq")

    def __init__(self, store: Journal, execution_id: ExecutionId, seen_seq: int):
        self.seen_seq = seen_seq
        self._store, self._id = store, execution_id
        # A list: what is here is little, and an empty deque, of which there would be one in each
        # warm execution, is 760 bytes.
        self._entries: list[Entry | _Unread] = []

    def __bool__(self) -> bool:
        return bool(self._entries)

    def put(self, committed: Committed) -> None:
        """Take what was appended by one call, but for what is only to be seen."""
        if committed.execution.last_seq <= self.seen_seq:
            return  # it went ahead
        self.see(committed.first_seq - 1)
        for seq, placed in enumerate(committed.drafts, committed.first_seq):
            if placed.kind not in _ONLY_SEEN:
                self._entries.append(entry(placed, seq, committed.at))
        self.seen_seq = committed.execution.last_seq

    def see(self, last_seq: int) -> None:
        """The journal reaches so far, whatever it was that was appended."""
        if last_seq > self.seen_seq:
            self._entries.append(_Unread(self.seen_seq, last_seq))
            self.seen_seq = last_seq

    async def take(self) -> Entry:
        """The next entry. There must be one."""
        while isinstance(first := self._entries[0], _Unread):
            read = [past async for past in read_journal(self._store, self._id, *first)]
            self._entries[:1] = read
        del self._entries[0]
        return first


async def read_journal(
    store: Journal, execution_id: ExecutionId, after: int, until: int
) -> AsyncGenerator[Entry, None]:
    """The journal behind `after` up to `until`, a page at a time."""
    while after < until:
        chunks = await store.read(execution_id, after=after, until=until, limit=PAGE)
        if not chunks:
            raise LeaseLost(f"the journal of {execution_id} ends before seq {until}: it is deleted")
        for chunk in chunks:
            for past in chunk.entries():
                yield past
        after = chunks[-1].last_seq
