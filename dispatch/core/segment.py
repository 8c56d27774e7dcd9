"""What a segment starts from: the first entry, or the last `continue_as` (design.md 3, rule 8)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from dispatch.core import events
from dispatch.core.journal import Continued, ContinuedPrivate, Counts, Entry, StartPrivate


class Base(NamedTuple):
    """All that the flow is begun with; `state` is what `continue_as` was given."""

    start: StartPrivate
    kind: events.Kind
    flow: str
    segment: int
    state: msgspec.Raw | None
    result: msgspec.Raw | None
    counts: Counts
    started_at: float
    version: int = 0
    decisions: Mapping[str, str] = MappingProxyType({})


def base_of(entry: Entry) -> Base:
    """Read the entry that a segment starts from."""
    if entry.kind == "execution_start":
        start = entry.hidden(StartPrivate)
        assert start is not None
        head = msgspec.json.decode(entry.data, type=events.ExecutionStart)
        flow = head.flow_id or head.agent_id or ""
        return Base(start, head.kind, flow, 0, None, None, Counts(), entry.at)
    carried = entry.hidden(ContinuedPrivate)
    assert carried is not None
    return Base(
        carried.start,
        carried.kind,
        carried.flow,
        entry.payload(Continued).segment,
        carried.state,
        None if carried.result is msgspec.UNSET else carried.result,
        carried.counts,
        carried.started_at,
        carried.version,
        carried.decisions,
    )
