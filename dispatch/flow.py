"""What flow authors write against: `@flow`, `@step`, `Run`, and the functions that make waits.

Everything here only describes; the engine runs it. A `FlowVersion` is what `@flow` makes of an
async generator function; a `Registry` holds those that a server runs.
"""

from __future__ import annotations

import inspect
import random
import re
import typing
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import UTC, datetime, timedelta
from functools import cached_property, wraps
from typing import Any, Generic, ParamSpec, TypeVar, overload
from uuid import UUID

import msgspec

from dispatch import mistakes
from dispatch.core.errors import Conflict, Detail, FlowMistake, NotFound, Unprocessable
from dispatch.core.events import Kind
from dispatch.core.ids import ExecutionId, derive
from dispatch.core.journal import ClientTool, StartPrivate
from dispatch.core.waits import (
    ApprovalWait,
    ContinueAs,
    Gather,
    Race,
    SleepWait,
    StepWait,
    ToolWait,
    Wait,
    author_line,
)

P = ParamSpec("P")
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
I_co = TypeVar("I_co", covariant=True)

#: What a flow's function is annotated to return.
Flow = AsyncGenerator[Any, Any]

Duration = float | timedelta


def _seconds(duration: Duration | None) -> float | None:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


# --- what a flow yields --------------------------------------------------------------------------


class Result(msgspec.Struct, frozen=True):
    """`yield result(value)`: what the execution, or the helper or step that yields it, gives."""

    value: Any


class Phase(msgspec.Struct, frozen=True):
    """`yield phase(name)`: where the flow is, for lists and control."""

    name: str


def result(value: Any) -> Result:
    """Set the execution's result; the last one counts."""
    return Result(value)


def phase(name: str) -> Phase:
    """Announce a named stage of the flow."""
    return Phase(name)


@overload
def tool(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    timeout: Duration | None = None,
    private: bool = False,
    raw: bool = False,
) -> ToolWait[Any]: ...
@overload
def tool(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    returns: type[T],
    timeout: Duration | None = None,
    private: bool = False,
    raw: bool = False,
) -> ToolWait[T]: ...
def tool(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    returns: Any = Any,
    timeout: Duration | None = None,
    private: bool = False,
    raw: bool = False,
) -> ToolWait[Any]:
    """Call a tool that lives at the caller; the answer is its output.

    `timeout` (seconds or timedelta) runs from the moment the call is handed to the caller; then
    `ToolTimeout` is raised. An output that does not fit `returns` is refused, and the call stays
    open. An MCP-shaped output is unwrapped, unless `raw`. `private` keeps parameters and output out
    of events.
    """
    return ToolWait(
        name,
        parameters or {},
        timeout_seconds=_seconds(timeout),
        returns=returns,
        private=private,
        raw=raw,
    )


def approval(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    reason: str | None = None,
    timeout: Duration | None = None,
) -> ApprovalWait:
    """Ask a person whether `name` may be done. Answered by a `Decision`; nothing is raised."""
    return ApprovalWait(name, parameters or {}, reason=reason, timeout_seconds=_seconds(timeout))


def sleep(duration: Duration) -> SleepWait:
    """Wait that long (seconds or timedelta), over any number of restarts."""
    return SleepWait(seconds=_seconds(duration))


def sleep_until(when: datetime) -> SleepWait:
    """Wait until that moment, which has to know its time zone."""
    if when.tzinfo is None:
        raise FlowMistake(
            f"sleep_until was given a time without a zone at {author_line()}: "
            "give it one, for example run.now + timedelta(hours=1)"
        )
    return SleepWait(due_at=when.timestamp())


