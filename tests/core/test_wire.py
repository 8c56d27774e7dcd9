from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.core import events, wire
from dispatch.core.clock import iso
from dispatch.core.errors import FlowMistake
from dispatch.core.ids import execution_id
from dispatch.core.journal import (
    Draft,
    Origin,
    PhaseEntered,
    ResultPrivate,
    draft,
    entry,
    text_delta,
)
from dispatch.core.wire import Frame, FrameDecoder, Framer

ID = execution_id(1_700_000_000.0, bytes(10))
AT = 1_700_000_000.0

DRAFTS: list[Draft] = [
    draft(events.ExecutionStart(kind="flow", started_at=iso(AT)), Origin.ENGINE),
    text_delta("text_1", 'Helló \u2028 \r\n\n: data: "x"', Origin.FLOW),
    draft(PhaseEntered(name="second"), Origin.FLOW),
    draft(events.Custom(name="mine", value={"a": 1}), Origin.WORLD),
    draft(events.ArtifactComplete(id="a"), Origin.FLOW),
    draft(
        events.StepComplete(id="s", success=True),
        Origin.WORLD,
        ResultPrivate(result=msgspec.Raw(b"1")),
    ),
]


def framed(drafts: list[Draft]) -> bytes:
    framer = Framer(ID)
    return b"".join(framer.frame(placed, seq) for seq, placed in enumerate(drafts, 1))


# --- frames ---------------------------------------------------------------------------------------


def test_a_frame_is_event_then_data_then_id() -> None:
    frame = Framer(ID).frame(text_delta("text_1", "Hel", Origin.FLOW), 17)
    assert frame == (
        b"event: text_delta\n"
        b'data: {"type":"text_delta","executionId":"%b","seq":17,"id":"text_1","delta":"Hel"}\n'
        b"id: 17\n\n" % ID.encode()
    )


@pytest.mark.parametrize("placed", DRAFTS, ids=lambda placed: placed.kind)
def test_every_frame_is_three_lines_that_end_in_lf(placed: Draft) -> None:
    frame = Framer(ID).frame(placed, 1)
    assert b"\r" not in frame
    lines = frame.decode().split("\n")
    assert [line.partition(":")[0] for line in lines] == ["event", "data", "id", "", ""]
    data = msgspec.json.decode(wire.frame_data(frame))
    assert f"event: {data['type']}" == lines[0]
    assert (data["executionId"], data["seq"]) == (ID, 1)


def test_an_entry_read_back_from_its_frame_is_the_entry() -> None:
    origins = "".join(placed.origin for placed in DRAFTS)
    private = [placed.private for placed in DRAFTS]
    read = list(wire.entries(5, origins, framed(DRAFTS), AT, private))
    for seq, (got, placed) in enumerate(zip(read, DRAFTS, strict=True), 5):
        expected = entry(placed, seq, AT)
        assert (got.seq, got.kind, got.origin, got.at) == (seq, placed.kind, placed.origin, AT)
        assert (got.facts, got.private) == (expected.facts, expected.private)


def test_frames_can_be_split_and_skipped() -> None:
    frames = framed(DRAFTS)
    pieces = wire.split_frames(frames)
    assert len(pieces) == len(DRAFTS)
    for count in range(len(DRAFTS) + 1):
        assert wire.skip_frames(frames, count) == b"".join(pieces[count:])


def test_a_ping_has_no_id_and_the_last_seq() -> None:
    (frame,) = FrameDecoder().feed(wire.ping(ID, 9, iso(AT)))
    assert (frame.event, frame.id) == ("ping", None)
    assert msgspec.json.decode(frame.data) == {
        "type": "ping",
        "executionId": ID,
        "seq": 9,
        "timestamp": iso(AT),
    }


@pytest.mark.parametrize(
    "refused",
    [
        lambda: text_delta("t", "\ud800", Origin.FLOW),
        lambda: draft(events.TextComplete(id="\udfff"), Origin.ENGINE),
        lambda: draft(events.Custom(name="a", value=float("nan")), Origin.FLOW),
        lambda: draft(events.Custom(name="a", value=[{"b": float("-inf")}]), Origin.FLOW),
        lambda: draft(events.Custom(name="a", value=object()), Origin.FLOW),
    ],
)
def test_what_json_cannot_hold_is_refused(refused: Callable[[], Draft]) -> None:
    with pytest.raises(FlowMistake) as caught:
        refused()
    assert caught.value.code == "not-json"


# --- decoding -------------------------------------------------------------------------------------

STREAM = "".join(
    [
        ": a comment\n",
        'event: a\ndata: {"x":"Helló \u2028 \u2029 \x85"}\nid: 1\n\n',
        "data: first\ndata:second\ndata:  third\n\n",
        "id: 2\n\n",
        "event: dropped\n\n",
        "retry: 5\nunknown: x\ndata\nid: with\0null\n\n",
        "id\ndata: ends\n\n",
        "data: never closed",
    ]
).encode()
FRAMES = [
    Frame("a", '{"x":"Helló \u2028 \u2029 \x85"}', "1"),
    Frame("message", "first\nsecond\n third", "1"),
    Frame("message", "", "2"),
    Frame("message", "ends", ""),
]


def decoded(*pieces: bytes) -> list[Frame]:
    decoder = FrameDecoder()
    return [frame for piece in pieces for frame in decoder.feed(piece)]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
def test_a_stream_split_at_every_byte_gives_the_same_frames(ending: bytes, start: bytes) -> None:
    stream = start + STREAM.replace(b"\n", ending)
    assert decoded(stream) == FRAMES
    assert decoded(*[stream[i : i + 1] for i in range(len(stream))]) == FRAMES
    for cut in range(len(stream) + 1):
        assert decoded(stream[:cut], stream[cut:]) == FRAMES
        assert decoded(stream[:cut], b"", stream[cut:]) == FRAMES


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"data: x", b"id: 1", b":"]), max_size=12))
def test_line_endings_may_be_mixed_and_cut(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    assert decoded(*[stream[i : i + 1] for i in range(len(stream))]) == decoded(stream)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\r"])
def test_a_frame_is_given_out_with_the_byte_that_closes_it(end: bytes) -> None:
    assert decoded(b"data: x" + end) == [Frame("message", "x", None)]


def test_a_byte_order_mark_counts_only_at_the_start() -> None:
    mark = b"\xef\xbb\xbf"
    assert decoded(b"\n" + mark + b"data: x\n\n") == []
    assert decoded(mark + mark + b"data: x\n\n") == []
    assert decoded(mark + b"data: x\n\n") == [Frame("message", "x", None)]


def test_what_is_not_utf8_is_replaced() -> None:
    assert decoded(b"data: \xff\n\n") == [Frame("message", "\ufffd", None)]


@settings(max_examples=30)
@given(st.lists(st.text(), max_size=5), st.integers(1, 7))
def test_frames_that_were_made_are_read_again(texts: list[str], size: int) -> None:
    stream = framed([text_delta("text_1", text, Origin.FLOW) for text in texts])
    frames = decoded(*[stream[i : i + size] for i in range(0, len(stream), size)])
    assert [msgspec.json.decode(frame.data)["delta"] for frame in frames] == texts
    assert [frame.id for frame in frames] == [str(seq) for seq in range(1, len(texts) + 1)]
