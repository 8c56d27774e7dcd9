"""Move what was committed from SQLite's write-ahead log (WAL) into the database, off the writer.

A checkpoint inside a commit would be all of its p99, so there are no automatic ones: after so many
bytes one runs on a connection and a thread of its own. It cannot pass a writer that never stops, so
the log would grow without end: above a size the writer leaves a gap, until one checkpoint is done.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

from dispatch.store.aside import Aside, Naps

MIB = 1024 * 1024
#: Written since the last checkpoint began, before the next one does.
STEP_BYTES = 4 * MIB
#: Size of the log from which on the writer leaves a gap, and from which on it is also cut back.
GAP_BYTES = 16 * MIB
TRUNCATE_BYTES = 64 * MIB
#: How long cutting it back waits for other processes, and all writers with it. If that was in vain
#: somebody is reading, perhaps for minutes (a backup): next time is when the log is twice as large.
TRUNCATE_PATIENCE_MS = 100

_log = logging.getLogger(__name__)


class Checkpoints:
    """`needs_gap` while the writer must not write; `on_gap_over` is called when it may again."""

    def __init__(self, db: sqlite3.Connection, naps: Naps):
        self.needs_gap = False
        self.on_gap_over: Callable[[], None] = lambda: None
        self._db = db
        self._page_bytes: int = db.execute("PRAGMA page_size").fetchone()[0]
        self._aside = Aside("store-checkpoints", naps)
        self._moved_all = True  # whether the last checkpoint did
        self._truncate_bytes = TRUNCATE_BYTES
        self._log_bytes = 0  # in the log when it began, if they still are
        self._written = 0  # since then

    def wrote(self, size: int) -> None:
        """About `size` bytes were added to the log."""
        self._written += size
        if self._written >= STEP_BYTES:
            self.needs_gap = self._log_bytes + self._written > GAP_BYTES
            if not self._aside.busy:
                self._start()

    def _start(self) -> None:
        self._log_bytes += self._written
        self._written = 0
        truncate = self._log_bytes > self._truncate_bytes
        self._aside.start(lambda: self._checkpoint(truncate), self._done)

    def _checkpoint(self, truncate: bool) -> None:
        mode = "TRUNCATE" if truncate else "PASSIVE"
        busy, pages, moved = self._db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        self._moved_all = not busy and pages == moved
        if pages >= 0:  # else another process is at it
            self._log_bytes = pages * self._page_bytes
        if self._moved_all:
            self._truncate_bytes = TRUNCATE_BYTES
        elif truncate:
            self._truncate_bytes = 2 * self._log_bytes

    def _done(self, error: Exception | None) -> None:
        if error is not None:
            _log.warning("a checkpoint failed; the next one may not: %s", error)
        elif self._moved_all and not self._written:
            # Whoever writes next starts the log over.
            self._log_bytes = 0
        if self.needs_gap and self._written and error is None:
            self._start()  # the last one began before the gap
        elif self.needs_gap:
            self.needs_gap = False
            self.on_gap_over()

    async def close(self) -> None:
        await self._aside.close()
