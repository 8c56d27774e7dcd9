"""Rows 7-4 to 7-7, 7-9 and 7-13 to 7-15: waiting for somebody else, which is an approval here.

Theirs makes a callback, runs a step that submits it, and waits: here a helper gathers an approval
and that step. The person is told by `approval_start` as soon as no step runs. A denial, and a limit
that has passed, are answers (`Decision`), no errors: a flow that is to fail by them says so.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from dispatch import Decision, Flow, Run, approval, gather, result
from tests.conformance.case import COMES_BACK, Move, case
from tests.conformance.lab import cannot_submit, gives


class NotApprovedError(Exception):
    """What a flow makes of a decision that it can't go on with."""


async def decided(
    run: Run[Any], name: str, within: float | None = None
) -> AsyncGenerator[Any, Any]:
    decision, _ = yield gather(approval(name, timeout=within), gives(run, "submitted"))
    yield result(decision)


async def approved(
    run: Run[Any], name: str, within: float | None = None
) -> AsyncGenerator[Any, Any]:
    decision = yield decided(run, name, within)
    if not decision.approved:
        raise NotApprovedError(decision.reason or decision.outcome)
    yield result(decision.reason)


DENIED = Move(1, Decision("denied", "not approved"))


@case(
    "7-4",
    "It is rejected, uncaught: the execution fails.",
    ours="A denial is an answer; the flow raises what it makes of it.",
    caller={"send": [DENIED]},
    runs={"gives": 1},
    fails=("flow-failed", "NotApprovedError: not approved"),
    journal="begun approval(send) step(gives) attempt done asked /suspended/ +1s leg denied failed",
)
async def rejected(run: Run[Any]) -> Flow:
    yield approved(run, "send")


@case(
    "7-5",
    "Nobody decides in time: the execution fails.",
    ours="The outcome `timeout` is an answer, too; the flow raises.",
    runs={"gives": 1},
    fails=("flow-failed", "NotApprovedError: timeout"),
    journal="begun approval(send) step(gives) attempt done asked /suspended/ "
    "+3s timeout leg failed",
)
async def undecided(run: Run[Any]) -> Flow:
    yield approved(run, "send", within=3)


@case(
    "7-6",
    "It is rejected, and the flow recovers.",
    ours="The flow catches what its helper raised.",
    caller={"send": [DENIED]},
    runs={"gives": 1},
    result="recovered",
    journal="begun approval(send) step(gives) attempt done asked /suspended/ "
    "+1s leg denied result completed",
)
async def rejected_and_recovered(run: Run[Any]) -> Flow:
    try:
        yield approved(run, "send")
    except NotApprovedError:
        yield result("recovered")


@case(
    "7-7",
    "It can't be submitted, however often that is tried: nobody is asked, the execution fails.",
    ours="`gather` raises the step's failure and abandons the approval, which no person was told "
    "of.",
    runs={"cannot_submit": 2},
    fails=("step-failed", "cannot_submit: ConnectionError: nobody there"),
    journal="begun approval(send) step(cannot_submit) attempt retry /running/ "
    "+1s attempt failed abandoned failed",
)
async def cannot_be_submitted(run: Run[Any]) -> Flow:
    yield gather(approval("send"), cannot_submit(run))


@case(
    "7-9",
    "Two decisions, one after the other, each with a submission of its own.",
    ours="The helper twice; what the person wrote is the decision's `reason`.",
    caller={
        "first": [Move(1, Decision("approved", "one"))],
        "second": [Move(1, Decision("approved", "two"))],
    },
    runs={"gives": 2},
    result="two",
    journal="begun approval(first) step(gives) attempt done asked /suspended/ +1s leg approved "
    "approval(second) step(gives) attempt done asked /suspended/ +1s leg approved "
    "result completed",
)
async def two_decisions(run: Run[Any]) -> Flow:
    yield approved(run, "first")
    yield result((yield approved(run, "second")))


@case(
    "7-13",
    "Whoever is to decide shows that they are alive, and decides later.",
    ours="As 4-5: no heartbeats; who comes back is told again, and the limit goes on.",
    caller={"send": [Move(6, COMES_BACK), Move(9, Decision("approved", "payload"))]},
    runs={"gives": 1},
    result="payload",
    journal="begun approval(send) step(gives) attempt done asked /suspended/ "
    "+6s leg asked /suspended/ +3s leg approved result completed",
)
async def comes_back_and_decides(run: Run[Any]) -> Flow:
    yield result((yield approved(run, "send", within=10)))


@case(
    "7-14",
    "Nobody decides in time, and the flow recovers.",
    ours="The flow looks at the outcome.",
    runs={"gives": 1},
    result="timed-out-handled",
    journal="begun approval(send) step(gives) attempt done asked /suspended/ "
    "+3s timeout leg result completed",
)
async def undecided_and_recovered(run: Run[Any]) -> Flow:
    decision = yield decided(run, "send", within=3)
    yield result("timed-out-handled" if decision.outcome == "timeout" else "decided")


@case(
    "7-15",
    "It is approved without a word.",
    ours="The decision's `reason` is None.",
    caller={"send": [Move(1, Decision("approved"))]},
    runs={"gives": 1},
    result=None,
    journal="begun approval(send) step(gives) attempt done asked /suspended/ "
    "+1s leg approved result completed",
)
async def approved_without_a_word(run: Run[Any]) -> Flow:
    yield result((yield approved(run, "send")))
