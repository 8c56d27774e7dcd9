"""What every peer's server does as a child process: tell its port, and end with its parent.

Runs in the peer's own environment, so it needs nothing but Python.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any


class Child:
    """Its first argument is its database; what it logs goes to a file in the same folder."""

    def __init__(self) -> None:
        self.db = Path(sys.argv[1])
        self.arguments = sys.argv[2:]
        # Nobody reads standard output but for the port: a server that logged there would stop.
        self._told = os.fdopen(os.dup(1), "w")
        log = os.open(self.db.with_name("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(self, port: int) -> None:
        print(port, file=self._told, flush=True)

    def serve(self, app: Any) -> None:
        """Serve an ASGI application as `uvicorn.run` does, on any free port."""
        import uvicorn

        sock = socket.create_server(("127.0.0.1", 0))
        self.tell(sock.getsockname()[1])
        # A client may have to wait for longer than the five seconds that a connection rests.
        config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=60)
        uvicorn.Server(config).run([sock])


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)
