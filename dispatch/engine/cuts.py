"""Would an execution survive a crash behind any of its entries?

A rehearsal finds where a flow leaves the path that its journal records. Held against what was
recorded next, it also finds what a journal of the whole can't show: text that comes out otherwise,
a chance that was not taken yet. Only what the flow itself does is compared; never times, and of
text not the block that it stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import msgspec

from dispatch.core import compare
from dispatch.core.clock import Clock
from dispatch.core.journal import DISPLAYS, ContinuedPrivate, Entry, Origin, entry
from dispatch.engine.rehearsal import Rehearsal, rehearse
from dispatch.flow import Registry
from dispatch.store.base import Execution

#: A journal that is longer is not cut behind every entry.
PLACES = 200

_TIMES = frozenset({"startedAt", "completedAt", "awaitedAt", "dueAt", "durationMs"})
_SEEN = DISPLAYS | {"text_start", "text_complete"}
_SHOWN_CHARACTERS = 400


class Fault(NamedTuple):
    """What would go wrong after a crash behind the entry `behind`, in words.

    Both sides, and where the flow stood, if it was not `message` that said them.
    """

    behind: Entry
    message: str
    recorded: str = ""
    now: str = ""
    where: str = ""


async def find_fault(
    registry: Registry,
    execution: Execution,
    entries: Sequence[Entry],
    *,
    clock: Clock,
    places: int = PLACES,
) -> Fault | None:
    """Rehearse the journal `entries` behind each of its entries; the first fault that shows.

    With more entries than `places` it is cut only where a wait is, and at both ends of what was
    shown in a row; if those are too many, at every so manieth of them.
    """
    for count in cuts(entries, places):
        found = await rehearse(registry, execution, entries[:count], clock=clock)
        if found.problem is not None:
            return Fault(entries[count - 1], found.problem.message)
        fault = _hold(found, entries[count - 1], entries[count:])
        if fault is not None:
            return fault
    return None


def cuts(entries: Sequence[Entry], most: int) -> list[int]:
    """After how many entries to cut, at most `most` times; always also at the end."""
    chosen = list(range(1, len(entries) + 1))
    if len(chosen) > most:
        seen = [one.kind in _SEEN for one in entries]
        chosen = [n for n in chosen if n == len(entries) or not (seen[n - 1] and seen[n])]
    if len(chosen) > most:
        stride = -(-len(chosen) // most)
        chosen = chosen[::-1][::stride][::-1]
    return chosen


def _hold(found: Rehearsal, behind: Entry, recorded: Sequence[Entry]) -> Fault | None:
    """What the flow would do, against what it did until something happened to it."""
    did = [one for one in takewhile(_is_not_from_outside, recorded) if one.origin is Origin.FLOW]
    does = [
        (entry(placed, behind.seq, behind.at), where)
        for placed, where in zip(found.next, found.where, strict=True)
        if placed.origin is Origin.FLOW
    ]
    for then, (now, where) in zip(did, does, strict=False):
        if "dispatch.cancel_raised" in (then.kind, now.kind):
            return None  # text that ran ahead of a cancel: that is the moment's doing
        if _essence(then) != _essence(now):
            sides = in_words(then), in_words(now)
            if sides[0] == sides[1]:
                sides = _all_of(then), _all_of(now)
            return Fault(behind, "it does something else when it is run again", *sides, where)
    return None


def _is_not_from_outside(recorded: Entry) -> bool:
    return recorded.origin is not Origin.WORLD


def _essence(one: Entry) -> tuple[str, Any]:
    facts = msgspec.json.decode(one.data)
    if one.kind == "text_delta":
        return one.kind, facts["delta"]
    kept = {name: value for name, value in facts.items() if name not in {"executionId", "seq"}}
    private = None if one.private is None else msgspec.json.decode(one.private)
    return one.kind, (_timeless(kept), private)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if name not in _TIMES}
    return value


def in_words(one: Entry) -> str:
    """What a flow did, as a person would tell it."""
    facts = msgspec.json.decode(one.data)
    match one.kind:
        case "text_delta":
            words = f"text {_json(facts['delta'])}"
        case "dispatch.result" | "dispatch.phase":
            value = facts["value"]
            words = f"{one.kind.partition('.')[2]} {_json(value.get('value', value.get('name')))}"
        case "dispatch.continued":
            continued = one.hidden(ContinuedPrivate)
            words = (
                "continue_as"
                if continued is None
                else f"continue_as {bytes(continued.state).decode()}"
            )
        case "execution_complete":
            words = f"{compare.recorded(one)}, with {_json(facts.get('finalOutput'))}"
        case "execution_error":
            words = f"{compare.recorded(one)}, by {facts['error']['message']}"
        case kind if kind in DISPLAYS:
            words = _all_of(one)
        case _:
            words = compare.recorded(one)
    return words[:_SHOWN_CHARACTERS]


def _all_of(one: Entry) -> str:
    kind, essence = _essence(one)
    return f"{kind} {_json(essence)}"[:_SHOWN_CHARACTERS]


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
