"""`@flow` and the registry: what can't work is said when it is registered, with file and line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import Struct

from dispatch import Cancelled, Flow, Run, flow, mistakes, tool
from dispatch.core.errors import Conflict, FlowMistake, NotFound
from dispatch.flow import FlowVersion, Registry

if TYPE_CHECKING:
    from decimal import Decimal


async def no_yield(run: Run[Any]) -> None: ...


def no_flow(run: Run[Any]) -> None: ...


def yields_but_is_not_async(run: Run[Any]) -> Any:
    yield "x"


async def in_finally(run: Run[Any]) -> Flow:
    try:
        yield "x"
    finally:
        if run.inputs:
            yield "bye"  # here


async def in_a_nested_finally(run: Run[Any]) -> Flow:
    async with run.inputs:
        for _ in range(2):
            try:
                yield "x"
            finally:
                answer = yield tool("a")  # here
                del answer


async def no_parameter() -> Flow:
    yield "x"


async def two_parameters(run: Run[Any], order_id: str) -> Flow:
    yield order_id


def line_of(fn: Callable[..., Any], mark: str = "# here") -> str:
    """`file:line` of the line that ends in `mark`, else of the first."""
    lines, first = inspect.getsourcelines(fn)
    marked = [number for number, line in enumerate(lines) if mark in line]
    return f"{__file__}:{first + (marked or [0])[0]}"


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (no_yield, "no_yield is a coroutine, and a flow is an async generator: write"),
        (no_flow, "no_flow is a plain function, and a flow is an async generator"),
        (yields_but_is_not_async, "is a plain function, and a flow is an async generator"),
        (in_finally, "in_finally yields inside `finally`"),
        (in_a_nested_finally, "in_a_nested_finally yields inside `finally`"),
        (no_parameter, "no_parameter takes 0 parameters, and a flow takes one, its run"),
        (two_parameters, "two_parameters takes 2 parameters, and a flow takes one"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_a_flow(fn: Any, says: str) -> None:
    with pytest.raises(FlowMistake) as mistake:
        flow("name")(fn)
    assert says in mistake.value.message
    assert mistake.value.message.endswith(f"({line_of(fn)})")


def test_a_yield_under_except_cancelled_and_in_inner_functions_is_fine() -> None:
    @flow("fine")
    async def fine(run: Run[Any]) -> Flow:
        try:
            yield "x"
        except Cancelled:
            yield "undone"
        finally:

            async def helper() -> Flow:
                yield "not this flow's"

            del helper

    assert fine.warnings == []


def test_a_bare_await_is_warned_of() -> None:
    @flow("awaits")
    async def awaits(run: Run[Any]) -> Flow:
        async def inner() -> None:
            await run.inputs  # its own business

        yield inner
        await run.inputs  # here

    (warning,) = awaits.warnings
    assert warning.startswith("awaits awaits in its body: that is not recorded")
    assert line_of(awaits.fn) in warning


def test_a_flow_without_source_is_taken_as_it_is() -> None:
    made: dict[str, Any] = {}
    exec("async def made(run):\n    yield 1", made)  # noqa: S102 - that is what this is about
    assert flow("made")(made["made"]).warnings == []


@pytest.mark.parametrize("error", ["return 1", "return value"])
def test_return_with_a_value_is_explained(error: str) -> None:
    source = f"async def wrong(run):\n    yield 1\n    {error}\n"
    with pytest.raises(SyntaxError) as refused:
        compile(source, "my_flows.py", "exec")
    mistake = mistakes.explain_syntax(refused.value)
    assert mistake is not None
    assert mistake.message == (
        "a flow cannot `return` a value: write `yield result(value)` and a bare `return` "
        "(my_flows.py:3)"
    )


def test_other_syntax_errors_are_pythons() -> None:
    with pytest.raises(SyntaxError) as refused:
        compile("async def", "my_flows.py", "exec")
    assert mistakes.explain_syntax(refused.value) is None


def test_the_decorator_needs_a_name() -> None:
    with pytest.raises(FlowMistake) as mistake:

        @flow  # type: ignore[arg-type]  # that is the mistake
        async def unnamed(run: Run[Any]) -> Flow:
            yield "x"

    assert mistake.value.message.startswith('@flow takes a name: write @flow("unnamed")')
    assert f"{__file__}:" in mistake.value.message


@pytest.mark.parametrize(("id", "version"), [("", 1), ("x" * 201, 1), ("x", 0)])
def test_names_and_versions_have_limits(id: str, version: int) -> None:
    with pytest.raises(FlowMistake, match="1 to 200 characters, and versions begin at 1"):
        flow(id, version=version)


# --- the registry ---------------------------------------------------------------------------------


def version_of(id: str, version: int = 1) -> FlowVersion:
    @flow(id, version=version)
    async def made(run: Run[Any]) -> Flow:
        """Made for a test."""
        yield "x"

    return made


def test_the_highest_version_unless_one_is_named() -> None:
    versions = [version_of("a", number) for number in (2, 10, 1)]
    registry = Registry(versions)
    assert registry.find("a") is versions[1]
    assert registry.find("a", 2) is versions[0]
    assert [(one.id, one.version) for one in registry] == [("a", 1), ("a", 2), ("a", 10)]


def test_what_is_not_there() -> None:
    registry = Registry([version_of("b"), version_of("a")])
    with pytest.raises(NotFound, match="no flow is called 'c'; there are: a, b") as unknown:
        registry.find("c")
    assert unknown.value.code == "flow-unknown"
    with pytest.raises(NotFound, match="flow a has no version 2"):
        registry.find("a", 2)


def test_two_flows_of_one_name_and_version_are_refused_naming_both() -> None:
    registry, first = Registry(), version_of("a")
    registry.add(first)
    registry.add(first)

    @flow("a")
    async def second(run: Run[Any]) -> Flow:
        yield "y"

    with pytest.raises(Conflict) as refused:
        registry.add(second)
    assert refused.value.code == "flow-twice"
    assert "two flows are called a version 1" in refused.value.message
    assert first.where in refused.value.message
    assert second.where in refused.value.message


def test_an_annotation_that_names_nothing_at_run_time() -> None:
    @flow("hidden")
    async def hidden(run: Run[Decimal]) -> Flow:
        yield "x"

    with pytest.raises(FlowMistake, match="'Decimal' is not defined; import it outside of"):
        Registry([hidden])


class Cat(Struct):
    name: str


class Dog(Struct):
    name: str


def test_inputs_that_msgspec_cannot_decode() -> None:
    @flow("strange")
    async def strange(run: Run[Cat | Dog]) -> Flow:
        yield "x"

    with pytest.raises(FlowMistake, match="inputs of strange can't be a"):
        Registry([strange])


def test_a_flow_is_described_by_its_docstring() -> None:
    assert version_of("a").description == "Made for a test."
    described = flow("a", description="Better.", kind="agent")(version_of("a").fn)
    assert (described.description, described.kind) == ("Better.", "agent")
    assert repr(described) == "<flow a v1>"
