"""The functions that make waits: what they take, and the mistakes that show at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from dispatch import approval, continue_as, events, gather, race, sleep, sleep_until, step, tool
from dispatch.core.errors import FlowMistake
from dispatch.core.events import EventBase
from dispatch.core.journal import DISPLAYS
from dispatch.core.waits import StepWait
from dispatch.yields import as_wait

if TYPE_CHECKING:
    from decimal import Decimal


async def fetch(url: str, times: int = 1) -> str:
    return url * times


@step
async def load(order_id: str) -> int:
    return len(order_id)


# --- steps ----------------------------------------------------------------------------------------


def test_a_call_of_a_step_is_a_wait_with_its_arguments() -> None:
    wait = load("A")
    assert isinstance(wait, StepWait)
    assert (wait.name, wait.args, wait.kwargs, wait.returns) == ("load", ("A",), {}, int)
    assert (wait.retries, wait.timeout_seconds, wait.private) == (0, None, False)


def test_options_take_seconds_and_timedeltas() -> None:
    options = step(
        retries=2,
        backoff=timedelta(minutes=1),
        timeout=timedelta(hours=1),
        name="other",
        private=True,
        returns=list[int],
    )
    wait = options(fetch)("x")
    assert (wait.retries, wait.backoff_seconds, wait.timeout_seconds) == (2, 60.0, 3600.0)
    assert (wait.name, wait.private, wait.returns) == ("other", True, list[int])
    assert step(timeout=1.5)(fetch)("x").timeout_seconds == 1.5


def test_a_step_keeps_its_name_and_docstring() -> None:
    @step
    def documented() -> None:
        """What it does."""

    assert documented.__name__ == "documented"
    assert documented.__doc__ == "What it does."


def test_functions_of_others() -> None:
    assert step(fetch, "x", times=2).kwargs == {"times": 2}
    assert step(fetch, url="x").name == "fetch"
    assert step(partial(fetch, "x"), 3).name == "partial"
    assert step(max, 1, 2).returns is Any  # a built-in without a signature or annotations


def test_a_function_without_parameters_is_called_when_it_is_yielded() -> None:
    wait = as_wait(step(datetime.now))
    assert isinstance(wait, StepWait)
    assert as_wait("text") == "text"


def test_what_is_decoded_as_plain_json() -> None:
    class Strange:
        pass

    @step
    def strange() -> Strange:
        return Strange()

    @step
    async def streams() -> AsyncGenerator[str, None]:
        yield "x"

    @step
    def bare():  # type: ignore[no-untyped-def]  # as a first step may be written
        pass

    assert {wait.returns for wait in (streams(), bare())} == {Any}
    with pytest.raises(FlowMistake, match="what step strange returns is unknown"):
        strange()  # its annotation is in this function, where nobody can look it up


def test_a_result_type_that_is_there_for_type_checkers_only() -> None:
    @step
    async def price() -> Decimal:
        raise NotImplementedError

    with pytest.raises(FlowMistake) as mistake:
        price()
    assert "what step price returns is unknown: name 'Decimal' is not defined" in str(mistake.value)
    assert f"{__file__}:" in mistake.value.message


def test_wrong_arguments_are_refused_at_the_call_with_its_line() -> None:
    with pytest.raises(TypeError, match=rf"load: missing a required argument.*{__file__}:\d+"):
        load()  # type: ignore[call-arg]  # that is the mistake
    with pytest.raises(TypeError, match="fetch: got an unexpected keyword argument"):
        step(fetch, "x", time=2)  # type: ignore[call-overload]  # likewise


def test_a_step_of_a_step_and_of_no_function() -> None:
    with pytest.raises(FlowMistake, match="load is a step already: yield load"):
        step(load, "x")
    with pytest.raises(FlowMistake, match="step takes a function, not a str"):
        step("load")  # type: ignore[call-overload]  # that is the mistake


# --- the others -----------------------------------------------------------------------------------


def test_time_limits_take_seconds_and_timedeltas() -> None:
    assert tool("a", timeout=timedelta(minutes=2)).timeout_seconds == 120.0
    assert approval("a", timeout=3).timeout_seconds == 3
    assert sleep(timedelta(days=1)).seconds == 86_400.0
    when = datetime(2030, 1, 1, tzinfo=UTC)
    assert sleep_until(when).due_at == when.timestamp()


def test_a_moment_has_to_know_its_zone() -> None:
    with pytest.raises(FlowMistake, match=rf"without a zone at {__file__}:\d+"):
        sleep_until(datetime(2030, 1, 1))  # noqa: DTZ001 - that is the mistake


def test_a_wait_knows_where_it_was_made() -> None:
    waits = [tool("a"), load("x"), gather(sleep(1)), race(sleep(1)), continue_as({})]
    assert {wait.where.rpartition(":")[0] for wait in waits} == {__file__}


@pytest.mark.parametrize("group", [gather, race])
def test_what_cannot_stand_in_a_group(group: Any) -> None:
    with pytest.raises(FlowMistake, match=rf"of nothing at {__file__}:\d+: give it waits"):
        group()
    for wrong in ("text", load, continue_as({})):
        with pytest.raises(FlowMistake, match=r"branch 2 of .* only steps, tools, approvals"):
            group(sleep(1), wrong)


async def test_a_wait_is_not_awaited() -> None:
    with pytest.raises(FlowMistake, match="a wait is yielded"):
        await load("x")


def test_every_event_that_authors_can_import_can_be_yielded() -> None:
    exported = [getattr(events, name) for name in events.__all__]
    kinds = {one.type_name() for one in exported if issubclass(one, EventBase)}
    assert kinds == DISPLAYS - {"dispatch.phase", "dispatch.result", "dispatch.checkpoint"}
