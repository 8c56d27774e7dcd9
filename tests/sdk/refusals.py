"""A server with executions in every condition that a request can be refused for, and the published
client's four faces before it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx
from runtype import AsyncRuntypeClient, RuntypeClient
from runtype._generated.client_runtime.types.post_v1client_init_request_zero import (
    PostV1ClientInitRequestZero as Init,
)
from runtype._generated.dispatch.types.post_v1dispatch_request_zero import (
    PostV1DispatchRequestZero as Request,
)

from dispatch.api.client_sessions import make_token
from dispatch.app import WallClock, create_app
from dispatch.core.errors import Unavailable
from dispatch.core.ids import ExecutionId
from dispatch.flow import FlowVersion
from dispatch.settings import Settings
from dispatch.store.base import Changed, Execution
from dispatch.store.sqlite import SqliteStore
from tests.api.caller import Caller, Told
from tests.api.flows import Gate
from tests.sdk import generated
from tests.sdk.clients import AsyncOverlay, Event, Overlay, SyncOverlay
from tests.sdk.generated import Api
from tests.serving import serve

MAX_RUNNING = 8
MAX_BODY = 20_000
PATIENCE_SECONDS = 10
PAGE = "https://shop.example"
MESSAGES = [{"id": "m1", "role": "user", "content": "hi"}]


class Endpoint(NamedTuple):
    """`path`, behind the version, is filled in from what is asked; `name` is the generated one."""

    path: str
    name: str
    streams: bool = False


DISPATCH = Endpoint("dispatch", generated.DISPATCH, streams=True)
RESUME = Endpoint("dispatch/resume", generated.RESUME)
APPROVE = Endpoint("dispatch/approve", generated.APPROVE)
CONTINUE = Endpoint("dispatch/continue", generated.CONTINUE)
EVENTS = Endpoint("executions/{id}/events?after={after}", generated.EVENTS, streams=True)
STATUS = Endpoint("executions/{id}/status", generated.STATUS)
JOURNAL = Endpoint("executions/{id}/journal", generated.JOURNAL)
AGENT_EXECUTE = Endpoint("agents/{agent_id}/execute", generated.AGENT_EXECUTE, streams=True)
AGENT_RESUME = Endpoint("agents/{agent_id}/resume", generated.AGENT_RESUME, streams=True)
AGENT_APPROVE = Endpoint("agents/{agent_id}/approve", generated.AGENT_APPROVE, streams=True)
AGENT_EVENTS = Endpoint(
    "agents/{agent_id}/executions/{id}/events?after={after}", generated.AGENT_EVENTS, streams=True
)
PAGE_INIT = Endpoint("client/init", generated.PAGE_INIT)
PAGE_CHAT = Endpoint("client/chat", generated.PAGE_CHAT, streams=True)
PAGE_RESUME = Endpoint("client/resume", generated.PAGE_RESUME)
PAGE_FEEDBACK = Endpoint("client/feedback", generated.PAGE_FEEDBACK)


async def ask_overlay(overlay: Overlay, endpoint: Endpoint, asked: Event) -> None:
    path = "/" + endpoint.path.format_map(asked)
    if endpoint in (EVENTS, STATUS, JOURNAL, AGENT_EVENTS):
        await overlay.get(path)
    else:
        await overlay.post(path, _body(asked))


async def ask_generated(
    api: Api, endpoint: Endpoint, asked: Event, headers: Mapping[str, str]
) -> None:
    """The same: it wants models, ids by position, and Python's names for fields."""
    ids = [asked[name] for name in re.findall(r"/{(\w+)}", endpoint.path)]
    body = _body(asked)
    fields: dict[str, Any]
    if endpoint == DISPATCH:
        fields = {"request": Request.model_validate(body)}
    elif endpoint == PAGE_INIT:
        fields = {"request": Init.model_validate(body)}
    elif endpoint in (AGENT_EXECUTE, AGENT_RESUME, AGENT_APPROVE):
        fields = {"request": body}
    else:
        fields = {_snake(name): value for name, value in body.items()}
    method = api.read if endpoint.streams else api.ask
    await method(endpoint.name, *ids, headers=headers, **fields)


