"""Rule 4: settling; gather and race, and the branches that they abandon."""

from collections.abc import Generator
from typing import Any

import pytest

from dispatch.core import events
from dispatch.core.errors import StepFailed, ToolFailed, ToolTimeout
from dispatch.core.journal import Origin, draft
from dispatch.core.waits import Decision, Failed, Ok
from tests.core.harness import (
    Run,
    Worker,
    approval,
    drive,
    gather,
    race,
    recover,
    sleep,
    step,
    tool,
)
from tests.core.journals import settlement

Yields = Generator[Any, Any, None]


def asking(wait: Any) -> Any:
    """A flow that waits for this, catches what fails, and goes on with one more call."""

    def flow(run: Run) -> Yields:
        answer: Any
        try:
            answer = yield wait()
        except (StepFailed, ToolFailed) as exc:
            answer = exc
        run.state = answer
        yield tool("next")

    return flow


def answered(worker: Worker) -> Any:
    """What the flow was given; a replay is given the same."""
    assert worker.standing == "ToolWait"
    again = recover(worker.flow, worker.journal)
    assert repr(again.run.state) == repr(worker.run.state)
    assert again.appended == []
    return worker.run.state


def codes(worker: Worker) -> dict[str, str]:
    """How each wait was settled, by the name it was asked for."""
    return {
        entry.facts.tool_name or entry.facts.name: entry.facts.code or "settled"
        for entry in worker.journal.entries
        if entry.kind in ("tool_complete", "step_complete")
    }


def test_gather_answers_in_the_order_of_its_arguments() -> None:
    worker = drive(asking(lambda: gather(tool("a"), step("b"), approval("c"), sleep())))
    worker.output("A", call=0)
    worker.output(call=0)
    worker.finish(value="B")
    worker.output(call=0)
    assert answered(worker) == ["A", "B", Decision("approved"), None]


def test_gather_raises_the_first_failure_and_abandons_the_rest() -> None:
    worker = drive(asking(lambda: gather(tool("a"), tool("b"), tool("c"), step("d"))))
    worker.output("boom", call=1, fails=True)
    assert isinstance(answered(worker), ToolFailed)
    assert codes(worker) == {"a": "abandoned", "b": "settled", "c": "abandoned", "d": "abandoned"}


def test_the_first_failure_is_the_one_with_the_lower_seq() -> None:
    worker = drive(asking(lambda: gather(tool("a"), tool("b"))))
    a, b = worker.journal.open().values()
    worker.journal.settle(b, "b failed", fails=True)
    worker.journal.settle(a, "a failed", fails=True)
    worker.advance()
    assert answered(worker).message == "b failed"


def test_gather_that_settles_answers_all() -> None:
    worker = drive(asking(lambda: gather(tool("a"), step("b"), settle=True)))
    worker.finish("fail", "boom")
    assert worker.standing == "Gather"
    worker.output("A")
    ok, failed = answered(worker)
    assert ok == Ok("A")
    assert isinstance(failed, Failed)
    assert failed.error.message == "boom"


def test_race_is_won_by_the_lower_seq() -> None:
    worker = drive(asking(lambda: race(tool("a"), tool("b"))))
    a, b = worker.journal.open().values()
    worker.journal.settle(b, "B")
    worker.journal.settle(a, "A")
    worker.advance()
    assert answered(worker) == (1, "B")


def test_race_is_also_won_by_a_failure() -> None:
    worker = drive(asking(lambda: race(tool("a"), step("b"))))
    worker.finish("fail", "boom")
    assert answered(worker).message == "boom"
    assert codes(worker)["a"] == "abandoned"


def test_a_race_of_all_kinds_abandons_each_in_its_own_words() -> None:
    worker = drive(asking(lambda: race(tool("a"), step("b"), approval("c"), sleep(), tool("d"))))
    worker.output("D", call=3)
    assert answered(worker) == (4, "D")
    assert codes(worker) == {"a": "abandoned", "b": "abandoned", "d": "settled"}
    assert worker.journal.kinds.count("dispatch.abandoned") == 1
    approval_complete = next(e for e in worker.journal.entries if e.kind == "approval_complete")
    assert (approval_complete.facts.decision, approval_complete.facts.code) == (
        "timeout",
        "abandoned",
    )


