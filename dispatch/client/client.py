"""The asynchronous client: `Commands` over httpx and anyio."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, Self

import anyio
import httpx
import msgspec

from dispatch.client.answering import Answering, Decision, Outcome, Tool
from dispatch.client.commands import TIMEOUT, Commands
from dispatch.client.errors import refusal, unreachable
from dispatch.client.tail import Course, Do, Fetch, Open, Opened, Pause, Read, Received, Start, Told
from dispatch.core.errors import Conflict, DispatchError, Gone, Unavailable
from dispatch.core.events import ApprovalStart

#: May be coroutine functions.
OnApproval = Callable[[ApprovalStart], Any]
OnEvent = Callable[[Received], Any]


class Client(Commands["Tail", Coroutine[Any, Any, dict[str, Any]]]):
    __doc__ = f"{Commands.__doc__}\n    Enter it: `async with Client(url) as client`."

    _http: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        self._http = httpx.AsyncClient(timeout=TIMEOUT, trust_env=self._trusts_environment)
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.__aexit__()

    async def run_with_tools(
        self,
        flow: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        tools: Mapping[str, Tool],
        on_approval: OnApproval | None = None,
        on_event: OnEvent | None = None,
        version: int | None = None,
        messages: Sequence[Mapping[str, Any]] = (),
        client_tools: Sequence[Mapping[str, Any]] = (),
        idempotency_key: str | None = None,
    ) -> Outcome:
        """Dispatch, and `carry` it to its end."""
        tail = self.dispatch(
            flow,
            inputs,
            version=version,
            messages=messages,
            client_tools=client_tools,
            idempotency_key=idempotency_key,
        )
        return await self.carry(tail, tools=tools, on_approval=on_approval, on_event=on_event)

    async def carry(
        self,
        tail: Tail,
        *,
        tools: Mapping[str, Tool],
        on_approval: OnApproval | None = None,
        on_event: OnEvent | None = None,
    ) -> Outcome:
        """Follow an execution from `tail` on, and answer what it asks, until it is over or waits
        for what nobody here answers.

        Tools get a call's parameters; those asked for together run at once. `on_approval` gives a
        bool, a `Decision`, or None to leave it open. All three may be coroutine functions.
        """
        answering = Answering(tools, decides=on_approval is not None)
        following: Tail | None = tail
        while following is not None:
            try:
                async with following as entered:
                    async for received in entered:
                        answering.take(entered.execution_id, received)
                        if on_event is not None:
                            await _given(on_event(received))
            except (Conflict, Gone) as exc:
                answering.refused(exc)
            else:
                answering.ended()
            async with anyio.create_task_group() as tasks:
                for id, (tool, parameters) in answering.calls().items():
                    tasks.start_soon(_run, answering, id, tool, parameters)
            if on_approval is not None:
                for approval in answering.approvals():
                    decision: Decision | bool | None = await _given(on_approval(approval))
                    answering.decided(approval.approval_id, decision)
            following = answering.next_leg(self)
        return answering.outcome()

    def _follow(self, start: Start) -> Tail:
        return Tail(self, start)

    async def _document(self, request: httpx.Request) -> dict[str, Any]:
        return msgspec.json.decode(await self._fetch(request), type=dict[str, Any])

    async def _fetch(self, request: httpx.Request) -> bytes:
        try:
            response = await self._http.send(request)
        except httpx.HTTPError as exc:
            raise unreachable(request, exc) from exc
        if response.status_code >= 400:
            raise refusal(response)
        return response.content


async def _run(answering: Answering, id: str, tool: Tool, parameters: Any) -> None:
    try:
        answering.succeeded(id, await _given(tool(parameters)))
    except Exception as exc:
        # The flow is told, and decides what becomes of it.
        answering.failed(id, exc)


async def _given(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


class Tail(Course):
    __doc__ = Course.__doc__

    def __init__(self, client: Client, start: Start):
        super().__init__(client, start)
        self._client = client
        self._response: httpx.Response | None = None
        # None while a read is under way: one that is cancelled ends the connection.
        self._pieces: AsyncIterator[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self._until(Opened)
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._leave()

    def __aiter__(self) -> AsyncIterator[Received]:
        return self

    async def __anext__(self) -> Received:
        received = await self._until(Received)
        if received is None:
            raise StopAsyncIteration
        return received

    async def _until(self, kind: type[Told]) -> Told | None:
        step = self._undone or self._next()
        while not (step is None or isinstance(step, kind)):
            self._undone, answer, error = step, None, None
            try:
                answer = await self._do(step)
            except DispatchError as exc:
                error = exc
            step = self._next(answer, error)
        self._undone = None
        return step

    async def _do(self, step: Do | Opened | Received) -> Any:
        match step:
            case Open(request):
                return await self._send(request)
            case Read():
                return await self._read()
            case Fetch(request):
                return await self._client._fetch(request)
            case Pause(seconds):
                return await anyio.sleep(seconds)
            case _:
                return None

    async def _send(self, request: httpx.Request) -> httpx.Response:
        await self._leave()
        try:
            response = await self._client._http.send(request, stream=True)
            self._response = response
            if response.status_code >= 400:
                await response.aread()
                raise refusal(response)
        except httpx.HTTPError as exc:
            raise unreachable(request, exc) from exc
        self._pieces = response.aiter_bytes()
        return response

    async def _read(self) -> bytes | None:
        pieces, self._pieces = self._pieces, None
        if pieces is None:
            raise Unavailable("a read of this connection was cancelled", code="unreachable")
        try:
            piece = await anext(pieces, None)
        except httpx.HTTPError as exc:
            raise unreachable(self._request, exc) from exc
        self._pieces = pieces
        return piece

    async def _leave(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            await response.aclose()
