"""What is compared on replay, and how both sides of a divergence are told.

By rules 2 and 3 of design.md 3: never engine times, never step arguments; parameters by their
canonical JSON, and private ones shown as type and digest only.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dispatch.core import canonical
from dispatch.core.errors import Divergence
from dispatch.core.journal import ApprovalOpened, CallPrivate, Entry, TimerSet
from dispatch.core.nodes import LeafNode
from dispatch.core.waits import ApprovalWait, Leaf, SleepWait, StepWait, ToolWait, Wait

_OPENINGS: dict[type[Leaf[Any]], str] = {
    StepWait: "step_start",
    ToolWait: "tool_start",
    ApprovalWait: "dispatch.approval_opened",
    SleepWait: "dispatch.timer_set",
}
_SHOWN_CHARACTERS = 200


def compare(leaf: LeafNode, entry: Entry) -> None:
    """Raise `Divergence` unless `entry` is the one that opens `leaf`."""
    if not _opens(entry, leaf):
        raise diverged(entry, f"{in_words(leaf.wait)} ({leaf.id})", leaf.wait.where)


def diverged(entry: Entry, yielded: str, where: str = "") -> Divergence:
    """The divergence of doing `yielded` where `entry` is recorded."""
    return Divergence(seq=entry.seq, recorded=recorded(entry), yielded=yielded, where=where)


def _opens(entry: Entry, leaf: LeafNode) -> bool:
    wait, facts = leaf.wait, entry.facts
    if entry.kind != _OPENINGS[type(wait)]:
        return False
    match wait:
        case StepWait():
            return (facts.id, facts.name) == (leaf.id, wait.name)
        case ToolWait():
            private = entry.hidden(CallPrivate)
            kept = msgspec.UNSET if private is None else private.parameters
            return (facts.tool_call_id, facts.tool_name) == (leaf.id, wait.name) and _same(
                bytes(facts.parameters if kept is msgspec.UNSET else kept), leaf.parameters
            )
        case ApprovalWait():
            opened = entry.payload(ApprovalOpened)
            return (opened.approval_id, opened.tool_name) == (leaf.id, wait.name) and _same(
                canonical.encode(opened.parameters), leaf.parameters
            )
        case _:
            return entry.payload(TimerSet).id == leaf.id


def _same(kept: bytes, parameters: bytes) -> bool:
    return canonical.canonical(kept) == canonical.canonical(parameters)


def in_words(wait: Wait[Any]) -> str:
    """A wait as a person would name it; of private parameters only type and digest."""
    word = type(wait).__name__.removesuffix("Wait").lower()
    match wait:
        case ToolWait():
            return f"{word} {wait.name} {_shown(wait.parameters, private=wait.private)}"
        case ApprovalWait():
            return f"{word} {wait.name} {_shown(wait.parameters)}"
        case SleepWait():
            return word
        case _:
            return f"{word} {wait.name}"


def _shown(parameters: Any, *, private: bool = False) -> str:
    raw = canonical.encode(dict(parameters))
    if private:
        raw = canonical.encode(canonical.hidden(raw))
    return canonical.canonical(raw).decode()[:_SHOWN_CHARACTERS]


def recorded(entry: Entry) -> str:
    """A flow entry, likewise."""
    facts = entry.facts
    match entry.kind:
        case "step_start":
            return f"step {facts.name} ({facts.id})"
        case "tool_start":
            shown = canonical.canonical(bytes(facts.parameters) or b"null").decode()
            return f"tool {facts.tool_name} {shown[:_SHOWN_CHARACTERS]} ({facts.tool_call_id})"
        case "dispatch.approval_opened":
            opened = entry.payload(ApprovalOpened)
            return f"approval {opened.tool_name} {_shown(opened.parameters)} ({opened.approval_id})"
        case "dispatch.timer_set":
            return f"sleep ({entry.payload(TimerSet).id})"
        case "dispatch.cancel_raised":
            return "Cancelled raised"
        case "dispatch.continued":
            return "continue_as"
        case _:
            return f"the end: {recorded_end(entry)}"


def recorded_end(entry: Entry) -> str:
    """The final status that an entry stands for; of any other entry its kind."""
    if entry.kind == "execution_error":
        return "failed"
    if entry.kind == "execution_complete":
        return "completed" if entry.facts.success else "cancelled"
    return entry.kind
