"""Rule 5: Cancelled is raised at a recorded place, once."""

from collections.abc import Generator
from typing import Any

import pytest

from dispatch.core.errors import Cancelled, Divergence, WaitFailed
from dispatch.core.journal import CancelRaised, Entry
from tests.core.harness import Result, Run, Worker, drive, gather, race, recover, sleep, step, tool
from tests.core.journals import begun

Yields = Generator[Any, Any, None]


def undoing(*said: Any) -> Any:
    """A flow that yields these, and when cancelled undoes a thing in a step."""

    def flow(run: Run) -> Yields:
        try:
            for item in said:
                yield item() if callable(item) else item
        except Cancelled as cancelled:
            yield f"undo: {cancelled.reason}. "
            yield step("undo")
            yield "undone. "
            yield Result("nothing happened")

    return flow


def cancel_at(place: str, worker: Worker) -> None:
    if worker.standing == place and not worker.journal.is_cancelled:
        worker.journal.cancel("enough")


def marker(worker: Worker) -> CancelRaised:
    entries = [e for e in worker.journal.entries if e.kind == "dispatch.cancel_raised"]
    assert len(entries) == 1
    return entries[0].payload(CancelRaised)


def settlement_of(worker: Worker, kind: str) -> Entry:
    return next(entry for entry in worker.journal.entries if entry.kind == kind)


def assert_ended_cancelled(worker: Worker, flow: Any) -> None:
    last = worker.journal.entries[-1]
    assert (last.kind, last.facts.success) == ("execution_complete", False)
    assert last.facts.stop_reason == "cancelled"
    again = recover(flow, worker.journal)
    assert (again.status, again.appended, again.trace) == ("done", [], worker.trace)


def test_before_the_start() -> None:
    journal = begun()
    journal.cancel("enough")
    flow = undoing("never shown", tool)
    worker = drive(flow, journal)
    assert worker.text == "undo: enough. "
    assert (marker(worker).waits, marker(worker).displays) == (0, 0)
    worker.finish()
    assert worker.text == "undo: enough. undone. "
    assert b'"finalOutput":"nothing happened"' in worker.journal.entries[-1].data
    assert_ended_cancelled(worker, flow)


def test_at_a_display() -> None:
    def after_two(worker: Worker) -> None:
        if len(worker.said) == 2 and not worker.journal.is_cancelled:
            worker.journal.cancel("enough")

    flow = undoing("a", "b", "c", "d")
    worker = drive(flow, between=after_two)
    worker.finish()
    assert worker.text == "abundo: enough. undone. "
    assert (marker(worker).waits, marker(worker).displays) == (0, 2)
    assert_ended_cancelled(worker, flow)


def test_at_a_wait_instead_of_it() -> None:
    flow = undoing("a", tool)
    worker = drive(flow, between=lambda worker: cancel_at("ToolWait", worker))
    worker.finish()
    assert "tool_start" not in worker.journal.kinds
    assert (marker(worker).displays, marker(worker).waiting) == (1, False)
    assert_ended_cancelled(worker, flow)


@pytest.mark.parametrize(
    "wait", [tool, step, sleep, lambda: gather(tool(), step(), race(sleep(), tool("b")))]
)
def test_while_waiting_it_abandons_what_is_open(wait: Any) -> None:
    flow = undoing("a", wait)
    worker = drive(flow)
    worker.cancel("enough")
    assert worker.journal.open() == {}
    assert len(worker.steps) == 1  # the undoing one
    assert marker(worker).waiting
    worker.finish()
    assert worker.text == "aundo: enough. undone. "
    assert_ended_cancelled(worker, flow)


def test_an_answer_that_came_first_is_given_first() -> None:
    flow = undoing(tool, "b", tool)
    worker = drive(flow)
    worker.journal.settle(next(iter(worker.journal.open().values())), 1)
    worker.journal.cancel("enough")
    worker.advance()
    assert worker.answers[0] == 1
    assert (marker(worker).waits, marker(worker).displays) == (1, 0)
    worker.finish()
    assert_ended_cancelled(worker, flow)


