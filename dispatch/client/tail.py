"""Follow an execution over HTTP: no event twice, none left out, over any number of connections.

A stream ends in three ways (design.md 6): the final event means that it is over, an await or an
approval that it is the caller's turn, and neither that one has to come back with the cursor. The
latter is done here, so that whoever iterates sees one sequence.

No I/O: `Course` decides, and asks for what is to be done (`Do`); `Tail` and `SyncTail`, beside
their clients, do it.
"""

from __future__ import annotations

from collections.abc import Generator
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeVar

import httpx
import msgspec

from dispatch.client.errors import Unsent
from dispatch.core import events
from dispatch.core.errors import Busy, Unavailable
from dispatch.core.wire import Frame, FrameDecoder

#: Before each attempt to come back; after the last one it is given up. A server that starts again
#: has recovered long before.
BACKOFF_SECONDS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0)


class End(StrEnum):
    """How a tail ended."""

    FINAL = "final"
    #: Something is asked of the caller: outputs, a decision or, if it is parked, to mend and retry.
    TURN = "turn"


class Received(msgspec.Struct, frozen=True):
    """One event. `event` is None for a type that this client does not know; `json` is all of it."""

    seq: int
    type: str
    event: events.Event | None
    json: str

    @property
    def ends(self) -> End | None:
        """What it means if this is the last event for now."""
        match self.event:
            case events.ExecutionComplete() | events.ExecutionError():
                return End.FINAL
            case events.Await() | events.ApprovalStart() | events.Error(recoverable=False):
                return End.TURN
            case _:
                return None


# --- what is to be done ---------------------------------------------------------------------------


class Open(NamedTuple):
    """Send `request` and leave the last connection; answered by the response, its body unread."""

    request: httpx.Request


class Read(NamedTuple):
    """Answered by the next piece of the body, by None at its proper end."""


class Fetch(NamedTuple):
    """Send `request` beside; answered by the whole body."""

    request: httpx.Request


class Pause(NamedTuple):
    seconds: float


class Opened(NamedTuple):
    """Nothing is to be done: the first answer is there."""


#: What fails is thrown in as the server's refusal, or as `Unavailable` (`unreachable`).
Do = Open | Read | Fetch | Pause
Told = TypeVar("Told", Opened, Received)
Steps = Generator[Do | Opened | Received, Any, None]


class Start(NamedTuple):
    """Where a tail begins. `after` is None for a leg that begins nobody knows where; a tail that
    goes `through` the caller's turns ends at the final event.
    """

    request: httpx.Request
    execution_id: str = ""
    after: int | None = None
    through: bool = False
    is_leg: bool = True


class Requests(Protocol):
    """What a course needs of its client."""

    @property
    def backoff(self) -> tuple[float, ...]: ...

    def events_request(self, execution_id: str, after: int) -> httpx.Request: ...

    def status_request(self, execution_id: str) -> httpx.Request: ...


class _Standing(msgspec.Struct, frozen=True, rename="camel"):
    """The part of a status document that tells whether more is to come without anybody's doing."""

    status: str
    last_seq: int


class _Place(msgspec.Struct, frozen=True, rename="camel"):
    type: str
    execution_id: str = ""
    seq: int = 0


_standing = msgspec.json.Decoder(_Standing)
_place = msgspec.json.Decoder(_Place)
_event: msgspec.json.Decoder[events.Event] = msgspec.json.Decoder(events.Event)


