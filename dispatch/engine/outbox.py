"""What one live execution appends, in order: displays coalesced, firm drafts on condition.

At most one append is under way. What is put meanwhile goes with the next one, so that the group
commit makes the batches and a flow never waits for its own text, until `WINDOW` drafts are pending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from dispatch.core.errors import DispatchError
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.store.base import Appended, Store

WINDOW = 512


class Outbox:
    """Appends for one execution under one fencing token. `broken` is what ended it: the lease, or a
    final.
    """

    def __init__(
        self,
        store: Store,
        execution_id: ExecutionId,
        token: int,
        spawn: Callable[..., None],
        on_broken: Callable[[], None],
    ):
        self.token = token
        self.broken: DispatchError | None = None
        self._store, self._id = store, execution_id
        self._spawn, self._on_broken = spawn, on_broken
        self._pending: list[Draft] = []
        self._under_way = False
        self._scheduled = False
        self._closed = False
        self._waiters: list[asyncio.Future[None]] = []
        self._flusher: asyncio.Future[bool] | None = None

    def close(self) -> None:
        """Let its task end: the execution has been let go of, or is over."""
        self._closed = True
        self._tell_flusher(False)

    def put(self, drafts: Sequence[Draft]) -> None:
        """Append these soon, whatever else arrives."""
        self._pending.extend(drafts)
        if not self._scheduled and not self._under_way and self._pending:
            # At the end of this turn of the loop: by then there may be more.
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    @property
    def is_full(self) -> bool:
        return len(self._pending) >= WINDOW

    async def room(self) -> None:
        """Return when there is room again. Raises what broke it."""
        while self.is_full and self.broken is None:
            await self._changed()
        self._check()

    async def durable(self) -> None:
        """Return when all that was put before is durable. Raises what broke it."""
        while (self._pending or self._under_way) and self.broken is None:
            await self._changed()
        self._check()

    async def quiet(self) -> None:
        """Return when no append is under way; drafts may be pending. Raises what broke it."""
        while self._under_way and self.broken is None:
            await self._changed()
        self._check()

    async def append(
        self, firm: Sequence[Draft], *, expected_seq: int, release: bool = False
    ) -> Appended:
        """Append what is pending, then `firm` if the journal ended at `expected_seq` before."""
        return await self._append(firm, expected_seq=expected_seq, release=release)

    async def _append(
        self, firm: Sequence[Draft] = (), *, expected_seq: int = 0, release: bool = False
    ) -> Appended:
        drafts, self._pending = self._pending, []
        self._under_way = True
        try:
            return await self._store.append(
                self._id, drafts, firm, expected_seq=expected_seq, token=self.token, release=release
            )
        except DispatchError as exc:
            self.broken = exc
            self._on_broken()
            raise
        finally:
            self._under_way = False
            self._wake()
            if self._pending and self.broken is None:
                self.put(())

    def _flush(self) -> None:
        self._scheduled = False
        if self._pending and not self._under_way and self.broken is None:
            self._under_way = True
            if not self._tell_flusher(True):
                self._spawn(self._flush_on)

    async def _flush_on(self) -> None:
        """Append what is pending whenever told to: a task for each time costs more than that."""
        with suppress(DispatchError):  # kept in `broken`, and the driver has been told
            await self._append()
            while not self._closed:
                self._flusher = asyncio.get_running_loop().create_future()
                if await self._flusher:
                    await self._append()

    def _tell_flusher(self, more: bool) -> bool:
        """Have it append, or look whether it is to end. False: there is none that waits."""
        flusher, self._flusher = self._flusher, None
        if flusher is None or flusher.done():
            return False
        flusher.set_result(more)
        return True

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
