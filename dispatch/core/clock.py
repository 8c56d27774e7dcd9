"""The Clock protocol: the only way the product learns the time, so that tests can move it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time in Unix seconds, and a sleep that follows it."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


def iso(at: float) -> str:
    """RFC 3339 in UTC with milliseconds, as all timestamps on the wire."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_iso(text: str) -> float:
    """Unix seconds of an RFC 3339 timestamp."""
    return datetime.fromisoformat(text).timestamp()


def millis(since: float, until: float) -> int:
    """How long it was; not less than nothing, though the clock was set back meanwhile."""
    return max(0, round((until - since) * 1000))
