"""An execution as a file: what goes in comes out, what is private stays out, nonsense is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core import canonical, events
from dispatch.core.clock import iso
from dispatch.core.errors import InvalidRequest
from dispatch.core.events import TYPES
from dispatch.core.export import Export, Exported, Exporter, decode, drafted
from dispatch.core.ids import execution_id
from dispatch.core.journal import (
    JOURNAL,
    PAYLOADS,
    CallPrivate,
    Continued,
    ContinuedPrivate,
    Counts,
    Draft,
    Entry,
    Origin,
    ResultPrivate,
    ResumePrivate,
    StartPrivate,
    draft,
    entry,
)
from dispatch.core.wire import Framer, entries
from tests.core.samples import SAMPLES

AT = 1_700_000_000.123456
ID = execution_id(AT, bytes(10))
SECRET = "Mrs. Peel"
EXPORTED = Exported(id=ID, flow="refund", version=2, kind="flow", status="suspended")


def start(**private: Any) -> Draft:
    event = events.ExecutionStart(kind="flow", started_at=iso(AT))
    return draft(event, Origin.WORLD, StartPrivate(seed="5eed", **private))


def journal(*drafts: Draft) -> list[Entry]:
    """As it is read from a store: with the frames' fields in it."""
    framer = Framer(ID)
    frames = b"".join(framer.frame(placed, seq) for seq, placed in enumerate(drafts, 1))
    origins = "".join(placed.origin for placed in drafts)
    return list(entries(1, origins, frames, AT, [placed.private for placed in drafts]))


def export(journal: Sequence[Entry], *, private: bool) -> list[bytes]:
    exporter = Exporter(EXPORTED, private=private)
    header = exporter.header(last_seq=len(journal), dispatch_version="1.0")
    return [header, *(exporter.line(past) for past in journal)]


def there_and_back(drafts: Sequence[Draft], *, private: bool = True) -> Export:
    return decode(export(journal(*drafts), private=private))


# --- what goes in comes out -----------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def _rows() -> list[tuple[str, Origin]]:
    """Kinds of entries, but the first and the last one of a journal, and those not written yet."""
    written = set(TYPES) | set(PAYLOADS.values())
    edges = {"execution_complete", "execution_error"}
    return [key for key in JOURNAL if key[0] in written - edges]


@pytest.mark.parametrize(("kind", "origin"), _rows())
def test_every_kind_of_entry_comes_back_as_it_was(kind: str, origin: Origin) -> None:
    payloads = {name: payload for payload, name in PAYLOADS.items()}
    made: list[Any] = []
    if kind in payloads:
        fields = msgspec.structs.fields(payloads[kind])
        made = [payloads[kind](**{field.name: _value(field.type) for field in fields})]
    else:
        made = list(SAMPLES[kind])
    for event in made:
        private = (
            StartPrivate(seed="s") if JOURNAL[kind, origin].private == "StartPrivate" else None
        )
        if kind == "dispatch.continued":
            private = continued(None)
        drafts = [start(), draft(event, origin, private)]
        found = there_and_back(drafts)
        assert [drafted(past) for past in found.entries] == drafts
        assert found.entries == [entry(placed, seq, AT) for seq, placed in enumerate(drafts, 1)]
        assert (found.execution, found.withheld) == (EXPORTED, {})


def _value(kind: Any) -> Any:
    return iso(AT) if kind in (str, str | None, Any) else True if kind is bool else 3


def continued(state: Any, **private: Any) -> Any:
    return ContinuedPrivate(
        state=msgspec.Raw(canonical.encode(state)),
        start=StartPrivate(seed="5eed", **private),
        kind="flow",
        flow="refund",
        counts=Counts(),
        started_at=AT,
    )


@given(value=JSON, at=st.floats(0, 4e9), inputs=JSON)
def test_whatever_is_in_it_comes_back_as_it_was(value: Any, at: float, inputs: Any) -> None:
    drafts = [
        start(inputs=msgspec.Raw(canonical.encode(inputs)), messages=[value]),
        draft(events.Custom(name="mine", value=value), Origin.FLOW),
    ]
    past = [entry(placed, seq, at) for seq, placed in enumerate(drafts, 1)]
    assert decode(export(past, private=True)).entries == past


def test_a_file_that_others_have_formatted_is_read_all_the_same() -> None:
    drafts = [start(), draft(events.Custom(name="mine", value={"a": [1.0, "b c"]}), Origin.FLOW)]
    spaced = [
        msgspec.json.format(line, indent=0).replace(b'": ', b'" :\t') + b"\r\n\r\n"
        for line in export(journal(*drafts), private=True)
    ]
    read = decode(b"".join(spaced).split(b"\n"))
    assert [drafted(past) for past in read.entries] == drafts


# --- what is private stays out --------------------------------------------------------------------


