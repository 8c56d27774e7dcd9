"""What the server says of itself: the flows it runs, and whether it can run any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dispatch.api.errors import json_response
from dispatch.core.counters import Counters
from dispatch.core.errors import Unavailable
from dispatch.core.events import Kind
from dispatch.flow import FlowVersion, Registry


class FlowDocument(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A registered version of a flow."""

    id: str
    name: str
    version: int
    kind: Kind
    description: str | None = None
    inputs_schema: Any


class Server:
    """`why_not_ready` gives the reason why commands are refused, or None."""

    def __init__(
        self, registry: Registry, why_not_ready: Callable[[], str | None], counters: Counters
    ):
        self._registry, self._why_not_ready = registry, why_not_ready
        self._counters = counters

    def routes(self) -> list[Route]:
        return [
            Route("/v1/flows", self.flows, methods=["GET"]),
            Route("/v1/counters", self.counters, methods=["GET"]),
            Route("/health/live", self.live, methods=["GET"]),
            Route("/health/ready", self.ready, methods=["GET"]),
        ]

    async def flows(self, _: Request) -> Response:
        return json_response({"flows": [_document(flow) for flow in self._registry]})

    async def counters(self, _: Request) -> Response:
        return json_response(self._counters)

    async def live(self, _: Request) -> Response:
        return json_response({"status": "live"})

    async def ready(self, _: Request) -> Response:
        reason = self._why_not_ready()
        if reason is not None:
            return json_response({"status": "not ready", "reason": reason}, 503)
        return json_response({"status": "ready"})


class WhileRunning:
    """ASGI middleware: outside of the lifespan there is neither store nor engine, only health."""

    def __init__(self, app: ASGIApp, *, is_running: Callable[[], bool]):
        self._app, self._is_running = app, is_running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_running() and "/health/" not in scope["path"]:
            raise Unavailable(
                "the server is starting or stopping; if it is mounted in another application, that "
                "one has to enter its lifespan",
                code="shutting-down",
            )
        await self._app(scope, receive, send)


def _document(flow: FlowVersion) -> FlowDocument:
    return FlowDocument(
        id=flow.id,
        name=flow.id,
        version=flow.version,
        kind=flow.kind,
        description=flow.description,
        inputs_schema=flow.inputs_schema(),
    )
