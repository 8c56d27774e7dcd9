"""The client against servers that do what servers in trouble do, on real sockets."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import httpx
import msgspec
import pytest

from dispatch.client import Client, End, Tail
from dispatch.client.errors import unreachable
from dispatch.core.errors import (
    Busy,
    Conflict,
    DispatchError,
    Forbidden,
    Gone,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unprocessable,
)

ID = "exec_" + "0" * 32
PROPER_END = b"0\r\n\r\n"


def frame(seq: int, type: str, **fields: Any) -> bytes:
    data = msgspec.json.encode({"type": type, "executionId": ID, "seq": seq, **fields})
    return b"event: %b\ndata: %b\nid: %d\n\n" % (type.encode(), data, seq)


def delta(seq: int) -> bytes:
    return frame(seq, "text_delta", id="text", delta=str(seq))


START = frame(1, "execution_start", kind="flow", startedAt="2026-01-01T00:00:00Z")
PING = b'event: ping\ndata: {"type":"ping","executionId":"x","seq":2,"timestamp":"t"}\n\n'


def call(seq: int) -> bytes:
    return frame(seq, "await", toolCallId=f"call_{seq}", toolName="get")


def final(seq: int) -> bytes:
    return frame(seq, "execution_complete", kind="flow", success=True)


class Answer:
    """To one request: frames, then the proper end of a stream, or none."""

    def __init__(self, *frames: bytes, is_proper: bool = False, stays_open: bool = False):
        self.frames, self.is_proper, self.stays_open = b"".join(frames), is_proper, stays_open

    async def send(self, stream: anyio.abc.ByteStream) -> None:
        await stream.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
            b"X-Execution-Id: %b\r\n\r\n" % ID.encode()
        )
        if self.frames:
            await stream.send(b"%x\r\n%b\r\n" % (len(self.frames), self.frames))
        if self.is_proper:
            await stream.send(PROPER_END)
        if self.stays_open:
            await anyio.sleep_forever()


class Document:
    def __init__(self, status: int, document: Any, *headers: str):
        self.status, self.body, self.headers = status, msgspec.json.encode(document), headers

    async def send(self, stream: anyio.abc.ByteStream) -> None:
        more = "".join(f"{header}\r\n" for header in self.headers)
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(self.body)}\r\n{more}\r\n"
        await stream.send(head.encode() + self.body)


class Hangup:
    async def send(self, stream: anyio.abc.ByteStream) -> None:
        pass


class Scripted:
    """A server that answers one request after another as it was told."""

    def __init__(self, *answers: Answer | Document | Hangup):
        self.asked: list[str] = []
        self.keys: set[str] = set()
        self._answers = list(answers)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._serve)
            async with Client(f"http://127.0.0.1:{port}", backoff=(0.0,) * 4) as client:
                with anyio.fail_after(20):
                    yield client
            tasks.cancel_scope.cancel()

    async def _serve(self, stream: anyio.abc.ByteStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            self.asked.append(" ".join(head.decode().split(" ")[:2]))
            self.keys.update(re.findall(r"^idempotency-key: (.+)\r$", head.decode(), re.MULTILINE))
            await self._answers.pop(0).send(stream)


async def seqs(tail: Tail) -> list[int]:
    async with tail:
        return [received.seq async for received in tail]


EVENTS = f"GET /v1/executions/{ID}/events?after="
STATUS = f"GET /v1/executions/{ID}/status"


def standing(status: str, last_seq: int) -> Document:
    return Document(200, {"executionId": ID, "status": status, "lastSeq": last_seq})


# --- the three ends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "end"),
    [
        (final(3), End.FINAL),
        (frame(3, "execution_error", kind="flow", error="boom"), End.FINAL),
        (call(3), End.TURN),
        (frame(3, "approval_start", approvalId="a", toolName="delete"), End.TURN),
        (frame(3, "error", error="parked", recoverable=False), End.TURN),
    ],
)
async def test_a_leg_ends_with_its_last_event(last: bytes, end: End) -> None:
    server = Scripted(Answer(START, delta(2), last, is_proper=True), standing("paused", 3))
    async with server.client() as client:
        tail = client.dispatch("flow")
        assert await seqs(tail) == [1, 2, 3]
    assert (tail.end, tail.execution_id, tail.seq) == (end, ID, 3)
    assert server.asked == ["POST /v1/dispatch", *([STATUS] if end is End.TURN else [])]


async def test_a_connection_that_breaks_is_gone_on_with_behind_the_last_event() -> None:
    server = Scripted(
        Answer(START, delta(2)),
        Hangup(),
        Answer(delta(3), PING),
        Answer(delta(4), final(5)),
    )
    async with server.client() as client:
        tail = client.dispatch("flow")
        assert await seqs(tail) == [1, 2, 3, 4, 5]
    assert tail.end is End.FINAL
    assert server.asked[1:] == [f"{EVENTS}2", f"{EVENTS}2", f"{EVENTS}3"]


async def test_a_stream_that_ends_properly_in_the_middle_is_gone_on_with_too() -> None:
    server = Scripted(Answer(START, delta(2), is_proper=True), Answer(final(3)))
    async with server.client() as client:
        assert await seqs(client.dispatch("flow")) == [1, 2, 3]


async def test_nothing_is_told_twice() -> None:
    server = Scripted(Answer(START, delta(2)), Answer(START, delta(2), delta(3), final(4)))
    async with server.client() as client:
        assert await seqs(client.dispatch("flow")) == [1, 2, 3, 4]


async def test_half_a_frame_is_no_event() -> None:
    server = Scripted(Answer(START, delta(2)[:-1]), Answer(delta(2), final(3)))
    async with server.client() as client:
        assert await seqs(client.dispatch("flow")) == [1, 2, 3]


async def test_who_has_it_all_is_done() -> None:
    server = Scripted(Document(204, None))
    async with server.client() as client:
        tail = client.events(ID, after=7)
        assert await seqs(tail) == []
    assert tail.end is End.FINAL


async def test_a_server_that_stays_away_is_given_up_with_the_cursor_kept() -> None:
    busy = Document(429, {"error": "too much"}, "Retry-After: 1")
    gone = Document(503, {"error": "stopping", "code": "shutting-down"})
    server = Scripted(Answer(START, delta(2)), Hangup(), gone, busy, Hangup())
    async with server.client() as client:
        tail = client.dispatch("flow")
        with pytest.raises(Unavailable, match=f"{ID} behind event 2 is given up") as raised:
            await seqs(tail)
    assert (tail.end, tail.seq, raised.value.code) == (None, 2, "unreachable")
    assert len(server.asked) == 5


async def test_an_event_begins_the_count_of_attempts_anew() -> None:
    breaking = [Answer(delta(seq)) for seq in range(2, 12)]
    server = Scripted(Answer(START), *breaking, Answer(final(12)))
    async with server.client() as client:
        assert await seqs(client.dispatch("flow")) == list(range(1, 13))


async def test_what_is_refused_on_the_way_back_is_raised() -> None:
    deleted = Document(410, {"error": "it was deleted", "code": "execution-deleted"})
    server = Scripted(Answer(START), deleted)
    async with server.client() as client:
        with pytest.raises(Gone):
            await seqs(client.dispatch("flow"))


# --- whose turn it is, on a stream that goes on ---------------------------------------------------


async def test_a_stream_of_events_ends_at_the_last_await_of_a_suspension() -> None:
    server = Scripted(Answer(START, call(2), call(3), stays_open=True), standing("paused", 3))
    async with server.client() as client:
        tail = client.events(ID, through=False)
        assert await seqs(tail) == [1, 2, 3]
    assert tail.end is End.TURN


async def test_an_await_that_was_answered_since_is_nobodys_turn() -> None:
    server = Scripted(
        Answer(START, call(2)),
        standing("running", 4),
        Answer(delta(3), delta(4), final(5)),
        standing("running", 4),
    )
    async with server.client() as client:
        tail = client.events(ID, through=False)
        collected = await seqs(tail)
    assert (collected, tail.end) == ([1, 2, 3, 4, 5], End.FINAL)


async def test_a_leg_that_broke_behind_its_last_await_ends_there() -> None:
    unknown = Document(503, {"error": "stopping", "code": "shutting-down"})
    server = Scripted(
        Answer(START, call(2)), unknown, Answer(stays_open=True), standing("paused", 2)
    )
    async with server.client() as client:
        tail = client.dispatch("flow")
        assert await seqs(tail) == [1, 2]
    assert tail.end is End.TURN


async def test_a_leg_that_looks_whole_goes_on_to_its_last_await() -> None:
    server = Scripted(
        Answer(START, call(2), is_proper=True),
        standing("paused", 3),
        Answer(call(3), stays_open=True),
        *[standing("paused", 3)] * 2,
    )
    async with server.client() as client:
        tail = client.dispatch("flow")
        assert await seqs(tail) == [1, 2, 3]
    assert tail.end is End.TURN


async def test_who_goes_through_suspensions_sees_the_final_event() -> None:
    server = Scripted(Answer(START, call(2), delta(3), call(4), delta(5), final(6)))
    async with server.client() as client:
        tail = client.events(ID)
        assert await seqs(tail) == [1, 2, 3, 4, 5, 6]
    assert server.asked == [f"{EVENTS}0"]


# --- before the first event -----------------------------------------------------------------------


async def test_a_continuation_that_broke_before_its_first_event_is_sent_again() -> None:
    server = Scripted(Answer(), Answer(frame(9, "execution_start"), final(10), is_proper=True))
    async with server.client() as client:
        assert await seqs(client.resume(ID, {"get": 1})) == [9, 10]
    assert server.asked == ["POST /v1/dispatch/resume"] * 2


async def test_a_dispatch_that_broke_before_its_first_event_is_sent_again_with_its_key() -> None:
    server = Scripted(Hangup(), Answer(), Answer(START, final(2)))
    async with server.client() as client:
        assert await seqs(client.dispatch("flow")) == [1, 2]
    assert server.asked == ["POST /v1/dispatch"] * 3
    assert len(server.keys) == 1


async def test_an_event_that_the_client_does_not_know_is_told_as_it_came() -> None:
    server = Scripted(Answer(START, frame(2, "invented", x=1), final(3), is_proper=True))
    async with server.client() as client, client.dispatch("flow") as tail:
        received = [one async for one in tail]
    assert (received[1].event, received[1].type) == (None, "invented")
    assert msgspec.json.decode(received[1].json)["x"] == 1


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "family"),
    [
        (400, InvalidRequest),
        (401, Unauthenticated),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (413, TooLarge),
        (418, InvalidRequest),
        (422, Unprocessable),
        (429, Busy),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.status(ID),
        lambda client: seqs(client.events(ID)),
        lambda client: seqs(client.dispatch("flow")),
    ],
)
async def test_a_refusal_is_the_error_of_its_family(
    status: int, family: type[DispatchError], ask: Callable[[Client], Any]
) -> None:
    body = {"error": "no", "code": "some-code", "details": [{"message": "x", "path": "$.a"}]}
    async with Scripted(Document(status, body)).client() as client:
        with pytest.raises(family) as raised:
            await ask(client)
    assert (raised.value.message, raised.value.code) == ("no", "some-code")
    if family is not Busy:
        assert raised.value.details[0].path == "$.a"


async def test_an_answer_that_is_not_ours_is_told_by_its_status() -> None:
    async with Scripted(Document(502, ["a proxy's"])).client() as client:
        with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:\d+/v1/flows answered 502"):
            await client.flows()


async def test_no_answer_at_all() -> None:
    async with Scripted(*[Hangup() for _ in range(6)]).client() as client:
        for ask in (client.flows(), seqs(client.dispatch("flow"))):
            with pytest.raises(Unavailable) as raised:
                await ask
            assert raised.value.code == "unreachable"


async def test_a_server_that_stands_still_is_told_as_one() -> None:
    request = httpx.Request("GET", "http://127.0.0.1:8000/v1/flows")
    error = unreachable(request, httpx.ReadTimeout(""))
    told = "no answer from http://127.0.0.1:8000: it takes connections, and says nothing"
    assert (error.message, error.code) == (told, "unreachable")


async def test_where_nobody_listens_nothing_is_sent_again() -> None:
    async with Client("http://127.0.0.1:1", backoff=(60.0,)) as client:
        with pytest.raises(Unavailable, match="no answer from") as raised:
            await seqs(client.dispatch("flow"))
    assert raised.value.code == "unreachable"


# --- gaps and interruptions -----------------------------------------------------------------------


async def test_what_came_about_before_a_leg_is_told_to_who_knows_the_rest() -> None:
    server = Scripted(
        Answer(frame(9, "execution_start"), final(10), is_proper=True),
        Answer(delta(7), delta(8), frame(9, "execution_start"), final(10)),
        standing("running", 8),
    )
    async with server.client() as client:
        assert await seqs(client.resume(ID, {"get": 1}, after=6)) == [7, 8, 9, 10]
    assert server.asked[1:] == [f"{EVENTS}6", STATUS]


async def test_a_read_that_was_cancelled_leaves_no_gap() -> None:
    server = Scripted(Answer(START, delta(2), stays_open=True), Answer(delta(3), final(4)))
    async with server.client() as client, client.dispatch("flow") as tail:
        told = [(await anext(tail)).seq, (await anext(tail)).seq]
        with anyio.move_on_after(0) as scope:
            await anext(tail)
        assert scope.cancelled_caught
        told += [received.seq async for received in tail]
    assert told == [1, 2, 3, 4]
