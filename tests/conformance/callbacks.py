"""Rows 4-3 to 4-14 and 4-17 to 4-19: callbacks, which are calls of a tool at the caller here.

The caller is told by an `await` event and brings the output by a resume. A callback that is made
early and asked for late is a branch of a `gather`: what else is to happen stands beside it. A
failure is an output of the shape that MCP gives to one. A call's time limit runs from the moment
that the caller was told.
"""

from __future__ import annotations

from typing import Any

from dispatch import Flow, Run, ToolFailed, ToolTimeout, gather, result, sleep, tool
from tests.conformance.case import COMES_BACK, Move, case
from tests.conformance.lab import gives

REJECTED = {"isError": True, "content": [{"type": "text", "text": "not approved"}]}


@case(
    "4-3",
    "Nobody answers in time: the execution fails.",
    ours="`tool(timeout=)`, then `ToolTimeout` is raised.",
    fails=("tool-timeout", "no output for ask in time"),
    journal="begun tool(ask) asked /suspended/ +5s timeout leg failed",
)
async def too_late(run: Run[Any]) -> Flow:
    yield tool("ask", timeout=5)


@case(
    "4-4",
    "No sign of life comes in time: the execution fails.",
    ours="A call has one time limit, and no heartbeats beside it; a limit is a limit.",
    fails=("tool-timeout", "no output for ask in time"),
    journal="begun tool(ask) asked /suspended/ +5s timeout leg failed",
)
async def no_sign_of_life(run: Run[Any]) -> Flow:
    yield tool("ask", timeout=5)


@case(
    "4-5",
    "The caller shows that it is alive, and answers later.",
    ours="No heartbeats: a resume that brings nothing is told again what is open, and the limit "
    "goes on to run from the first time it was told (theirs begins anew), as the second call "
    "shows. A long call gets a long limit, or none.",
    caller={
        "ask": [Move(6, COMES_BACK), Move(9, "payload")],
        "ask_again": [Move(6, COMES_BACK), Move(11, "too late")],
    },
    result=["payload", "no output for ask_again in time"],
    journal="begun tool(ask) asked /suspended/ +6s leg asked /suspended/ +3s leg output "
    "tool(ask_again) asked /suspended/ +6s leg asked /suspended/ +4s timeout leg "
    "result completed",
)
async def signs_of_life(run: Run[Any]) -> Flow:
    answer = yield tool("ask", timeout=10)
    try:
        yield tool("ask_again", timeout=10)
    except ToolTimeout as late:
        yield result([answer, str(late)])


@case(
    "4-6",
    "The caller reports a failure: uncaught, it fails the execution.",
    ours="An output with `isError` is taken, and `ToolFailed` is raised with its text.",
    caller={"ask": [Move(1, REJECTED)]},
    fails=("tool-failed", "ask: not approved"),
    journal="begun tool(ask) asked /suspended/ +1s leg output failed",
)
async def a_reported_failure(run: Run[Any]) -> Flow:
    yield tool("ask")


@case(
    "4-7",
    "A call is open while a step runs; then the caller reports a failure.",
    ours="The caller is told when no step runs any more.",
    caller={"ask": [Move(1, REJECTED)]},
    runs={"gives": 1},
    fails=("tool-failed", "ask: not approved"),
    journal="begun tool(ask) step(gives) attempt done asked /suspended/ +1s leg output failed",
)
async def a_failure_beside_a_step(run: Run[Any]) -> Flow:
    yield gather(tool("ask"), gives(run, "beside"))


@case(
    "4-8",
    "A call is open while a step runs; then nobody answers in time.",
    ours="As 4-7; the limit runs from when the caller was told, not from when the call was made.",
    runs={"gives": 1},
    fails=("tool-timeout", "no output for ask in time"),
    journal="begun tool(ask) step(gives) attempt done asked /suspended/ +5s timeout leg failed",
)
async def too_late_beside_a_step(run: Run[Any]) -> Flow:
    yield gather(tool("ask", timeout=5), gives(run, "beside"))


@case(
    "4-9",
    "A call is answered while the flow waits for time; both are needed.",
    ours="`gather` of the call and a sleep.",
    caller={"ask": [Move(1, "payload")]},
    result="payload",
    journal="begun tool(ask) timer(5s) asked /suspended/ +1s leg output /running/ "
    "+4s fired result completed",
)
async def answered_during_a_sleep(run: Run[Any]) -> Flow:
    answer, _ = yield gather(tool("ask"), sleep(5))
    yield result(answer)