@overload
def gather(a: Wait[T1], b: Wait[T2], /) -> Gather[tuple[T1, T2]]: ...
@overload
def gather(a: Wait[T1], b: Wait[T2], c: Wait[T3], /) -> Gather[tuple[T1, T2, T3]]: ...
@overload
def gather(*waits: Wait[Any], settle: bool = False) -> Gather[list[Any]]: ...
def gather(*waits: Wait[Any], settle: bool = False) -> Gather[Any]:
    """All at once, answered in argument order.

    Raises the first failure and abandons the rest; `settle=True` answers each as `Ok` or `Failed`
    instead.
    """
    return Gather(waits, settle=settle)


def race(*waits: Wait[Any]) -> Race[tuple[int, Any]]:
    """The first that is settled, as `(index, value)`; the others are abandoned. Its failure is
    raised.
    """
    return Race(waits)


def continue_as(state: Any, *, upgrade: bool = False) -> ContinueAs:
    """Start the flow again with `run.state`; only what comes after is ever replayed.

    With `upgrade` the next segment runs the newest registered version.
    """
    return ContinueAs(state, upgrade=upgrade)


# --- steps ---------------------------------------------------------------------------------------

_STEP = "__dispatch_step__"


class StepOptions(msgspec.Struct, frozen=True, kw_only=True):
    retries: int = 0
    backoff: Duration = 0.5
    timeout: Duration | None = None
    name: str | None = None
    private: bool = False
    returns: Any = None


class _Decorator(typing.Protocol):
    """`@step(...)`: keeps the function's parameters, and makes its call a wait."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, StepWait[T]]: ...
    @overload
    def __call__(
        self, fn: Callable[P, AsyncGenerator[Any, Any]], /
    ) -> Callable[P, StepWait[Any]]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, StepWait[T]]: ...


@overload
def step(
    *,
    retries: int = 0,
    backoff: Duration = 0.5,
    timeout: Duration | None = None,
    name: str | None = None,
    private: bool = False,
    returns: Any = None,
) -> _Decorator: ...
@overload
def step(fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, StepWait[T]]: ...
@overload
def step(fn: Callable[P, AsyncGenerator[Any, Any]], /) -> Callable[P, StepWait[Any]]: ...
@overload
def step(fn: Callable[P, T], /) -> Callable[P, StepWait[T]]: ...
@overload
def step(
    fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
) -> StepWait[T]: ...
@overload
def step(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> StepWait[Any]: ...
def step(fn: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any) -> Any:
    """Mark a function as a step; with arguments, call one that you don't own: `step(fn, 1, x=2)`.

    A step is attempted at least once until its result is recorded, and never again after. Options
    of `@step(…)`: `retries` after the first attempt, `backoff` before the second (doubled each
    time), `timeout` of an attempt (both seconds or timedelta), `name`, `private` (its result stays
    out of events), `returns` (the type of its result; else the function's annotation, else plain
    JSON). A coroutine runs on the server's loop, a plain function in a thread; an async generator
    streams its text and events, and is answered by its `result(value)`, else by the joined text.
    """
    if fn is None:
        options = StepOptions(**kwargs)
        return lambda function: _step_function(function, options)
    if not callable(fn):
        raise FlowMistake(f"step takes a function, not a {type(fn).__name__} ({author_line()})")
    if not args and not kwargs:
        return _step_function(fn, StepOptions())
    return _step_wait(fn, StepOptions(), args, kwargs)


def _step_function(fn: Callable[..., Any], options: StepOptions) -> Callable[..., StepWait[Any]]:
    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> StepWait[Any]:
        return _step_wait(fn, options, args, kwargs)

    call.__dict__[_STEP] = True
    return call


def _step_wait(
    fn: Callable[..., Any], options: StepOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> StepWait[Any]:
    if getattr(fn, _STEP, False):
        raise FlowMistake(
            f"{fn.__name__} is a step already: yield {fn.__name__}(…) ({author_line()})"
        )
    try:
        inspect.signature(fn).bind(*args, **kwargs)
    except ValueError:
        pass  # a built-in without a signature
    except TypeError as exc:
        raise TypeError(f"{getattr(fn, '__name__', fn)}: {exc} ({author_line()})") from None
    return StepWait(
        fn,
        args,
        kwargs,
        name=options.name or str(getattr(fn, "__name__", type(fn).__name__)),
        retries=options.retries,
        backoff_seconds=_seconds(options.backoff) or 0.0,
        timeout_seconds=_seconds(options.timeout),
        private=options.private,
        returns=options.returns if options.returns is not None else _annotated_result(fn),
    )


def _annotated_result(fn: Callable[..., Any]) -> Any:
    """The type that a step's result is decoded as: its return annotation, if msgspec can decode
    that.
    """
    if inspect.isasyncgenfunction(fn):
        return Any
    try:
        annotation = typing.get_type_hints(fn).get("return", Any)
        msgspec.json.Decoder(annotation)
    except (TypeError, NameError, AttributeError):
        return Any
    return annotation


def as_wait(value: Any) -> Any:
    """`step(fn)` of a function without parameters is a decorator's answer until it is yielded."""
    return value() if getattr(value, _STEP, False) else value