def secrets() -> list[Draft]:
    """A journal in which everything that may be private is."""
    told = {"name": SECRET}
    raw = msgspec.Raw(canonical.encode(told))
    call = events.ToolStart(
        tool_call_id="c",
        tool_name="ask",
        tool_type="local",
        parameters=canonical.hidden(bytes(raw)),
    )
    turn = events.Await(tool_call_id="c", tool_name="ask", parameters=raw)
    resumed = events.ExecutionStart(kind="flow", started_at=iso(AT), resumed=True)
    begun: dict[str, Any] = {
        "inputs": raw,
        "messages": [told],
        "context": told,
        "metadata": told,
        "conversation_id": SECRET,
    }
    return [
        start(**begun),
        draft(call, Origin.FLOW, CallPrivate(parameters=raw, timeout=3, private=True)),
        draft(turn, Origin.ENGINE),
        draft(resumed, Origin.ENGINE, ResumePrivate(messages=[told])),
        draft(
            events.ToolComplete(tool_call_id="c", success=True),
            Origin.WORLD,
            ResultPrivate(result=raw),
        ),
        draft(Continued(segment=1), Origin.FLOW, continued(told, **begun)),
    ]


def test_without_private_parts_nothing_of_them_is_in_it() -> None:
    lines = export(journal(*secrets()), private=False)
    assert SECRET.encode() not in b"".join(lines)
    assert SECRET.encode() in b"".join(export(journal(*secrets()), private=True))
    assert decode(lines).withheld == {
        1: ["inputs", "messages", "context", "metadata", "conversationId"],
        2: ["parameters"],
        4: ["messages"],
        5: ["result"],
        6: ["state", "inputs", "messages", "context", "metadata", "conversationId"],
    }


def test_what_is_no_secret_is_in_it_always() -> None:
    plain = events.ToolStart(
        tool_call_id="c", tool_name="ask", tool_type="local", parameters={"of": 1}
    )
    drafts = [
        start(),
        draft(plain, Origin.FLOW, CallPrivate(timeout=3, returns={"type": "string"}, raw=True)),
        draft(events.Await(tool_call_id="c", tool_name="ask", parameters={"of": 1}), Origin.ENGINE),
    ]
    assert there_and_back(drafts, private=False) == there_and_back(drafts, private=True)


class _Newer(msgspec.Struct, frozen=True, kw_only=True):
    """A private part as later versions may have it."""

    seed: str
    newcomer: str


def test_a_field_that_nobody_has_thought_of_is_withheld() -> None:
    event = events.ExecutionStart(kind="flow", started_at=iso(AT))
    made = draft(event, Origin.WORLD, _Newer(seed="5eed", newcomer=SECRET))
    assert there_and_back([made], private=False).withheld == {1: ["newcomer"]}


# --- nonsense is told -----------------------------------------------------------------------------


TIMER = b'"name":"dispatch.timer_set","value":{"id":"t","dueAt":"soon"}'


def _edited(number: int, old: bytes, new: bytes) -> list[bytes]:
    text = draft(events.Custom(name="mine", value=1), Origin.FLOW)
    lines = export(journal(start(), text, text), private=True)
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new)
    return lines


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "line 1"),
        ([b"\n", b"hello\n"], "line 2"),
        ([b'{"seq":1}\n'], "line 1 of the export: this is no export"),
        (_edited(1, b'"flow":"refund"', b'"flow":7'), "line 1"),
        (_edited(1, b'"lastSeq":3', b'"lastSeq":4'), "cut off"),
        (_edited(2, b'"seed"', b'"seat"'), "line 2 of the export: execution_start"),
        (_edited(2, b'"origin":"world"', b'"origin":"engine"'), "line 2"),
        (_edited(3, b"{", b""), "line 3"),
        (_edited(3, b'"origin":"flow"', b'"origin":"moon"'), "line 3 of the export: no journal"),
        (_edited(3, b'"type":"custom"', b'"type":"ping"'), "line 3 of the export: no journal"),
        (_edited(3, b'"name":"mine"', b'"name":"dispatch.timer_set"'), "line 3"),
        (_edited(3, b'"name":"mine"', b'"nome":"mine"'), "line 3 of the export: custom"),
        (_edited(3, b'"name":"mine","value":1', TIMER), "line 3 of the export: dispatch.timer_set"),
        (_edited(3, b'"seq":2', b'"seq":3'), "line 3 of the export: entry 2 was expected"),
        (_edited(4, ID.encode(), b"exec_1"), "line 4 of the export: the event is not entry 3"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(lines: list[bytes], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as refused:
        decode(lines)
    assert refused.value.code == "export-invalid"


def test_nothing_stands_behind_a_final_event() -> None:
    final = draft(events.ExecutionComplete(kind="flow", success=True), Origin.FLOW)
    with pytest.raises(InvalidRequest, match=r"line 4 of the export: .* behind the final event"):
        there_and_back([start(), final, final])


def test_a_format_of_the_future_is_refused_as_such() -> None:
    with pytest.raises(InvalidRequest, match="a newer dispatch made it") as refused:
        decode([b'{"dispatchExport":2,"anything":"else"}\n'])
    assert refused.value.code == "export-newer"
