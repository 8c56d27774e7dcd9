"""Servers that are killed and frozen, each a child process on one port over several lives."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import anyio.to_thread

from tests.child import Child, serving

FLOWS = Path(__file__).with_name("flows.py")
#: As short as it may be.
LEASE_SECONDS = 2.0
#: How long whoever writes is waited for.
_PROBE_SECONDS = 0.1
_BUSY_SECONDS = 2.0


class Server:
    """`dispatch serve` on `soak.db` in `folder`, which several may share."""

    def __init__(self, folder: Path):
        self.db, self.traces = folder / "soak.db", folder / "traces.txt"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "DISPATCH_TRACES": str(self.traces),
            "DISPATCH_JOURNALS": str(self.db),
        }
        self._life = ExitStack()
        self._child: Child

    async def start(self) -> None:
        await anyio.to_thread.run_sync(self._start)

    def _start(self) -> None:
        options = ("--lease-seconds", str(LEASE_SECONDS))
        self._child = self._life.enter_context(
            serving(self.db, FLOWS, port=self.port, options=options, env=self.environment)
        )

    async def kill(self) -> None:
        await anyio.to_thread.run_sync(self._end, self._child.kill)

    async def stop(self) -> None:
        await anyio.to_thread.run_sync(self._end, self._child.stop)

    async def freeze(self) -> None:
        """SIGSTOP, outside a transaction: within one it would stop all others that write too."""
        await anyio.to_thread.run_sync(self._freeze)

    def _freeze(self) -> None:
        process = self._child.process
        while True:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if self._others_can_write(_PROBE_SECONDS):
                return
            process.send_signal(signal.SIGCONT)
            # Stopped again at once it would still be in the same transaction, and all others would
            # wait for as long as this takes.
            self._others_can_write(_BUSY_SECONDS)

    def _others_can_write(self, seconds: float) -> bool:
        with closing(sqlite3.connect(self.db, timeout=seconds, isolation_level=None)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            db.execute("ROLLBACK")
        return True

    def thaw(self) -> None:
        """SIGCONT."""
        self._child.process.send_signal(signal.SIGCONT)

    def taken(self) -> int:
        """Executions that servers on this file took from one that stood still, as they logged."""
        found = re.findall(r"stands still: (\d+) executions taken", self._child.log.read_text())
        return sum(map(int, found))

    def _end(self, how: Callable[[], object]) -> None:
        how()
        self._life.close()

    def close(self) -> None:
        self._life.close()