# --- the flow's handle on its execution ----------------------------------------------------------


class Run(Generic[I_co]):
    """A flow's handle on its execution.

    `inputs` is what it was dispatched with, `state` what `continue_as` handed on (None in the first
    segment). `messages` and `now` change only when a wait is answered, to their value as of the
    entry that answered it. `random` and `uuid()` derive from the execution's seed: a replay draws
    the same.
    """

    def __init__(
        self,
        flow: FlowVersion,
        execution_id: ExecutionId,
        start: StartPrivate,
        *,
        inputs: I_co,
        segment: int,
        state: Any,
    ):
        self.id, self.flow, self.version = execution_id, flow.id, flow.version
        self.inputs, self.segment, self.state = inputs, segment, state
        self.messages: Sequence[Mapping[str, Any]] = start.messages
        self.now = datetime.fromtimestamp(0, UTC)
        self.client_tools: Sequence[ClientTool] = start.client_tools
        self.context, self.record, self.metadata = start.context, start.record, start.metadata
        self.conversation_id = start.conversation_id
        seed = derive(start.seed, segment, "random")
        self.random = random.Random(seed)  # noqa: S311 - reproducible on purpose, and no secret
        self._seed, self._uuids = start.seed, 0

    def uuid(self) -> str:
        """A new UUID each time it is asked, and the same again on replay: an idempotency key for
        steps.
        """
        self._uuids += 1
        halves = [derive(self._seed, self.segment, "uuid", self._uuids, half) for half in (0, 1)]
        return str(UUID(hex="".join(halves), version=4))

    def as_of(self, at: float, messages: Sequence[Mapping[str, Any]]) -> None:
        """The engine's: a wait was answered by an entry of that time (Unix seconds)."""
        self.now, self.messages = datetime.fromtimestamp(at, UTC), messages


