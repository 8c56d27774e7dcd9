"""Move what was committed from SQLite's write-ahead log (WAL) into the database, off the writer.

A checkpoint inside a commit would be all of its p99, so there are no automatic ones: after so many
bytes one runs on a connection and a thread of its own. It cannot pass a writer that never stops, so
the log would grow without end: above a size the writer leaves a gap, until one checkpoint is done.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

from dispatch.store.aside import Aside

MIB = 1024 * 1024
#: Written since the last checkpoint began, before the next one does.
STEP_BYTES = 4 * MIB
#: Size of the log from which on the writer leaves a gap, and from which on it is also cut back.
GAP_BYTES = 16 * MIB
TRUNCATE_BYTES = 64 * MIB

_log = logging.getLogger(__name__)


class Checkpoints:
    """`needs_gap` while the writer must not write; `on_gap_over` is called when it may again."""

    def __init__(self, db: sqlite3.Connection):
        self.needs_gap = False
        self.on_gap_over: Callable[[], None] = lambda: None
        self._db = db
        self._page_bytes: int = db.execute("PRAGMA page_size").fetchone()[0]
        self._aside = Aside("store-checkpoints")
        self._log_bytes = 0  # as far as the last checkpoint could not clear it
        self._written = 0  # since that one began

    def wrote(self, size: int) -> None:
        """About `size` bytes were added to the log."""
        self._written += size
        if self._written < STEP_BYTES or self._aside.busy:
            return
        log_bytes = self._log_bytes + self._written
        self._written = 0
        self.needs_gap = log_bytes > GAP_BYTES
        # SQL is as fixed as it looks; PRAGMAs take no parameters.
        mode = "TRUNCATE" if log_bytes > TRUNCATE_BYTES else "PASSIVE"
        self._aside.start(lambda: self._checkpoint(mode), self._done, urgent=self.needs_gap)

    def _checkpoint(self, mode: str) -> None:
        _, pages, moved = self._db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        # The next write starts the log over if all of it has been moved.
        self._log_bytes = 0 if pages == moved else pages * self._page_bytes

    def _done(self, error: Exception | None) -> None:
        if error is not None:
            _log.warning("a checkpoint failed; the next one may not", exc_info=error)
        if self.needs_gap:
            self.needs_gap = False
            self.on_gap_over()

    async def close(self) -> None:
        await self._aside.close()
