"""The published client's generated layer (`client.api`): strict models, sync and async.

It skips a frame that it can't read, with a warning on the log; there must be none.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from anyio.to_thread import run_sync
from runtype import AsyncRuntypeApi, AsyncRuntypeClient, RuntypeApi, RuntypeClient
from runtype._generated.core.request_options import RequestOptions
from runtype._generated.dispatch.types.post_v1dispatch_request_zero import (
    PostV1DispatchRequestZero as Request,
)
from runtype._generated.dispatch.types.post_v1dispatch_request_zero_flow import (
    PostV1DispatchRequestZeroFlow as FlowTarget,
)
from runtype._generated.errors.bad_request_error import BadRequestError
from runtype._generated.errors.conflict_error import ConflictError
from runtype._generated.errors.not_found_error import NotFoundError

from tests.sdk.clients import Event

# Its models are built when they are first used, which takes seconds.
pytestmark = pytest.mark.slow

#: Left to itself it tries 409 again, after a second and then after two.
ONCE: RequestOptions = {"max_retries": 0}


class Api:
    """`client.api`, sync in a thread or async, whichever was given."""

    def __init__(self, api: RuntypeApi | AsyncRuntypeApi):
        self._api = api

    async def read(self, name: str, *args: Any, **kwargs: Any) -> list[Event]:
        """A stream, read to its end."""
        if isinstance(self._api, RuntypeApi):
            found = _find(self._api, name)
            items = await run_sync(lambda: list(found(*args, **kwargs)))
        else:
            stream: AsyncIterator[Any] = _find(self._api, name)(*args, **kwargs)
            items = [item async for item in stream]
        return [_dumped(item) for item in items]

    async def ask(self, name: str, *args: Any, **kwargs: Any) -> Event:
        found = partial(_find(self._api, name), *args, request_options=ONCE, **kwargs)
        if isinstance(self._api, RuntypeApi):
            return _dumped(await run_sync(found))
        return _dumped(await found())


def _find(api: object, name: str) -> Callable[..., Any]:
    found: Any = api
    for part in name.split("."):
        found = getattr(found, part)
    method: Callable[..., Any] = found
    return method


def _dumped(model: Any) -> Event:
    event: Event = model.model_dump(by_alias=True)
    return event


@pytest.fixture(params=["sync", "async"])
async def api(
    request: pytest.FixtureRequest, address: str, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Api]:
    caplog.set_level(logging.WARNING)
    if request.param == "sync":
        with RuntypeClient(api_key="key", base_url=address) as client:
            yield Api(client.api)
    else:
        async with AsyncRuntypeClient(api_key="key", base_url=address) as client_:
            yield Api(client_.api)
    assert [record.getMessage() for record in caplog.records] == []


DISPATCH = "dispatch.execute_a_flow_or_agent"
RESUME = "dispatch.resume_a_paused_execution"
APPROVE = "dispatch.approve_or_deny_a_pending_approval"
EVENTS = "executions.stream_execution_events"
STATUS = "executions.poll_an_asynchronous_execution"


def target(id: str, **more: Any) -> Request:
    return Request(flow=FlowTarget.model_validate({"id": id}), **more)


async def test_dispatch_resume_and_status(api: Api) -> None:
    first = await api.read(DISPATCH, request=target("weather", inputs={"city": "Lima"}))
    call, id = first[-1], first[0]["executionId"]
    assert (call["type"], call["toolName"]) == ("await", "get_weather")
    waiting = await api.ask(STATUS, id)
    assert (waiting["status"], waiting["targetId"]) == ("paused", "weather")
    done = await api.ask(RESUME, execution_id=id, tool_outputs={call["toolCallId"]: "dry"})
    assert (done["status"], done["success"]) == ("completed", True)
    assert done["events"][-1]["type"] == "execution_complete"
    status = await api.ask(STATUS, id)
    assert (status["status"], status["httpStatus"]) == ("completed", 200)
    assert status["result"]["status"] == "completed"


async def test_events_are_replayed_from_a_cursor(api: Api) -> None:
    told = await api.read(DISPATCH, request=target("every_event"))
    id = told[0]["executionId"]
    assert await api.read(EVENTS, id) == told
    assert await api.read(EVENTS, id, after=str(int(told[4]["seq"]))) == told[5:]


@pytest.mark.parametrize("decision", ["approved", "denied"])
async def test_approve(api: Api, decision: str) -> None:
    first = await api.read(DISPATCH, request=target("approval"))
    done = await api.ask(
        APPROVE,
        execution_id=first[-1]["executionId"],
        approval_id=first[-1]["approvalId"],
        decision=decision,
        reason="so be it",
    )
    assert (done["status"], done["decision"]) == ("completed", decision)


async def test_two_calls_are_answered_one_by_one(api: Api) -> None:
    first = await api.read(DISPATCH, request=target("parallel_tools"))
    oslo, lima = (event for event in first if event["type"] == "await")
    id = oslo["executionId"]
    paused = await api.ask(RESUME, execution_id=id, tool_outputs={lima["toolCallId"]: "wet"})
    assert (paused["status"], paused["pausedReason"]["type"]) == ("paused", "local_action")
    assert paused["pausedReason"]["toolId"] == oslo["toolCallId"]
    done = await api.ask(RESUME, execution_id=id, tool_outputs={oslo["toolCallId"]: "dry"})
    assert done["status"] == "completed"


async def test_a_failed_run_is_a_document(api: Api) -> None:
    told = await api.read(DISPATCH, request=target("failing"))
    assert told[-1]["type"] == "execution_error"
    status = await api.ask(STATUS, told[0]["executionId"])
    assert (status["status"], status["error"]) == ("failed", "RuntimeError: boom")


async def test_refusals_have_their_types(api: Api) -> None:
    with pytest.raises(NotFoundError):
        await api.read(DISPATCH, request=target("nowhere"))
    with pytest.raises(NotFoundError):
        await api.ask(STATUS, "nowhere")
    waiting = await api.read(DISPATCH, request=target("weather"))
    id, nobodys = waiting[0]["executionId"], {"call_of_another_day": 1}
    with pytest.raises(BadRequestError):
        await api.ask(RESUME, execution_id=id, tool_outputs=nobodys)
    asking = await api.read(DISPATCH, request=target("approval"))
    id, decision = asking[0]["executionId"], {asking[-1]["approvalId"]: 1}
    with pytest.raises(ConflictError):
        await api.ask(RESUME, execution_id=id, tool_outputs=decision)


def test_the_generated_client_tries_again_and_nothing_happens_twice(address: str) -> None:
    """What it does by itself: a 409 is posted three times in all."""
    with RuntypeClient(api_key="key", base_url=address) as client:
        first = [
            _dumped(item)
            for item in client.api.dispatch.execute_a_flow_or_agent(request=target("weather"))
        ]
        id, call = first[0]["executionId"], first[-1]["toolCallId"]
        resume: Callable[..., Any] = client.api.dispatch.resume_a_paused_execution
        done = resume(execution_id=id, tool_outputs={call: "wet"})
        again = resume(execution_id=id, tool_outputs={call: "wet"})
        assert again == done
        with pytest.raises(ConflictError):
            resume(
                execution_id=id,
                tool_outputs={call: "dry"},
                request_options={"max_retries": 1},
            )
        events: Iterator[Any] = client.api.executions.stream_execution_events(id)
        assert [event.type for event in events].count("tool_complete") == 1
