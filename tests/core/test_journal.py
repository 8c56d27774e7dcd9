"""The one table of everything that can be appended, and what an entry is."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatch.core import canonical, events, journal
from dispatch.core.errors import FlowMistake
from dispatch.core.events import TYPES
from dispatch.core.journal import (
    DISPLAYS,
    JOURNAL,
    MAX_ENTRY_BYTES,
    PAYLOADS,
    CallPrivate,
    CancelRequested,
    ContinuedPrivate,
    Counts,
    Draft,
    Edge,
    Origin,
    PhaseEntered,
    ResultSet,
    StartPrivate,
    display,
    draft,
    entry,
    text_delta,
)
from tests.core.samples import SAMPLES, origin_of

PACKAGE = Path(journal.__file__).parents[1]


# --- the table ------------------------------------------------------------------------------------


def test_every_type_but_ping_has_a_row() -> None:
    rows = {kind for kind, _ in JOURNAL if not kind.startswith("dispatch.")}
    assert rows == TYPES.keys() - {"ping"}


def test_every_payload_has_a_row() -> None:
    assert set(PAYLOADS.values()) <= {kind for kind, _ in JOURNAL}
    assert set(PAYLOADS) == set(journal.Payload.__subclasses__())


def _drafted() -> set[tuple[str, Origin]]:
    """Which (event, origin) the package drafts, as far as they are written out in its source."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and ast.unparse(call.func).endswith("draft")):
                continue
            if len(call.args) < 2 or not isinstance(call.args[0], ast.Call):
                continue
            name = ast.unparse(call.args[0].func).rpartition(".")[2]
            origin = ast.unparse(call.args[1]).rpartition(".")[2]
            event: Any = getattr(events, name, None) or getattr(journal, name, None)
            if event is None or origin not in Origin.__members__:
                continue
            kind = PAYLOADS[event] if event in PAYLOADS else event.type_name()
            found.add((kind, Origin[origin]))
    return found


def test_everything_that_is_drafted_has_a_row() -> None:
    drafted = _drafted()
    assert len(drafted) >= 8, "the search finds nothing"
    assert drafted <= JOURNAL.keys()


def test_what_is_shown_is_not_firm_and_what_is_waited_for_is() -> None:
    for (kind, _), row in JOURNAL.items():
        assert (kind in DISPLAYS and row.firm) is (kind == "dispatch.checkpoint"), kind
        if "compared" in row.replay or "settles" in row.replay:
            assert row.firm, kind


def test_displays_are_what_flows_yield_to_be_seen() -> None:
    assert "text_delta" in DISPLAYS
    assert "dispatch.result" in DISPLAYS
    assert DISPLAYS.isdisjoint({"text_start", "text_complete", "tool_start", "await", "error"})


@pytest.mark.parametrize(
    ("kind", "origin", "edge"),
    [
        ("execution_start", Origin.WORLD, Edge.HEAD),
        ("execution_start", Origin.ENGINE, Edge.HEAD),
        ("await", Origin.ENGINE, Edge.TURN),
        ("approval_start", Origin.ENGINE, Edge.TURN),
        ("error", Origin.ENGINE, Edge.PARKED),
        ("error", Origin.WORLD, Edge.NONE),
        ("execution_complete", Origin.FLOW, Edge.FINAL),
        ("execution_error", Origin.WORLD, Edge.FINAL),
        ("text_delta", Origin.FLOW, Edge.NONE),
    ],
)
def test_legs_begin_and_end_where_the_table_says(kind: str, origin: Origin, edge: Edge) -> None:
    placed = draft(SAMPLES[kind][0], origin)
    assert placed.edge is edge
    assert entry(placed, 1, 1.0).edge is edge


# --- drafts and entries ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(TYPES.keys() - {"ping"}))
def test_an_event_is_read_back_as_it_was_drafted(kind: str) -> None:
    for event in SAMPLES[kind]:
        placed = entry(draft(event, origin_of(kind)), 3, 30.0)
        assert msgspec.json.decode(placed.data, type=events.Event) == event
        assert (placed.seq, placed.kind, placed.at) == (3, kind, 30.0)


