"""The published client's generated layer (`client.api`), sync and async behind one set of names.

Its models are strict, and take seconds to build when they are first used: one process does it once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from anyio.to_thread import run_sync
from pydantic import BaseModel
from runtype import AsyncRuntypeApi, RuntypeApi
from runtype._generated.core.request_options import RequestOptions
from runtype._generated.dispatch.types.post_v1dispatch_request_zero import (
    PostV1DispatchRequestZero as Request,
)

from tests.sdk.clients import Event

T = TypeVar("T")

DISPATCH = "dispatch.execute_a_flow_or_agent"
RESUME = "dispatch.resume_a_paused_execution"
APPROVE = "dispatch.approve_or_deny_a_pending_approval"
CONTINUE = "dispatch.continue_a_paused_execution"

EVENTS = "executions.stream_execution_events"
STATUS = "executions.poll_an_asynchronous_execution"
JOURNAL = "executions.read_an_execution_journal"

AGENT_EXECUTE = "agents.execute_agent"
AGENT_RESUME = "agents.resume_a_paused_agent_execution"
AGENT_APPROVE = "agents.resolve_a_pending_agent_tool_approval"
AGENT_EVENTS = "agents.stream_execution_events"

PAGE_INIT = "client_runtime.initialize_a_client_session"
PAGE_CHAT = "client_runtime.send_a_client_chat_message"
PAGE_RESUME = "client_runtime.resume_a_paused_client_execution"
PAGE_FEEDBACK = "client_runtime.submit_feedback_on_a_message"


class Api:
    """`client.api`, sync in a thread or async, whichever was given."""

    def __init__(self, api: RuntypeApi | AsyncRuntypeApi):
        self._api = api

    async def read(self, name: str, *args: Any, **kwargs: Any) -> list[Event]:
        """A stream, read to its end."""
        found = partial(self._find(name), *args, **_with_options(kwargs))
        if isinstance(self._api, RuntypeApi):
            items = await run_sync(lambda: list(found()))
        else:
            stream: AsyncIterator[Any] = found()
            items = [item async for item in stream]
        return [dumped(item) for item in items]

    async def answer(self, name: str, *args: Any, **kwargs: Any) -> BaseModel:
        """A document, as the model that the client took it for."""
        found = partial(self._find(name), *args, **_with_options(kwargs))
        model: BaseModel
        if isinstance(self._api, RuntypeApi):
            model = await run_sync(found)
        else:
            model = await found()
        return model

    async def ask(self, name: str, *args: Any, **kwargs: Any) -> Event:
        """A document, as it was on the wire."""
        return dumped(await self.answer(name, *args, **kwargs))

    def _find(self, name: str) -> Callable[..., Any]:
        found: Any = self._api
        for part in name.split("."):
            found = getattr(found, part)
        method: Callable[..., Any] = found
        return method


def _with_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`headers` is for ours. Left to itself the client tries 409 again, after a second and two."""
    more = dict(kwargs)
    options: RequestOptions = {"max_retries": 0}
    if headers := more.pop("headers", None):
        options["additional_headers"] = headers
    return {"request_options": options, **more}


def dumped(model: BaseModel) -> Event:
    event: Event = model.model_dump(by_alias=True)
    return event


def target(id: str, **more: Any) -> Request:
    return Request.model_validate({"flow": {"id": id}, **more})
