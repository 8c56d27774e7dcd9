"""Rows 3-4 to 3-6, 3-9, 3-12, 3-13, 3-17 and 3-18: nested contexts, which are helpers here.

A helper is an async generator that a flow yields; it waits and fails like a flow, and its last
`result` is its answer. It leaves no entries of its own and is not a unit of replay: its code is run
again like the flow's, and its waits are answered one by one from the journal.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from dispatch import Flow, Run, StepFailed, result, sleep
from tests.conformance.case import case
from tests.conformance.lab import dies_once, fails, gives

Helper = AsyncGenerator[Any, Any]


async def failing(run: Run[Any]) -> Helper:
    yield fails(run, "inside")


async def working(run: Run[str]) -> Helper:
    yield result((yield gives(run, run.inputs)))


@case(
    "3-4",
    "A step fails in a nested context, uncaught: the execution fails.",
    ours="What a helper does not catch is raised at the yield that began it, as it is; no error "
    "of a context is put around it.",
    runs={"fails": 1},
    fails=("step-failed", "fails: ValueError: inside"),
    journal="begun step(fails) attempt failed failed",
)
async def an_uncaught_failure_inside(run: Run[Any]) -> Flow:
    yield failing(run)


@case(
    "3-5",
    "A step fails in a nested context, and the flow around it catches that and goes on.",
    ours="`except StepFailed` around the yield of the helper.",
    inputs="recovered",
    runs={"fails": 1, "gives": 1},
    result="recovered",
    journal="begun step(fails) attempt failed step(gives) attempt done result completed",
)
async def a_caught_failure_inside(run: Run[str]) -> Flow:
    try:
        yield failing(run)
    except StepFailed:
        yield result((yield gives(run, run.inputs)))


async def around(run: Run[str]) -> Helper:
    yield gives(run, run.inputs)
    yield result((yield working(run)))


@case(
    "3-6",
    "A context in a context, each with a step; the innermost result comes out.",
    ours="A helper yields a helper.",
    inputs="deep",
    runs={"gives": 2},
    result="deep",
    journal="begun step(gives) attempt done step(gives) attempt done result completed",
)
async def nested_twice(run: Run[str]) -> Flow:
    yield result((yield around(run)))


@case(
    "3-9",
    "A replay gets the result of a context that has ended, and does nothing of it again.",
    ours="The helper's code is run again; its step is answered from the journal, so the result is "
    "the same one.",
    inputs="kept",
    runs={"gives": 1},
    result="kept",
    journal="begun step(gives) attempt done timer(2s) /running/ +2s fired result completed",
)
async def replayed_context(run: Run[str]) -> Flow:
    value = yield working(run)
    yield sleep(2)
    yield result(value)


async def interrupted(run: Run[str]) -> Helper:
    yield result((yield dies_once(run, run.inputs)))


@case(
    "3-12",
    "The server dies in a context, in the middle of its step: the step is done again.",
    ours="Each attempt has an entry before it begins, so that nobody takes the second for the "
    "first (theirs records one start).",
    inputs="again",
    runs={"dies_once": 2},
    result="again",
    journal="begun step(dies_once) attempt attempt done result completed",
)
async def death_inside(run: Run[str]) -> Flow:
    yield result((yield interrupted(run)))


async def resting(run: Run[str]) -> Helper:
    yield sleep(2)
    yield result(run.inputs)


@case(
    "3-13",
    "A context that only waits, then a step outside of it.",
    ours="A helper may suspend like a flow.",
    inputs="later",
    runs={"gives": 1},
    result="later",
    journal="begun timer(2s) /running/ +2s fired step(gives) attempt done result completed",
)
async def a_wait_inside(run: Run[str]) -> Flow:
    value = yield resting(run)
    yield result((yield gives(run, value)))


async def telling(run: Run[str]) -> Helper:
    yield run.inputs
    yield result(run.inputs)


@case(
    "3-17",
    "What a context without waits tells is told once, also when the flow is replayed.",
    ours="What is yielded to be seen stands in the journal, and a replay skips it; the helper's "
    "code itself is run again (theirs keeps the result of the whole context).",
    inputs="said",
    result="said",
    journal="begun text timer(2s) /running/ +2s fired result completed",
)
async def told_once(run: Run[str]) -> Flow:
    value = yield telling(run)
    yield sleep(2)
    yield result(value)


async def working_and_resting(run: Run[str]) -> Helper:
    yield gives(run, run.inputs)
    yield sleep(2)
    yield result(run.inputs)


@case(
    "3-18",
    "A step and a wait inside, then a step and a wait outside, over two replays.",
    ours="As written.",
    inputs="mixed",
    runs={"gives": 2},
    result="mixed",
    journal="begun step(gives) attempt done timer(2s) /running/ +2s fired "
    "step(gives) attempt done timer(2s) /running/ +2s fired result completed",
)
async def inside_and_outside(run: Run[str]) -> Flow:
    value = yield working_and_resting(run)
    value = yield gives(run, value)
    yield sleep(2)
    yield result(value)
