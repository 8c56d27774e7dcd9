"""What authors get wrong at first, and see only when the flow runs: each has its own sentence, with
file and line.
"""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from dispatch import Flow, Run, StepFailed, approval, flow, gather, result, sleep_until, step, tool
from dispatch.core.errors import FlowMistake
from dispatch.core.lifecycle import Status
from dispatch.events import Custom
from dispatch.flow import FlowVersion
from tests.engine.worker import Bench


@step
async def load() -> int:
    return 1


async def fetch() -> int:
    return 1


@step
async def yields_a_wait() -> Flow:
    yield tool("a")  # not here


@step
async def gives_nan() -> float:
    return float("nan")


@flow("tuple")
async def a_tuple(run: Run[Any]) -> Flow:
    yield tool("a"), tool("b")  # here


@flow("coroutine")
async def a_coroutine(run: Run[Any]) -> Flow:
    yield fetch()  # here


@flow("function")
async def a_function(run: Run[Any]) -> Flow:
    yield fetch  # here


@flow("unknown")
async def an_unknown_object(run: Run[Any]) -> Flow:
    yield object()  # here


@flow("bare")
async def a_bare_yield(run: Run[Any]) -> Flow:
    yield  # here


@flow("generator")
async def a_plain_generator(run: Run[Any]) -> Flow:
    yield (number for number in range(3))  # here


@flow("never")
async def a_wait_never_yielded(run: Run[Any]) -> Flow:
    load()  # here
    yield "done"


@flow("half")
async def one_of_two_never_yielded(run: Run[Any]) -> Flow:
    first = load()
    load()  # here
    yield first


@flow("awaited")
async def an_awaited_wait(run: Run[Any]) -> Flow:
    yield "x"
    await load()  # here


@flow("result")
async def a_result_that_is_not_json(run: Run[Any]) -> Flow:
    yield result(object())  # here


@flow("nan")
async def a_result_with_nan(run: Run[Any]) -> Flow:
    yield result({"ratio": float("nan")})  # here


@flow("parameters")
async def parameters_that_are_not_json(run: Run[Any]) -> Flow:
    yield tool("a", {"what": object()})  # here


@flow("engine")
async def an_event_of_the_engine(run: Run[Any]) -> Flow:
    yield Custom(name="dispatch.phase", value={"name": "x"})  # here


@flow("group")
async def a_helper_in_a_group(run: Run[Any]) -> Flow:
    async def helper() -> Flow:
        yield "x"

    yield gather(helper(), tool("a"))  # type: ignore[call-overload]  # here


@flow("unanswered")
async def a_result_too_early(run: Run[Any]) -> Flow:
    wait = load()  # here
    yield str(wait.result)


@flow("zone")
async def a_time_without_a_zone(run: Run[Any]) -> Flow:
    yield sleep_until(run.now.replace(tzinfo=None))  # here


@flow("surrogate")
async def text_that_is_no_text(run: Run[Any]) -> Flow:
    yield "\ud800"  # here


@flow("wait in a step")
async def a_wait_in_a_step(run: Run[Any]) -> Flow:
    yield yields_a_wait()


@flow("step result")
async def a_step_result_that_is_not_json(run: Run[Any]) -> Flow:
    yield gives_nan()  # here


def line_marked(fn: Callable[..., Any], mark: str = "# here") -> str:
    """`file:line` of the line of `fn` that ends in `mark`."""
    lines, first = inspect.getsourcelines(fn)
    (offset,) = [number for number, line in enumerate(lines) if mark in line]
    return f"{__file__}:{first + offset}"


MISTAKES: list[tuple[FlowVersion, str]] = [
    (a_tuple, "a tuple was yielded: for several waits at once write `yield gather(a, b)`"),
    (a_coroutine, "the coroutine fetch was yielded: decorate its function with @step"),
    (a_function, "the function fetch was yielded: call it"),
    (
        an_unknown_object,
        "a value of type object was yielded: yield text, an event of dispatch.events",
    ),
    (a_bare_yield, "a bare `yield` was reached"),
    (a_plain_generator, "the generator <genexpr> was yielded: a helper that suspends is"),
    (a_wait_never_yielded, "step load was made and never yielded"),
    (one_of_two_never_yielded, "step load was made and never yielded"),
    (an_awaited_wait, "step load was awaited"),
    (
        a_result_that_is_not_json,
        "the result can't be recorded: a value of type object cannot be written to the journal",
    ),
    (
        a_result_with_nan,
        "as JSON: it holds NaN or an infinity, which JSON does not have",
    ),
    (parameters_that_are_not_json, "a value of type dict cannot be written to the journal as JSON"),
    (an_event_of_the_engine, "dispatch.phase cannot be yielded: it is written by the engine"),
    (a_helper_in_a_group, "branch 1 of gather is a async_generator"),
    (a_result_too_early, "step load has no result yet: yield it first"),
    (a_time_without_a_zone, "sleep_until was given a time without a zone"),
    (text_that_is_no_text, "text with a lone surrogate cannot be sent"),
]


@pytest.mark.parametrize(
    ("made", "says", "where"),
    [pytest.param(made, says, line_marked(made.fn), id=made.id) for made, says in MISTAKES],
)
async def test_a_mistake_fails_the_execution_and_says_where(
    bench: Bench, made: FlowVersion, says: str, where: str
) -> None:
    async with bench.worker(made) as worker:
        play = await worker.play(made)
        assert await play.status() is Status.FAILED
        failure = await play.failure()
        assert says in failure.message
        assert where in failure.message


