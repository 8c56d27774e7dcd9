"""SSE frames: made once per entry, and an incremental decoder for those who read them.

The framing that all published parsers agree on (wire/dispatch-api.md 6.1, 6.5): `event`, `data`,
`id` in that order, LF only, one `data:` line, no space left to interpretation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from dispatch.core.events import TYPES, Ping
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import INTERNAL, Draft, Entry, Facts, Origin

_encode = msgspec.json.encode
_KINDS = {name.encode(): name for name in TYPES}
_ORIGINS = {origin.value: origin for origin in Origin}


class Framer:
    """Makes the frames of one execution."""

    def __init__(self, execution_id: ExecutionId):
        self._execution_id = execution_id
        self._heads: dict[str, bytes] = {}

    def frame(self, draft: Draft, seq: int) -> bytes:
        head = self._heads.get(draft.kind)
        if head is None:
            kind = draft.type
            begin = f'{{"type":"{kind}","executionId":"{self._execution_id}","seq":'
            head = self._heads[draft.kind] = f"event: {kind}\ndata: {begin}".encode()
        return b"%b%d%b\nid: %d\n\n" % (head, seq, draft.rest, seq)


def ping(execution_id: ExecutionId, seq: int, timestamp: str) -> bytes:
    """A frame that keeps a silent stream open: no `id`; `seq` is the last one sent (wire 6.1)."""
    body = _encode(Ping(timestamp=timestamp))[len('{"type":"ping"') :]
    return b'event: ping\ndata: {"type":"ping","executionId":"%b","seq":%d%b\n\n' % (
        execution_id.encode(),
        seq,
        body,
    )


def skip_frames(frames: bytes, count: int) -> bytes:
    """`frames` without its first `count`."""
    return frames.split(b"\n\n", count)[count] if count else frames


def frame_data(frame: bytes) -> bytes:
    """The JSON of one frame as made by `Framer`, with or without its closing blank line."""
    start = frame.index(b"\ndata: ") + 7
    return frame[start : frame.rindex(b"\nid: ")]


def split_frames(frames: bytes) -> list[bytes]:
    """One item a frame, each still closed by its blank line. JSON has no raw newline, so none is
    split.
    """
    return [piece + b"\n\n" for piece in frames.split(b"\n\n")[:-1]]


def entries(
    first_seq: int, origins: str, frames: bytes, at: float, private: Sequence[bytes | None] | None
) -> Iterator[Entry]:
    """Read committed entries back from their frames."""
    seq = first_seq
    for origin, frame in zip(origins, frames.split(b"\n\n"), strict=False):
        lead = frame.index(b"\n")
        kind = _KINDS.get(frame[7:lead]) or frame[7:lead].decode()
        data = frame[lead + 7 : frame.rindex(b"\nid: ")]
        if kind == "custom":
            name = msgspec.json.decode(data, type=Facts).name
            if name.startswith(INTERNAL):
                kind = name
        hidden = private[seq - first_seq] if private else None
        yield Entry(seq, kind, _ORIGINS[origin], at, data, hidden)
        seq += 1


class Frame(NamedTuple):
    """One dispatched block of an event stream."""

    event: str
    data: str
    id: str | None


class FrameDecoder:
    """Turn pieces of an event stream, cut anywhere, into frames (WHATWG HTML, section 9.2.6).

    A block without data is not a frame. Lines may end in LF, CRLF or CR.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None
        self._started = False

    def feed(self, piece: bytes) -> list[Frame]:
        frames: list[Frame] = []
        self._buffer += piece
        if not self._started and self._buffer:
            if len(self._buffer) < 3 and b"\xef\xbb\xbf".startswith(self._buffer):
                return frames
            self._buffer = self._buffer.removeprefix(b"\xef\xbb\xbf")
            self._started = True
        # A CR at the very end may be half of a CRLF: keep it until the next piece tells.
        held = b"\r" if self._buffer.endswith(b"\r") else b""
        text = self._buffer[: len(self._buffer) - len(held)]
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._buffer = lines.pop() + held
        for line in lines:
            frame = self._line(line.decode("utf-8", "replace"))
            if frame is not None:
                frames.append(frame)
        return frames

    def _line(self, line: str) -> Frame | None:
        if not line:
            frame = (
                Frame(self._event or "message", "\n".join(self._data), self._id)
                if self._data
                else None
            )
            self._event, self._data = "", []
            return frame
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None
