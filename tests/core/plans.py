"""Flows that Hypothesis makes up, as data: a plan can be shrunk, and a failure shows it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from hypothesis import strategies as st

from dispatch.core.errors import Cancelled, FlowMistake, WaitFailed
from dispatch.core.waits import (
    ApprovalWait,
    ContinueAs,
    Gather,
    Race,
    SleepWait,
    StepWait,
    ToolWait,
    Wait,
)
from tests.core.harness import FlowFunction, Result, Run


@dataclass(frozen=True)
class Say:
    """Some displays."""

    count: int


@dataclass(frozen=True)
class Conclude:
    """Set the result."""


@dataclass(frozen=True)
class Mistake:
    """Ask for what the journal can't hold."""


@dataclass(frozen=True)
class Ask:
    """One leaf."""

    kind: str
    name: str
    retries: int = 0
    returns: Any = Any


@dataclass(frozen=True)
class Several:
    """`how` is gather, settle or race."""

    how: str
    asks: tuple[Ask | Several, ...]


@dataclass(frozen=True)
class Plan:
    """What a flow does in each segment, and how it takes what comes back."""

    segments: tuple[tuple[Say | Conclude | Mistake | Ask | Several, ...], ...]
    catches: bool
    asks_more: bool
    compensates: bool


LEAVES = st.one_of(
    st.builds(Ask, st.just("step"), st.sampled_from(["s1", "s2"]), st.integers(0, 2)),
    st.builds(
        Ask,
        st.just("tool"),
        st.sampled_from(["t1", "t2"]),
        returns=st.sampled_from([Any, int, str]),
    ),
    st.builds(Ask, st.just("approval"), st.just("a")),
    st.builds(Ask, st.just("sleep"), st.just("sleep")),
)
ASKS = st.recursive(
    LEAVES,
    lambda asks: st.builds(
        Several,
        st.sampled_from(["gather", "settle", "race"]),
        st.lists(asks, min_size=2, max_size=3).map(tuple),
    ),
    max_leaves=5,
)
ITEMS = st.one_of(
    ASKS, ASKS, st.builds(Say, st.integers(1, 3)), st.sampled_from([Conclude(), Mistake()])
)
PLANS = st.builds(
    Plan,
    st.lists(st.lists(ITEMS, min_size=1, max_size=4).map(tuple), min_size=1, max_size=2).map(tuple),
    catches=st.booleans(),
    asks_more=st.booleans(),
    compensates=st.booleans(),
)


def wait_of(ask: Ask | Several) -> Wait[Any]:
    match ask:
        case Several("race", asks):
            return Race(tuple(wait_of(branch) for branch in asks))
        case Several(how, asks):
            return Gather(tuple(wait_of(branch) for branch in asks), settle=how == "settle")
        case Ask("step"):
            return StepWait(len, (), {}, name=ask.name, retries=ask.retries)
        case Ask("tool"):
            return ToolWait(ask.name, {"of": ask.name}, returns=ask.returns)
        case Ask("approval"):
            return ApprovalWait(ask.name, {"of": ask.name})
        case _:
            return SleepWait(seconds=5)


def flow_of(plan: Plan) -> FlowFunction:
    """The flow that carries `plan` out: what it asks for next depends on what it was answered."""

    def flow(run: Run) -> Generator[Any, Any, None]:
        heard: list[str] = list(run.state or [])
        try:
            for item in plan.segments[run.segment]:
                match item:
                    case Say(count):
                        for number in range(count):
                            yield f"{number} of {len(heard)}. "
                    case Conclude():
                        yield Result(heard)
                    case Mistake():
                        try:
                            yield ToolWait("odd", {"number": float("nan")})
                        except FlowMistake:
                            yield "was refused. "
                    case _:
                        try:
                            answer = yield wait_of(item)
                        except WaitFailed as exc:
                            if not plan.catches:
                                raise
                            answer = (type(exc).__name__, exc.type_name, exc.message)
                        heard.append(repr(answer))
                        yield heard[-1]
                        if plan.asks_more and crc32(heard[-1].encode()) % 3 == 0:
                            known = {"now": run.now, "messages": run.messages}
                            heard.append(repr((yield ToolWait("more", known))))
            if run.segment + 1 < len(plan.segments):
                yield ContinueAs(heard)
        except Cancelled:
            if not plan.compensates:
                raise
            yield "undoing. "
            try:
                yield StepWait(len, (), {}, name="undo", retries=1)
                yield ToolWait("refused", {})
            except WaitFailed:
                yield "could not undo. "
            except Cancelled:
                yield "as was said. "
            yield Result([*heard, "cancelled"])

    return flow
