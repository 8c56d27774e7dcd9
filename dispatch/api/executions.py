"""Reading executions: which there are, one's events behind a cursor, and its status."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatch.api.answers import Answers, MayRead
from dispatch.api.documents import listing
from dispatch.api.errors import json_response
from dispatch.api.requests import execution_id
from dispatch.core.errors import InvalidRequest
from dispatch.core.ids import EXECUTION_ID, ExecutionId
from dispatch.core.lifecycle import Status
from dispatch.store.base import Execution, Store

_CURSOR = re.compile(r"0|[1-9][0-9]{0,18}")
_LARGEST_SEQ = 2**63 - 1
_LIMIT = re.compile(r"[1-9][0-9]{0,3}")
_MOST_LISTED = 1000


class Executions:
    """The routes that only read."""

    def __init__(self, store: Store, answers: Answers):
        self._store, self._answers = store, answers

    def routes(self) -> list[Route]:
        return [
            Route("/v1/executions", self.executions, methods=["GET"]),
            Route("/v1/executions/{id}/events", self.events, methods=["GET"]),
            Route("/v1/executions/{id}/status", self.status, methods=["GET"]),
            Route("/v1/executions/{id}/journal", self.journal, methods=["GET"]),
            Route("/v1/agents/{agent_id}/executions/{id}/events", self.events, methods=["GET"]),
        ]

    async def executions(self, request: Request) -> Response:
        """Newest first; `before` goes on behind that one."""
        query = request.query_params
        found = await self._store.executions(
            status=_status(query.get("status")),
            flow=query.get("flow"),
            limit=_limit(query.get("limit", "100")),
            before=_before(query.get("before")),
        )
        return json_response(listing(found))

    async def events(self, request: Request) -> Response:
        execution = await self._store.get(execution_id(request.path_params["id"]))
        return stream_behind(request, self._answers, execution)

    async def journal(self, request: Request) -> Response:
        execution = await self._store.get(execution_id(request.path_params["id"]))
        return await self._answers.journal(execution, _cursor(request, execution))

    async def status(self, request: Request) -> Response:
        execution = await self._store.get(execution_id(request.path_params["id"]))
        return await self._answers.status(execution)


def stream_behind(
    request: Request, answers: Answers, execution: Execution, may_read: MayRead | None = None
) -> Response:
    """The events behind the request's cursor, every one of which has an answer (design.md 9,
    promise 7).
    """
    after = _cursor(request, execution)
    if execution.status.is_final and after == execution.last_seq:
        # It is told to a browser's EventSource that it need not come back (wire 6.5). The published
        # client raises on an answer that isn't called a stream.
        return Response(status_code=204, media_type="text/event-stream")
    return answers.event_stream(request, execution, after, may_read)


def _cursor(request: Request, execution: Execution) -> int:
    """How far the reader has come: the header wins, since a reconnecting reader sends its first
    URL.
    """
    text = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
    if _CURSOR.fullmatch(text) is None or int(text) > _LARGEST_SEQ:
        raise InvalidRequest(
            f"{text[:100]!r} is no cursor: send the id of the last event that was read, or 0",
            code="cursor-invalid",
        )
    after = int(text)
    if after > execution.last_seq:
        raise InvalidRequest(
            f"the cursor {after} is ahead of the journal, which ends at {execution.last_seq}",
            code="cursor-ahead",
        )
    return after


def _status(text: str | None) -> Status | None:
    if text is None or text in set(Status):
        return None if text is None else Status(text)
    raise InvalidRequest(
        f"{text[:100]!r} is no status; there are {', '.join(Status)}", code="query-invalid"
    )


def _limit(text: str) -> int:
    if _LIMIT.fullmatch(text) is None or int(text) > _MOST_LISTED:
        raise InvalidRequest(
            f"limit={text[:100]!r}: it is a number from 1 to {_MOST_LISTED}", code="query-invalid"
        )
    return int(text)


def _before(text: str | None) -> ExecutionId | None:
    if text is not None and EXECUTION_ID.match(text) is None:
        raise InvalidRequest(f"before={text[:100]!r} is no execution's id", code="query-invalid")
    return None if text is None else ExecutionId(text)
