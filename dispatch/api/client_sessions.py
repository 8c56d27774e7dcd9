"""Client-token mode: pages without a secret start and resume executions of one flow (wire 9.2).

A token is printed in a page's source, so it proves nothing but where it may be used. What a visitor
may touch is bound to the session that `init` began, whose id only that visitor's browser knows: an
execution keeps the session that it was started in, and is not there for any other.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatch.api import body
from dispatch.api.answers import Answers, MayRead
from dispatch.api.errors import json_response
from dispatch.api.executions import stream_behind
from dispatch.api.guard import PAGE_ORIGIN
from dispatch.api.requests import (
    Continuation,
    DeclaredTool,
    DispatchBody,
    Id,
    Message,
    Object,
    as_client_tools,
    execution_id,
    start_of,
)
from dispatch.core.clock import Clock, iso
from dispatch.core.errors import Conflict, Forbidden, NotFound, Unauthenticated
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import StartPrivate
from dispatch.engine.dispatcher import Dispatcher
from dispatch.flow import Registry
from dispatch.settings import Settings
from dispatch.store.base import Execution, Store
from dispatch.store.sessions import ANYWHERE, ClientSession, ClientToken, Feedback

#: The paths that pages with a token call. Approvals have the path of everybody (wire 9.2).
_PATHS = re.compile(r"/v1/client/.+|/v1/agents/[^/]+/approve")
_PLACEHOLDER = "Type a message…"

Secret = Annotated[str, Meta(min_length=1, max_length=200)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class InitBody(_Body, frozen=True, kw_only=True):
    token: Secret
    flow_id: Id | None = None
    session_id: Secret | None = None


class ChatBody(_Body, frozen=True, kw_only=True):
    session_id: Secret
    messages: list[Message]
    client_tools: list[DeclaredTool] | None = None
    client_tools_fingerprint: Annotated[str, Meta(max_length=200)] | None = None
    inputs: Object | None = None
    context: Object | None = None
    metadata: Object | None = None


class ClientResumeBody(Continuation, frozen=True, kw_only=True):
    """Here absent means a document: the widget asks for its streams, and the published Python
    client, which doesn't ask, reads documents.
    """

    session_id: Secret
    tool_outputs: Object | None = None
    messages: list[Message] | None = None
    client_tools: list[DeclaredTool] | None = None
    client_tools_fingerprint: Annotated[str, Meta(max_length=200)] | None = None


class FeedbackBody(_Body, frozen=True, kw_only=True):
    session_id: Secret
    token: Secret | None = None
    type: Literal["upvote", "downvote", "copy", "csat", "nps"]
    message_id: Annotated[str, Meta(max_length=200)] | None = None
    rating: float | None = None
    comment: Annotated[str, Meta(max_length=10_000)] | None = None


class PageConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    placeholder: str = _PLACEHOLDER


class FlowShown(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    id: str
    name: str
    description: str | None = None


class InitDocument(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    session_id: str
    expires_at: str
    conversation_id: str
    conversation_revision: str
    config: PageConfig
    target_id: str
    flow: FlowShown


class ClientSessions:
    """The routes of pages, and which origins may call them."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        registry: Registry,
        store: Store,
        answers: Answers,
        settings: Settings,
        clock: Clock,
    ):
        self._dispatcher, self._registry = dispatcher, registry
        self._store, self._sessions = store, store.sessions
        self._answers, self._settings, self._clock = answers, settings, clock

    def routes(self) -> list[Route]:
        return [
            Route("/v1/client/init", self.init, methods=["POST"]),
            Route("/v1/client/chat", self.chat, methods=["POST"]),
            Route("/v1/client/resume", self.resume, methods=["POST"]),
            Route("/v1/client/feedback", self.feedback, methods=["POST"]),
            Route("/v1/client/executions/{id}/events", self.events, methods=["GET"]),
        ]

    async def trusts(self, path: str, origin: str) -> bool:
        """Whether pages of `origin` may call `path`, because a token is theirs to use."""
        if _PATHS.fullmatch(path) is None:
            return False
        return any(_may_use(token, origin) for token in await self._sessions.tokens())

    async def check_approval(self, request: Request, execution: ExecutionId) -> None:
        """Raise `NotFound` if a page that is trusted for its token alone decides what was not
        started with a token of that page.
        """
        origin = request.scope.get(PAGE_ORIGIN)
        if origin is None:
            return
        session = await self._session_of(execution)
        found = None if session is None else await self._sessions.session(session)
        if found is None or not _may_use(found[1], origin):
            raise _unknown(execution)

    # --- routes -----------------------------------------------------------------------------------

    async def init(self, request: Request) -> Response:
        _, asked = await body.take(request, InitBody, self._settings)
        token = await self._sessions.token(_digest(asked.token))
        if token is None or token.revoked_at is not None:
            raise _not_a_token()
        _check_origin(request, token)
        if asked.flow_id not in (None, token.flow):
            raise Forbidden(
                f"this token is for the flow {token.flow}, not {asked.flow_id}",
                code="client-token-flow",
            )
        flow = self._registry.find(token.flow)
        id, known = asked.session_id, None
        if id is not None:
            found = await self._sessions.session(_digest(id))
            if found is not None and found[1] == token and self._is_alive(found[0]):
                known = found[0]
        if id is None or known is None:
            id = f"session_{secrets.token_urlsafe(24)}"
            known = ClientSession(
                digest=_digest(id),
                token_id=token.id,
                conversation_id=f"conversation_{secrets.token_hex(12)}",
                expires_at=0.0,
            )
        now = self._clock.now()
        session = msgspec.structs.replace(known, expires_at=now + self._settings.session_seconds)
        await self._sessions.put_session(session, now)
        return json_response(
            InitDocument(
                session_id=id,
                expires_at=iso(session.expires_at),
                conversation_id=session.conversation_id,
                conversation_revision="0",
                config=PageConfig(),
                target_id=flow.id,
                flow=FlowShown(id=flow.id, name=flow.id, description=flow.description),
            ),
            headers=_UNCACHED,
        )

    async def chat(self, request: Request) -> Response:
        raw, asked = await body.take(request, ChatBody, self._settings)
        session, token = await self._session(request, asked.session_id)
        declared = _declared(session, asked.client_tools, asked.client_tools_fingerprint)
        flow = self._registry.find(token.flow)
        dispatch = DispatchBody(
            messages=asked.messages,
            inputs=asked.inputs,
            context=asked.context,
            metadata=asked.metadata,
            conversation_id=session.conversation_id,
        )
        start = msgspec.structs.replace(
            start_of(flow, dispatch, raw, None),
            client_tools=list(declared.tools),
            session=session.digest,
        )
        leg = await self._dispatcher.dispatch(start)
        if asked.client_tools is not None:
            await self._keep(session, declared)
        return self._answers.leg_stream(request, leg, may_read=self._may_read(token))

    async def resume(self, request: Request) -> Response:
        raw, asked = await body.take(request, ClientResumeBody, self._settings)
        session, token = await self._session(request, asked.session_id)
        execution = await self._own(asked.execution_id, session)
        leg = await self._dispatcher.resume(
            execution.id, asked.tool_outputs or {}, raw.get("messages")
        )
        if asked.client_tools is not None:
            declared = _declared(session, asked.client_tools, asked.client_tools_fingerprint)
            await self._keep(session, declared)
        if asked.stream_response:
            return self._answers.leg_stream(request, leg, may_read=self._may_read(token))
        return await self._answers.continued(request, leg)

    async def feedback(self, request: Request) -> Response:
        raw, asked = await body.take(request, FeedbackBody, self._settings)
        session, token = await self._session(request, asked.session_id)
        if asked.token is not None and _digest(asked.token) != token.digest:
            raise _not_a_token()
        said = {key: raw[key] for key in raw if key not in ("token", "sessionId")}
        given = Feedback(
            # Of one kind on one message there is one: who changes their mind says it again.
            id=f"feedback_{_digest(f'{session.digest} {asked.type} {asked.message_id}')[:24]}",
            at=self._clock.now(),
            token_id=token.id,
            conversation_id=session.conversation_id,
            body=msgspec.json.encode(said).decode(),
        )
        await self._sessions.put_feedback(given)
        return json_response({"success": True, "feedbackId": given.id})

    async def events(self, request: Request) -> Response:
        session, token = await self._session(request, request.query_params.get("sessionId", ""))
        execution = await self._own(request.path_params["id"], session)
        return stream_behind(request, self._answers, execution, self._may_read(token))

    # --- who --------------------------------------------------------------------------------------

    async def _session(self, request: Request, id: str) -> tuple[ClientSession, ClientToken]:
        """Raises `Unauthenticated` (`session-invalid`): the page begins a new one."""
        found = await self._sessions.session(_digest(id))
        if found is None or found[1].revoked_at is not None or not self._is_alive(found[0]):
            raise Unauthenticated(
                "this session is over: begin one with /v1/client/init", code="session-invalid"
            )
        _check_origin(request, found[1])
        return found

    def _may_read(self, token: ClientToken) -> MayRead:
        """An open stream ends when its token is revoked; the end of a session leaves it be."""

        async def may_read() -> bool:
            known = await self._sessions.token(token.digest)
            return known is not None and known.revoked_at is None

        return may_read

    def _is_alive(self, session: ClientSession) -> bool:
        return session.expires_at > self._clock.now()

    async def _own(self, id: str, session: ClientSession) -> Execution:
        """An execution that was started in this session."""
        execution = await self._store.get(execution_id(id))
        if await self._session_of(execution.id) != session.digest:
            raise _unknown(execution.id)
        return execution

    async def _session_of(self, id: ExecutionId) -> str | None:
        for chunk in await self._store.read(id, after=0, until=1):
            for first in chunk.entries():
                start = first.hidden(StartPrivate)
                return None if start is None else start.session
        return None

    async def _keep(self, session: ClientSession, declared: ClientSession) -> None:
        """Remember the page's tools, now that what they came with has been taken."""
        if declared != session:
            await self._sessions.put_session(declared, self._clock.now())


