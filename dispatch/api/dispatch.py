"""Starting executions and continuing them: dispatch, resume, approve and its agent twin, retry."""

from __future__ import annotations

from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatch.api import body
from dispatch.api.answers import Answers
from dispatch.api.requests import (
    ApproveBody,
    CancelBody,
    DispatchBody,
    ResumeBody,
    RetryBody,
    execution_id,
    start_of,
)
from dispatch.core.errors import InvalidRequest
from dispatch.engine.dispatcher import Dispatcher
from dispatch.flow import Registry
from dispatch.settings import Settings

T = TypeVar("T")


class Commands:
    """The routes that change something."""

    def __init__(
        self, dispatcher: Dispatcher, registry: Registry, answers: Answers, settings: Settings
    ):
        self._dispatcher, self._registry = dispatcher, registry
        self._answers, self._settings = answers, settings

    def routes(self) -> list[Route]:
        return [
            Route("/v1/dispatch", self.dispatch, methods=["POST"]),
            Route("/v1/dispatch/resume", self.resume, methods=["POST"]),
            Route("/v1/dispatch/approve", self.approve, methods=["POST"]),
            # Persona's only way to decide; the path's id means nothing (wire 3.2).
            Route("/v1/agents/{agent_id}/approve", self.approve, methods=["POST"]),
            Route("/v1/executions/{id}/retry", self.retry, methods=["POST"]),
            Route("/v1/executions/{id}/cancel", self.cancel, methods=["POST"]),
        ]

    async def dispatch(self, request: Request) -> Response:
        if request.headers.get("x-runtype-concurrency", "").strip().lower() == "join":
            raise InvalidRequest(
                "executions are not joined: x-runtype-concurrency: join is not supported",
                code="join-unsupported",
            )
        raw, asked = await self._read(request, DispatchBody)
        start = start_of(asked, raw, self._registry, self._settings.default_flow)
        leg = await self._dispatcher.dispatch(start)
        if _responds_async(request):
            return await self._answers.handle(
                request,
                leg.execution,
                asked.conversation_id,
                **{"Preference-Applied": "respond-async"},
            )
        if asked.streams:
            return self._answers.leg_stream(request, leg)
        return await self._answers.dispatched(request, leg, asked.conversation_id)

    async def resume(self, request: Request) -> Response:
        raw, asked = await self._read(request, ResumeBody)
        leg = await self._dispatcher.resume(
            execution_id(asked.execution_id), asked.tool_outputs or {}, raw.get("messages")
        )
        if asked.streams:
            return self._answers.leg_stream(request, leg)
        return await self._answers.continued(request, leg)

    async def approve(self, request: Request) -> Response:
        _, asked = await self._read(request, ApproveBody)
        leg = await self._dispatcher.approve(
            execution_id(asked.execution_id), asked.approval_id, asked.decision, asked.reason
        )
        if asked.streams:
            return self._answers.leg_stream(request, leg)
        return await self._answers.continued(
            request, leg, approval_id=asked.approval_id, decision=asked.decision
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
        settings = self._settings
        content = await body.read(
            request, limit_bytes=settings.body_bytes, seconds=settings.body_seconds
        )
        return await body.parse(content or b"{}" if may_be_empty else content, type)


def _responds_async(request: Request) -> bool:
    """RFC 7240; it overrides the body's own flag (wire 1.1)."""
    preferences = ",".join(request.headers.getlist("prefer")).split(",")
    return any(one.partition(";")[0].strip().lower() == "respond-async" for one in preferences)
