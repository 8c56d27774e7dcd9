"""What a flow yields: the functions that make its waits, results and phases.

They only describe; the engine does. A step is made once, by `@step`, and each of its calls is a
wait; everything else is made where it is yielded.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from functools import cache, wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

import msgspec

from dispatch import mistakes
from dispatch.core.errors import FlowMistake
from dispatch.core.waits import (
    ApprovalWait,
    ContinueAs,
    Failed,
    Gather,
    Ok,
    Race,
    SleepWait,
    StepWait,
    ToolWait,
    Wait,
    author_line,
)

P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T_co = TypeVar("T_co", covariant=True)

Duration = float | timedelta


def _seconds(duration: Duration | None) -> float | None:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


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
@overload
def tool(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    returns: Any,  # a union, a Literal, an Annotated: no `type`, but msgspec decodes it
    timeout: Duration | None = None,
    private: bool = False,
    raw: bool = False,
) -> ToolWait[Any]: ...
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
def gather(*waits: Wait[T], settle: Literal[False] = False) -> Gather[list[T]]: ...
@overload
def gather(*waits: Wait[T], settle: Literal[True]) -> Gather[list[Ok[T] | Failed]]: ...
@overload
def gather(*waits: Wait[Any], settle: bool) -> Gather[list[Any]]: ...
def gather(*waits: Wait[Any], settle: bool = False) -> Gather[Any]:
    """All at once, answered in argument order, by a list.

    Type checkers see a tuple where that lets each answer have its own type. Raises the first
    failure and abandons the rest; `settle=True` answers each as `Ok` or `Failed` instead.
    """
    return Gather(waits, settle=settle)


def race(*waits: Wait[T]) -> Race[tuple[int, T]]:
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


class _Returning(typing.Protocol[T_co]):
    """`@step(returns=…)`: likewise, with the result's type given."""

    def __call__(self, fn: Callable[P, Any], /) -> Callable[P, StepWait[T_co]]: ...


@overload
def step(
    *,
    retries: int = 0,
    backoff: Duration = 0.5,
    timeout: Duration | None = None,
    name: str | None = None,
    private: bool = False,
) -> _Decorator: ...
@overload
def step(
    *,
    returns: type[T],
    retries: int = 0,
    backoff: Duration = 0.5,
    timeout: Duration | None = None,
    name: str | None = None,
    private: bool = False,
) -> _Returning[T]: ...
@overload
def step(
    *,
    returns: Any,
    retries: int = 0,
    backoff: Duration = 0.5,
    timeout: Duration | None = None,
    name: str | None = None,
    private: bool = False,
) -> _Returning[Any]: ...
@overload
def step(fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, StepWait[T]]: ...
@overload
def step(fn: Callable[P, AsyncGenerator[Any, Any]], /) -> Callable[P, StepWait[Any]]: ...
@overload
def step(fn: Callable[P, T], /) -> Callable[P, StepWait[T]]: ...
@overload
def step(
    fn: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
    first: A,
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> StepWait[T]: ...
@overload
def step(
    fn: Callable[Concatenate[A, P], AsyncGenerator[Any, Any]],
    first: A,
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> StepWait[Any]: ...
@overload
def step(
    fn: Callable[Concatenate[A, P], T], first: A, /, *args: P.args, **kwargs: P.kwargs
) -> StepWait[T]: ...
@overload
def step(fn: Callable[..., Coroutine[Any, Any, T]], /, **kwargs: Any) -> StepWait[T]: ...
@overload
def step(fn: Callable[..., Any], /, **kwargs: Any) -> StepWait[Any]: ...
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
    return _step_wait(fn, _signature(fn), StepOptions(), args, kwargs, _annotated_result(fn))


def _step_function(fn: Callable[..., Any], options: StepOptions) -> Callable[..., StepWait[Any]]:
    @cache
    def returns() -> Any:
        # When it is first called: by then the types that its annotations name are there.
        if options.returns is not None:
            return options.returns
        try:
            return _annotated_result(fn, strict=True)
        except NameError as exc:
            raise FlowMistake(
                f"what step {fn.__name__} returns is unknown: {exc}; import that outside of "
                f"`if TYPE_CHECKING`, or write @step(returns=…) ({mistakes.line_of(fn)})"
            ) from exc

    signature = _signature(fn)  # once: making it costs more than all else that a call does

    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> StepWait[Any]:
        return _step_wait(fn, signature, options, args, kwargs, returns())

    call.__dict__[_STEP] = True
    return call


def _signature(fn: Callable[..., Any]) -> inspect.Signature | None:
    """None of a built-in that has none."""
    try:
        return inspect.signature(fn)
    except ValueError:
        return None


def _step_wait(
    fn: Callable[..., Any],
    signature: inspect.Signature | None,
    options: StepOptions,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    returns: Any,
) -> StepWait[Any]:
    if is_step(fn):
        raise FlowMistake(
            f"{fn.__name__} is a step already: yield {fn.__name__}(…) ({author_line()})"
        )
    try:
        if signature is not None:
            signature.bind(*args, **kwargs)
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
        returns=returns,
    )


def _annotated_result(fn: Callable[..., Any], *, strict: bool = False) -> Any:
    """The type that a step's result is decoded as: its return annotation, if msgspec can decode
    that. Raises `NameError` if it is `strict`, and the annotation names nothing.
    """
    if inspect.isasyncgenfunction(fn):
        return Any
    try:
        annotation = typing.get_type_hints(fn).get("return", Any)
        msgspec.json.Decoder(annotation)
    except NameError:
        if strict:
            raise
        return Any
    except (TypeError, AttributeError):
        return Any
    return annotation


def as_wait(value: Any) -> Any:
    """`step(fn)` of a function without parameters is a decorator's answer until it is yielded."""
    return value() if is_step(value) else value


def is_step(value: Any) -> bool:
    """Whether `value` is what `@step` makes of a function."""
    return getattr(value, _STEP, False) is True
