"""Flows that Hypothesis makes up: a plan is data, and one flow carries out whatever plan it is
dispatched with.

The flow shows all that it is answered and collects it in a trace, which is its result; so a replay
that is answered differently is seen. What its steps do is up to `Lab`, the test's side of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import msgspec
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import Phase as HypothesisPhase
from hypothesis import strategies as st

from dispatch import (
    Cancelled,
    Decision,
    Flow,
    Run,
    approval,
    continue_as,
    flow,
    gather,
    phase,
    race,
    result,
    sleep,
    step,
    tool,
)
from dispatch.core.errors import WaitFailed
from dispatch.core.waits import Failed, Ok, Wait
from dispatch.flow import Registry

TOOLS = ("alpha", "beta", "webmcp:gamma")


class Node(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    pass


# --- waits ----------------------------------------------------------------------------------------


class Step(Node, frozen=True):
    """`how`: quick, gated (waits for the world), stream, fails, flaky, thread."""

    how: str = "quick"
    retries: int = 0
    private: bool = False


class Tool(Node, frozen=True):
    name: str
    timeout: float | None = None
    private: bool = False
    typed: bool = False


class Approval(Node, frozen=True):
    timeout: float | None = None


class Sleep(Node, frozen=True):
    seconds: float


class Gather(Node, frozen=True):
    branches: list[AnyWait]
    settle: bool = False


class Race(Node, frozen=True):
    branches: list[AnyWait]


AnyWait = Step | Tool | Approval | Sleep | Gather | Race


# --- statements -----------------------------------------------------------------------------------


class Text(Node, frozen=True):
    deltas: int = 1


class Phase(Node, frozen=True):
    pass


class Do(Node, frozen=True):
    """Wait; then, by what the answer is, go on with `then` or with `otherwise`."""

    wait: AnyWait
    then: list[Statement] = []
    otherwise: list[Statement] = []


class Delegate(Node, frozen=True):
    body: list[Statement]


class Continue(Node, frozen=True):
    """Ends the segment, unless this is the second already."""


class Fail(Node, frozen=True):
    """Raises, if what was answered so far says so."""


Statement = Text | Phase | Do | Delegate | Continue | Fail


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    body: list[Statement] = []
    catches: bool = True  # failures of waits
    undo: list[AnyWait] = []  # done under `except Cancelled`
    tidy: bool = False  # whether there is an `except Cancelled`


# --- what Hypothesis makes up ---------------------------------------------------------------------

_steps = st.builds(
    Step,
    how=st.sampled_from(["quick", "gated", "stream", "fails", "flaky", "thread"]),
    retries=st.integers(0, 2),
    private=st.booleans(),
)
_tools = st.builds(
    Tool,
    name=st.sampled_from(TOOLS),
    timeout=st.none() | st.floats(1, 20),
    private=st.booleans(),
    typed=st.booleans(),
)
_approvals = st.builds(Approval, timeout=st.none() | st.floats(1, 20))
_sleeps = st.builds(Sleep, seconds=st.floats(0, 5))
_leaves: st.SearchStrategy[Any] = _steps | _tools | _approvals | _sleeps
_waits: st.SearchStrategy[Any] = st.recursive(
    _leaves,
    lambda inner: (
        st.builds(Gather, branches=st.lists(inner, min_size=1, max_size=3), settle=st.booleans())
        | st.builds(Race, branches=st.lists(inner, min_size=1, max_size=3))
    ),
    max_leaves=5,
)
_statements: st.SearchStrategy[Any] = st.recursive(
    st.builds(Text, deltas=st.integers(1, 3)) | st.just(Phase()) | st.builds(Do, wait=_waits),
    lambda inner: (
        st.builds(
            Do,
            wait=_waits,
            then=st.lists(inner, max_size=2),
            otherwise=st.lists(inner, max_size=2),
        )
        | st.builds(Delegate, body=st.lists(inner, min_size=1, max_size=3))
        | st.just(Continue())
        | st.just(Fail())
    ),
    max_leaves=6,
)
plans: st.SearchStrategy[Plan] = st.builds(
    Plan,
    body=st.lists(_statements, min_size=1, max_size=5),
    catches=st.booleans(),
    undo=st.lists(_steps | _tools, max_size=2),
    tidy=st.booleans(),
)


def drawn(number: int, count: int) -> list[Plan]:
    """That many plans, the same for the same number: for runs without end."""
    found: list[Plan] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[HypothesisPhase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plans)
    def draw(plan: Plan) -> None:
        found.append(plan)

    draw()
    return found


# --- the flow that carries one out ----------------------------------------------------------------


class Lab(Protocol):
    """The test's side of the flows."""

    async def work(self, execution_id: str, name: str, how: str) -> int:
        """What a step's function does; it may take its time, or raise."""
        ...

    def work_in_thread(self, execution_id: str, name: str) -> int: ...

    def ended(self, execution_id: str, trace: list[Any]) -> None:
        """The flow is about to give its result."""


