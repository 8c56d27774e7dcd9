"""A row of the table: a case of the conformance suite, told in our words and our API.

A flow is decorated with its row. `journal` is the whole course of it in a line, one word for each
entry: what was opened (`step(load)`, `tool(ask)`), how it was settled, `+2s` where time had to
pass, and `/suspended/` where it came to rest, with the status it then had.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from dispatch.core.clock import parse_iso
from dispatch.core.journal import Entry, Origin
from dispatch.flow import FlowVersion, flow

#: A move of the caller that brings nothing: it only asks again for what is open.
COMES_BACK: Final = object()

TEXT_EDGES = ("text_start", "text_complete")


class Move(NamedTuple):
    """What the caller gives `after` so many seconds: an output, a `Decision`, or `COMES_BACK`."""

    after: float
    gives: Any


class Case(NamedTuple):
    number: str
    sentence: str
    ours: str
    flow: FlowVersion
    journal: str
    runs: Mapping[str, int]
    caller: Mapping[str, Sequence[Move]]
    inputs: Any
    result: Any
    fails: tuple[str, str] | None

    @property
    def course(self) -> list[str]:
        """The words of its journal, without where it rested."""
        return [word for word in self.journal.split() if not word.startswith("/")]


def case(
    number: str,
    sentence: str,
    *,
    ours: str,
    journal: str,
    runs: Mapping[str, int] | None = None,
    caller: Mapping[str, Sequence[Move]] | None = None,
    inputs: Any = None,
    result: Any = None,
    fails: tuple[str, str] | None = None,
) -> Callable[[Callable[[Any], AsyncGenerator[Any, Any]]], Case]:
    """Make a flow the row `number`.

    `ours`: in which way our API says it, and where and why we differ by design. `runs`: how often
    each step's function ran. `caller`: by name, what the caller does when it is told of a call for
    the first time, for the second (seconds count from the first). `fails`: code and message of
    the end.
    """

    def decorate(fn: Callable[[Any], AsyncGenerator[Any, Any]]) -> Case:
        return Case(
            number,
            sentence,
            ours,
            flow(f"case-{number}")(fn),
            journal,
            runs or {},
            caller or {},
            {} if inputs is None else inputs,
            result,
            fails,
        )

    return decorate


def words(entries: Sequence[Entry]) -> list[list[str]]:
    """The words for each entry; none for the edges of text blocks."""
    told: list[list[str]] = []
    at = entries[0].at
    for entry in entries:
        if entry.kind in TEXT_EDGES:
            told.append([])
            continue
        passed, at = entry.at - at, entry.at
        told.append([*([f"+{passed:g}s"] if passed else []), _word(entry)])
    return told


def _word(entry: Entry) -> str:
    facts = entry.facts
    match entry.kind:
        case "execution_start":
            return "begun" if entry.origin is Origin.WORLD else "leg"
        case "step_start":
            return f"step({facts.name})"
        case "dispatch.step_attempt":
            return "attempt"
        case "error" if entry.origin is Origin.WORLD:
            return "retry"
        case "step_complete":
            return _settled(entry, "done", "failed")
        case "tool_start":
            return f"tool({facts.tool_name})"
        case "await" | "approval_start":
            return "asked"
        case "tool_complete":
            return _settled(entry, "output", "failed")
        case "dispatch.approval_opened":
            return f"approval({msgspec.json.decode(facts.value)['toolName']})"
        case "approval_complete":
            return facts.code or facts.decision
        case "dispatch.timer_set":
            due = parse_iso(msgspec.json.decode(facts.value)["dueAt"])
            return f"timer({due - entry.at:g}s)"
        case "dispatch.timer_fired":
            return "fired"
        case "text_delta":
            return "text"
        case "execution_complete":
            return "completed"
        case "execution_error":
            return "failed"
        case kind:
            return kind.removeprefix("dispatch.")


def _settled(entry: Entry, done: str, failed: str) -> str:
    return done if entry.facts.success else entry.facts.code or failed
