"""What dispatch is measured beside: sse-starlette as its users use it, without durability.

The same events with the same JSON, made by an async generator and handed over one dict each. A
cycle's second request knows nothing of its first: there is nothing to know.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatch.examples.tokens import Tokens
from scripts.benchmarks.flows import Pace, paced

Event = dict[str, Any]


class Numbered:
    """Makes the dicts that `EventSourceResponse` takes."""

    def __init__(self, execution_id: str):
        self._id, self._seq = execution_id, 0

    def __call__(self, type: str, **fields: Any) -> Event:
        self._seq += 1
        data = {"type": type, "executionId": self._id, "seq": self._seq, **fields}
        return {"event": type, "data": msgspec.json.encode(data).decode(), "id": str(self._seq)}


def create_bare_app() -> Starlette:
    return Starlette(
        routes=[
            Route("/v1/dispatch", _dispatch, methods=["POST"]),
            Route("/v1/dispatch/resume", _resume, methods=["POST"]),
        ]
    )


async def _dispatch(request: Request) -> Response:
    asked = msgspec.json.decode(await request.body())
    event = Numbered(secrets.token_hex(16))
    match asked["flow"]["name"]:
        case "tokens":
            texts = _tokens(msgspec.convert(asked["inputs"], Tokens))
        case "stamped":
            texts = paced(msgspec.convert(asked["inputs"], Pace))
        case _:
            return EventSourceResponse(_until_tool(event))
    return EventSourceResponse(_shown(event, texts))


async def _resume(request: Request) -> Response:
    asked = msgspec.json.decode(await request.body())
    ((call_id, output),) = asked["toolOutputs"].items()
    return EventSourceResponse(_behind_tool(Numbered(asked["executionId"]), call_id, output))


async def _tokens(wanted: Tokens) -> AsyncGenerator[str, None]:
    token = "x" * wanted.size
    for _ in range(wanted.count):
        yield token


async def _shown(event: Numbered, texts: AsyncGenerator[str, None]) -> AsyncIterator[Event]:
    yield event("execution_start", kind="flow", flowId="tokens")
    yield event("text_start", id="text_1", role="assistant")
    async with aclosing(texts):
        async for text in texts:
            yield event("text_delta", id="text_1", delta=text)
    yield event("text_complete", id="text_1")
    yield event("execution_complete", kind="flow", success=True)


async def _until_tool(event: Numbered) -> AsyncIterator[Event]:
    call = {"toolCallId": secrets.token_hex(8), "toolName": "get_weather"}
    yield event("execution_start", kind="flow", flowId="weather")
    yield event("text_start", id="text_1", role="assistant")
    yield event("text_delta", id="text_1", delta="Looking up the weather in Oslo. ")
    yield event("text_complete", id="text_1")
    yield event("tool_start", **call, toolType="local", parameters={"city": "Oslo"})
    yield event("await", **call, parameters={"city": "Oslo"})


async def _behind_tool(event: Numbered, call_id: str, output: Any) -> AsyncIterator[Event]:
    yield event("execution_start", kind="flow", flowId="weather", resumed=True)
    yield event("tool_complete", toolCallId=call_id, success=True, result=output)
    yield event("text_start", id="text_2", role="assistant")
    yield event("text_delta", id="text_2", delta=f"It is {output}.")
    yield event("text_complete", id="text_2")
    yield event("execution_complete", kind="flow", success=True)