class PlanFlows:
    """The one flow, `plan`, with steps that do what `lab` says."""

    lab: Lab

    def __init__(self) -> None:
        self.registry = _make_registry(self)


def _make_registry(flows: PlanFlows) -> Registry:
    async def work(execution_id: str, name: str, how: str) -> int:
        return await flows.lab.work(execution_id, name, how)

    async def stream(execution_id: str, name: str) -> AsyncGenerator[Any, Any]:
        for part in "one", "two":
            yield f"{name} {part} "
            await flows.lab.work(execution_id, f"{name}.{part}", "part")
        yield result(await flows.lab.work(execution_id, name, "stream"))

    def in_thread(execution_id: str, name: str) -> int:
        return flows.lab.work_in_thread(execution_id, name)

    @flow("plan")
    async def plan_flow(run: Run[Plan]) -> Flow:
        interpreter = Interpreter(run, work, stream, in_thread)
        plan = run.inputs
        try:
            try:
                yield interpreter.body(plan.body, f"{run.segment}")
            except WaitFailed as exc:
                interpreter.note("failed", str(exc))
                raise
        except Cancelled as exc:
            interpreter.note("cancelled", exc.reason)
            if not plan.tidy:
                raise
            yield "undoing "
            for number, wait in enumerate(plan.undo):
                yield interpreter.do(Do(wait), f"{run.segment}u{number}")
            yield "undone"
        flows.lab.ended(run.id, interpreter.trace)
        yield result(interpreter.trace)

    return Registry([plan_flow])


class Interpreter:
    """Carries out a plan's statements. `path` numbers each place of a plan, and names its steps."""

    def __init__(
        self,
        run: Run[Plan],
        work: Callable[[str, str, str], Awaitable[int]],
        stream: Callable[[str, str], AsyncIterator[Any]],
        in_thread: Callable[[str, str], int],
    ):
        self.run, self.catches = run, run.inputs.catches
        self.trace: list[Any] = list(run.state or [])
        self._work, self._stream, self._in_thread = work, stream, in_thread

    def note(self, *words: Any) -> None:
        self.trace.append([*words, self.run.now.isoformat(), len(self.run.messages)])

    async def body(self, statements: list[Statement], path: str) -> Flow:
        for number, statement in enumerate(statements):
            place = f"{path}.{number}"
            match statement:
                case Text(deltas):
                    for delta in range(deltas):
                        yield f"{place}:{delta}:{len(self.trace)} "
                case Phase():
                    yield phase(place)
                case Do():
                    yield self.do(statement, place)
                case Delegate(body):
                    yield self.body(body, place)
                    self.note("helped", self.run.uuid())
                case Continue():
                    if self.run.segment < 2:
                        yield continue_as([*self.trace, self.run.random.random()])
                case Fail():
                    if self._is_odd(self.trace):
                        raise ValueError(place)

    async def do(self, statement: Do, path: str) -> Flow:
        try:
            answer = yield self.wait(statement.wait, path)
        except WaitFailed as exc:
            if not self.catches:
                raise
            answer = ["failed", exc.type_name, str(exc)]
        answer = _plain(answer)
        self.note(answer)
        if isinstance(statement.wait, Race):
            self.trace.append(["race", path, len(statement.wait.branches), answer])
        yield f"{path} {answer} "
        yield self.body(statement.then if self._is_odd(answer) else statement.otherwise, path + "t")

    def wait(self, planned: AnyWait, path: str) -> Wait[Any]:
        match planned:
            case Step(how, retries, private):
                options = step(name=path, retries=retries, backoff=0.5, private=private)
                if how == "stream":
                    return options(self._stream)(self.run.id, path)
                if how == "thread":
                    return options(self._in_thread)(self.run.id, path)
                return options(self._work)(self.run.id, path, how)
            case Tool(name, timeout, private, typed):
                parameters = {"at": path, "of": 1.0}
                if typed:
                    return tool(name, parameters, timeout=timeout, private=private, returns=int)
                return tool(name, parameters, timeout=timeout, private=private)
            case Approval(timeout):
                return approval("decide", {"at": path}, reason=path, timeout=timeout)
            case Sleep(seconds):
                return sleep(seconds)
            case Gather(branches, settle):
                return gather(*self._waits(branches, path), settle=settle)
            case Race(branches):
                return race(*self._waits(branches, path))

    def _waits(self, branches: list[AnyWait], path: str) -> list[Wait[Any]]:
        return [self.wait(branch, f"{path}/{number}") for number, branch in enumerate(branches)]

    def _is_odd(self, value: Any) -> bool:
        return sum(msgspec.json.encode(value)) % 2 == 1


def _plain(answer: Any) -> Any:
    """An answer as JSON can hold it."""
    match answer:
        case Decision(outcome, reason):
            return [outcome, reason]
        case Ok(value):
            return ["ok", _plain(value)]
        case Failed(error):
            return ["failed", error.type_name, str(error)]
        case list() | tuple():
            return [_plain(item) for item in answer]
        case _:
            return answer
