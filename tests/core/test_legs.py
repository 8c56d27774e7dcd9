"""Legs, steps' attempts, segments and ids: rules 6 and 8, and what a POST streams."""

from collections.abc import Generator
from typing import Any

import msgspec
import pytest

from dispatch.core.events import ToolOrigin
from dispatch.core.journal import ClientTool
from dispatch.core.waits import ContinueAs
from tests.core.harness import (
    Result,
    Run,
    Worker,
    approval,
    drive,
    gather,
    recover,
    sleep,
    step,
    tool,
)
from tests.core.journals import Journal, begun

Yields = Generator[Any, Any, None]


def asking(*waits: Any) -> Any:
    def flow(run: Run) -> Yields:
        for wait in waits:
            yield wait()

    return flow


def kinds_after(worker: Worker, seq: int) -> list[str]:
    return worker.journal.kinds[seq:]


# --- legs -----------------------------------------------------------------------------------------


def test_a_closed_leg_that_goes_on_gets_a_head() -> None:
    worker = drive(asking(tool))
    before = worker.journal.last_seq
    worker.output(1)
    assert kinds_after(worker, before) == ["tool_complete", "execution_start", "execution_complete"]
    head = worker.journal.entries[before + 1]
    assert b'"resumed":true' in head.data


def test_a_leg_that_the_caller_began_gets_no_second_head() -> None:
    worker = drive(asking(tool))
    before = worker.journal.last_seq
    worker.journal.resume([(next(iter(worker.journal.open().values())), 1)])
    worker.advance()
    assert kinds_after(worker, before) == ["execution_start", "tool_complete", "execution_complete"]


def test_a_leg_stays_open_while_only_timers_run() -> None:
    worker = drive(asking(sleep, sleep))
    assert worker.status == "suspended"
    worker.output()
    worker.output()
    assert worker.journal.kinds == [
        "execution_start",
        "dispatch.timer_set",
        "dispatch.timer_fired",
        "dispatch.timer_set",
        "dispatch.timer_fired",
        "execution_complete",
    ]


def test_a_leg_ends_with_one_turn_for_each_open_call() -> None:
    worker = drive(asking(lambda: gather(tool("a"), sleep(), approval("b"), tool("c"))))
    assert kinds_after(worker, 5) == ["await", "approval_start", "await"]


def test_a_leg_does_not_end_while_a_step_runs() -> None:
    worker = drive(asking(lambda: gather(tool("a"), step("b"))))
    assert worker.status == "idle"
    assert "await" not in worker.journal.kinds
    worker.finish()
    assert worker.status == "suspended"
    assert worker.journal.kinds[-1] == "await"


def test_calls_still_open_are_told_again_in_the_leg_that_a_caller_began() -> None:
    worker = drive(asking(lambda: gather(tool("a"), tool("b"))))
    before = worker.journal.last_seq
    worker.journal.resume([])
    worker.advance()
    assert kinds_after(worker, before) == ["execution_start", "await", "await"]
    a, b = worker.journal.open().values()
    worker.journal.resume([(b, "B")])
    worker.advance()
    assert kinds_after(worker, before + 3) == ["execution_start", "tool_complete", "await"]
    assert worker.journal.entries[-1].facts.tool_call_id == a.id


def test_calls_are_not_told_again_when_a_closed_leg_only_loses_one() -> None:
    worker = drive(asking(lambda: gather(tool("a"), tool("b"))))
    before = worker.journal.last_seq
    worker.output("A")
    assert worker.status == "suspended"
    assert kinds_after(worker, before) == ["tool_complete"]
    assert recover(worker.flow, worker.journal).appended == []


def test_a_crash_between_two_turns_tells_the_other() -> None:
    worker = drive(asking(lambda: gather(tool("a"), tool("b"))))
    cut = worker.journal.cut(worker.journal.last_seq - 1)
    recovered = drive(worker.flow, cut)
    assert [draft.kind for draft in recovered.appended] == ["await"]
    assert recovered.journal.ids("tool_start")[1] == cut.entries[-1].facts.tool_call_id


@pytest.mark.parametrize("name", ["page_color", "webmcp:page_color"])
def test_an_await_carries_what_the_caller_declared(name: str) -> None:
    origin: ToolOrigin = "webmcp"
    declared = ClientTool(name="page_color", origin=origin, page_origin="https://shop.example")
    journal = begun(client_tools=[declared])
    worker = drive(asking(lambda: tool(name, {"element": "box"})), journal)
    told = msgspec.json.decode(worker.journal.entries[-1].data)
    assert told["toolName"] == name
    assert told["toolId"] == told["toolCallId"]
    assert told["parameters"] == {"element": "box"}
    assert (told["origin"], told["pageOrigin"]) == ("webmcp", "https://shop.example")


# --- attempts -------------------------------------------------------------------------------------


def test_no_step_is_run_before_the_entry_of_its_attempt() -> None:
    worker = drive(asking(step))
    assert worker.journal.kinds[1:] == ["step_start", "dispatch.step_attempt"]
    assert worker.status == "idle"


