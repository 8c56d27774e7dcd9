"""What a segment starts from: the first entry, or the last `continue_as` (design.md 3, rule 8)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from dispatch.core import canonical, events
from dispatch.core.ahead import Ahead
from dispatch.core.journal import (
    Continued,
    ContinuedPrivate,
    Counts,
    Draft,
    Entry,
    Origin,
    StartPrivate,
    draft,
)
from dispatch.core.waits import ContinueAs

_NO_COUNTS: Final = Counts()


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
        flow = sys.intern(head.flow_id or head.agent_id or "")
        return Base(start, head.kind, flow, 0, None, None, _NO_COUNTS, entry.at)
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


def continued(
    base: Base,
    wait: ContinueAs,
    *,
    messages: list[Any],
    ahead: Ahead,
    result: msgspec.Raw | None,
    counts: Counts,
) -> Draft:
    """The entry that the segment behind the one from `base` starts from."""
    private = ContinuedPrivate(
        state=msgspec.Raw(canonical.encode(wait.state)),
        start=msgspec.structs.replace(base.start, messages=messages, tool_outputs=ahead.outputs),
        decisions=dict(ahead.decisions),
        kind=base.kind,
        flow=base.flow,
        counts=counts,
        started_at=base.started_at,
        version=wait.version or base.version,
        result=msgspec.UNSET if result is None else result,
    )
    return draft(Continued(segment=base.segment + 1), Origin.FLOW, private)