def test_a_payload_is_a_custom_event_on_the_wire() -> None:
    asked = CancelRequested(deadline="2026-01-01T00:00:00Z", reason="enough")
    placed = entry(draft(asked, Origin.WORLD), 1, 1.0)
    assert placed.kind == "dispatch.cancel_requested"
    assert msgspec.json.decode(placed.data) == {
        "type": "custom",
        "name": "dispatch.cancel_requested",
        "value": {"deadline": "2026-01-01T00:00:00Z", "reason": "enough"},
    }
    assert placed.payload(CancelRequested) == asked


def test_a_text_delta_is_the_draft_it_stands_for() -> None:
    text = 'Hel"lo \u2028\n'
    event = events.TextDelta(id="text_1", delta=text)
    assert text_delta("text_1", text, Origin.FLOW) == draft(event, Origin.FLOW)


@pytest.mark.parametrize(
    "private",
    [
        StartPrivate(seed="s"),
        StartPrivate(seed="s", inputs=msgspec.Raw(b'{"a":null}'), messages=[1], context={"b": 2}),
        CallPrivate(),
        CallPrivate(parameters=msgspec.Raw(b"{}"), timeout=1.5, returns={"type": "string"}),
        ContinuedPrivate(
            state=msgspec.Raw(b"null"),
            start=StartPrivate(seed="s"),
            kind="flow",
            flow="f",
            counts=Counts(1, 2, 3),
            started_at=1.0,
        ),
    ],
)
def test_a_private_part_is_read_back_as_it_was(private: msgspec.Struct) -> None:
    event = events.StepComplete(id="s")
    placed = entry(draft(event, Origin.WORLD, private), 1, 1.0)
    read = placed.hidden(type(private))
    assert msgspec.json.encode(read) == msgspec.json.encode(private)
    assert entry(draft(event, Origin.WORLD), 1, 1.0).hidden(StartPrivate) is None


def test_facts_of_absent_fields_are_their_defaults() -> None:
    facts = entry(draft(events.Source(), Origin.FLOW), 1, 1.0).facts
    assert (facts.id, facts.success, bytes(facts.result)) == ("", True, b"")


def test_a_result_of_null_is_there() -> None:
    placed = entry(draft(ResultSet(value=None), Origin.FLOW), 1, 1.0)
    assert placed.payload(ResultSet).value is None


def test_an_entry_over_the_limit_is_refused_alone() -> None:
    large = "x" * (MAX_ENTRY_BYTES + 1)
    private = CallPrivate(parameters=msgspec.Raw(canonical.encode(large)))
    refused: list[Callable[[], Draft]] = [
        lambda: text_delta("t", large, Origin.FLOW),
        lambda: draft(PhaseEntered(name=large), Origin.FLOW),
        lambda: draft(events.StepComplete(id="s"), Origin.WORLD, private),
    ]
    for too_large in refused:
        with pytest.raises(FlowMistake) as caught:
            too_large()
        assert caught.value.code == "entry-too-large"


def test_what_has_no_row_is_a_bug() -> None:
    with pytest.raises(ValueError, match="no row for ping"):
        draft(events.Ping(timestamp="now"), Origin.ENGINE)
    with pytest.raises(ValueError, match="no row for await of origin FLOW"):
        draft(events.Await(), Origin.FLOW)


# --- what authors may show ------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [Origin.FLOW, Origin.WORLD])
@pytest.mark.parametrize("kind", sorted(TYPES))
def test_authors_show_displays_and_nothing_else(kind: str, origin: Origin) -> None:
    event = SAMPLES[kind][1]
    if kind in DISPLAYS:
        assert display(event, origin) == draft(event, origin)
    else:
        with pytest.raises(FlowMistake, match=f"{kind} cannot be yielded"):
            display(event, origin)


def test_authors_cannot_write_the_engine_s_own_words() -> None:
    with pytest.raises(FlowMistake) as caught:
        display(events.Custom(name="dispatch.timer_fired", value={"id": "x"}), Origin.WORLD)
    assert caught.value.code == "not-yours"