def test_an_answer_that_came_after_it_is_not_given() -> None:
    flow = undoing(tool, "b")
    worker = drive(flow)
    worker.journal.cancel("enough")
    worker.journal.settle(next(iter(worker.journal.open().values())), 1)
    worker.advance()
    assert worker.answers == [("Cancelled", "enough")]


def test_at_the_end_it_is_cancelled_all_the_same() -> None:
    def flow(run: Run) -> Yields:
        yield "a"

    def after_all(worker: Worker) -> None:
        if worker.said and not worker.journal.is_cancelled:
            worker.journal.cancel()

    worker = drive(flow, between=after_all)
    assert worker.text == "a"
    assert_ended_cancelled(worker, flow)


def test_a_flow_that_fails_while_it_is_cancelled_is_cancelled() -> None:
    def flow(run: Run) -> Yields:
        try:
            yield tool()
        except Cancelled:
            raise ValueError("too late") from None

    worker = drive(flow)
    worker.cancel()
    assert_ended_cancelled(worker, flow)


def test_afterwards_steps_are_allowed_and_any_other_wait_raises_it_again() -> None:
    def flow(run: Run) -> Yields:
        try:
            yield tool()
        except Cancelled:
            for wait in (tool(), sleep(), gather(step("a"), tool())):
                try:
                    yield wait
                except Cancelled:
                    yield "again. "
            yield (yield gather(step("b"), step("c")))[0]

    worker = drive(flow)
    worker.cancel()
    assert worker.text == "again. again. again. "
    assert worker.journal.ids("step_start") == worker.steps
    worker.finish(value="b")
    worker.finish(value="c")
    assert worker.text.endswith("b")
    assert_ended_cancelled(worker, flow)


def test_a_step_that_undoes_may_fail_like_any_other() -> None:
    def flow(run: Run) -> Yields:
        try:
            yield tool()
        except Cancelled:
            try:
                yield step("undo")
            except WaitFailed as exc:
                yield exc.message

    worker = drive(flow)
    worker.cancel()
    worker.finish("fail", "no way")
    assert worker.text == "no way"
    assert_ended_cancelled(worker, flow)


def test_edited_code_that_never_comes_to_the_place_is_cancelled_at_its_next_wait() -> None:
    def after_three(worker: Worker) -> None:
        if len(worker.said) == 3 and not worker.journal.is_cancelled:
            worker.journal.cancel("enough")

    worker = drive(undoing("a", "b", "c", "d", tool), between=after_three)
    assert marker(worker).displays == 3
    worker.finish()
    edited = recover(undoing("a", tool), worker.journal)
    assert edited.answers[0] == ("Cancelled", "enough")
    assert edited.appended == []
    assert edited.text == "abcundo: enough. undone. "


def test_edited_code_that_ends_before_the_place_diverges() -> None:
    worker = drive(undoing("a", "b"), between=lambda worker: cancel_at("display", worker))
    with pytest.raises(Divergence, match="Cancelled raised"):
        recover(undoing(), worker.journal)


def test_code_that_waits_where_it_was_cancelled_diverges() -> None:
    worker = drive(undoing(tool))
    worker.cancel()
    with pytest.raises(Divergence):
        recover(undoing(step), worker.journal)


def test_a_crash_between_the_marker_and_what_it_abandons_loses_nothing() -> None:
    flow = undoing(lambda: gather(tool("a"), step("b"), tool("c")))
    worker = drive(flow)
    worker.cancel("enough")
    raised = next(e.seq for e in worker.journal.entries if e.kind == "dispatch.cancel_raised")
    recovered = drive(flow, worker.journal.cut(raised))
    recovered.finish()
    assert recovered.answers[0] == ("Cancelled", "enough")
    assert_ended_cancelled(recovered, flow)


def test_an_end_that_the_world_wrote_ends_it() -> None:
    worker = drive(undoing(tool))
    worker.cancel()
    ended = worker.journal.cut(worker.journal.last_seq)
    ended.end_by_world()
    assert drive(undoing(tool), ended).status == "done"


def test_a_second_cancel_changes_nothing() -> None:
    worker = drive(undoing(tool, "b"))
    worker.journal.cancel("first")
    worker.journal.cancel("second")
    worker.advance()
    assert worker.answers == [("Cancelled", "first")]
