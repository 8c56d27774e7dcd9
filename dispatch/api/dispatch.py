"""Starting executions and continuing them: dispatch, resume, approve, continue, their agent twins,
and retry.
"""

from __future__ import annotations

from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatch.api import body
from dispatch.api.answers import Answers
from dispatch.api.client_sessions import ClientSessions
from dispatch.api.requests import (
    ApprovalDecision,
    ApproveBody,
    CancelBody,
    Continuation,
    ContinueBody,
    DispatchBody,
    ExecuteBody,
    ResumeBody,
    RetryBody,
    ToolOutput,
    execution_id,
    find_agent,
    find_flow,
    idempotency_key,
    start_of,
)
from dispatch.core.errors import InvalidRequest
from dispatch.engine.dispatcher import Dispatcher
from dispatch.flow import FlowVersion, Registry
from dispatch.settings import Settings

T = TypeVar("T")


class Commands:
    """The routes that change something."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        registry: Registry,
        answers: Answers,
        sessions: ClientSessions,
        settings: Settings,
    ):
        self._sessions = sessions
        self._dispatcher, self._registry = dispatcher, registry
        self._answers, self._settings = answers, settings

    def routes(self) -> list[Route]:
        return [
            Route("/v1/dispatch", self.dispatch, methods=["POST"]),
            Route("/v1/dispatch/resume", self.resume, methods=["POST"]),
            Route("/v1/dispatch/approve", self.approve, methods=["POST"]),
            Route("/v1/dispatch/continue", self.carry_on, methods=["POST"]),
            Route("/v1/agents/{agent_id}/execute", self.execute, methods=["POST"]),
            # Continuations are of an execution: the path's id means nothing, and Persona, which has
            # no other way to decide, fills it with what it likes (wire 3.2).
            Route("/v1/agents/{agent_id}/resume", self.resume, methods=["POST"]),
            Route("/v1/agents/{agent_id}/approve", self.approve, methods=["POST"]),
            Route("/v1/executions/{id}/retry", self.retry, methods=["POST"]),
            Route("/v1/executions/{id}/cancel", self.cancel, methods=["POST"]),
        ]

    async def dispatch(self, request: Request) -> Response:
        raw, asked = await self._read(request, DispatchBody)
        flow = find_flow(asked, self._registry, self._settings.default_flow)
        return await self._dispatch(request, flow, raw, asked)

    async def execute(self, request: Request) -> Response:
        """A dispatch to the agent in the path."""
        raw, asked = await self._read(request, ExecuteBody)
        agent = find_agent(request.path_params["agent_id"], self._registry)
        return await self._dispatch(request, agent, raw, asked)

    async def _dispatch(
        self, request: Request, flow: FlowVersion, raw: dict[str, Any], asked: DispatchBody
    ) -> Response:
        if request.headers.get("x-runtype-concurrency", "").strip().lower() == "join":
            raise InvalidRequest(
                "executions are not joined: x-runtype-concurrency: join is not supported",
                code="join-unsupported",
            )
        key = idempotency_key(request.headers.get("idempotency-key"))
        leg = await self._dispatcher.dispatch(start_of(flow, asked, raw, key))
        more = {"Idempotency-Replayed": "true"} if leg.repeated else {}
        if _responds_async(request):
            more["Preference-Applied"] = "respond-async"
            return await self._answers.handle(request, leg.execution, asked.conversation_id, more)
        if asked.streams:
            return self._answers.leg_stream(request, leg, more)
        return await self._answers.dispatched(request, leg, asked.conversation_id, more)

    async def resume(self, request: Request) -> Response:
        raw, asked = await self._read(request, ResumeBody)
        return await self._resume(request, asked, asked.tool_outputs, raw.get("messages"))

    async def approve(self, request: Request) -> Response:
        _, asked = await self._read(request, ApproveBody)
        await self._sessions.check_approval(request, execution_id(asked.execution_id))
        return await self._approve(request, asked, asked)

    async def carry_on(self, request: Request) -> Response:
        """`continue`: either of them, through one envelope."""
        raw, asked = await self._read(request, ContinueBody)
        match asked.continuation:
            case ToolOutput(tool_outputs=outputs):
                messages = raw["continuation"].get("messages")
                return await self._resume(request, asked, outputs, messages)
            case ApprovalDecision() as decided:
                return await self._approve(request, asked, decided)

    async def _resume(
        self,
        request: Request,
        asked: Continuation,
        outputs: dict[str, Any] | None,
        messages: list[Any] | None,
    ) -> Response:
        leg = await self._dispatcher.resume(
            execution_id(asked.execution_id), outputs or {}, messages
        )
        if asked.streams:
            return self._answers.leg_stream(request, leg)
        return await self._answers.continued(request, leg)

    async def _approve(
        self, request: Request, asked: Continuation, decided: ApproveBody | ApprovalDecision
    ) -> Response:
        leg = await self._dispatcher.approve(
            execution_id(asked.execution_id),
            decided.approval_id,
            decided.decision,
            decided.reason,
            remember=bool(decided.remember),
        )
        if asked.streams:
            return self._answers.leg_stream(request, leg)
        return await self._answers.continued(
            request, leg, approval_id=decided.approval_id, decision=decided.decision
        )

    async def retry(self, request: Request) -> Response:
        _, asked = await self._read(request, RetryBody, may_be_empty=True)
        leg = await self._dispatcher.retry(execution_id(request.path_params["id"]))
        if asked.streams:
            return self._answers.leg_stream(request, leg)
        return await self._answers.continued(request, leg)

    async def cancel(self, request: Request) -> Response:
        _, asked = await self._read(request, CancelBody, may_be_empty=True)
        id = execution_id(request.path_params["id"])
        execution = await self._dispatcher.cancel(id, asked.reason)
        return await self._answers.status(execution)

    async def _read(
        self, request: Request, type: type[T], *, may_be_empty: bool = False
    ) -> tuple[dict[str, Any], T]:
        return await body.take(request, type, self._settings, may_be_empty=may_be_empty)


def _responds_async(request: Request) -> bool:
    """RFC 7240; it overrides the body's own flag (wire 1.1)."""
    preferences = ",".join(request.headers.getlist("prefer")).split(",")
    return any(one.partition(";")[0].strip().lower() == "respond-async" for one in preferences)
