"""Rules 1, 2 and 3: one path, what is compared, and what is a divergence."""

import re
from collections.abc import Generator
from typing import Any

import pytest

from dispatch.core.errors import Divergence, FlowMistake
from dispatch.core.moves import Suspend
from dispatch.core.waits import ContinueAs, Wait
from tests.core.harness import (
    Result,
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
from tests.core.journals import begun

Yields = Generator[Any, Any, None]


def saying(*said: Any) -> Any:
    """A flow that yields these, made anew each time they are waits' makers."""

    def flow(run: Run) -> Yields:
        for item in said:
            yield item() if callable(item) else item

    return flow


# --- one path -------------------------------------------------------------------------------------


def test_a_flow_goes_from_text_to_answers_to_its_end() -> None:
    def flow(run: Run) -> Yields:
        yield "Hello "
        city = yield tool("where")
        weather = yield step("weather")
        yield f"{city}: {weather}"
        yield Result({"city": city})

    worker = drive(flow)
    assert worker.status == "suspended"
    worker.output("Oslo")
    assert worker.status == "idle"
    assert worker.finish(value="rain") == "done"
    assert worker.journal.kinds == [
        "execution_start",
        "text_delta",
        "tool_start",
        "await",
        "tool_complete",
        "execution_start",
        "step_start",
        "dispatch.step_attempt",
        "step_complete",
        "text_delta",
        "dispatch.result",
        "execution_complete",
    ]
    assert worker.text == "Hello Oslo: rain"
    assert worker.journal.entries[-1].facts.success
    assert b'"finalOutput":"{\\"city\\":\\"Oslo\\"}"' in worker.journal.entries[-1].data


def test_a_replay_of_a_finished_journal_appends_nothing_and_answers_the_same() -> None:
    flow = saying("a", tool, "b", step, sleep)
    worker = drive(flow)
    worker.output({"n": 1})
    worker.finish(value=2)
    assert worker.output() == "done"
    again = recover(flow, worker.journal)
    assert (again.status, again.appended, again.trace) == ("done", [], worker.trace)


def test_an_append_is_withdrawn_if_somebody_else_came_first() -> None:
    refused = []

    def cancel_first(worker: Worker) -> None:
        if worker.standing == "ToolWait" and not worker.journal.is_cancelled:
            worker.journal.cancel()
            refused.append(worker.standing)

    worker = drive(saying("a", tool), between=cancel_first)
    assert refused
    assert "tool_start" not in worker.journal.kinds
    assert worker.status == "done"


def test_a_suspend_is_withdrawn_if_the_answer_came_first() -> None:
    answered: list[str] = []

    def answer_first(worker: Worker) -> None:
        decided = worker.machine.decide(worker.journal.now)
        if isinstance(decided, Suspend) and worker.journal.open() and not answered:
            answered.append("the tool")
            worker.journal.settle(next(iter(worker.journal.open().values())), 1)

    journal = begun()
    worker = Worker(saying("a", lambda: gather(tool(), tool())), journal)
    worker.advance()
    worker.between = answer_first
    worker.output("first", call=1)
    assert answered
    assert worker.status == "done"
    assert worker.answers == [[1, "first"]]


def test_decide_asked_twice_says_the_same() -> None:
    worker = drive(saying(lambda: gather(step(), tool())))
    now = worker.journal.now
    assert worker.machine.decide(now) == worker.machine.decide(now)


def test_run_now_and_messages_are_as_of_the_answering_entry() -> None:
    seen: list[tuple[float, Any]] = []

    def flow(run: Run) -> Yields:
        seen.append((run.now, run.messages))
        yield race(tool("a"), tool("b"))
        seen.append((run.now, run.messages))
        yield tool("c")
        seen.append((run.now, run.messages))

    worker = drive(flow, begun(messages=["one"]))
    first, second = worker.journal.open().values()
    worker.journal.resume([(second, "b")], messages=["two"])
    decided_at = worker.journal.now
    # Not known to the flow yet: what came later did not answer anything.
    worker.journal.resume([], messages=["three"])
    worker.advance()
    assert seen[1] == (decided_at, ["two"])
    worker.output("c")
    assert seen[2] == (worker.trace[1][1], ["three"])
    once = list(seen)
    seen.clear()
    recover(flow, worker.journal)
    assert seen == once
    assert first.id not in worker.journal.open()


# --- displays are not compared --------------------------------------------------------------------


def at_a_tool(*said: Any) -> Worker:
    worker = drive(saying(*said, tool))
    assert worker.status == "suspended"
    return worker


@pytest.mark.parametrize(
    ("shown", "now_said"),
    [
        (["Helo ", "world"], ["Hello ", "world"]),
        (["a", "b"], ["a"]),
        (["a", "b"], []),
        (["a"], ["a", "b", "c"]),
        ([], ["a", "b"]),
        (["a"], ["", "a"]),
    ],
    ids=["a typo", "fewer", "none", "more", "some where none were", "an empty string"],
)
def test_edited_text_before_a_recorded_wait_parks_nobody(
    shown: list[str], now_said: list[str]
) -> None:
    worker = at_a_tool(*shown)
    edited = recover(saying(*now_said, tool, "end"), worker.journal)
    edited.output(1)
    assert edited.status == "done"
    assert edited.text == "".join(shown) + "end"


def test_after_the_last_recorded_display_the_next_one_is_shown() -> None:
    worker = drive(saying("a", "b", step))
    cut = worker.journal.cut(3)  # before the step
    recovered = drive(saying("x", "y", "c", step), cut)
    assert recovered.text == "abc"


def test_a_live_wait_ends_what_is_skipped() -> None:
    worker = drive(saying("a", "b", step))
    cut = worker.journal.cut(3)
    recovered = drive(saying("a", step, "c"), cut)
    recovered.finish()
    assert recovered.text == "abc"
    assert recover(saying("a", step, "c"), cut).appended == []


def test_displays_behind_a_refused_wait_are_not_shown_again() -> None:
    def flow(run: Run) -> Yields:
        try:
            yield tool("odd", {"number": float("nan")})
        except FlowMistake:
            yield "refused. "
        yield tool("even")

    worker = drive(flow)
    cut = worker.journal.cut(2)
    assert drive(flow, cut).text == "refused. "


# --- waits are ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "now_yielded"),
    [
        (tool, approval),
        (tool, step),
        (lambda: tool("a"), lambda: tool("b")),
        (lambda: tool("a", {"n": 1}), lambda: tool("a", {"n": 2})),
        (lambda: tool("a", {"n": 1}, private=True), lambda: tool("a", {"n": 2}, private=True)),
        (lambda: approval("a", {"n": 1}), lambda: approval("a", {"n": 2})),
        (lambda: step("a"), lambda: step("b")),
        (sleep, tool),
        (lambda: gather(tool("a"), tool("b")), lambda: race(tool("a"), tool("b"))),
        (
            lambda: gather(tool("a"), tool("b")),
            lambda: gather(tool("a"), tool("b"), settle=True),
        ),
        (lambda: gather(tool("a"), tool("b")), lambda: gather(tool("b"), tool("a"))),
        (lambda: tool("a"), lambda: gather(tool("a"))),
        (tool, lambda: ContinueAs(1)),
        (lambda: gather(tool("a"), tool("b")), lambda: tool("a")),
    ],
    ids=[
        "kind",
        "kind, step",
        "name",
        "parameters",
        "private parameters",
        "an approval's parameters",
        "a step's name",
        "a sleep",
        "gather is race",
        "gather settles",
        "order",
        "in a gather",
        "a segment's end",
        "fewer",
    ],
)
def test_another_wait_than_the_recorded_one_diverges(recorded: Any, now_yielded: Any) -> None:
    worker = drive(saying(recorded))
    before = list(worker.journal.entries)
    with pytest.raises(Divergence) as caught:
        drive(saying(now_yielded), worker.journal)
    assert worker.journal.entries == before
    assert caught.value.seq == 2
    assert re.search(r"\.py:\d+$", caught.value.where)
    assert "Ways out: deploy" in caught.value.message


