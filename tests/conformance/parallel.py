"""Rows 8-5 to 8-11, 8-14, 8-16, 8-20 and 8-21: branches in parallel, which are a `gather` here.

A `gather` begins all its branches at once; their number at a time has no limit. What is to be done
one at a time, and to stop somewhere on the way, is a loop. A branch is a wait or a group of waits,
no helper (for a branch with a course of its own, `call` a flow).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dispatch import Failed, Flow, Ok, Run, StepFailed, gather, result, sleep, tool
from dispatch.core.waits import Wait
from tests.conformance.case import case
from tests.conformance.lab import fails, gives, gives_after, gives_first


@case(
    "8-5",
    "There are no branches.",
    ours="A `gather` of nothing is refused with a sentence (theirs gives an empty list): most "
    "often it is a list that should have had something in it. Where it may be empty, the flow "
    "says what then.",
    fails=("flow-mistake", "gather of nothing"),
    journal="begun failed",
)
async def no_branches(run: Run[Any]) -> Flow:
    waits: list[Wait[Any]] = []
    yield gather(*waits)


@case(
    "8-6",
    "With no tolerance for failures the first one decides, and what has not begun never does.",
    ours="That is a plain `gather`: the first failure is raised, and what is open is abandoned; "
    "nobody is asked for the tool any more. It begins all branches at once, and raises instead of "
    "telling counts.",
    runs={"gives": 1, "fails": 1},
    result=["fails", "b1"],
    journal="begun step(gives) step(fails) tool(b2) attempt attempt done failed abandoned "
    "result completed",
)
async def fail_fast(run: Run[Any]) -> Flow:
    try:
        yield gather(gives(run, "ok"), fails(run, "b1"), tool("b2"))
    except StepFailed as failed:
        yield result([failed.name, str(failed)])


@case(
    "8-7",
    "A branch's failure, raised again and not caught, fails the execution.",
    ours="`gather` raises it by itself.",
    runs={"fails": 1},
    fails=("step-failed", "fails: ValueError: b0"),
    journal="begun step(fails) tool(b1) attempt failed abandoned failed",
)
async def a_branch_fails_it_all(run: Run[Any]) -> Flow:
    yield gather(fails(run, "b0"), tool("b1"))


@case(
    "8-8",
    "Branches one at a time, until two have succeeded; the others never begin.",
    ours="A loop.",
    runs={"gives": 2},
    result={"succeeded": ["b0", "b1"], "begun": 2},
    journal="begun step(gives) attempt done step(gives) attempt done result completed",
)
async def enough_have_succeeded(run: Run[Any]) -> Flow:
    succeeded: list[str] = []
    begun = 0
    for name in ("b0", "b1", "b2", "b3"):
        begun += 1
        succeeded.append((yield gives(run, name)))
        if len(succeeded) == 2:
            break
    yield result({"succeeded": succeeded, "begun": begun})


def batch(answers: Iterable[Ok[Any] | Failed]) -> dict[str, Any]:
    """What their batch result tells, from ours."""
    answers = list(answers)
    errors = [str(answer.error) for answer in answers if isinstance(answer, Failed)]
    return {
        "hasFailure": bool(errors),
        "succeeded": [answer.value for answer in answers if isinstance(answer, Ok)],
        "errors": errors,
        "total": len(answers),
    }


@case(
    "8-9",
    "One failure is tolerated: all branches come to their ends.",
    ours="`gather(settle=True)` tolerates any number; each answer is `Ok` or `Failed`.",
    runs={"gives": 2, "fails": 1},
    result={"hasFailure": True, "succeeded": ["b0", "b2"], "errors": ["b1"], "total": 3},
    journal="begun step(gives) step(fails) step(gives) attempt attempt attempt "
    "done failed done result completed",
)
async def within_tolerance(run: Run[Any]) -> Flow:
    answers = yield gather(gives(run, "b0"), fails(run, "b1"), gives(run, "b2"), settle=True)
    yield result(batch(answers))


@case(
    "8-10",
    "One failure is tolerated, a second one is not: the third branch never begins.",
    ours="A loop that counts.",
    runs={"fails": 2},
    result={"failed": ["b0", "b1"], "begun": 2},
    journal="begun step(fails) attempt failed step(fails) attempt failed result completed",
)
async def over_tolerance(run: Run[Any]) -> Flow:
    branches: list[Callable[[], Wait[Any]]] = [
        lambda: fails(run, "b0"),
        lambda: fails(run, "b1"),
        lambda: gives(run, "b2"),
    ]
    failed: list[str] = []
    begun = 0
    for branch in branches:
        begun += 1
        try:
            yield branch()
        except StepFailed as exc:
            failed.append(str(exc))
            if len(failed) > 1:
                break
    yield result({"failed": failed, "begun": begun})


@case(
    "8-11",
    "Branches run at the same time; their results come in the order of the branches, not in that "
    "of their ends.",
    ours="Each of these steps ends only after the next one has.",
    runs={"gives_after": 2, "gives_first": 1},
    result=["r0", "r1", "r2"],
    journal="begun step(gives_after) step(gives_after) step(gives_first) attempt attempt attempt "
    "done done done result completed",
)
async def at_the_same_time(run: Run[Any]) -> Flow:
    answers = yield gather(
        gives_after(run, "r0", "r1"), gives_after(run, "r1", "r2"), gives_first(run, "r2")
    )
    yield result(answers)


@case(
    "8-14",
    "One branch waits for time: the replay does not run the other, which has ended, again.",
    ours="The branch that waits is the sleep; what comes of it, the flow adds.",
    runs={"gives": 1},
    result=["b0", "b1"],
    journal="begun step(gives) timer(2s) attempt done /running/ +2s fired result completed",
)
async def one_branch_waits(run: Run[Any]) -> Flow:
    b0, _ = yield gather(gives(run, "b0"), sleep(2))
    yield result([b0, "b1"])


@case(
    "8-16",
    "All branches fail, and that is tolerated.",
    ours="As 8-9.",
    runs={"fails": 3},
    result={"hasFailure": True, "succeeded": [], "errors": ["b0", "b1", "b2"], "total": 3},
    journal="begun step(fails) step(fails) step(fails) attempt attempt attempt "
    "failed failed failed result completed",
)
async def all_fail(run: Run[Any]) -> Flow:
    answers = yield gather(*(fails(run, f"b{number}") for number in range(3)), settle=True)
    yield result(batch(answers))


@case(
    "8-20",
    "What succeeded, what failed and whether anything did can be told apart.",
    ours="By `.ok`, `.value` and `.error` of the answers.",
    runs={"gives": 2, "fails": 1},
    result={"oks": [True, False, True], "values": ["b0", "b2"], "errors": ["ValueError: b1"]},
    journal="begun step(gives) step(fails) step(gives) attempt attempt attempt "
    "done failed done result completed",
)
async def told_apart(run: Run[Any]) -> Flow:
    answers = yield gather(gives(run, "b0"), fails(run, "b1"), gives(run, "b2"), settle=True)
    yield result(
        {
            "oks": [answer.ok for answer in answers],
            "values": [answer.value for answer in answers if answer.ok],
            "errors": [f"{a.error.type_name}: {a.error}" for a in answers if not a.ok],
        }
    )


@case(
    "8-21",
    "Branches in a branch: the inner results are one result of the outer.",
    ours="A `gather` in a `gather`.",
    runs={"gives": 2},
    result=[["i1", "i2"]],
    journal="begun step(gives) step(gives) attempt attempt done done result completed",
)
async def branches_in_a_branch(run: Run[Any]) -> Flow:
    yield result((yield gather(gather(gives(run, "i1"), gives(run, "i2")))))
