"""Which text block is open, and the edges that open and close it.

One block at a time: the flow's text and each step's text are blocks of their own, and whatever
else appears closes the open one (wire/dispatch-api.md 6.4). Block state comes from the journal, so
a block that a crash left open is gone on with by its speaker, or closed by whoever comes next.
"""

from __future__ import annotations

from dispatch.core.events import TextComplete, TextStart
from dispatch.core.journal import Draft, Entry, Origin, draft, text_delta

FLOW_SPEAKS = ""


class Blocks:
    """The blocks of one segment. A speaker is a step's id, or `FLOW_SPEAKS`."""

    __slots__ = ("_count", "_open", "_prefix", "_speaker")

    def __init__(self, segment: int):
        self._prefix = "text_" if segment == 0 else f"text_{segment}_"
        self._count = 0
        self._open: str | None = None
        self._speaker = FLOW_SPEAKS

    def feed(self, entry: Entry) -> None:
        """Take an entry of the journal that was not made here."""
        if entry.kind == "text_start":
            self._count += 1
            self._open, self._speaker = entry.facts.id, entry.facts.step_id
        elif entry.kind == "text_complete":
            self._open = None

    def text(self, text: str, speaker: str = FLOW_SPEAKS) -> list[Draft]:
        """The drafts that show `text`, block edges included; none for an empty string."""
        if not text:
            return []
        origin = Origin.WORLD if speaker else Origin.FLOW
        if self._open is not None and self._speaker == speaker:
            return [text_delta(self._open, text, origin)]
        edges = self.close()
        self._count += 1
        block = f"{self._prefix}{self._count}"
        delta = text_delta(block, text, origin)
        self._open, self._speaker = block, speaker
        start = TextStart(id=block, role="assistant", step_id=speaker or None)
        return [*edges, draft(start, Origin.ENGINE), delta]

    def close(self) -> list[Draft]:
        """The draft that closes the open block, if there is one."""
        if self._open is None:
            return []
        edge = draft(TextComplete(id=self._open), Origin.ENGINE)
        self._open = None
        return [edge]
