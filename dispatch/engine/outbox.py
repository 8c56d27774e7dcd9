"""What one live execution appends, in order: displays coalesced, firm drafts on condition.

At most one append is under way. What is put meanwhile goes with the next one, so that the group
commit makes the batches and a flow never waits for its own text, until `WINDOW` drafts are pending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.engine.inbox import Journal
from dispatch.store.base import Appended

WINDOW = 512


class Outbox:
    """Appends for one execution under one fencing token. `broken` is what ended it: the lease, or a
    final.
    """

    __slots__ = (
        "_id",
        "_moved",
        "_on_broken",
        "_pending",
        "_scheduled",
        "_store",
        "_under_way",
        "broken",
        "token",
    )

    def __init__(
        self, store: Journal, execution_id: ExecutionId, token: int, on_broken: Callable[[], None]
    ):
        self.token = token
        self.broken: Exception | None = None
        self._store, self._id, self._on_broken = store, execution_id, on_broken
        self._pending: list[Draft] = []
        self._under_way: asyncio.Future[Appended] | None = None
        self._scheduled = False
        self._moved: asyncio.Event | None = None  # if anybody waits for what is under way

    def put(self, drafts: Sequence[Draft]) -> None:
        """Append these soon, whatever else arrives."""
        self._pending.extend(drafts)
        if not self._scheduled and self._under_way is None and self._pending:
            # At the end of this turn of the loop: by then there may be more.
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    @property
    def is_sending(self) -> bool:
        return self._under_way is not None

    @property
    def is_full(self) -> bool:
        return len(self._pending) >= WINDOW

    async def room(self) -> None:
        """Return when there is room again. Raises what broke it."""
        while self.is_full and self.broken is None:
            await self._changed()
        self._check()

    async def quiet(self) -> None:
        """Return when no append is under way; drafts may be pending. Raises what broke it."""
        while self._under_way is not None and self.broken is None:
            await self._changed()
        self._check()

    async def append(
        self, firm: Sequence[Draft], *, expected_seq: int, release: bool = False
    ) -> Appended:
        """Append what is pending, then `firm` if the journal ended at `expected_seq` before."""
        return await self._send(firm, expected_seq=expected_seq, release=release)

    def _flush(self) -> None:
        self._scheduled = False
        if self._pending and self._under_way is None and self.broken is None:
            self._send()

    def _send(
        self, firm: Sequence[Draft] = (), *, expected_seq: int = 0, release: bool = False
    ) -> asyncio.Future[Appended]:
        drafts, self._pending = self._pending, []
        # No task group's child: it is held here, and what it raises is looked at in `_sent`.
        self._under_way = asyncio.ensure_future(
            self._store.append(
                self._id, drafts, firm, expected_seq=expected_seq, token=self.token, release=release
            )
        )
        self._under_way.add_done_callback(self._sent)
        return self._under_way

    def _sent(self, appended: asyncio.Future[Appended]) -> None:
        self._under_way = None
        error = None if appended.cancelled() else appended.exception()
        if isinstance(error, Exception):
            self.broken = error
            self._on_broken()
        if self._moved is not None:
            self._moved.set()
            self._moved = None
        if self._pending and self.broken is None:
            self.put(())

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def _changed(self) -> None:
        if self._moved is None:
            self._moved = asyncio.Event()
        await self._moved.wait()
