"""Rows 1-4 to 1-14 and 1-17 to 1-20, 2-1 and 2-3: steps, their retries, and time that passes."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from dispatch import Flow, Run, StepFailed, result, sleep, step
from tests.conformance.case import case
from tests.conformance.lab import (
    LAB,
    dies_once,
    dies_once_of_two,
    fails,
    fails_always,
    fails_once,
    fails_twice,
    fails_twice_slowly,
    gives,
    greets,
)


class User(Struct):
    name: str
    tags: list[str]


class Response(Struct):
    user: User
    count: int


class Shout(Struct):
    """A type with a decoding of its own."""

    text: str

    def __post_init__(self) -> None:
        self.text = self.text.upper()


@step
async def builds(run: Run[User]) -> Response:
    LAB.get().call(run.id, "builds")
    return Response(run.inputs, len(run.inputs.tags))


@step(returns=Shout)
async def says(run: Run[str], text: str) -> dict[str, str]:
    LAB.get().call(run.id, "says")
    return {"text": text}


@case(
    "1-4",
    "A step's result may be an object in an object, with lists and numbers.",
    ours="A Struct; the flow gets it decoded from the journal as the step's annotation says.",
    inputs={"name": "Alice", "tags": ["admin", "active"]},
    runs={"builds": 1},
    result={"user": {"name": "Alice", "tags": ["admin", "active"]}, "count": 2},
    journal="begun step(builds) attempt done result completed",
)
async def a_nested_result(run: Run[User]) -> Flow:
    response = yield builds(run)
    assert type(response) is Response
    yield result(response)


@case(
    "1-5",
    "A step that gives nothing gives nothing, also later.",
    ours="None is null in the journal, and a result like any other.",
    runs={"gives": 1},
    result=None,
    journal="begun step(gives) attempt done result completed",
)
async def no_result(run: Run[Any]) -> Flow:
    yield result((yield gives(run, None)))


@case(
    "1-6",
    "A step may have a serialization of its own, and the flow gets what that makes of its result.",
    ours="There are no serializers, there are types: `returns=` says as what the recorded JSON is "
    "decoded, and that is what the flow gets, the first time too. So the journal holds what the "
    "step gave, and the change is made on reading.",
    inputs="hello world",
    runs={"says": 1},
    result="HELLO WORLD",
    journal="begun step(says) attempt done result completed",
)
async def a_result_of_another_type(run: Run[str]) -> Flow:
    said = yield says(run, run.inputs)
    yield result(said.text)


@case(
    "1-7",
    "A step tells what it does while it does it, each thing once.",
    ours="A step has no logger of its own: it streams, and its text is in the journal as its log "
    "would be. An attempt that is cut off leaves what it said; the next one says it again.",
    inputs="Ada",
    runs={"greets": 1},
    result="Hello, Ada!",
    journal="begun step(greets) attempt text text done result completed",
)
async def a_step_that_tells(run: Run[str]) -> Flow:
    yield result((yield greets(run, run.inputs)))


@case(
    "1-8",
    "A step, then time: the replay after it goes past the step.",
    ours="`sleep`; while only time is waited for, the status is running.",
    runs={"gives": 1},
    result="computed",
    journal="begun step(gives) attempt done timer(2s) /running/ +2s fired result completed",
)
async def a_step_then_time(run: Run[Any]) -> Flow:
    value = yield gives(run, "computed")
    yield sleep(2)
    yield result(value)


@case(
    "1-9",
    "On a replay a step that has succeeded answers from its record; its function is not called.",
    ours="The flow uses the answer on both sides of the wait.",
    runs={"gives": 1},
    result="cached cached",
    journal="begun step(gives) attempt done timer(1s) /running/ +1s fired result completed",
)
async def a_replayed_step(run: Run[Any]) -> Flow:
    value = yield gives(run, "cached")
    yield sleep(1)
    yield result(f"{value} {value}")


@case(
    "1-10",
    "On a replay a step that has failed raises its recorded error; its function is not called.",
    ours="`StepFailed` with type name and message, never the live exception.",
    runs={"fails": 1},
    result=["fails", "ValueError", "for good"],
    journal="begun step(fails) attempt failed timer(1s) /running/ +1s fired result completed",
)
async def a_replayed_failure(run: Run[Any]) -> Flow:
    told = []
    try:
        yield fails(run, "for good")
    except StepFailed as failed:
        told = [failed.name, failed.type_name, str(failed)]
    yield sleep(1)
    yield result(told)


@case(
    "1-11",
    "A step that fails once is attempted again after its delay, and succeeds.",
    ours="`retries=1, backoff=1`. A failed attempt is a recoverable `error` event.",
    runs={"fails_once": 2},
    result="Operation succeeded",
    journal="begun step(fails_once) attempt retry /running/ +1s attempt done result completed",
)
async def one_retry(run: Run[Any]) -> Flow:
    yield result((yield fails_once(run, "Operation succeeded")))


@case(
    "1-12",
    "A step that always fails is attempted as often as it may be, then the execution fails.",
    ours="Four attempts are `retries=3`. The backoff doubles (theirs stays at a second), so that "
    "what is overloaded is left alone for longer each time.",
    runs={"fails_always": 4},
    fails=("step-failed", "fails_always: ValueError: never"),
    journal="begun step(fails_always) attempt retry /running/ +1s attempt retry /running/ "
    "+2s attempt retry /running/ +4s attempt failed failed",
)
async def retries_run_out(run: Run[Any]) -> Flow:
    yield fails_always(run)


@case(
    "1-13",
    "What a step does about a failure if it was not told.",
    ours="It is not attempted again unless it says `retries=`: only its author knows whether it "
    "may be done twice (theirs is tried six times). The default backoff is half a second, "
    "doubled, without jitter.",
    runs={"fails": 1, "fails_twice": 3},
    result=["at once", "in the end"],
    journal="begun step(fails) attempt failed step(fails_twice) attempt retry /running/ "
    "+0.5s attempt retry /running/ +1s attempt done result completed",
)
async def retries_by_default(run: Run[Any]) -> Flow:
    try:
        yield fails(run, "at once")
    except StepFailed as failed:
        yield result([str(failed), (yield fails_twice(run, "in the end"))])


@case(
    "1-14",
    "A step's delays are its own: where they begin, and how they grow.",
    ours="`backoff=2` is where they begin; the rate is always two (theirs is set to three): one "
    "number to choose instead of four.",
    runs={"fails_twice_slowly": 3},
    result="third",
    journal="begun step(fails_twice_slowly) attempt retry /running/ +2s attempt retry /running/ "
    "+4s attempt done result completed",
)
async def its_own_backoff(run: Run[Any]) -> Flow:
    yield result((yield fails_twice_slowly(run, "third")))


@case(
    "1-17",
    "The server dies in the middle of a step that has no retries.",
    ours="There is no at-most-once: nobody can know what a step had done by then, so it is "
    "attempted again, at no cost to its retries, until its result is there (theirs fails). What "
    "must not be done twice gets an idempotency key, `run.uuid()`.",
    runs={"dies_once": 2},
    result="second attempt",
    journal="begun step(dies_once) attempt attempt done result completed",
)
async def death_in_a_step(run: Run[Any]) -> Flow:
    yield result((yield dies_once(run, "second attempt")))


@case(
    "1-18",
    "The server dies in the middle of a step that has retries, and its second attempt succeeds.",
    ours="As 1-17: the attempt that was cut off is no failure, so there is neither an `error` "
    "event nor a delay (theirs has both).",
    runs={"dies_once_of_two": 2},
    result="second attempt",
    journal="begun step(dies_once_of_two) attempt attempt done result completed",
)
async def death_in_a_step_with_retries(run: Run[Any]) -> Flow:
    yield result((yield dies_once_of_two(run, "second attempt")))


@case(
    "1-19",
    "A step that fails for good, uncaught, fails the execution.",
    ours="`step-failed`, with the step's name and its error.",
    runs={"fails": 1},
    fails=("step-failed", "fails: ValueError: broken"),
    journal="begun step(fails) attempt failed failed",
)
async def an_uncaught_failure(run: Run[Any]) -> Flow:
    yield fails(run, "broken")


@case(
    "1-20",
    "A flow that catches a step's failure goes on, with another step.",
    ours="`except StepFailed`.",
    runs={"fails": 1, "gives": 1},
    result="fallback",
    journal="begun step(fails) attempt failed step(gives) attempt done result completed",
)
async def a_caught_failure(run: Run[Any]) -> Flow:
    try:
        yield fails(run, "broken")
    except StepFailed:
        yield result((yield gives(run, "fallback")))


@case(
    "2-1",
    "A flow waits for some seconds.",
    ours="`sleep`: absolute wall time once it is recorded.",
    journal="begun timer(2s) /running/ +2s fired completed",
)
async def one_sleep(run: Run[Any]) -> Flow:
    yield sleep(2)


@case(
    "2-3",
    "Two waits, one after the other: each has its own time.",
    ours="Timers have derived ids and no names; where a name helps, there is `phase`.",
    result={"waits": 2},
    journal="begun timer(2s) /running/ +2s fired timer(2s) /running/ +2s fired result completed",
)
async def two_sleeps(run: Run[Any]) -> Flow:
    yield sleep(2)
    yield sleep(2)
    yield result({"waits": 2})