class Course:
    """An execution from some event on: enter it, iterate over it, then look at `end`.

    Entering it sends the request, and raises the server's refusal. `seq` is the last event told,
    the cursor. It ends at the caller's turn or, if it goes `through` those, at the final event; if
    the server stays away it raises `Unavailable` (`unreachable`).
    """

    def __init__(self, requests: Requests, start: Start):
        self.execution_id, self.seq = start.execution_id, start.after or 0
        self.end: End | None = None
        self._requests, self._request = requests, start.request
        self._through, self._is_leg = start.through, start.is_leg
        # Events may be missed only behind a place that is known.
        self._has_place = start.after is not None
        self._failures = 0
        self._decoder = FrameDecoder()
        self._last: Received | None = None
        self._steps = self._follow()
        #: What was to be done when whoever iterates was interrupted.
        self._undone: Do | Opened | Received | None = None

    def _next(
        self, answer: Any = None, error: Exception | None = None
    ) -> Do | Opened | Received | None:
        """What comes after `answer`, or `error`; None when it has ended."""
        try:
            return self._steps.send(answer) if error is None else self._steps.throw(error)
        except StopIteration:
            return None

    def _follow(self) -> Steps:
        try:
            yield from self._open()
        except Unsent:
            raise
        except Unavailable as exc:
            # It may have arrived. All requests may be sent again: a dispatch has a key.
            if exc.code != "unreachable":
                raise
            yield from self._come_back(exc)
        yield Opened()
        while self.end is None:
            try:
                yield from self._connection()
                lost = Unavailable("the connection ended", code="unreachable")
            except Unavailable as exc:
                lost = exc
            if self.end is None:
                yield from self._come_back(lost)

    # --- one connection ---------------------------------------------------------------------------

    def _open(self) -> Steps:
        response: httpx.Response = yield Open(self._request)
        self._decoder = FrameDecoder()
        self.execution_id = self.execution_id or response.headers.get("x-execution-id", "")
        if response.status_code == 204:  # it is over, and the cursor is behind all of it
            self.end = End.FINAL
        elif self.seq and not self._is_leg:
            # What there is for now may end at the cursor.
            yield from self._look()

    def _connection(self) -> Steps:
        """Tell what comes, until it ends or has to be left."""
        while self.end is None:
            piece: bytes | None = yield Read()
            if piece is None:
                return
            for frame in self._decoder.feed(piece):
                self._failures = 0
                place = _place.decode(frame.data)
                self.execution_id = self.execution_id or place.execution_id
                if frame.id is None or place.type == "ping" or place.seq <= self.seq:
                    continue
                if self._is_leg and self._has_place and place.seq > self.seq + 1:
                    # Something came about before this leg: it is told first.
                    self._go_by_cursor()
                    return
                self._last = _received(place, frame)
                self.seq, self._has_place = place.seq, True
                yield self._last
            if self._last is not None:
                yield from self._look()

    def _look(self) -> Steps:
        """Whether it has ended with the last event, for now.

        It is not known by the end of a connection: an answer that was cut looks whole where the
        server was asked to close behind it, to Node for one. So the caller's turn is looked up: a
        suspension's last await is what the journal ends with.
        """
        ends = None if self._last is None else self._last.ends
        if ends is End.FINAL:
            self.end = ends
        if self._through or (self._last is not None and ends is not End.TURN):
            return
        try:
            raw: bytes = yield Fetch(self._requests.status_request(self.execution_id))
        except Unavailable:
            return  # the connection will tell
        standing = _standing.decode(raw)
        if standing.last_seq == self.seq and standing.status in ("paused", "failed"):
            self.end = End.TURN

    # --- and the next one -------------------------------------------------------------------------

    def _come_back(self, lost: Unavailable | Busy) -> Steps:
        """With the request itself as long as nothing was heard, then by the cursor."""
        if self._last is not None:
            self._go_by_cursor()
        backoff = self._requests.backoff
        while self._failures < len(backoff):
            yield Pause(backoff[self._failures])
            self._failures += 1
            try:
                yield from self._open()
            except (Busy, Unavailable) as exc:
                lost = exc
            else:
                return
        where = f"{self.execution_id or 'the request'} behind event {self.seq}"
        raise Unavailable(f"{where} is given up: {lost.message}", code="unreachable") from lost

    def _go_by_cursor(self) -> None:
        self._request = self._requests.events_request(self.execution_id, self.seq)
        self._is_leg = False


def _received(place: _Place, frame: Frame) -> Received:
    try:
        event = _event.decode(frame.data)
    except msgspec.ValidationError:
        event = None
    return Received(place.seq, place.type, event, frame.data)
