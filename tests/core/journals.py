"""A journal that is a list, and what others than the worker append to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from dispatch.core import canonical, events
from dispatch.core.clock import iso
from dispatch.core.drafts import resumed_head
from dispatch.core.journal import (
    CancelRequested,
    Draft,
    Edge,
    Entry,
    Origin,
    StartPrivate,
    TimerFired,
    draft,
    entry,
)
from dispatch.core.projection import CANCEL_TIMER, WaitOpened, WaitSettled, effects

SEED = "5eed"
WORLD = Origin.WORLD


class Journal:
    """Entries in order, a clock that goes one second on with each append, and what is open."""

    def __init__(self, entries: Iterable[Entry] = (), now: float = 1_000_000.0):
        self.entries = list(entries)
        self.now = now if not self.entries else self.entries[-1].at

    @property
    def last_seq(self) -> int:
        return len(self.entries)

    def append(self, *drafts: Draft) -> None:
        assert not any(entry.edge is Edge.FINAL for entry in self.entries), "already final"
        self.now += 1
        for placed in drafts:
            self.entries.append(entry(placed, self.last_seq + 1, self.now))

    def cut(self, length: int) -> Journal:
        return Journal(self.entries[:length])

    def open(self) -> dict[str, WaitOpened]:
        """Tool calls, approvals and timers that nothing has settled."""
        waits: dict[str, WaitOpened] = {}
        for placed in self.entries:
            for effect in effects(placed):
                if isinstance(effect, WaitOpened) and effect.id != CANCEL_TIMER:
                    waits[effect.id] = effect
                elif isinstance(effect, WaitSettled):
                    waits.pop(effect.id, None)
        return waits

    def is_settled(self, step_id: str) -> bool:
        return any(e.kind == "step_complete" and e.facts.id == step_id for e in self.entries)

    @property
    def is_cancelled(self) -> bool:
        return any(e.kind == "dispatch.cancel_requested" for e in self.entries)

    @property
    def is_final(self) -> bool:
        return bool(self.entries) and self.entries[-1].edge is Edge.FINAL

    @property
    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.entries]

    def ids(self, kind: str) -> list[str]:
        """The ids that entries of this kind are about, in order."""
        names = {"tool_start": "tool_call_id", "tool_complete": "tool_call_id"}
        return [
            getattr(entry.facts, names.get(kind, "id"))
            for entry in self.entries
            if entry.kind == kind
        ]

    # --- what others append ----------------------------------------------------------------------

    def settle(self, wait: WaitOpened, value: Any = None, *, fails: bool = False) -> None:
        """Settle a wait, as the command or the timer that does so would: the first one wins."""
        if wait.id not in self.open():
            return
        self.append(settlement(wait, value, fails=fails))

    def cancel(self, reason: str | None = None) -> None:
        deadline = iso(self.now + 10)
        self.append(draft(CancelRequested(deadline=deadline, reason=reason), WORLD))

    def end_by_world(self) -> None:
        """What the cancel's time limit does."""
        ended = events.ExecutionComplete(kind="flow", success=False, stop_reason="cancelled")
        self.append(draft(ended, WORLD))

    def resume(self, outputs: Sequence[tuple[WaitOpened, Any]], messages: Any = None) -> None:
        """A POST of the caller: the head of a new leg, and the outputs, in one transaction."""
        wanted = [(wait, value) for wait, value in outputs if wait.id in self.open()]
        settlements = [settlement(wait, value) for wait, value in wanted]
        self.append(resumed_head("flow", "flow", self.now, messages), *settlements)


def settlement(wait: WaitOpened, value: Any = None, *, fails: bool = False) -> Draft:
    """What settles `wait`; a failed approval is a timeout, and a timer can't fail."""
    if wait.kind == "timer":
        return draft(TimerFired(id=wait.id), WORLD)
    if wait.kind == "approval":
        event: events.EventBase = events.ApprovalComplete(
            approval_id=wait.id, decision="timeout" if fails else "approved", resolved_by="user"
        )
    elif fails:
        event = events.ToolComplete(
            tool_call_id=wait.id,
            tool_name=wait.name,
            success=False,
            error=str(value),
            code="timeout" if value == "timeout" else None,
        )
    else:
        event = events.ToolComplete(
            tool_call_id=wait.id, tool_name=wait.name, success=True, result=value
        )
    return draft(event, WORLD)


def begun(inputs: Any = None, messages: Sequence[Any] = (), **private: Any) -> Journal:
    """A journal with its first entry."""
    journal = Journal()
    start = StartPrivate(
        seed=SEED,
        inputs=msgspec.Raw(canonical.encode(inputs)),
        messages=list(messages),
        **private,
    )
    journal.append(
        draft(events.ExecutionStart(kind="flow", started_at=iso(journal.now)), WORLD, start)
    )
    return journal
