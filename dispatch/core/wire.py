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
_BOM = b"\xef\xbb\xbf"
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

    A block without data is not a frame. Lines may end in LF, CRLF or CR; a frame is given out with
    the byte that closes it, so a CR is not waited on for the LF that may follow.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []  # pieces of the line that is not ended yet
        self._after_cr = False
        self._begins = b""  # the first bytes, while they may be a byte order mark
        self._has_begun = False
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, piece: bytes) -> list[Frame]:
        """The frames that are complete now."""
        if not self._has_begun:
            self._begins += piece
            if len(self._begins) < len(_BOM) and _BOM.startswith(self._begins):
                return []
            self._has_begun = True
            piece = self._begins.removeprefix(_BOM)
        if not piece:
            return []
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        *ended, rest = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        frames: list[Frame] = []
        for end in ended:
            line = b"".join([*self._line, end]).decode("utf-8", "replace")
            self._line.clear()
            if line:
                self._field(line)
            elif (frame := self._block()) is not None:
                frames.append(frame)
        if rest:
            self._line.append(rest)
        return frames

    def _field(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        elif field == "id" and "\0" not in value:
            self._id = value

    def _block(self) -> Frame | None:
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        return Frame(event, "\n".join(data), self._id) if data else None
