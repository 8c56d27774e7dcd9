"""What a server can be asked, one method each: requests are made here, and sent by the clients.

No I/O: `Client` and `SyncClient` say what it means to follow and to fetch.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from dispatch.client.tail import BACKOFF_SECONDS, Start

#: A silent stream is pinged every 10 s: one that is silent for longer has lost its server.
TIMEOUT = httpx.Timeout(10.0, read=35.0)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

TailT = TypeVar("TailT")
DocumentT = TypeVar("DocumentT")


class Commands(ABC, Generic[TailT, DocumentT]):
    """A server's executions. `headers` go with every request; `backoff`: how long to wait before
    each attempt to come back to a stream.

    Methods raise what the server refuses as the errors of `dispatch.core.errors`, with its code,
    and `Unavailable` (`unreachable`) if there is no answer. Documents are given as they came.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        backoff: Sequence[float] = BACKOFF_SECONDS,
    ):
        self.url, self.headers, self.backoff = url.rstrip("/"), headers or {}, tuple(backoff)
        # A proxy of the environment is for the world outside.
        self._trusts_environment = httpx.URL(url).host not in _LOOPBACK

    @abstractmethod
    def _follow(self, start: Start) -> TailT: ...

    @abstractmethod
    def _document(self, request: httpx.Request) -> DocumentT: ...

    # --- what is answered with a leg --------------------------------------------------------------

    def dispatch(
        self,
        flow: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        version: int | None = None,
        messages: Sequence[Mapping[str, Any]] = (),
        client_tools: Sequence[Mapping[str, Any]] = (),
        idempotency_key: str | None = None,
    ) -> TailT:
        """Start an execution, and follow its first leg.

        With the same key it is started once, however often it is asked for. Without one, each call
        has its own, so that a request whose answer got lost is sent again.
        """
        body = {
            "flow": {"id": flow} if version is None else {"id": flow, "version": version},
            "inputs": inputs or {},
            "messages": messages,
            "clientTools": client_tools,
        }
        key = {"idempotency-key": idempotency_key or secrets.token_hex(16)}
        return self._follow(Start(self._request("POST", "/v1/dispatch", body, key), after=0))

    def resume(
        self,
        execution_id: str,
        outputs: Mapping[str, Any] | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        after: int | None = None,
    ) -> TailT:
        """Deliver outputs, by call id or tool name; without any, the open calls are told again.

        Who knows the events up to `after` is also told what came about before the leg.
        """
        body = {"executionId": execution_id, "toolOutputs": outputs or {}, "messages": messages}
        return self._leg("/v1/dispatch/resume", body, execution_id, after)

    def approve(
        self,
        execution_id: str,
        approval_id: str,
        *,
        is_approved: bool = True,
        reason: str | None = None,
        remember: bool = False,
        after: int | None = None,
    ) -> TailT:
        """Decide an approval, and follow the leg that this begins; `after` is as for `resume`."""
        body = {
            "executionId": execution_id,
            "approvalId": approval_id,
            "decision": "approved" if is_approved else "denied",
            "reason": reason,
            "remember": remember,
            "streamResponse": True,
        }
        return self._leg("/v1/dispatch/approve", body, execution_id, after)

    def retry(self, execution_id: str) -> TailT:
        """Replay a parked execution, and follow on."""
        return self._leg(_path(execution_id, "retry"), {}, execution_id, None)

    def events(self, execution_id: str, *, after: int = 0, through: bool = True) -> TailT:
        """All events behind `after`, to the final one or, unless `through`, the caller's turn."""
        request = self.events_request(execution_id, after)
        return self._follow(Start(request, execution_id, after, through, is_leg=False))

    def _leg(self, path: str, body: Any, execution_id: str, after: int | None) -> TailT:
        return self._follow(Start(self._request("POST", path, body), execution_id, after))

    # --- documents --------------------------------------------------------------------------------

    def status(self, execution_id: str) -> DocumentT:
        return self._document(self.status_request(execution_id))

    def cancel(self, execution_id: str, reason: str | None = None) -> DocumentT:
        """Cancel it; returns its status when the final event is durable."""
        body = {"reason": reason}
        return self._document(self._request("POST", _path(execution_id, "cancel"), body))

    def executions(self, **query: str | int | None) -> DocumentT:
        """Newest first. `status`, `flow`, `limit`, `before` (an execution id) narrow the list."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._document(self._request("GET", "/v1/executions", params=given))

    def flows(self) -> DocumentT:
        return self._document(self._request("GET", "/v1/flows"))

    # --- requests ---------------------------------------------------------------------------------

    def events_request(self, execution_id: str, after: int) -> httpx.Request:
        return self._request("GET", _path(execution_id, "events"), params={"after": after})

    def status_request(self, execution_id: str) -> httpx.Request:
        return self._request("GET", _path(execution_id, "status"))

    def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
    ) -> httpx.Request:
        content = None if body is None else msgspec.json.encode(body)
        sent = {**self.headers, **(headers or {})}
        if content is not None:
            sent["content-type"] = "application/json"
        return httpx.Request(method, self.url + path, content=content, params=params, headers=sent)


def _path(execution_id: str, what: str) -> str:
    return f"/v1/executions/{quote(execution_id, safe='')}/{what}"