def test_an_inner_race_abandons_its_loser_while_the_outer_gather_waits() -> None:
    worker = drive(asking(lambda: gather(race(tool("a"), tool("b")), tool("c"))))
    worker.output("A")
    assert worker.standing == "Gather"
    assert codes(worker) == {"a": "settled", "b": "abandoned"}
    worker.output("C")
    assert answered(worker) == [(0, "A"), "C"]


def test_a_decided_race_abandons_at_any_depth() -> None:
    def wait() -> Any:
        return race(tool("e"), gather(race(tool("a"), tool("b")), gather(tool("c"), step("d"))))

    worker = drive(asking(wait))
    worker.output("E")
    assert answered(worker) == (0, "E")
    assert codes(worker) == dict.fromkeys("abcd", "abandoned") | {"e": "settled"}


def test_a_failed_inner_gather_decides_the_outer_race_and_abandons_both() -> None:
    worker = drive(asking(lambda: race(gather(tool("a"), tool("b")), tool("c"))))
    worker.output("boom", fails=True)
    assert answered(worker).message == "boom"
    assert codes(worker) == {"a": "settled", "b": "abandoned", "c": "abandoned"}


def test_a_branch_that_was_settled_meanwhile_is_not_abandoned() -> None:
    worker = drive(asking(lambda: race(tool("a"), tool("b"))))
    a, b = worker.journal.open().values()

    def settle_b(worker: Worker) -> None:
        worker.journal.settle(b, "B")

    worker.journal.settle(a, "A")
    worker.between = settle_b
    worker.advance()
    assert answered(worker) == (0, "A")
    assert codes(worker) == {"a": "settled", "b": "settled"}


def test_the_first_settlement_wins() -> None:
    worker = drive(asking(lambda: tool("a")))
    wait = next(iter(worker.journal.open().values()))
    # No store appends both; the machine would still take the first.
    worker.journal.append(settlement(wait, "first"), settlement(wait, "second"))
    worker.advance()
    assert answered(worker) == "first"


def test_a_step_that_finishes_after_the_race_was_decided_changes_no_answer() -> None:
    worker = drive(asking(lambda: race(tool("a"), step("b"))))
    worker.do(worker.steps[0], "succeed", "B")
    worker.journal.settle(next(iter(worker.journal.open().values())), "A")
    worker.advance()
    assert answered(worker) == (0, "A")
    assert codes(worker) == {"a": "settled", "b": "settled"}


def test_a_tool_that_times_out_raises_tool_timeout() -> None:
    worker = drive(asking(lambda: tool("a", timeout_seconds=5)))
    assert next(iter(worker.journal.open().values())).timeout == 5
    worker.output("timeout", fails=True)
    assert isinstance(answered(worker), ToolTimeout)


@pytest.mark.parametrize("decision", ["approved", "denied", "timeout"])
def test_an_approval_raises_nothing(decision: Any) -> None:
    worker = drive(asking(lambda: approval("delete", reason="asked")))
    opened = next(iter(worker.journal.open().values()))
    complete = events.ApprovalComplete(approval_id=opened.id, decision=decision, reason="because")
    worker.journal.append(draft(complete, Origin.WORLD))
    worker.advance()
    assert answered(worker) == Decision(decision, "because")
    assert answered(worker).approved == (decision == "approved")


def test_a_crash_between_openings_opens_the_rest_under_the_same_ids() -> None:
    flow = asking(lambda: gather(tool("a"), tool("b"), step("c")))
    worker = drive(flow)
    for length in (2, 3, 4):
        recovered = drive(flow, worker.journal.cut(length))
        for kind in ("tool_start", "step_start", "dispatch.step_attempt"):
            assert recovered.journal.ids(kind) == worker.journal.ids(kind)