@case(
    "4-10",
    "A failure is reported while the flow waits for time, and is raised when that is over.",
    ours="`gather(settle=True)`, and the flow raises it then. A plain `gather` would raise it at "
    "once and abandon the sleep.",
    caller={"ask": [Move(1, REJECTED)]},
    fails=("tool-failed", "ask: not approved"),
    journal="begun tool(ask) timer(5s) asked /suspended/ +1s leg output /running/ +4s fired failed",
)
async def a_failure_during_a_sleep(run: Run[Any]) -> Flow:
    answer, _ = yield gather(tool("ask"), sleep(5), settle=True)
    raise answer.error


@case(
    "4-11",
    "A call runs out of time while the flow waits for time, and that is raised when it is over.",
    ours="As 4-10. Nothing is left to be answered then, so the status is running again.",
    fails=("tool-timeout", "no output for ask in time"),
    journal="begun tool(ask) timer(6s) asked /suspended/ +3s timeout leg /running/ "
    "+3s fired failed",
)
async def too_late_during_a_sleep(run: Run[Any]) -> Flow:
    answer, _ = yield gather(tool("ask", timeout=3), sleep(6), settle=True)
    raise answer.error


@case(
    "4-12",
    "A call is answered, then time passes: both are replayed.",
    ours="As written.",
    caller={"ask": [Move(1, "payload")]},
    result="payload",
    journal="begun tool(ask) asked /suspended/ +1s leg output timer(2s) /running/ "
    "+2s fired result completed",
)
async def answered_then_a_sleep(run: Run[Any]) -> Flow:
    answer = yield tool("ask")
    yield sleep(2)
    yield result(answer)


@case(
    "4-13",
    "A reported failure is caught, then time passes: the replay catches it again.",
    ours="`except ToolFailed`.",
    caller={"ask": [Move(1, REJECTED)]},
    result="not approved",
    journal="begun tool(ask) asked /suspended/ +1s leg output timer(2s) /running/ "
    "+2s fired result completed",
)
async def a_caught_failure_then_a_sleep(run: Run[Any]) -> Flow:
    told = ""
    try:
        yield tool("ask")
    except ToolFailed as failed:
        told = str(failed)
    yield sleep(2)
    yield result(told)


@case(
    "4-14",
    "A call that ran out of time is caught, then time passes: the replay catches it again.",
    ours="`except ToolTimeout`.",
    result="no output for ask in time",
    journal="begun tool(ask) asked /suspended/ +3s timeout leg timer(2s) /running/ "
    "+2s fired result completed",
)
async def too_late_then_a_sleep(run: Run[Any]) -> Flow:
    told = ""
    try:
        yield tool("ask", timeout=3)
    except ToolTimeout as late:
        told = str(late)
    yield sleep(2)
    yield result(told)


@case(
    "4-17",
    "Two calls, the second made when the first is answered.",
    ours="As written.",
    caller={"a": [Move(1, "A")], "b": [Move(1, "B")]},
    result=["A", "B"],
    journal="begun tool(a) asked /suspended/ +1s leg output tool(b) asked /suspended/ "
    "+1s leg output result completed",
)
async def one_after_the_other(run: Run[Any]) -> Flow:
    a = yield tool("a")
    b = yield tool("b")
    yield result([a, b])


@case(
    "4-18",
    "Two calls made at once, answered in their order.",
    ours="`gather`; whoever answers one of them is told again of the other.",
    caller={"a": [Move(3, "A")], "b": [Move(4, "B")]},
    result=["A", "B"],
    journal="begun tool(a) tool(b) asked asked /suspended/ +3s leg output asked /suspended/ "
    "+1s leg output result completed",
)
async def both_at_once(run: Run[Any]) -> Flow:
    answers = yield gather(tool("a"), tool("b"))
    yield result(answers)


@case(
    "4-19",
    "Two calls made at once; the flow asks for the second first, the first is answered first.",
    ours="Both are answered by one `gather`, so the order in which the flow reads them is its own.",
    caller={"b": [Move(4, "B")], "a": [Move(1, "A")]},
    result=["B", "A"],
    journal="begun tool(a) tool(b) asked asked /suspended/ +1s leg output asked /suspended/ "
    "+3s leg output result completed",
)
async def read_the_other_way_round(run: Run[Any]) -> Flow:
    a, b = yield gather(tool("a"), tool("b"))
    yield result([b, a])