_UNCACHED = {"Cache-Control": "no-store"}


def make_token(flow: str, origins: Sequence[str], now: float) -> tuple[str, ClientToken]:
    """A new token, as it is told once, and as it is kept."""
    text = f"ct_{secrets.token_urlsafe(24)}"
    kept = ClientToken(
        id=f"token_{secrets.token_hex(6)}",
        digest=_digest(text),
        flow=flow,
        origins=tuple(origins),
        created_at=now,
    )
    return text, kept


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _declared(
    session: ClientSession, tools: Sequence[DeclaredTool] | None, fingerprint: str | None
) -> ClientSession:
    """With the page's tools: those it sends now or, by their fingerprint, sent before."""
    if tools is not None:
        known = tuple(as_client_tools(tools))
        return msgspec.structs.replace(session, tools=known, fingerprint=fingerprint)
    if fingerprint is None:
        return msgspec.structs.replace(session, tools=())
    if fingerprint != session.fingerprint:
        # The widget looks for these very words (wire 9.2).
        raise Conflict("client_tools_resend_required", code="client-tools-resend-required")
    return session


def _may_use(token: ClientToken, origin: str) -> bool:
    if token.revoked_at is not None:
        return False
    return ANYWHERE in token.origins or origin.lower() in token.origins


def _check_origin(request: Request, token: ClientToken) -> None:
    # What is no browser sends none, and could send any.
    origin = request.headers.get("origin")
    if origin is not None and not _may_use(token, origin):
        raise Forbidden(
            f"this token may not be used by pages from {origin[:200]!r}", code="origin-forbidden"
        )


def _not_a_token() -> Unauthenticated:
    return Unauthenticated("invalid token", code="client-token-invalid")


def _unknown(id: ExecutionId) -> NotFound:
    return NotFound(f"there is no execution {id} in this session", code="execution-unknown")
