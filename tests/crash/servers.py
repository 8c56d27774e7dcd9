"""Servers of flows that are killed, each a child process on one file and one port over several
lives.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import anyio.to_thread

from tests.child import Child, serving

FLOWS = Path(__file__).with_name("flows.py")


class Server:
    """`dispatch serve` as a child process on one file and one port, over several lives."""

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
        os.environ |= self.environment
        self._child = self._life.enter_context(serving(self.db, FLOWS, port=self.port))

    async def kill(self) -> None:
        await anyio.to_thread.run_sync(self._end, self._child.kill)

    async def stop(self) -> None:
        await anyio.to_thread.run_sync(self._end, self._child.stop)

    def _end(self, how: Callable[[], object]) -> None:
        how()
        self._life.close()

    def close(self) -> None:
        self._life.close()