@pytest.mark.parametrize(
    ("recorded", "now_yielded"),
    [
        (lambda: tool("a", {"x": 1, "y": 2.0}), lambda: tool("a", {"y": 2, "x": 1.0})),
        (lambda: tool("a", {"x": {"b", "a", "c"}}), lambda: tool("a", {"x": {"c", "b", "a"}})),
        (lambda: tool("a", {"x": None}), lambda: tool("a", {"x": None})),
        (lambda: tool("a", {"x": 1}, private=True), lambda: tool("a", {"x": 1}, private=False)),
        (lambda: sleep(5), lambda: sleep(500)),
        (lambda: tool(timeout_seconds=5), lambda: tool(timeout_seconds=50, returns=int)),
        (lambda: step(retries=1), lambda: step(retries=5)),
    ],
    ids=["spelling", "a set", "null", "private", "time", "timeout", "retries"],
)
def test_what_is_not_compared_may_change(recorded: Any, now_yielded: Any) -> None:
    worker = drive(saying(recorded))
    assert recover(saying(now_yielded), worker.journal).status == worker.status


def test_a_divergence_tells_both_sides() -> None:
    worker = drive(saying(lambda: tool("pay", {"amount": 5})))
    with pytest.raises(Divergence) as caught:
        recover(saying(lambda: tool("pay", {"amount": 6})), worker.journal)
    told = caught.value
    assert told.recorded.startswith('tool pay {"amount":5} (call_')
    assert told.yielded.startswith('tool pay {"amount":6} (call_')


