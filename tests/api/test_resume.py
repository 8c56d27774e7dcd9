"""The resume table of design.md 7, row by row, cold and warm."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from dispatch.core.ids import execution_id
from tests.api.caller import Caller, Told

RESUME = "/v1/dispatch/resume"


@pytest.fixture(scope="module", params=["cold", "warm", "of two servers"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def max_live(kind: str) -> int:
    return 0 if kind == "cold" else 1000


@pytest.fixture(scope="module")
def servers(kind: str) -> int:
    return 2 if kind == "of two servers" else 1


def outputs(told: Told, output: Any = "sun") -> dict[str, Any]:
    return dict.fromkeys(told.calls, output)


async def last_seq(caller: Caller, id: str) -> int:
    return int((await caller.status(id))["lastSeq"])


# --- what is refused, and changes nothing ---------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"executionId"', "json-invalid"),
        (b"[]", "body-invalid"),
        ({"toolOutputs": {}}, "body-invalid"),
        ({"executionId": ""}, "body-invalid"),
        ({"executionId": 7}, "body-invalid"),
        ({"executionId": "exec_1", "toolOutputs": []}, "body-invalid"),
        ({"executionId": "exec_1", "messages": [{"role": "robot"}]}, "body-invalid"),
    ],
)
async def test_what_cannot_be_read_is_400(caller: Caller, body: Any, code: str) -> None:
    assert (await caller.refused(RESUME, body))[:2] == (400, code)


async def test_two_keys_for_one_call_are_400(caller: Caller) -> None:
    told = await caller.dispatch("one")
    before = await last_seq(caller, told.id)
    body = {"executionId": told.id, "toolOutputs": {told.calls[0]: 1, "look": 1}}
    assert (await caller.refused(RESUME, body))[:2] == (400, "call-twice")
    assert await last_seq(caller, told.id) == before


@pytest.mark.parametrize(
    "id", ["nonsense", "exec_1", "x" * 200, execution_id(1.0, bytes(10)), "exec_\x00", "exec_é"]
)
async def test_an_unknown_execution_is_404(caller: Caller, id: str) -> None:
    body = {"executionId": id, "toolOutputs": {}}
    assert (await caller.refused(RESUME, body))[:2] == (404, "execution-unknown")


@pytest.mark.parametrize("key", ["call_0000000000000000", "stare", "", "webmcp:stare"])
async def test_a_key_that_fits_no_call_is_400_and_lists_the_open_ones(
    caller: Caller, key: str
) -> None:
    told = await caller.dispatch("one")
    answer = await caller.post(RESUME, {"executionId": told.id, "toolOutputs": {key: 1}})
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown-call")
    assert told.calls[0] in answer.json()["error"]


async def test_a_name_that_is_open_twice_is_400_and_lists_both(caller: Caller) -> None:
    told = await caller.dispatch("twins")
    answer = await caller.post(RESUME, {"executionId": told.id, "toolOutputs": {"look": 1}})
    assert (answer.status_code, answer.json()["code"]) == (400, "ambiguous-call")
    assert all(call in answer.json()["error"] for call in told.calls)


async def test_a_call_that_timed_out_is_410(caller: Caller) -> None:
    told = await caller.dispatch("late")
    await caller.events(told.id, until=lambda seen: len(seen.of("await")) == 2)
    body = {"executionId": told.id, "toolOutputs": {told.calls[0]: 1}}
    assert (await caller.refused(RESUME, body))[:2] == (410, "await-expired")


async def test_a_call_that_lost_its_race_is_409(caller: Caller) -> None:
    told = await caller.dispatch("either")
    await caller.resume(told.id, {told.calls[1]: 1})
    body = {"executionId": told.id, "toolOutputs": {told.calls[0]: 1}}
    assert (await caller.refused(RESUME, body))[:2] == (409, "await-abandoned")


async def test_a_call_of_a_cancelled_execution_is_409(caller: Caller) -> None:
    told = await caller.dispatch("one")
    assert (await caller.post(f"/v1/executions/{told.id}/cancel", b"")).status_code == 200
    body = {"executionId": told.id, "toolOutputs": outputs(told)}
    assert (await caller.refused(RESUME, body))[:2] == (409, "await-abandoned")


async def test_another_output_than_the_recorded_is_409_with_its_seq(caller: Caller) -> None:
    told = await caller.dispatch("one")
    leg = await caller.resume(told.id, outputs(told, "sun"))
    body = {"executionId": told.id, "toolOutputs": outputs(told, "rain")}
    status, code, details = await caller.refused(RESUME, body)
    assert (status, code) == (409, "await-settled")
    assert str(leg.of("tool_complete")[0]["seq"]) in details[0]["message"]


async def test_an_output_that_does_not_fit_is_422_and_the_call_stays_open(caller: Caller) -> None:
    told = await caller.dispatch("measure")
    body = {"executionId": told.id, "toolOutputs": outputs(told, "tall")}
    status, code, details = await caller.refused(RESUME, body)
    assert (status, code) == (422, "output-invalid")
    assert details[0]["path"].startswith("$")
    assert (await caller.resume(told.id, outputs(told, 41))).text == "42"


async def test_one_bad_output_keeps_all_from_being_applied(caller: Caller) -> None:
    told = await caller.dispatch("two")
    before = await last_seq(caller, told.id)
    body = {"executionId": told.id, "toolOutputs": {told.calls[0]: 1, "stare": 2}}
    assert (await caller.refused(RESUME, body))[0] == 400
    assert await last_seq(caller, told.id) == before
    assert len((await caller.resume(told.id)).calls) == 2


async def test_an_output_for_an_approval_is_409(caller: Caller) -> None:
    told = await caller.dispatch("decide")
    for key in (told.calls[0], "erase"):
        body = {"executionId": told.id, "toolOutputs": {key: 1}}
        assert (await caller.refused(RESUME, body))[:2] == (409, "wrong-kind")


@pytest.mark.parametrize("flow", ["talk", "nap"])
async def test_where_no_call_is_open_it_is_409_and_says_what_is(caller: Caller, flow: str) -> None:
    body = {"flow": {"id": flow}}
    told = await caller.stream("POST", "/v1/dispatch", body, until=lambda seen: bool(seen.text))
    answer = await caller.post(RESUME, {"executionId": told.id})
    assert (answer.status_code, answer.json()["code"]) == (409, "not-waiting")
    assert ("timer" if flow == "nap" else "completed") in answer.json()["error"]


# --- what is taken --------------------------------------------------------------------------------


async def test_the_rest_of_the_outputs_begin_the_next_leg(caller: Caller) -> None:
    told = await caller.dispatch("two")
    leg = await caller.resume(told.id, {told.calls[1]: "sea", told.calls[0]: "sky"})
    assert leg.types[:3] == ["execution_start", "tool_complete", "tool_complete"]
    assert leg.events[0]["resumed"] is True
    # In the order of the calls, whatever the order of the keys.
    assert [event["toolCallId"] for event in leg.of("tool_complete")] == told.calls
    assert leg.text == "sky sea"
    assert told.seqs + leg.seqs == list(range(1, len(told.seqs + leg.seqs) + 1))
    assert leg.types[-1] == "execution_complete"


async def test_some_of_the_outputs_are_kept_and_the_others_asked_for_again(caller: Caller) -> None:
    told = await caller.dispatch("two")
    leg = await caller.resume(told.id, {told.calls[1]: "sea"})
    assert leg.types == ["execution_start", "tool_complete", "await"]
    assert leg.calls == [told.calls[0]]
    # Equal ones beside the rest change nothing.
    last = await caller.resume(told.id, {told.calls[1]: "sea", told.calls[0]: "sky"})
    assert last.text == "sky sea"
    assert len(last.of("tool_complete")) == 1


async def test_nothing_repeats_the_open_awaits(caller: Caller) -> None:
    told = await caller.dispatch("two")
    nothing: tuple[Any, ...] = ({}, None)
    for body in nothing:
        leg = await caller.resume(told.id, body)
        assert leg.types == ["execution_start", "await", "await"]
        assert leg.calls == told.calls


async def test_equal_outputs_again_tell_the_same_and_apply_nothing(caller: Caller) -> None:
    told = await caller.dispatch("two")
    first = await caller.resume(told.id, {told.calls[0]: {"a": 1, "b": [1.0]}})
    before = await last_seq(caller, told.id)
    again = await caller.resume(told.id, {told.calls[0]: {"b": [1], "a": 1.0}})
    assert again.events == first.events
    assert await last_seq(caller, told.id) == before


async def test_equal_outputs_after_the_end_tell_everything_but_settled_awaits(
    caller: Caller,
) -> None:
    told = await caller.dispatch("two")
    first = await caller.resume(told.id, {told.calls[0]: 1})
    last = await caller.resume(told.id, {told.calls[1]: 2})
    again = await caller.resume(told.id, {told.calls[0]: 1})
    assert [event for event in first.events if event["type"] != "await"] + last.events == (
        again.events
    )
    assert not again.is_broken


async def test_two_equal_resumes_at_once_run_one_leg_that_both_see(caller: Caller) -> None:
    told = await caller.dispatch("one")
    seen: list[Told] = []

    async def resume() -> None:
        seen.append(await caller.resume(told.id, outputs(told)))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(resume)
    assert all(one.events == seen[0].events for one in seen)
    assert seen[0].types.count("tool_complete") == 1


@pytest.mark.parametrize("key", ["look", "webmcp:look", "id"])
async def test_a_call_is_found_by_id_or_name(caller: Caller, key: str) -> None:
    told = await caller.dispatch("one")
    leg = await caller.resume(told.id, {told.calls[0] if key == "id" else key: "sun"})
    assert leg.text.startswith("seen: sun")


@pytest.mark.parametrize("key", ["color", "webmcp:color"])
async def test_a_page_tool_is_found_with_and_without_its_prefix(caller: Caller, key: str) -> None:
    told = await caller.dispatch("pages")
    assert (await caller.resume(told.id, {key: "red"})).text == "red"


async def test_a_name_without_an_open_call_means_the_newest_settled_one(caller: Caller) -> None:
    told = await caller.dispatch("one")
    leg = await caller.resume(told.id, {"look": "sun"})
    assert (await caller.resume(told.id, {"look": "sun"})).events == leg.events
    body = {"executionId": told.id, "toolOutputs": {"look": "rain"}}
    assert (await caller.refused(RESUME, body))[:2] == (409, "await-settled")


async def test_messages_replace_those_of_the_execution(caller: Caller) -> None:
    message = {"role": "user", "content": "hi", "createdAt": "now"}
    told = await caller.dispatch("one", messages=[message])
    leg = await caller.resume(told.id, outputs(told), messages=[message] * 3)
    assert leg.text == "seen: sun; messages: 3"


async def test_a_resume_while_the_flow_runs_begins_a_leg_and_breaks_the_last_off(
    caller: Caller,
) -> None:
    dispatch = {"flow": {"id": "beside"}}
    async with caller.beginning("POST", "/v1/dispatch", dispatch) as first:
        told = await first.until(lambda seen: "tool_start" in seen.types)
        call = told.of("tool_start")[0]["toolCallId"]
        resume = {"executionId": told.id, "toolOutputs": {call: "sky"}}
        async with caller.beginning("POST", RESUME, resume) as second:
            await second.until(lambda seen: "tool_complete" in seen.types)
            broken = await first.rest()
            assert broken.is_broken
            caller.gate.open()
            leg = await second.rest()
    assert not leg.is_broken
    assert leg.text == "sky held"
    assert broken.seqs + leg.seqs == list(range(1, len(broken.seqs + leg.seqs) + 1))