@pytest.mark.parametrize(
    ("made", "says", "where"),
    [
        (
            a_wait_in_a_step,
            "step yields_a_wait yields tool a: a wait is yielded by the flow",
            line_marked(inspect.unwrap(yields_a_wait), "# not here"),
        ),
        (
            a_step_result_that_is_not_json,
            "the result of step gives_nan can't be recorded",
            line_marked(a_step_result_that_is_not_json.fn),
        ),
    ],
    ids=["wait", "result"],
)
async def test_a_mistake_in_a_step_is_its_failure_and_is_not_retried(
    bench: Bench, made: FlowVersion, says: str, where: str
) -> None:
    async with bench.worker(made) as worker:
        play = await worker.play(made)
        failure = await play.failure()
        assert says in failure.message
        assert where in failure.message
        assert (await play.kinds()).count("dispatch.step_attempt") == 1


@pytest.mark.slow
@pytest.mark.parametrize("value", ["x" * 8_400_000, ['"' * 4_200_000]], ids=["text", "JSON"])
async def test_a_result_that_is_too_large_is_a_mistake(bench: Bench, value: Any) -> None:
    @flow("large")
    async def large(run: Run[Any]) -> Flow:
        yield result(value)

    async with bench.worker(large) as worker:
        play = await worker.play(large)
        assert (await play.failure()).code == "entry-too-large"


async def test_a_mistake_is_raised_at_its_yield_and_can_be_caught(bench: Bench) -> None:
    @flow("caught")
    async def caught(run: Run[Any]) -> Flow:
        try:
            yield object()
        except FlowMistake:
            yield "caught"

    async with bench.worker(caught) as worker:
        assert await (await worker.play(caught)).text() == "caught"


# --- not mistakes ---------------------------------------------------------------------------------


async def test_a_system_exit_ends_the_flow_and_not_the_server(bench: Bench) -> None:
    @flow("exits")
    async def exits(run: Run[Any]) -> Flow:
        yield "x"
        raise SystemExit(2)

    @flow("interrupts")
    async def interrupts(run: Run[Any]) -> Flow:
        yield "x"
        raise KeyboardInterrupt

    async with bench.worker(exits, interrupts) as worker:
        for one in (exits, interrupts):
            play = await worker.play(one)
            assert (await play.failure()).code == "flow-failed"


async def test_an_exception_fails_the_execution_with_its_type_and_message(bench: Bench) -> None:
    @flow("boom")
    async def boom(run: Run[Any]) -> Flow:
        yield result("so far")
        raise ValueError("boom")

    async with bench.worker(boom) as worker:
        play = await worker.play(boom)
        failure = await play.failure()
        assert (failure.code, failure.message) == ("flow-failed", "ValueError: boom")
        assert await play.output() == "so far"


VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


async def test_context_variables_hold_from_yield_to_yield(bench: Bench) -> None:
    @step
    async def seen() -> str:
        return VARIABLE.get()

    @flow("context")
    async def context(run: Run[Any]) -> Flow:
        VARIABLE.set("mine")
        yield tool("a")
        in_step = yield seen()
        yield result([VARIABLE.get(), in_step])

    @flow("other")
    async def other(run: Run[Any]) -> Flow:
        yield tool("a")
        yield result(VARIABLE.get())

    async with bench.worker(context, other) as worker:
        one, two = await worker.play(context), await worker.play(other)
        await one.answer("a", None)
        await two.answer("a", None)
        assert (await one.result())[0] == "mine"
        assert await two.result() == "unset"


@flow("scope")
async def scope(run: Run[Any]) -> Flow:
    with anyio.CancelScope() as opened:
        opened.cancel()
        yield tool("a")  # here


@flow("limit")
async def limit(run: Run[Any]) -> Flow:
    with anyio.move_on_after(0):
        yield "x"
        yield approval("a")  # here


SCOPE, LIMIT = line_marked(scope.fn), line_marked(limit.fn)


async def test_a_scope_left_open_across_a_yield_cannot_hurt_the_engine(bench: Bench) -> None:
    async with bench.worker(scope, limit) as worker:
        for one, where in ((scope, SCOPE), (limit, LIMIT)):
            play = await worker.dispatch(one)
            await play.sees("execution_error")
            failure = await play.failure()
            assert failure.code == "scope-across-yield"
            assert "timeout=" in failure.message
            assert where in failure.message


async def test_a_cancellation_of_the_authors_own_is_an_error_like_others(bench: Bench) -> None:
    @flow("inside")
    async def inside(run: Run[Any]) -> Flow:
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        yield "went on"

    async with bench.worker(inside) as worker:
        assert await (await worker.play(inside)).text() == "went on"


async def test_a_failed_step_can_be_caught_and_gone_on_from(bench: Bench) -> None:
    @step
    async def fails() -> None:
        raise ValueError("no")

    @flow("goes on")
    async def goes_on(run: Run[Any]) -> Flow:
        for _ in range(2):
            try:
                yield fails()
            except StepFailed:
                yield "again "
        yield tool("a")

    async with bench.worker(goes_on) as worker:
        play = await worker.play(goes_on)
        await play.answer("a", None)
        assert await play.text() == "again again "