def test_a_step_that_was_cut_off_is_attempted_again_and_keeps_its_retries() -> None:
    flow = asking(lambda: step(retries=1))
    worker = drive(flow)
    first = worker.steps
    for attempt in (2, 3):
        worker = recover(flow, worker.journal)
        assert worker.steps == first
        assert worker.work[first[0]].attempt == attempt
        assert worker.work[first[0]].failed == 0
    worker.do(first[0], "fail", "boom")
    assert worker.journal.kinds[-1] == "error"


def test_a_backoff_goes_on_where_it_was() -> None:
    flow = asking(lambda: step(retries=2))
    worker = drive(flow)
    worker.do(worker.steps[0], "fail", "boom")
    recovered = recover(flow, worker.journal)
    work = recovered.work[recovered.steps[0]]
    assert not work.begun
    assert recovered.appended == []
    assert (work.attempt, work.failed) == (1, 1)
    assert work.retry_at == worker.journal.now + 4


def test_a_result_that_is_there_is_not_computed_again() -> None:
    flow = asking(lambda: gather(step("a"), step("b")))
    worker = drive(flow)
    worker.finish(value="A")
    recovered = recover(flow, worker.journal)
    assert [recovered.work[id].node.wait.name for id in recovered.steps] == ["b"]


def test_the_final_event_counts_steps() -> None:
    def flow(run: Run) -> Yields:
        yield gather(step("a"), step("b"), settle=True)
        if run.state is None:
            yield ContinueAs(1)

    worker = drive(flow)
    worker.finish()
    worker.finish("fail")
    worker.finish()
    worker.finish()
    final = msgspec.json.decode(worker.journal.entries[-1].data)
    assert (final["totalSteps"], final["successfulSteps"], final["failedSteps"]) == (4, 3, 1)


# --- segments -------------------------------------------------------------------------------------


def counting(run: Run) -> Yields:
    turn = run.state or 0
    yield f"turn {turn}. "
    yield tool("next", {"turn": turn, "messages": run.messages})
    yield Result(turn)
    if turn < 2:
        yield ContinueAs(turn + 1)


def test_a_segment_begins_with_its_state_and_only_the_last_is_replayed() -> None:
    worker = drive(counting)
    for _ in range(3):
        worker.output()
    assert worker.text == "turn 0. turn 1. turn 2. "
    assert worker.journal.kinds.count("dispatch.continued") == 2
    again = recover(counting, worker.journal)
    assert (again.status, again.appended) == ("done", [])
    assert again.run.segment == 2
    assert again.said == ["turn 2. ", 2]
    assert b'"finalOutput":"2"' in again.journal.entries[-1].data


def test_a_segment_carries_result_messages_and_its_beginning_along() -> None:
    def flow(run: Run) -> Yields:
        if run.state is None:
            yield Result({"from": "the first segment"})
            yield tool()
            # Nothing is answered after these arrive: they must not be lost.
            yield ContinueAs([])
        yield repr(run.messages)

    def resume_meanwhile(worker: Worker) -> None:
        if worker.standing == "ContinueAs" and "ask" not in str(worker.machine._messages):
            worker.journal.resume([], messages=["ask"])

    worker = drive(flow, begun(messages=["hello"]))
    worker.between = resume_meanwhile
    worker.output()
    assert worker.text == "['ask']"
    final = msgspec.json.decode(worker.journal.entries[-1].data)
    assert msgspec.json.decode(final["finalOutput"]) == {"from": "the first segment"}
    assert final["durationMs"] == (worker.journal.now - worker.journal.entries[0].at - 1) * 1000


def test_a_segment_pins_the_version_it_was_given() -> None:
    def flow(run: Run) -> Yields:
        if run.segment == 0:
            upgrade = ContinueAs(1)
            upgrade.version = 7
            yield upgrade
        if run.segment == 1:
            yield ContinueAs(2)

    assert drive(flow).machine.base.version == 7


def test_a_crash_right_after_the_segment_began_begins_it_again() -> None:
    worker = drive(counting)
    worker.output()
    length = worker.journal.kinds.index("dispatch.continued") + 1
    recovered = drive(counting, worker.journal.cut(length))
    assert recovered.text == "turn 0. turn 1. "


# --- ids ------------------------------------------------------------------------------------------


def ids(journal: Journal) -> list[str]:
    return journal.ids("tool_start") + journal.ids("step_start")


def test_ids_are_unique_over_waits_and_segments_and_the_same_on_replay() -> None:
    def flow(run: Run) -> Yields:
        for _ in range(3):
            yield gather(tool("same"), tool("same"))
        if run.segment < 2:
            yield ContinueAs(0)

    worker = drive(flow)
    while worker.status != "done":
        worker.output()
        worker = recover(flow, worker.journal)
    assert len(set(ids(worker.journal))) == len(ids(worker.journal)) == 18


def test_ids_depend_on_the_seed() -> None:
    def other_seed() -> Journal:
        journal = begun()
        start = journal.entries[0]
        private = (start.private or b"").replace(b"5eed", b"beef")
        journal.entries[0] = msgspec.structs.replace(start, private=private)
        return journal

    mine, other = drive(asking(tool)), drive(asking(tool), other_seed())
    assert ids(mine.journal) != ids(other.journal)
