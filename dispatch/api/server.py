"""What the server says of itself: the flows it runs, and whether it can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatch.api.errors import json_response
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

    def __init__(self, registry: Registry, why_not_ready: Callable[[], str | None]):
        self._registry, self._why_not_ready = registry, why_not_ready

    def routes(self) -> list[Route]:
        return [
            Route("/v1/flows", self.flows, methods=["GET"]),
            Route("/health/live", self.live, methods=["GET"]),
            Route("/health/ready", self.ready, methods=["GET"]),
        ]

    async def flows(self, _: Request) -> Response:
        return json_response({"flows": [_document(flow) for flow in self._registry]})

    async def live(self, _: Request) -> Response:
        return json_response({"status": "live"})

    async def ready(self, _: Request) -> Response:
        reason = self._why_not_ready()
        if reason is not None:
            return json_response({"status": "not ready", "reason": reason}, 503)
        return json_response({"status": "ready"})


def _document(flow: FlowVersion) -> FlowDocument:
    return FlowDocument(
        id=flow.id,
        name=flow.id,
        version=flow.version,
        kind=flow.kind,
        description=flow.description,
        inputs_schema=flow.inputs_schema(),
    )
