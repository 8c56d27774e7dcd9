"""The published client's two faces behind one set of names, so that one test drives both.

Nothing of it is changed: what is sync runs in a thread, streams are read to their end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

from anyio.to_thread import run_sync
from pydantic import BaseModel
from runtype import AsyncRuntypeClient, FlowBuilder, FlowResult, RuntypeClient, StreamCallbacks

# The clients import this when `.api` is first used, which would block the loop of a test.
from runtype._generated.client import AsyncRuntypeApi, RuntypeApi  # noqa: F401
from runtype.flow_builder import FlowSummary

P = ParamSpec("P")
T = TypeVar("T")
Event = dict[str, Any]
Item = BaseModel | Event
Tools = dict[str, Any]
Decision = Literal["approved", "denied"]


class Overlay(Protocol):
    """What of the hand-written layer needs a server of flows."""

    async def stream(self, request: Any) -> list[Event]: ...
    async def document(self, request: Any) -> Event: ...
    async def resume(self, execution_id: str, outputs: Tools, **more: Any) -> list[Event]: ...
    async def resume_document(self, execution_id: str, outputs: Tools) -> Event: ...
    async def typed(self, path: str, body: Event, callbacks: StreamCallbacks) -> list[Item]: ...
    async def typed_dispatch(self, request: Any) -> list[Item]: ...
    async def with_tools(
        self, request: Any, tools: Tools, callbacks: StreamCallbacks | None = None, **more: Any
    ) -> FlowResult: ...
    async def build(self, builder: FlowBuilder, **more: Any) -> FlowResult | FlowSummary: ...
    async def approve(
        self, execution_id: str, approval_id: str, decision: Decision, **more: Any
    ) -> list[Item]: ...
    async def approve_document(
        self, execution_id: str, approval_id: str, decision: Decision
    ) -> Event: ...
    async def agent(self, method: str, *args: Any, **more: Any) -> list[Item]: ...
    async def agent_document(self, method: str, *args: Any, **more: Any) -> Event: ...
    async def post(self, path: str, body: Event) -> Event: ...
    async def get(self, path: str) -> Event: ...
    async def close(self) -> None: ...


async def _off(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await run_sync(partial(function, *args, **kwargs))


class SyncOverlay:
    """`RuntypeClient`."""

    def __init__(self, address: str, headers: Mapping[str, str] | None = None):
        self.client = RuntypeClient(
            api_key="key", base_url=address, headers=dict(headers) if headers else None
        )

    async def stream(self, request: Any) -> list[Event]:
        return await _off(lambda: list(self.client.dispatch(request)))

    async def document(self, request: Any) -> Event:
        return await _off(self.client.dispatch, request, stream=False)

    async def resume(self, execution_id: str, outputs: Tools, **more: Any) -> list[Event]:
        return await _off(lambda: list(self.client.resume(execution_id, outputs, **more)))

    async def resume_document(self, execution_id: str, outputs: Tools) -> Event:
        return await _off(self.client.resume, execution_id, outputs, stream=False)

    async def typed(self, path: str, body: Event, callbacks: StreamCallbacks) -> list[Item]:
        def read() -> list[Item]:
            return list(
                self.client.stream_post(path, body, event_mode="agent", callbacks=callbacks)
            )

        return await _off(read)

    async def typed_dispatch(self, request: Any) -> list[Item]:
        return await _off(lambda: list(self.client.dispatch(request, event_mode="agent")))

    async def with_tools(
        self, request: Any, tools: Tools, callbacks: StreamCallbacks | None = None, **more: Any
    ) -> FlowResult:
        return await _off(self.client.run_with_local_tools, request, tools, callbacks, **more)

    async def build(self, builder: FlowBuilder, **more: Any) -> FlowResult | FlowSummary:
        return await _off(builder.run, self.client, **more)

    async def approve(
        self, execution_id: str, approval_id: str, decision: Decision, **more: Any
    ) -> list[Item]:
        def read() -> list[Item]:
            approve = self.client.agents.approve
            leg = approve("virtual", execution_id, approval_id, decision, stream=True, **more)
            return list(leg)

        return await _off(read)

    async def approve_document(
        self, execution_id: str, approval_id: str, decision: Decision
    ) -> Event:
        return await _off(
            self.client.agents.approve, "any", execution_id, approval_id, decision, stream=False
        )

    async def agent(self, method: str, *args: Any, **more: Any) -> list[Item]:
        called = getattr(self.client.agents, method)
        return await _off(lambda: list(called(*args, **more)))

    async def agent_document(self, method: str, *args: Any, **more: Any) -> Event:
        return await _off(getattr(self.client.agents, method), *args, stream=False, **more)

    async def post(self, path: str, body: Event) -> Event:
        return await _off(self.client.post, path, body)

    async def get(self, path: str) -> Event:
        return await _off(self.client.get, path)

    async def close(self) -> None:
        self.client.close()


class AsyncOverlay:
    """`AsyncRuntypeClient`."""

    def __init__(self, address: str, headers: Mapping[str, str] | None = None):
        self.client = AsyncRuntypeClient(
            api_key="key", base_url=address, headers=dict(headers) if headers else None
        )

    async def stream(self, request: Any) -> list[Event]:
        return await _all(await self.client.dispatch(request))

    async def document(self, request: Any) -> Event:
        return await self.client.dispatch(request, stream=False)

    async def resume(self, execution_id: str, outputs: Tools, **more: Any) -> list[Event]:
        return await _all(await self.client.resume(execution_id, outputs, **more))

    async def resume_document(self, execution_id: str, outputs: Tools) -> Event:
        return await self.client.resume(execution_id, outputs, stream=False)

    async def typed(self, path: str, body: Event, callbacks: StreamCallbacks) -> list[Item]:
        return await _all(
            self.client.stream_post(path, body, event_mode="agent", callbacks=callbacks)
        )

    async def typed_dispatch(self, request: Any) -> list[Item]:
        return await _all(await self.client.dispatch(request, event_mode="agent"))

    async def with_tools(
        self, request: Any, tools: Tools, callbacks: StreamCallbacks | None = None, **more: Any
    ) -> FlowResult:
        return await self.client.run_with_local_tools(request, tools, callbacks, **more)

    async def build(self, builder: FlowBuilder, **more: Any) -> FlowResult | FlowSummary:
        return await builder.run_async(self.client, **more)

    async def approve(
        self, execution_id: str, approval_id: str, decision: Decision, **more: Any
    ) -> list[Item]:
        approve = self.client.agents.approve
        leg = await approve("virtual", execution_id, approval_id, decision, stream=True, **more)
        return await _all(leg)

    async def approve_document(
        self, execution_id: str, approval_id: str, decision: Decision
    ) -> Event:
        approve = self.client.agents.approve
        return await approve("any", execution_id, approval_id, decision, stream=False)

    async def agent(self, method: str, *args: Any, **more: Any) -> list[Item]:
        called = getattr(self.client.agents, method)(*args, **more)
        # `execute_stream` gives its events, the others a coroutine that does.
        return await _all(called if hasattr(called, "__aiter__") else await called)

    async def agent_document(self, method: str, *args: Any, **more: Any) -> Event:
        document: Event = await getattr(self.client.agents, method)(*args, stream=False, **more)
        return document

    async def post(self, path: str, body: Event) -> Event:
        return await self.client.post(path, body)

    async def get(self, path: str) -> Event:
        return await self.client.get(path)

    async def close(self) -> None:
        await self.client.close()


async def _all(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


# --- what tests ask of events ---------------------------------------------------------------------


def types_of(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def text_of(events: list[Event]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "text_delta")


def calls_of(events: list[Event]) -> list[Event]:
    return [event for event in events if event["type"] == "await"]


def dumped(items: list[Item]) -> list[Event]:
    """Typed events as they were on the wire."""
    return [item if isinstance(item, dict) else item.model_dump(by_alias=True) for item in items]


def flow(id: str, **more: Any) -> Event:
    return {"flow": {"id": id}, **more}
