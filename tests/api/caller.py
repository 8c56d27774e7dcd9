"""A caller of the server, as these tests are: requests made, streams read to their end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Any

import anyio
import httpx
from starlette.applications import Starlette

from dispatch.core.wire import FrameDecoder
from tests.api.flows import Gate

PATIENCE_SECONDS = 10.0
Event = dict[str, Any]


class Told:
    """A stream that was read to its end. `is_broken`: the connection broke, no proper end."""

    def __init__(self, response: httpx.Response):
        self.status, self.headers = response.status_code, response.headers
        self.events: list[Event] = []
        self.is_broken = False

    @property
    def id(self) -> str:
        return str(self.headers["x-execution-id"])

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def seqs(self) -> list[int]:
        return [event["seq"] for event in self.events]

    @property
    def text(self) -> str:
        return "".join(event["delta"] for event in self.of("text_delta"))

    def of(self, type: str) -> list[Event]:
        return [event for event in self.events if event["type"] == type]

    @property
    def calls(self) -> list[str]:
        """Ids of the awaits and approvals of this leg."""
        return [
            event.get("toolCallId") or event["approvalId"]
            for event in self.events
            if event["type"] in ("await", "approval_start")
        ]


class InTurn(httpx.AsyncHTTPTransport):
    """Each request goes to the next of several servers."""

    def __init__(self, urls: Sequence[str]):
        super().__init__()
        self._urls = cycle([httpx.URL(url) for url in urls])

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(port=next(self._urls).port)
        return await super().handle_async_request(request)


class Caller:
    def __init__(self, http: httpx.AsyncClient, app: Starlette, gate: Gate):
        self.http, self.app, self.gate = http, app, gate

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Post `body` as it is if it is bytes, else as JSON; read the answer whole."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        with anyio.fail_after(PATIENCE_SECONDS):
            return await self.http.post(path, content=content, headers=headers)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        with anyio.fail_after(PATIENCE_SECONDS):
            return await self.http.get(path, headers=headers)

    # --- streams ----------------------------------------------------------------------------------

    async def stream(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        until: Callable[[Told], bool] = lambda _: False,
        headers: dict[str, str] | None = None,
    ) -> Told:
        """Read a stream to its end, or until what it told is enough."""
        content = None if body is None else json.dumps(body).encode()
        with anyio.fail_after(PATIENCE_SECONDS):
            async with self.http.stream(method, path, content=content, headers=headers) as answer:
                assert answer.status_code == 200, await answer.aread()
                assert answer.headers["content-type"].startswith("text/event-stream")
                told, decoder = Told(answer), FrameDecoder()
                try:
                    async for piece in answer.aiter_raw():
                        for frame in decoder.feed(piece):
                            event = json.loads(frame.data)
                            assert frame.event == event["type"]
                            if event["type"] != "ping":
                                assert frame.id == str(event["seq"])
                            told.events.append(event)
                        if until(told):
                            break
                except httpx.RemoteProtocolError:
                    told.is_broken = True
                return told

    async def dispatch(self, flow: str, inputs: Any = None, **body: Any) -> Told:
        return await self.stream(
            "POST", "/v1/dispatch", {"flow": {"id": flow}, "inputs": inputs, **body}
        )

    async def resume(self, id: str, outputs: Any = None, **body: Any) -> Told:
        return await self.stream(
            "POST", "/v1/dispatch/resume", {"executionId": id, "toolOutputs": outputs, **body}
        )

    async def approve(self, id: str, approval: str, decision: str, **body: Any) -> Told:
        asked = {"executionId": id, "approvalId": approval, "decision": decision, **body}
        return await self.stream("POST", "/v1/dispatch/approve", asked)

    async def events(self, id: str, after: int = 0, **options: Any) -> Told:
        return await self.stream("GET", f"/v1/executions/{id}/events?after={after}", **options)

    @asynccontextmanager
    async def beginning(self, method: str, path: str, body: Any = None) -> AsyncIterator[Opened]:
        """A stream that goes on beside the test: read what is wanted, leave it to close it."""
        content = None if body is None else json.dumps(body).encode()
        async with self.http.stream(method, path, content=content) as answer:
            assert answer.status_code == 200, await answer.aread()
            yield Opened(answer)

    # --- refusals and documents -------------------------------------------------------------------

    async def refused(self, path: str, body: Any, **headers: str) -> tuple[int, str, Any]:
        """Status, code and details of an error."""
        answer = await self.post(path, body, **headers)
        return refusal(answer)

    async def status(self, id: str) -> Any:
        return (await self.get(f"/v1/executions/{id}/status")).json()


class Opened:
    """A stream that is read event by event."""

    def __init__(self, answer: httpx.Response):
        self.told = Told(answer)
        self._pieces = answer.aiter_raw()
        self._decoder = FrameDecoder()

    async def until(self, is_enough: Callable[[Told], bool]) -> Told:
        with anyio.fail_after(PATIENCE_SECONDS):
            while not is_enough(self.told):
                for frame in self._decoder.feed(await anext(self._pieces)):
                    self.told.events.append(json.loads(frame.data))
        return self.told

    async def rest(self) -> Told:
        with anyio.fail_after(PATIENCE_SECONDS):
            try:
                async for piece in self._pieces:
                    for frame in self._decoder.feed(piece):
                        self.told.events.append(json.loads(frame.data))
            except httpx.RemoteProtocolError:
                self.told.is_broken = True
        return self.told


def refusal(answer: httpx.Response) -> tuple[int, str, Any]:
    """Status, code and details of an error, whose body is as promised."""
    assert answer.status_code >= 400, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) <= {"error", "code", "details", "guide"}
    assert body["guide"] == f"/guide/errors#{body['code']}"
    assert isinstance(body["error"], str)
    assert body["error"]
    return answer.status_code, body["code"], body.get("details")
