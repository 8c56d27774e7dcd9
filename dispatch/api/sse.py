"""Tail to response: the only file that knows sse-starlette.

Of that library we use the response, and neither its pings (the tail's are events) nor its watcher
for the end of the process (one per thread, so servers in one process would end each other's
streams; the hub breaks streams off). Nor does a task listen for the client to leave: it is asked
for where a stream has been silent, and now and then where it never is, which halves what a short
stream costs.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

import anyio
from sse_starlette import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

from dispatch.store.base import Execution
from dispatch.stream.hub import Hub, StreamBroken, Subscriber
from dispatch.stream.tail import Batch, frames

Follow = Callable[[Subscriber], AsyncIterator[Batch]]

#: After so many pieces in a row without a silence it is asked whether anybody reads them.
_PIECES = 64


class EventStream(EventSourceResponse):
    """What `follow` gives, sent as it is, many frames a piece.

    Raises `StreamBroken` when it has to end early; the server then closes the connection without a
    final chunk, and the reader comes back with its cursor.
    """

    def __init__(
        self, hub: Hub, execution: Execution, follow: Follow, after: int, headers: Mapping[str, str]
    ):
        super().__init__(_nothing(), headers=headers, ping=0)
        self._hub, self._execution, self._follow, self._after = hub, execution, follow, after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        execution = self._execution
        with self._hub.subscribe(execution.id, execution.last_seq) as subscriber:
            pieces = frames(self._follow(subscriber), subscriber, self._after, self._hub.clock)
            self.body_iterator = _while_somebody_reads(pieces, receive)
            await self._stream_response(_ending_with_last_piece(send, subscriber))

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        # There is no limit: a client that reads slowly is a client, and costs no more than others.
        await send(message)


async def _nothing() -> AsyncIterator[bytes]:
    pieces: tuple[bytes, ...] = ()
    for piece in pieces:
        yield piece


async def _while_somebody_reads(
    pieces: AsyncIterator[bytes], receive: Receive
) -> AsyncGenerator[bytes, None]:
    count = 0
    async for piece in pieces:
        count += 1
        if (count % _PIECES == 0 or piece.startswith(b"event: ping\n")) and await _left(receive):
            return
        yield piece


def _ending_with_last_piece(send: Send, subscriber: Subscriber) -> Send:
    """The end of the body goes with its last piece. A message of its own would be a write and a
    packet more, and wake the client once more: a tenth of what a short answer costs.
    """
    has_ended = False

    async def send_until_end(message: Message) -> None:
        nonlocal has_ended
        if has_ended:
            return
        if message["type"] == "http.response.body":
            if subscriber.is_over:
                message["more_body"] = False
                has_ended = True
            elif not message["body"] and message["more_body"]:
                return  # only so that the piece before it is let go of
        await send(message)

    return send_until_end


async def _left(receive: Receive) -> bool:
    """Whether the client has left: `receive` then answers at once."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        message = await receive()
        return bool(message["type"] == "http.disconnect")
    return False


class _Expected(logging.Filter):
    """uvicorn logs every exception that reaches it; breaking a stream off is no error."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], StreamBroken))


_expected = _Expected()


def quiet_broken_streams() -> None:
    """Keep `StreamBroken` out of uvicorn's error log; doing it again changes nothing."""
    logging.getLogger("uvicorn.error").addFilter(_expected)
