"""Typed mode: the published client validates every event of every flow, and knows them all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel
from runtype import StreamCallbacks
from runtype._models import ParsedSSEEvent

from dispatch import Flow, Run, step
from dispatch import flow as registered
from dispatch.app import create_app
from dispatch.core.events import TYPES
from dispatch.examples import FLOWS
from dispatch.flow import FlowVersion
from dispatch.settings import Settings
from tests.sdk.clients import AsyncOverlay, Event, Item, Overlay, calls_of, dumped, flow, types_of
from tests.serving import serve

#: What the caller's tools answer.
OUTPUTS: dict[str, Any] = {
    "get_weather": {"sky": "clear"},
    "get_time": "12:00",
    "get_purchase_history": [1, 2],
    "webmcp:get_page_color": {"content": [{"type": "text", "text": "red"}]},
    "webmcp:add_number": 7,
    "ask_user_question": "Red",
    "get_place": "Oslo",
}
#: Those that take seconds, on purpose.
LONG = {"quiet", "slow"}
EXAMPLES = [one.id for one in FLOWS if one.id not in LONG]


class Seen:
    """Counts what typed mode calls back with."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.unknown: list[ParsedSSEEvent] = []
        counters = {f"on_{name}": self._count for name in TYPES}
        self.callbacks = StreamCallbacks(**counters, on_unknown_event=self.unknown.append)

    def _count(self, event: BaseModel) -> None:
        self.types.append(event.type)  # type: ignore[attr-defined] # all 33 models have one


async def carry(overlay: Overlay, request: Event) -> tuple[Seen, list[Event]]:
    """Through all legs to the end, in typed mode."""
    seen, told = Seen(), list[Event]()
    path, body = "/dispatch", request
    while True:
        leg = await overlay.typed(path, body, seen.callbacks)
        _check(leg)
        told += dumped(leg)
        answer = _answer(dumped(leg))
        if answer is None:
            return seen, told
        path, body = answer


def _check(leg: Sequence[Item]) -> None:
    for item in leg:
        assert isinstance(item, BaseModel), f"typed mode gave up on {item}"


def _answer(leg: list[Event]) -> tuple[str, Event] | None:
    id = leg[0]["executionId"]
    if calls := calls_of(leg):
        outputs = {call["toolCallId"]: OUTPUTS[call["toolName"]] for call in calls}
        return "/dispatch/resume", {"executionId": id, "toolOutputs": outputs}
    if leg[-1]["type"] == "approval_start":
        decision = {"approvalId": leg[-1]["approvalId"], "decision": "approved"}
        return "/agents/virtual/approve", {"executionId": id, **decision}
    return None


@pytest.mark.parametrize("id", EXAMPLES)
async def test_every_event_of_the_examples_is_valid(overlay: Overlay, id: str) -> None:
    seen, told = await carry(overlay, flow(id))
    assert seen.unknown == []
    assert seen.types == types_of(told)
    assert told[-1]["type"] == ("execution_error" if id == "failing" else "execution_complete")
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))


async def test_every_event_that_an_author_can_show_is_valid(overlay: Overlay) -> None:
    seen, told = await carry(overlay, flow("every_event"))
    assert seen.unknown == []
    others, _ = await carry(overlay, flow("refund"))
    failed, _ = await carry(overlay, flow("failing"))
    shown = {*seen.types, *others.types, *failed.types}
    # A ping takes a silence: see below.
    assert set(TYPES) - shown == {"ping"}
    assert told[-1]["success"] is True


async def test_dispatch_yields_models_in_agent_mode(overlay: Overlay) -> None:
    items = await overlay.typed_dispatch(flow("tokens", inputs={"count": 5, "size": 3}))
    _check(items)
    assert "".join(event.get("delta", "") for event in dumped(items)) == "xxx" * 5


async def test_an_agent_tells_its_kind_and_turns(overlay: Overlay) -> None:
    seen, told = await carry(overlay, {"agent": {"agentId": "agent"}})
    assert told[0]["kind"] == "agent"
    assert told[0]["agentId"] == "agent"
    assert seen.types.count("turn_start") == seen.types.count("turn_complete") == 4
    assert told[-1]["finalOutput"].startswith("I have seen Oslo, Lima, Accra.")


@pytest.fixture
def heard() -> anyio.Event:
    return anyio.Event()


@pytest.fixture
def silent(heard: anyio.Event) -> FlowVersion:
    """Has nothing to tell until its caller has heard that it is there."""

    @step
    async def listen() -> None:
        await heard.wait()

    @registered("silent")
    async def silent(run: Run[Any]) -> Flow:
        yield listen()

    return silent


async def test_a_ping_is_valid(heard: anyio.Event, silent: FlowVersion, tmp_path: Path) -> None:
    unknown: list[ParsedSSEEvent] = []
    callbacks = StreamCallbacks(
        on_ping=lambda _: heard.set(),
        on_unknown_event=unknown.append,
    )
    app = create_app([silent], tmp_path / "pings.db", Settings(ping_seconds=0.05))
    async with serve(app) as url:
        overlay = AsyncOverlay(url)
        told = dumped(await overlay.typed("/dispatch", flow("silent"), callbacks))
        await overlay.close()
    assert unknown == []
    assert "ping" in types_of(told)
    assert told[-1]["success"] is True
