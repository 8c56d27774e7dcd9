"""Flows beside the examples, for what those don't do."""

from typing import Any

import anyio

from dispatch import Flow, Run, approval, flow, gather, phase, result, sleep, step, tool
from dispatch.events import (
    ArtifactComplete,
    ArtifactDelta,
    ArtifactFile,
    ArtifactStart,
    ArtifactUpdate,
    Custom,
    MediaComplete,
    MediaDelta,
    MediaStart,
    ReasoningComplete,
    ReasoningDelta,
    ReasoningStart,
    Source,
    StepSkip,
    TextDelta,
    Tokens,
    ToolInputComplete,
    ToolInputDelta,
    ToolOutputDelta,
    TurnComplete,
    TurnStart,
)


@flow("every_event")
async def every_event(run: Run[Any]) -> Flow:
    """All that an author can show, with as many fields as there are."""
    yield phase("showing")
    yield TurnStart(id="turn_1", role="assistant", iteration=1, turn_index=0)
    yield ReasoningStart(id="reasoning_1", scope="turn")
    yield ReasoningDelta(id="reasoning_1", delta="Hm. ")
    yield ReasoningComplete(id="reasoning_1", text="Hm. ", scope="turn")
    yield "Text, "
    yield TextDelta(id="own", delta="and text of a block of one's own.")
    yield MediaStart(id="media_1", media_type="image/png", role="assistant")
    yield MediaDelta(id="media_1", delta="iVBORw0KGgo=")
    yield MediaComplete(id="media_1", media_type="image/png", data="iVBORw0KGgo=")
    yield ArtifactStart(
        id="artifact_1",
        artifact_type="markdown",
        title="Notes",
        file=ArtifactFile(path="notes.md", mime_type="text/markdown", language="markdown"),
    )
    yield ArtifactDelta(id="artifact_1", delta="# Notes")
    yield ArtifactComplete(id="artifact_1")
    yield ArtifactStart(id="artifact_2", artifact_type="component", component="Box")
    yield ArtifactUpdate(id="artifact_2", component="Box", props={"color": "red"})
    yield ArtifactComplete(id="artifact_2")
    yield Source(id="source_1", url="https://example.org/", title="Example", source_type="web")
    yield StepSkip(id="step_x", name="left out", when="never", index=0, total_steps=1)
    yield ToolInputDelta(tool_call_id="call_x", delta="{")
    yield ToolInputComplete(tool_call_id="call_x", parameters={}, tool_name="x")
    yield ToolOutputDelta(tool_call_id="call_x", delta="…")
    yield Custom(name="weather.changed", value={"to": ["rain", None, 1.5]})
    yield TurnComplete(
        id="turn_1",
        role="assistant",
        iteration=1,
        tokens=Tokens(input=1, output=2),
        cost=0.1,
        stop_reason="end_turn",
    )
    yield retried()
    yield result({"done": True})


@step(retries=1, backoff=0)
async def retried() -> str:
    """Fails once: an `error` event, and a second attempt."""
    ATTEMPTS.append(1)
    if len(ATTEMPTS) % 2:
        raise ValueError("not yet")
    return "at last"


#: Of this process; the flow itself never looks at it.
ATTEMPTS: list[int] = []


@flow("tool_beside_approval")
async def tool_beside_approval(run: Run[Any]) -> Flow:
    """A call and a decision, open at once."""
    place, decision = yield gather(
        tool("get_place", {"of": "meeting"}), approval("book", {"room": 1}, reason="it costs")
    )
    yield f"{place}: {decision.outcome}"
    yield result({"place": place, "outcome": decision.outcome, "reason": decision.reason})


@flow("asks_twice")
async def asks_twice(run: Run[Any]) -> Flow:
    """For the same thing."""
    for _ in range(2):
        yield f"{(yield approval('book')).outcome} "


@flow("booking_agent", kind="agent")
async def booking_agent(run: Run[Any]) -> Flow:
    """A turn that asks for a tool, and then for a decision."""
    yield TurnStart(id="turn_1", role="assistant", iteration=1)
    place = yield tool("get_place")
    decision = yield approval("book", {"place": place})
    yield f"{place}: {decision.outcome}, {decision.reason}"
    yield TurnComplete(id="turn_1", role="assistant", iteration=1, stop_reason="end_turn")


@flow("lasting")
async def lasting(run: Run[Any]) -> Flow:
    """Once it has its place and its decision it goes on for longer than a caller waits."""
    yield tool("get_place")
    yield sleep(0.001)
    yield approval("book")
    yield sleep(3600)


@flow("dozing")
async def dozing(run: Run[Any]) -> Flow:
    """A step that takes an hour, or as long as it may."""
    yield doze()


@step
async def doze() -> None:
    await anyio.sleep(3600)
