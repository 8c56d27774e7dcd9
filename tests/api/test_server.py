"""What the server says of itself, how it is mounted, and how it starts and stops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from dispatch.app import create_app
from dispatch.core.errors import FlowMistake, Unavailable
from dispatch.flow import FlowVersion, Registry
from tests.api.caller import Caller, refusal
from tests.api.flows import Gate, flows
from tests.serving import serve


@pytest.fixture(scope="module")
def own_flows() -> list[FlowVersion]:
    return flows(Gate())


async def test_the_flows_are_listed_with_their_schemas(caller: Caller) -> None:
    listed = {one["id"]: one for one in (await caller.get("/v1/flows")).json()["flows"]}
    assert listed["talk"]["description"] == "Says something and ends."
    assert (listed["talk"]["version"], listed["talk"]["kind"]) == (1, "flow")
    assert listed["listener"]["kind"] == "agent"
    order = listed["order"]["inputsSchema"]
    assert "Order" in str(order)
    assert "lines" in str(order)


async def test_a_server_that_works_is_live_and_ready(caller: Caller) -> None:
    for path in ("/health/live", "/health/ready"):
        assert (await caller.get(path)).status_code == 200


async def test_a_server_whose_store_fails_is_live_and_not_ready(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = caller.app.state.engine.store
    fault = Unavailable("the disk of the store is full", code="store-full")
    monkeypatch.setattr(type(store), "fault", property(lambda _: fault))
    assert (await caller.get("/health/live")).status_code == 200
    answer = await caller.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
    assert "store" in answer.json()["reason"]


async def test_a_server_that_stood_still_is_live_and_not_ready(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = caller.app.state.engine.store
    monkeypatch.setattr(type(store), "is_leased", property(lambda _: False))
    assert (await caller.get("/health/live")).status_code == 200
    answer = await caller.get("/health/ready")
    assert answer.status_code == 503
    assert "stood still" in answer.json()["reason"]


async def test_what_has_happened_is_counted(caller: Caller) -> None:
    before = (await caller.get("/v1/counters")).json()
    await caller.dispatch("talk")
    after = (await caller.get("/v1/counters")).json()
    assert after["commits"] > before["commits"]
    assert after["commitFailures"] == 0


async def test_without_a_default_flow_a_dispatch_has_to_name_one(caller: Caller) -> None:
    bodies: list[Any] = [{}, {"messages": []}]
    for body in bodies:
        assert (await caller.refused("/v1/dispatch", body))[:2] == (400, "no-target")


# --- mounted --------------------------------------------------------------------------------------


def mounted(inner: Starlette, *, enters: bool) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if not enters:
            yield
            return
        async with inner.router.lifespan_context(inner):
            yield

    return Starlette(routes=[Mount("/flows", inner)], lifespan=lifespan)


async def test_it_can_be_mounted(tmp_path: Path, own_flows: list[FlowVersion]) -> None:
    inner = create_app(own_flows, tmp_path / "dispatch.db")
    async with (
        serve(mounted(inner, enters=True)) as url,
        httpx.AsyncClient(base_url=f"{url}/flows") as http,
    ):
        caller = Caller(http, inner, Gate())
        told = await caller.dispatch("one")
        assert told.headers["location"] == f"/flows/v1/executions/{told.id}/events"
        leg = await caller.resume(told.id, {"look": 1})
        assert leg.types[-1] == "execution_complete"
        answer = await caller.post("/v1/dispatch", {"flowId": "talk"}, prefer="respond-async")
        id = answer.json()["executionId"]
        assert answer.json()["eventsUrl"] == f"/flows/v1/executions/{id}/events"
        async with http.stream("GET", f"{url}{answer.json()['eventsUrl']}") as stream:
            assert stream.status_code == 200
            await stream.aread()
        assert refusal(await caller.get("/nowhere"))[:2] == (404, "not-found")


async def test_mounted_without_its_lifespan_it_says_what_is_missing(
    tmp_path: Path, own_flows: list[FlowVersion]
) -> None:
    inner = create_app(own_flows, tmp_path / "dispatch.db")
    async with (
        serve(mounted(inner, enters=False)) as url,
        httpx.AsyncClient(base_url=f"{url}/flows") as http,
    ):
        answer = await http.post("/v1/dispatch", json={"flowId": "talk"})
        assert refusal(answer)[:2] == (503, "shutting-down")
        assert "lifespan" in answer.json()["error"]
        assert (await http.get("/health/live")).status_code == 200
        assert (await http.get("/health/ready")).status_code == 503


async def test_it_can_be_entered_again(tmp_path: Path, own_flows: list[FlowVersion]) -> None:
    app = create_app(own_flows, tmp_path / "dispatch.db")
    ids: list[str] = []
    for _ in range(2):
        async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
            caller = Caller(http, app, Gate())
            ids.append((await caller.dispatch("one")).id)
            leg = await caller.resume(ids[0], {"look": 1})
            assert leg.types[-1] == "execution_complete"


# --- flows ----------------------------------------------------------------------------------------


def test_flows_may_be_modules_flows_or_a_registry(
    tmp_path: Path, own_flows: list[FlowVersion]
) -> None:
    module = ModuleType("mine")
    module.__dict__.update({flow.id: flow for flow in own_flows}, other=1)
    for given in ([module], own_flows, Registry(own_flows)):
        app = create_app(given, tmp_path / "dispatch.db")
        assert [flow.id for flow in app.state.engine.registry] == sorted(
            flow.id for flow in own_flows
        )
    with pytest.raises(FlowMistake, match="neither a flow nor a module"):
        create_app([test_flows_may_be_modules_flows_or_a_registry])  # type: ignore[list-item]


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_frozen_client_does_not_keep_the_server(
    tmp_path: Path, own_flows: list[FlowVersion]
) -> None:
    app = create_app(own_flows, tmp_path / "dispatch.db")
    with anyio.fail_after(20):
        async with httpx.AsyncClient(timeout=10) as http:
            async with serve(app) as url:
                http.base_url = httpx.URL(url)
                caller = Caller(http, app, Gate())
                body = {"flowId": "tokens", "inputs": {"count": 500, "size": 40_000}}
                frozen = http.stream("POST", "/v1/dispatch", json=body)
                answer = await frozen.__aenter__()
                id = answer.headers["x-execution-id"]
                # Everybody else gets everything.
                told = await caller.events(id)
                assert told.types[-1] == "execution_complete"
            await frozen.__aexit__(None, None, None)