@pytest.mark.parametrize("secret_now", ["hunter2", "hunter3"])
def test_private_parameters_are_never_shown(secret_now: str) -> None:
    worker = drive(saying(lambda: tool("pay", {"password": "hunter2"}, private=True)))
    for entry in worker.journal.entries:
        assert b"hunter" not in entry.data or entry.kind == "await"
    with pytest.raises(Divergence) as caught:
        recover(saying(lambda: tool("pai", {"password": secret_now}, private=True)), worker.journal)
    assert "hunter" not in caught.value.message
    assert '"digest"' in caught.value.recorded
    assert '"digest"' in caught.value.yielded


@pytest.mark.parametrize(
    ("recorded", "now_yielded", "says"),
    [
        ([tool], [], "the end: completed"),
        ([tool], ["text"], "the end: completed"),
        ([sleep], [], "the end: completed"),
    ],
)
def test_an_end_while_recorded_waits_remain_diverges(
    recorded: list[Any], now_yielded: list[Any], says: str
) -> None:
    worker = drive(saying(*recorded))
    with pytest.raises(Divergence) as caught:
        recover(saying(*now_yielded), worker.journal)
    assert caught.value.yielded == says


def test_a_wait_where_the_end_is_recorded_diverges() -> None:
    worker = drive(saying("a"))
    with pytest.raises(Divergence, match="the end: completed") as caught:
        recover(saying("a", tool), worker.journal)
    assert caught.value.yielded.startswith("tool tool {}")


def test_another_end_than_the_recorded_one_diverges() -> None:
    def fails(run: Run) -> Yields:
        yield "a"
        raise ValueError("boom")

    failed = drive(fails)
    assert failed.journal.kinds[-1] == "execution_error"
    assert b'"error":{"code":"flow-failed","message":"boom"}' in failed.journal.entries[-1].data
    with pytest.raises(Divergence) as caught:
        recover(saying("a"), failed.journal)
    assert (caught.value.recorded, caught.value.yielded) == (
        "the end: failed",
        "the end: completed",
    )
    with pytest.raises(Divergence):
        recover(fails, drive(saying("a")).journal)


def test_a_wait_that_is_open_while_entries_follow_diverges() -> None:
    worker = drive(saying(tool, tool))
    worker.output(1)
    entries = worker.journal.entries
    without_its_answer = begun()
    for entry in entries[1:3] + entries[5:]:  # the call, its await and the next call
        placed = type(entry)(
            without_its_answer.last_seq + 1, entry.kind, entry.origin, entry.at, entry.data
        )
        without_its_answer.entries.append(placed)
    with pytest.raises(Divergence, match="a wait that is still open"):
        drive(saying(tool, tool), without_its_answer)


# --- mistakes -------------------------------------------------------------------------------------


class Unknown:
    """Nothing that JSON can hold."""


@pytest.mark.parametrize(
    "odd",
    [
        lambda: tool("a", {"x": float("inf")}),
        lambda: tool("a", {"x": Unknown()}),
        lambda: tool("a", {"x": "\ud800"}),
        lambda: tool("a", returns=Unknown),
        lambda: approval("a", {"x": float("nan")}),
        lambda: gather(tool("a"), tool("b", {"x": float("nan")})),
        lambda: sleep(1e30),
        lambda: sleep(float("nan")),
        lambda: ContinueAs(float("nan")),
    ],
)
def test_what_the_journal_cannot_hold_is_raised_at_its_yield(odd: Any) -> None:
    caught: list[FlowMistake] = []

    def flow(run: Run) -> Yields:
        try:
            yield odd()
        except FlowMistake as exc:
            caught.append(exc)
        answer = yield tool("next")
        yield str(answer)

    worker = drive(flow)
    assert worker.output("fine") == "done"
    assert recover(flow, worker.journal).appended == []
    assert len(caught) == 2


def test_a_wait_knows_its_result() -> None:
    def flow(run: Run) -> Yields:
        asked: Wait[Any] = tool()
        with pytest.raises(FlowMistake, match="yield it first"):
            assert asked.result
        yield asked
        yield asked.result

    worker = drive(flow)
    worker.output("said")
    assert worker.text == "said"
