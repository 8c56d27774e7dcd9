"""Commands and documents of the Dispatch API, one method each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec

from dispatch.client.errors import refusal, unreachable
from dispatch.client.tail import Standing, Tail

#: A silent stream is pinged every 10 s: one that is silent for longer has lost its server.
_TIMEOUT = httpx.Timeout(10.0, read=35.0)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Client:
    """A server's executions. Enter it: `async with Client(url) as client`.

    Methods raise what the server refuses as the errors of `dispatch.core.errors`, with its code,
    and `Unavailable` (`unreachable`) if there is no answer. Documents are given as they came.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None):
        self.url = url.rstrip("/")
        # A proxy of the environment is for the world outside.
        is_loopback = httpx.URL(url).host in _LOOPBACK
        self.http = httpx.AsyncClient(
            headers=headers, timeout=_TIMEOUT, trust_env=not is_loopback, limits=httpx.Limits()
        )

    async def __aenter__(self) -> Self:
        await self.http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.__aexit__()

    # --- what is answered with a leg --------------------------------------------------------------

    def dispatch(
        self,
        flow: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        version: int | None = None,
        messages: Sequence[Mapping[str, Any]] = (),
        client_tools: Sequence[Mapping[str, Any]] = (),
    ) -> Tail:
        """Start an execution, and follow its first leg."""
        body = {
            "flow": {"id": flow} if version is None else {"id": flow, "version": version},
            "inputs": inputs or {},
            "messages": messages,
            "clientTools": client_tools,
        }
        return self._leg("/v1/dispatch", body, "")

    def resume(
        self,
        execution_id: str,
        outputs: Mapping[str, Any] | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
    ) -> Tail:
        """Deliver outputs, by call id or tool name; without any, the open calls are told again."""
        body = {"executionId": execution_id, "toolOutputs": outputs or {}, "messages": messages}
        return self._leg("/v1/dispatch/resume", body, execution_id)

    def approve(
        self,
        execution_id: str,
        approval_id: str,
        *,
        is_approved: bool = True,
        reason: str | None = None,
    ) -> Tail:
        """Decide an approval, and follow the leg that this begins."""
        body = {
            "executionId": execution_id,
            "approvalId": approval_id,
            "decision": "approved" if is_approved else "denied",
            "reason": reason,
            "streamResponse": True,
        }
        return self._leg("/v1/dispatch/approve", body, execution_id)

    def retry(self, execution_id: str) -> Tail:
        """Replay a parked execution, and follow on."""
        return self._leg(_path(execution_id, "retry"), {}, execution_id)

    def events(self, execution_id: str, *, after: int = 0, through: bool = True) -> Tail:
        """All events behind `after`, to the final one or, unless `through`, the caller's turn."""
        return Tail(
            self,
            partial(self.events_request, execution_id, after),
            execution_id=execution_id,
            after=after,
            through=through,
            is_leg=False,
        )

    def _leg(self, path: str, body: Any, execution_id: str) -> Tail:
        request = partial(self._request, "POST", path, body)
        return Tail(self, request, execution_id=execution_id, is_leg=True)

    # --- documents --------------------------------------------------------------------------------

    async def status(self, execution_id: str) -> dict[str, Any]:
        return await self._document(self._request("GET", _path(execution_id, "status")))

    async def cancel(self, execution_id: str, reason: str | None = None) -> dict[str, Any]:
        """Cancel it; returns its status when the final event is durable."""
        body = {"reason": reason}
        return await self._document(self._request("POST", _path(execution_id, "cancel"), body))

    async def executions(self, **query: str | int | None) -> dict[str, Any]:
        """Newest first. `status`, `flow`, `limit`, `before` (an execution id) narrow the list."""
        given = {name: value for name, value in query.items() if value is not None}
        return await self._document(self._request("GET", "/v1/executions", params=given))

    async def flows(self) -> dict[str, Any]:
        return await self._document(self._request("GET", "/v1/flows"))

    async def standing(self, execution_id: str) -> Standing:
        """Where it stands: for `Tail`."""
        raw = await self._answer(self._request("GET", _path(execution_id, "status")))
        return msgspec.json.decode(raw, type=Standing)

    # --- requests ---------------------------------------------------------------------------------

    def events_request(self, execution_id: str, after: int) -> httpx.Request:
        """Opens the stream of events behind `after`: for `Tail`."""
        return self._request("GET", _path(execution_id, "events"), params={"after": after})

    def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Mapping[str, str | int] | None = None,
    ) -> httpx.Request:
        content = None if body is None else msgspec.json.encode(body)
        headers = None if body is None else {"content-type": "application/json"}
        return self.http.build_request(
            method, self.url + path, content=content, params=params, headers=headers
        )

    async def _document(self, request: httpx.Request) -> dict[str, Any]:
        return msgspec.json.decode(await self._answer(request), type=dict[str, Any])

    async def _answer(self, request: httpx.Request) -> bytes:
        try:
            response = await self.http.send(request)
        except httpx.HTTPError as exc:
            raise unreachable(request.url, exc) from exc
        if response.status_code >= 400:
            raise refusal(response)
        return response.content


def _path(execution_id: str, what: str) -> str:
    return f"/v1/executions/{quote(execution_id, safe='')}/{what}"
