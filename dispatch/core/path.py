"""The recorded path that lies ahead of a flow that is replayed.

Flow entries lie in *stretches*: some displays, then a wait. What the flow shows again is counted
off; a wait is taken with whatever displays are recorded before it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dispatch.core.journal import DISPLAYS, Entry


@dataclass(slots=True)
class _Stretch:
    displays: int = 0
    entry: Entry | None = None


class Path:
    """`next` is the recorded wait that the flow has to come to; None past the last one."""

    def __init__(self) -> None:
        self._stretches = deque([_Stretch()])

    def feed(self, entry: Entry) -> None:
        """Lengthen it by a flow entry."""
        last = self._stretches[-1]
        if entry.kind in DISPLAYS:
            last.displays += 1
        else:
            last.entry = entry
            self._stretches.append(_Stretch())

    @property
    def next(self) -> Entry | None:
        return self._stretches[0].entry

    @property
    def lies_ahead(self) -> bool:
        """Whether anything does."""
        stretch = self._stretches[0]
        return stretch.entry is not None or stretch.displays > 0

    def shown(self) -> bool:
        """Count one display off; whether the flow is still on the path with it."""
        stretch = self._stretches[0]
        if stretch.displays:
            stretch.displays -= 1
            return True
        return stretch.entry is not None

    def leave(self) -> None:
        """Forget displays: edited code shows less, and a live wait ends the stretch."""
        self._stretches[0].displays = 0

    def take(self) -> Entry:
        """Step over the next wait, and the displays before it."""
        entry = self._stretches.popleft().entry
        assert entry is not None
        return entry
