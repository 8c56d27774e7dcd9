"""Follow an execution over HTTP: no event twice, none left out, over any number of connections.

A stream ends in three ways (design.md 6): the final event means that it is over, an await or an
approval that it is the caller's turn, and neither that one has to come back with the cursor. The
latter is done here, so that whoever iterates sees one sequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from enum import StrEnum
from typing import Protocol, Self

import anyio
import httpx
import msgspec

from dispatch.client.errors import refusal, unreachable
from dispatch.core import events
from dispatch.core.errors import Busy, Unavailable
from dispatch.core.wire import Frame, FrameDecoder

#: Before each attempt to come back; after the last one the tail is broken. A server that starts
#: again has recovered long before.
BACKOFF_SECONDS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0)


class End(StrEnum):
    """How a tail ended."""

    FINAL = "final"
    #: Something is asked of the caller: outputs, a decision or, if it is parked, to mend and retry.
    TURN = "turn"
    #: The server is gone: `Tail.seq` is the cursor to come back with.
    BROKEN = "broken"


class Received(msgspec.Struct, frozen=True):
    """One event. `event` is None for a type that this client does not know; `json` is all of it."""

    seq: int
    type: str
    event: events.Event | None
    json: str

    @property
    def ends(self) -> End | None:
        """What it means if the stream properly ends behind this event."""
        match self.event:
            case events.ExecutionComplete() | events.ExecutionError():
                return End.FINAL
            case events.Await() | events.ApprovalStart() | events.Error(recoverable=False):
                return End.TURN
            case _:
                return None


class Standing(msgspec.Struct, frozen=True, rename="camel"):
    """The part of a status document that tells whether more is to come without anybody's doing."""

    status: str
    last_seq: int


class _Place(msgspec.Struct, frozen=True, rename="camel"):
    type: str
    execution_id: str = ""
    seq: int = 0


_place = msgspec.json.Decoder(_Place)
_event: msgspec.json.Decoder[events.Event] = msgspec.json.Decoder(events.Event)


class Requests(Protocol):
    """What a tail needs of the client."""

    http: httpx.AsyncClient

    def events_request(self, execution_id: str, after: int) -> httpx.Request: ...

    async def standing(self, execution_id: str) -> Standing: ...


class Tail:
    """An execution from some event on: enter it, iterate over it, then look at `end`.

    Entering it sends the request, and raises the server's refusal. `seq` is the last event seen,
    the cursor. It ends at the caller's turn or, if it goes `through` those, at the final event.
    """

    def __init__(
        self,
        requests: Requests,
        request: Callable[[], httpx.Request],
        *,
        execution_id: str = "",
        after: int = 0,
        through: bool = False,
        is_leg: bool,
    ):
        self.execution_id, self.seq = execution_id, after
        self.end: End | None = None
        self._requests, self._request = requests, request
        self._through, self._is_leg = through, is_leg
        # A dispatch that is sent again begins another execution; all else has the same answer.
        self._is_repeatable = bool(execution_id)
        self._attempt = 0
        self._connection = AsyncExitStack()
        self._pieces: AsyncIterator[bytes] | None = None
        self._decoder = FrameDecoder()
        self._pending: deque[Received] = deque()
        self._last: Received | None = None

    async def __aenter__(self) -> Self:
        await self._open(self._request())
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._connection.aclose()

    def __aiter__(self) -> AsyncIterator[Received]:
        return self

    async def __anext__(self) -> Received:
        while not self._pending:
            if self.end is not None:
                raise StopAsyncIteration
            if self._pieces is None:
                await self._come_back()
            else:
                await self._read(self._pieces)
        return self._pending.popleft()

    # --- one connection ---------------------------------------------------------------------------

    async def _open(self, request: httpx.Request) -> None:
        """Raises the server's refusal, or `Unavailable` (`unreachable`)."""
        await self._connection.aclose()
        try:
            response = await self._requests.http.send(request, stream=True)
            self._connection.push_async_callback(response.aclose)
            if response.status_code >= 400:
                await response.aread()
                raise refusal(response)
        except httpx.HTTPError as exc:
            raise unreachable(request.url, exc) from exc
        if response.status_code == 204:  # it is over, and the cursor is behind all of it
            self.end = End.FINAL
        self.execution_id = self.execution_id or response.headers.get("x-execution-id", "")
        self._decoder = FrameDecoder()
        self._pieces = response.aiter_bytes()

    async def _read(self, pieces: AsyncIterator[bytes]) -> None:
        """Take what comes next on this connection, or its end."""
        try:
            piece = await anext(pieces)
        except (StopAsyncIteration, httpx.HTTPError) as exc:
            self._pieces = None
            is_proper = isinstance(exc, StopAsyncIteration)
            if is_proper and self._is_leg and not self._through:
                self.end = self._last.ends if self._last else None
            return
        for frame in self._decoder.feed(piece):
            self._take(frame)
        if self._last is not None:
            self.end = await self._settled_end(self._last)

    def _take(self, frame: Frame) -> None:
        self._attempt = 0
        place = _place.decode(frame.data)
        self.execution_id = self.execution_id or place.execution_id
        if frame.id is None or place.type == "ping" or place.seq <= self.seq:
            return
        self.seq = place.seq
        try:
            event = _event.decode(frame.data)
        except msgspec.ValidationError:
            event = None
        self._last = Received(place.seq, place.type, event, frame.data)
        self._pending.append(self._last)

    async def _settled_end(self, last: Received) -> End | None:
        """Whether the tail has ended with `last` although the connection has not.

        A leg ends properly when it is the caller's turn. A stream of events goes on, so there it is
        looked up: a suspension's last await is what the journal ends with for now.
        """
        if last.ends is End.FINAL:
            return End.FINAL
        if last.ends is None or self._is_leg or self._through:
            return None
        try:
            standing = await self._requests.standing(self.execution_id)
        except Unavailable:
            return None  # the connection will tell
        is_last = standing.last_seq == self.seq
        return End.TURN if is_last and standing.status in ("paused", "failed") else None

    # --- and the next one -------------------------------------------------------------------------

    async def _come_back(self) -> None:
        if self._attempt >= len(BACKOFF_SECONDS):
            self.end = End.BROKEN
            return
        await anyio.sleep(BACKOFF_SECONDS[self._attempt])
        self._attempt += 1
        if self._is_leg and self._is_repeatable and self._last is None:
            request = self._request()
        elif self.execution_id:
            request = self._requests.events_request(self.execution_id, self.seq)
            self._is_leg = False
        else:
            self.end = End.BROKEN
            return
        try:
            await self._open(request)
        except (Busy, Unavailable):
            return
        if self.end is None and self._last is not None:
            # The connection may have been lost behind the last event there is for now.
            self.end = await self._settled_end(self._last)
