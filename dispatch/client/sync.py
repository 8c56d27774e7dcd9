"""The synchronous client: `Commands` over httpx, for programs without an event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import httpx
import msgspec

from dispatch.client.answering import Answering, Decision, Outcome, Tool
from dispatch.client.commands import TIMEOUT, Commands
from dispatch.client.errors import refusal, unreachable
from dispatch.client.tail import Course, Do, Fetch, Open, Opened, Pause, Read, Received, Start, Told
from dispatch.core.errors import Conflict, DispatchError, Gone, Unavailable
from dispatch.core.events import ApprovalStart

OnApproval = Callable[[ApprovalStart], Decision | bool | None]
OnEvent = Callable[[Received], object]


class SyncClient(Commands["SyncTail", dict[str, Any]]):
    __doc__ = f"{Commands.__doc__}\n    Enter it: `with SyncClient(url) as client`."

    _http: httpx.Client

    def __enter__(self) -> Self:
        self._http = httpx.Client(timeout=TIMEOUT, trust_env=self._trusts_environment)
        self._http.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.__exit__()

    def run_with_tools(
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
        return self.carry(tail, tools=tools, on_approval=on_approval, on_event=on_event)

    def carry(
        self,
        tail: SyncTail,
        *,
        tools: Mapping[str, Tool],
        on_approval: OnApproval | None = None,
        on_event: OnEvent | None = None,
    ) -> Outcome:
        """Follow an execution from `tail` on, and answer what it asks, until it is over or waits
        for what nobody here answers.

        Tools get a call's parameters, one after another. `on_approval` gives a bool, a `Decision`,
        or None to leave it open.
        """
        answering = Answering(tools, decides=on_approval is not None)
        following: SyncTail | None = tail
        while following is not None:
            try:
                with following as entered:
                    for received in entered:
                        answering.take(entered.execution_id, received)
                        if on_event is not None:
                            on_event(received)
            except (Conflict, Gone) as exc:
                answering.refused(exc)
            else:
                answering.ended()
            for id, (tool, parameters) in answering.calls().items():
                try:
                    answering.succeeded(id, tool(parameters))
                except Exception as exc:
                    # The flow is told, and decides what becomes of it.
                    answering.failed(id, exc)
            if on_approval is not None:
                for approval in answering.approvals():
                    answering.decided(approval.approval_id, on_approval(approval))
            following = answering.next_leg(self)
        return answering.outcome()

    def _follow(self, start: Start) -> SyncTail:
        return SyncTail(self, start)

    def _document(self, request: httpx.Request) -> dict[str, Any]:
        return msgspec.json.decode(self._fetch(request), type=dict[str, Any])

    def _fetch(self, request: httpx.Request) -> bytes:
        try:
            response = self._http.send(request)
        except httpx.HTTPError as exc:
            raise unreachable(request, exc) from exc
        if response.status_code >= 400:
            raise refusal(response)
        return response.content


class SyncTail(Course):
    __doc__ = Course.__doc__

    def __init__(self, client: SyncClient, start: Start):
        super().__init__(client, start)
        self._client = client
        self._response: httpx.Response | None = None
        # None while a read is under way: one that is interrupted ends the connection.
        self._pieces: Iterator[bytes] | None = None

    def __enter__(self) -> Self:
        self._until(Opened)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def __iter__(self) -> Iterator[Received]:
        return self

    def __next__(self) -> Received:
        received = self._until(Received)
        if received is None:
            raise StopIteration
        return received

    def _until(self, kind: type[Told]) -> Told | None:
        step = self._undone or self._next()
        while not (step is None or isinstance(step, kind)):
            self._undone, answer, error = step, None, None
            try:
                answer = self._do(step)
            except DispatchError as exc:
                error = exc
            step = self._next(answer, error)
        self._undone = None
        return step

    def _do(self, step: Do | Opened | Received) -> Any:
        match step:
            case Open(request):
                return self._send(request)
            case Read():
                return self._read()
            case Fetch(request):
                return self._client._fetch(request)
            case Pause(seconds):
                return time.sleep(seconds)
            case _:
                return None

    def _send(self, request: httpx.Request) -> httpx.Response:
        self._leave()
        try:
            response = self._client._http.send(request, stream=True)
            self._response = response
            if response.status_code >= 400:
                response.read()
                raise refusal(response)
        except httpx.HTTPError as exc:
            raise unreachable(request, exc) from exc
        self._pieces = response.iter_bytes()
        return response

    def _read(self) -> bytes | None:
        pieces, self._pieces = self._pieces, None
        if pieces is None:
            raise Unavailable("a read of this connection was interrupted", code="unreachable")
        try:
            piece = next(pieces, None)
        except httpx.HTTPError as exc:
            raise unreachable(self._request, exc) from exc
        self._pieces = pieces
        return piece

    def _leave(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()
