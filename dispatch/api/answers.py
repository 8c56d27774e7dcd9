"""How a leg is answered: as a stream, or as the document of what it came to.

The one thing to know: everything that can be refused was refused before an answer is made here.
From then on nothing but the journal decides what the caller sees.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dispatch.api import documents
from dispatch.api.errors import json_response
from dispatch.api.sse import EventStream, Follow
from dispatch.core.journal import Edge
from dispatch.core.lifecycle import Status
from dispatch.engine.dispatcher import Leg
from dispatch.settings import Settings
from dispatch.store.base import Execution, Store
from dispatch.stream.hub import Hub, StreamBroken, Subscriber
from dispatch.stream.tail import Batch, events, follow_events, follow_leg, follow_legs

Headers = Mapping[str, str]
#: Whether whoever follows a stream may still do so.
MayRead = Callable[[], Awaitable[bool]]
NO_HEADERS: Headers = MappingProxyType({})


class Answers:
    """Makes responses of legs, cursors and rows."""

    def __init__(self, store: Store, hub: Hub, settings: Settings):
        self._store, self._hub, self._settings = store, hub, settings

    # --- streams ----------------------------------------------------------------------------------

    def leg_stream(
        self,
        request: Request,
        leg: Leg,
        more: Headers = NO_HEADERS,
        may_read: MayRead | None = None,
    ) -> Response:
        after, follow = leg.first_seq - 1, partial(self._follow, leg)
        return self._stream(request, leg.execution, follow, after, more, may_read)

    def event_stream(
        self, request: Request, execution: Execution, after: int, may_read: MayRead | None = None
    ) -> Response:
        def follow(subscriber: Subscriber) -> AsyncGenerator[Batch, None]:
            return follow_events(self._store, subscriber, after)

        return self._stream(request, execution, follow, after, NO_HEADERS, may_read)

    def _stream(
        self,
        request: Request,
        execution: Execution,
        follow: Follow,
        after: int,
        more: Headers,
        may_read: MayRead | None,
    ) -> Response:
        if may_read is not None:
            follow = partial(_follow_while, may_read, follow)
        described = {**headers(request, execution), **more}
        return EventStream(self._hub, execution, follow, after, described)

    def _follow(self, leg: Leg, subscriber: Subscriber) -> AsyncGenerator[Batch, None]:
        follow = follow_legs if leg.whole else follow_leg
        return follow(self._store, subscriber, leg.first_seq)

    # --- documents --------------------------------------------------------------------------------

    async def dispatched(
        self, request: Request, leg: Leg, conversation_id: str | None, more: Headers
    ) -> Response:
        """What the first leg came to, or the handle if it takes too long."""
        done = await self._document(leg)
        if done is None:
            return await self.handle(request, leg.execution, conversation_id, more)
        return json_response(done, headers={**headers(request, leg.execution), **more})

    async def handle(
        self, request: Request, execution: Execution, conversation_id: str | None, more: Headers
    ) -> Response:
        execution = await self._store.get(execution.id)
        root = request.scope.get("root_path", "")
        return json_response(
            documents.handle(execution, root, conversation_id),
            202,
            {**headers(request, execution), **more},
        )

    async def continued(
        self,
        request: Request,
        leg: Leg,
        *,
        approval_id: str | None = None,
        decision: str | None = None,
    ) -> Response:
        """What a continuation came to, or that it goes on without the caller."""
        done = await self._document(leg)
        body: documents.Document | documents.Detached
        if done is None:
            body = documents.Detached(
                execution_id=leg.execution.id,
                status="running",
                pause_kind=None if approval_id else "client_tool",
                approval_id=approval_id,
            )
        else:
            body = documents.continuation(done, decision)
        return json_response(body, headers=headers(request, leg.execution))

    async def _document(self, leg: Leg) -> documents.Document | None:
        """None if the leg goes on for longer than a caller waits, or was broken off."""
        execution = leg.execution
        told: list[msgspec.Raw] = []
        end = Edge.NONE
        try:
            with (
                anyio.move_on_after(self._settings.json_wait_seconds),
                self._hub.subscribe(execution.id, execution.last_seq) as subscriber,
            ):
                async for batch in self._follow(leg, subscriber):
                    told += events(batch)
                    end = batch[-1].end if batch else end
                return documents.document(execution, told, end)
        except StreamBroken:
            pass
        return None

    async def status(self, execution: Execution) -> Response:
        """The poll of an execution, with what its newest leg came to if it is over."""
        result = None
        if execution.status.is_final or execution.status is Status.INTERRUPTED:
            result = await self._newest_leg(execution)
        return json_response(documents.status_document(execution, result))

    async def journal(self, execution: Execution, after: int) -> Response:
        """The first of the events behind a cursor (wire 4.6)."""
        rows: list[documents.JournalRow] = []
        while len(rows) < documents.JOURNAL_ROWS:
            chunks = await self._store.read(
                execution.id, after=after, until=execution.last_seq, limit=64
            )
            if not chunks:
                break
            rows += [documents.journal_row(entry) for chunk in chunks for entry in chunk.entries()]
            after = chunks[-1].last_seq
        told = rows[: documents.JOURNAL_ROWS]
        is_truncated = bool(told) and told[-1].seq < execution.last_seq
        return json_response(
            documents.Journal(
                execution_id=execution.id, journal_events=told, truncated=is_truncated
            )
        )

    async def _newest_leg(self, execution: Execution) -> documents.Document | None:
        count = execution.last_seq - execution.leg_seq + 1
        after = execution.last_seq - min(count, self._settings.status_events)
        told: list[msgspec.Raw] = []
        cursor, end = after, Edge.NONE
        while cursor < execution.last_seq:
            chunks = await self._store.read(
                execution.id, after=cursor, until=execution.last_seq, limit=64
            )
            if not chunks:
                return None  # deleted meanwhile
            told += events(chunks)
            cursor, end = chunks[-1].last_seq, chunks[-1].end
        done = documents.document(execution, told, end)
        if count > len(told):
            done = msgspec.structs.replace(done, total_events=count, truncated=True)
        return done


async def _follow_while(
    may_read: MayRead, follow: Follow, subscriber: Subscriber
) -> AsyncGenerator[Batch, None]:
    """What `follow` gives, as long as its reader may have it: asked before each piece."""
    async for batch in follow(subscriber):
        if not await may_read():
            raise StreamBroken("its reader may not read it any more")
        yield batch


def headers(request: Request, execution: Execution) -> dict[str, str]:
    """Where the execution's events are: readers reconnect by it (wire 6.5)."""
    root = request.scope.get("root_path", "")
    return {
        "Location": documents.events_path(root, execution),
        "X-Execution-Id": execution.id,
        "Cache-Control": "no-store",
    }