class FlowVersion:
    """One version of a flow, as made by `@flow`. Calling it gives the generator, for helpers and
    tests.
    """

    def __init__(
        self,
        fn: Callable[[Any], AsyncGenerator[Any, Any]],
        *,
        id: str,
        version: int,
        kind: Kind,
        description: str | None,
    ):
        self.fn, self.id, self.version, self.kind = fn, id, version, kind
        self.description = description or inspect.getdoc(fn)
        self.where = mistakes.line_of(fn)
        self.warnings = mistakes.check_flow(fn)
        parameters = inspect.signature(fn).parameters
        if len(parameters) != 1:
            raise FlowMistake(
                f"{fn.__name__} takes {len(parameters)} parameters, and a flow takes one, its run: "
                f"what it is to work on comes as `run.inputs` ({self.where})"
            )

    def __call__(self, run: Any) -> AsyncGenerator[Any, Any]:
        return self.fn(run)

    def __repr__(self) -> str:
        return f"<flow {self.id} v{self.version}>"

    @cached_property
    def inputs_type(self) -> Any:
        """X of the annotation `Run[X]`, else Any. Raises `FlowMistake` if inputs can't be decoded
        as that.
        """
        hints = typing.get_type_hints(self.fn)
        annotation = hints.get(next(iter(inspect.signature(self.fn).parameters)))
        inputs_type = next(iter(typing.get_args(annotation)), Any)
        try:
            msgspec.json.Decoder(inputs_type)
        except TypeError as exc:
            raise FlowMistake(
                f"inputs of {self.id} can't be a {inputs_type}: {exc} ({self.where})"
            ) from exc
        return inputs_type

    def inputs_schema(self) -> dict[str, Any]:
        """JSON Schema of the inputs, as published under /v1/flows."""
        return msgspec.json.schema(self.inputs_type)

    def decode_inputs(self, raw: bytes) -> Any:
        """Inputs as the flow's type. Raises `Unprocessable` (`inputs-invalid`) with the path that
        misfits.
        """
        try:
            return msgspec.json.decode(raw, type=self.inputs_type)
        except msgspec.ValidationError as exc:
            message, path = split_path(exc)
            raise Unprocessable(
                f"inputs do not fit flow {self.id}: {exc}",
                code="inputs-invalid",
                details=[Detail(message=message, path=path, code="inputs-invalid")],
            ) from exc


def split_path(error: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec's message without its path, and the path (`$` is the whole)."""
    found = re.fullmatch(r"(.*) - at `(.*)`", str(error), re.DOTALL)
    return (found[1], found[2]) if found else (str(error), "$")


def flow(
    id: str, *, version: int = 1, kind: Kind = "flow", description: str | None = None
) -> Callable[[Callable[[Any], AsyncGenerator[Any, Any]]], FlowVersion]:
    """Make an async generator function a flow.

    `id` is what callers name; `version` is what an execution stays with for life. `kind="agent"` is
    shown to clients. The description is the docstring if none is given. Raises `FlowMistake` for
    what can't work.
    """
    if not isinstance(id, str):
        raise FlowMistake(
            f'@flow takes a name: write @flow("{getattr(id, "__name__", "name")}") '
            f"({author_line()})"
        )
    if not id or len(id) > 200 or version < 1:
        raise FlowMistake(
            f"@flow({id!r}, version={version}): the name has 1 to 200 characters, "
            f"and versions begin at 1 ({author_line()})"
        )

    def decorate(fn: Callable[[Any], AsyncGenerator[Any, Any]]) -> FlowVersion:
        return FlowVersion(fn, id=id, version=version, kind=kind, description=description)

    return decorate


class Registry:
    """The flows that a server runs, each in one or several versions."""

    def __init__(self, flows: Iterable[FlowVersion] = ()):
        self._versions: dict[str, dict[int, FlowVersion]] = {}
        for one in flows:
            self.add(one)

    def add(self, added: FlowVersion) -> None:
        """Register. Raises `Conflict` (`flow-twice`) for another flow with its name and version."""
        versions = self._versions.setdefault(added.id, {})
        known = versions.setdefault(added.version, added)
        if known is not added:
            raise Conflict(
                f"two flows are called {added.id} version {added.version}, at {known.where} and "
                f"{added.where}: give one another name, or another version=",
                code="flow-twice",
            )

    def __iter__(self) -> Iterator[FlowVersion]:
        for id in sorted(self._versions):
            for version in sorted(self._versions[id]):
                yield self._versions[id][version]

    def find(self, id: str, version: int | None = None) -> FlowVersion:
        """The highest version, unless one is named. Raises `NotFound` (`flow-unknown`)."""
        versions = self._versions.get(id)
        if not versions:
            known = ", ".join(sorted(self._versions)) or "none"
            raise NotFound(f"no flow is called {id!r}; there are: {known}", code="flow-unknown")
        if version is None:
            version = max(versions)
        if version not in versions:
            raise NotFound(f"flow {id} has no version {version}", code="flow-unknown")
        return versions[version]