def _body(asked: Event) -> Event:
    return {name: asked[name] for name in asked if name not in ("agent_id", "id")}


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name)


# --- conditions -----------------------------------------------------------------------------------


class Faulty(SqliteStore):
    """Works, unless it was given a fault."""

    fault_now: Exception | None = None

    async def create(self, *args: Any, **more: Any) -> Any:
        self._fail()
        return await super().create(*args, **more)

    async def get(self, *args: Any) -> Execution:
        self._fail()
        return await super().get(*args)

    async def transact(self, *args: Any, **more: Any) -> Changed:
        self._fail()
        return await super().transact(*args, **more)

    def _fail(self) -> None:
        if self.fault_now is not None:
            raise self.fault_now


class Scene(NamedTuple):
    """`late` and `decided_late` have timed out; `paged` and `settled` had an output, `fog`."""

    url: str
    caller: Caller
    store: Faulty
    overlays: list[Overlay]
    apis: list[Api]
    waiting: Told
    deciding: Told
    settled: Told
    late: Told
    decided_late: Told
    measuring: Told
    deleted: Told
    paged: Told
    token: str
    session: str


@asynccontextmanager
async def playing(flows: list[FlowVersion], gate: Gate, path: Path) -> AsyncIterator[Scene]:
    store = Faulty(path, clock=WallClock())
    app = create_app(flows, store, Settings(max_running=MAX_RUNNING, body_bytes=MAX_BODY))
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(app))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10))
        sync = stack.enter_context(RuntypeClient(base_url=url))
        asynchronous = await stack.enter_async_context(AsyncRuntypeClient(base_url=url))
        caller = Caller(http, app, gate)
        token, kept = make_token("one", [PAGE], 1.0)
        await store.sessions.add_token(kept)
        begun = await caller.post("/v1/client/init", {"token": token})
        session = begun.json()["sessionId"]
        chat = {"sessionId": session, "messages": MESSAGES}
        scene = Scene(
            url=url,
            caller=caller,
            store=store,
            overlays=[SyncOverlay(url), AsyncOverlay(url)],
            apis=[Api(sync.api), Api(asynchronous.api)],
            waiting=await caller.dispatch("one"),
            deciding=await caller.dispatch("decide"),
            settled=await caller.dispatch("one"),
            late=await caller.dispatch("late"),
            decided_late=await caller.dispatch("decide_late"),
            measuring=await caller.dispatch("measure"),
            deleted=await caller.dispatch("talk"),
            paged=await caller.stream("POST", "/v1/client/chat", chat),
            token=token,
            session=session,
        )
        for told in (scene.settled, scene.paged):
            await caller.resume(told.id, {"look": "fog"})
        for told in (scene.late, scene.decided_late):
            await caller.events(told.id, until=_asks_for_later)
        await store.delete(ExecutionId(scene.deleted.id))
        yield scene
        for overlay in scene.overlays:
            await overlay.close()


def _asks_for_later(seen: Told) -> bool:
    return any(event["toolName"] == "later" for event in seen.of("await"))


@asynccontextmanager
async def full(scene: Scene) -> AsyncIterator[None]:
    """As many executions run as may."""
    caller, before = scene.caller, scene.caller.gate.waiting
    with anyio.fail_after(PATIENCE_SECONDS):
        while caller.gate.waiting < before + MAX_RUNNING:
            await caller.post("/v1/dispatch", {"flowId": "hang"}, prefer="respond-async")
    try:
        yield
    finally:
        caller.gate.open()
    with anyio.fail_after(PATIENCE_SECONDS):
        while (await caller.post("/v1/dispatch", {"flowId": "talk"})).status_code == 429:
            pass


@asynccontextmanager
async def failing(scene: Scene) -> AsyncIterator[None]:
    scene.store.fault_now = ZeroDivisionError("a bug")
    try:
        yield
    finally:
        scene.store.fault_now = None


@asynccontextmanager
async def disk_full(scene: Scene) -> AsyncIterator[None]:
    scene.store.fault_now = Unavailable("the disk is full", code="store-full")
    try:
        yield
    finally:
        scene.store.fault_now = None
