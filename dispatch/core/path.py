"""The recorded path that lies ahead of a flow that is replayed.

Flow entries lie in *stretches*: some displays, then a wait. What the flow shows again is counted
off; a wait is taken with whatever displays are recorded before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from dispatch.core.journal import DISPLAYS, Entry


@dataclass(slots=True)
class _Stretch:
    """`displays`, then the wait `entry` and what is `behind` it; the last one has neither yet."""

    displays: int = 0
    entry: Entry | None = None
    behind: _Stretch | None = None


class Path:
    """`next` is the recorded wait that the flow has to come to; None past the last one."""

    __slots__ = ("_first", "_last")

    def __init__(self) -> None:
        self._first = self._last = _Stretch()

    def feed(self, entry: Entry) -> None:
        """Lengthen it by a flow entry."""
        last = self._last
        if entry.kind in DISPLAYS:
            last.displays += 1
        else:
            last.entry = entry
            self._last = last.behind = _Stretch()

    @property
    def next(self) -> Entry | None:
        return self._first.entry

    @property
    def lies_ahead(self) -> bool:
        """Whether anything does."""
        return self._first.entry is not None or self._first.displays > 0

    def shown(self) -> bool:
        """Count one display off; whether the flow is still on the path with it."""
        stretch = self._first
        if stretch.displays:
            stretch.displays -= 1
            return True
        return stretch.entry is not None

    def leave(self) -> None:
        """Forget displays: edited code shows less, and a live wait ends the stretch."""
        self._first.displays = 0

    def take(self) -> Entry:
        """Step over the next wait, and the displays before it."""
        taken = self._first
        assert taken.entry is not None
        assert taken.behind is not None
        self._first = taken.behind
        return taken.entry
