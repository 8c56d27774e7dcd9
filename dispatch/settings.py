"""Everything that can be configured, in one frozen Struct; read once, by `app.create_app`.

Names that end in `_seconds` and `_bytes` have that unit.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is told by its command line, or by the application that it is mounted in."""

    # --- where it listens, and whom it answers (design.md 8)
    #: Address and port of `dispatch serve`. Without keys it is loopback only.
    host: str = "127.0.0.1"
    port: int = 8000
    #: Host headers that are answered beside the loopback ones; `*` answers all, for an application
    #: that checks for itself.
    hosts: tuple[str, ...] = ()
    #: Origins of web pages that may call, beside those served from loopback: `https://app.example`.
    cors_origins: tuple[str, ...] = ()

    # --- where journals live
    #: Path of the SQLite file.
    db: str = "dispatch.db"
    #: `NORMAL` survives the death of the process, `FULL` the loss of power as well.
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
    #: A server that has done nothing for this long (stopped, swapped out) loses what it drives to
    #: the others on the same file; at least 2.
    lease_seconds: float = 10.0

    # --- flows
    #: The flow of a dispatch that names none; without one such a dispatch is refused.
    default_flow: str | None = None
    #: Suspended executions whose generator stays in memory; the others are replayed on resume.
    max_live: int = 1000
    #: Executions that run at once; a dispatch beyond them is refused (429), a resume never is.
    max_running: int = 10_000
    #: How long a flow may go on after its cancel was recorded.
    cancel_seconds: float = 10.0
    #: How long a generator's `finally` blocks may take when it is closed, and a step to end when it
    #: is cancelled.
    close_seconds: float = 5.0
    #: The event loop was blocked for so long: what blocks it is logged.
    stall_seconds: float = 5.0

    #: Rehearse whatever suspends or ends, and log what would not survive a restart: for authors.
    dev: bool = False

    # --- answers
    #: How long a dispatch or a continuation without streaming waits before it answers 202.
    json_wait_seconds: float = 25.0
    #: A stream that was silent for this long sends a `ping` event.
    ping_seconds: float = 10.0
    #: Events that the `result` of a status document repeats, at most: the newest.
    status_events: int = 1000

    #: How long a session of a page with a client token lasts after its last `init`.
    session_seconds: float = 24 * 3600.0

    # --- limits
    #: Largest request body (413), and how long it may take to arrive (408).
    body_bytes: int = 10 * 1024 * 1024
    body_seconds: float = 30.0
    #: Newest frames kept in memory: of one execution, and of all together.
    ring_bytes: int = 1024 * 1024
    rings_bytes: int = 16 * 1024 * 1024
    #: How long open connections may take when the server stops.
    shutdown_seconds: float = 5.0
