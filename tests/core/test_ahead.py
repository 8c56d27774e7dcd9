"""Answers given before they were asked for: outputs with the dispatch, remembered decisions."""

from __future__ import annotations

from typing import Any

import msgspec

from dispatch.core import drafts
from dispatch.core.waits import ContinueAs, Decision
from tests.core.harness import Result, Run, Worker, approval, drive, gather, recover, step, tool
from tests.core.journals import Journal, begun

Yields = Any


def given(**outputs: Any) -> Journal:
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in outputs.items()}
    return begun(tool_outputs=raw)


def remember(worker: Worker, word: str) -> None:
    """A person decides the open approval, and wants that remembered."""
    (wait,) = worker.journal.open().values()
    worker.journal.append(
        drafts.resumed_head("flow", "flow", worker.journal.now),
        drafts.decision(wait.id, word, worker.journal.now, remember=True),
    )
    worker.advance()


def test_an_output_answers_the_first_call_of_its_tool_and_no_other() -> None:
    def flow(run: Run) -> Yields:
        first = yield tool("where")
        yield f"{first}, "
        second = yield tool("where")
        yield f"{second}"

    worker = drive(flow, given(where="Oslo"))
    assert worker.status == "suspended"
    assert worker.text == "Oslo, "
    assert worker.journal.kinds.count("await") == 1
    worker.output("Lima")
    assert worker.text == "Oslo, Lima"


def test_of_several_calls_at_once_the_first_gets_it() -> None:
    def flow(run: Run) -> Yields:
        yield gather(tool("where", {"n": 1}), tool("where", {"n": 2}))

    worker = drive(flow, given(where="Oslo"))
    (left,) = worker.journal.open().values()
    assert left.id == worker.journal.ids("tool_start")[1]


def test_a_page_s_prefix_makes_no_difference() -> None:
    def flow(run: Run) -> Yields:
        yield f"{(yield tool('webmcp:where'))}"

    assert drive(flow, given(where="Oslo")).text == "Oslo"


def test_steps_beside_an_answered_call_are_begun() -> None:
    def flow(run: Run) -> Yields:
        both = yield gather(tool("where"), step("work"))
        yield f"{both}"

    worker = drive(flow, given(where="Oslo"))
    assert worker.status == "idle"
    worker.finish(value=1)
    assert worker.text == "['Oslo', 1]"


def test_a_private_tool_s_output_stays_private() -> None:
    def flow(run: Run) -> Yields:
        yield Result((yield tool("where", private=True)) == "Oslo")

    worker = drive(flow, given(where="Oslo"))
    (settled,) = [entry for entry in worker.journal.entries if entry.kind == "tool_complete"]
    assert b"Oslo" not in settled.data
    assert b'"finalOutput":"true"' in worker.journal.entries[-1].data


def test_a_decision_that_is_remembered_holds_for_later_approvals_of_that_name() -> None:
    def flow(run: Run) -> Yields:
        for _ in range(3):
            yield f"{(yield approval('delete')).outcome} "
        yield f"{(yield approval('send')).outcome}"

    worker = drive(flow)
    remember(worker, "denied")
    assert worker.text == "denied denied denied "
    (left,) = worker.journal.open().values()
    assert left.name == "send"
    # The caller was asked once for each name.
    assert worker.journal.kinds.count("approval_start") == 2


def test_a_decision_that_is_not_remembered_holds_once() -> None:
    def flow(run: Run) -> Yields:
        yield approval("delete")
        yield approval("delete")

    worker = drive(flow)
    (wait,) = worker.journal.open().values()
    worker.journal.resume([(wait, None)])
    worker.advance()
    assert len(worker.journal.open()) == 1


def test_a_replay_gets_the_same_answers_from_the_journal() -> None:
    def flow(run: Run) -> Yields:
        place = yield tool("where")
        decision: Decision = yield approval("delete")
        again: Decision = yield approval("delete")
        yield f"{place} {decision.outcome} {again.outcome}"

    worker = drive(flow, given(where="Oslo"))
    remember(worker, "approved")
    again = recover(flow, worker.journal)
    assert again.status == "done"
    assert again.appended == []
    assert again.answers == worker.answers


def test_what_is_left_is_carried_into_the_next_segment() -> None:
    def flow(run: Run) -> Yields:
        if run.state is None:
            yield tool("where")
            yield approval("delete")
            yield ContinueAs("on")
        answers = yield gather(tool("where"), tool("who"), approval("delete"))
        yield Result(len(answers))

    worker = drive(flow, given(where="Oslo", who="Ada"))
    remember(worker, "approved")
    # `who` and the decision were left; `where` was taken in the first segment.
    (left,) = worker.journal.open().values()
    assert left.name == "where"
    worker.output("Lima")
    assert worker.status == "done"
