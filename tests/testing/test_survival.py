"""A flow that would not survive a restart fails its test, with both sides and the line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dispatch.flow import FlowVersion
from dispatch.testing import FlowWarning, run
from tests.testing import unfit

pytestmark = pytest.mark.filterwarnings("ignore::dispatch.testing.FlowWarning")
SOURCE = Path(unfit.__file__).read_text().splitlines()


def line_of(flow: FlowVersion, text: str) -> str:
    first = flow.fn.__code__.co_firstlineno
    number = next(n for n, line in enumerate(SOURCE[first:], first + 1) if text in line)
    return f"{unfit.__file__}:{number}"


async def fault_of(flow: FlowVersion, **given: Any) -> str:
    with pytest.raises(AssertionError) as failed:
        async with run(flow, tools=AnyTool(), **given):
            pass
    return str(failed.value)


class AnyTool(dict[str, Any]):
    """Answers whatever is asked."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return "answer"


@pytest.mark.parametrize(
    ("flow", "recorded", "now", "line"),
    [
        (unfit.clock, r'text "It is .*"', r'text "It is .*"', "datetime.now()"),
        (unfit.chance, r"tool ask_\d+ {} .*", r"tool ask_\d+ {} .*", "yield tool("),
        (unfit.parameters, r'tool ask {"number":\d+} .*', r'tool ask {"number":.*', "yield tool("),
        (unfit.counter, 'text "For the first time. "', 'result "done"', "yield result("),
        (unfit.memory, r'continue_as {"number":\d+}', r"continue_as .*", "continue_as("),
    ],
    ids=lambda value: value.id if isinstance(value, FlowVersion) else "",
)
async def test_both_sides_are_shown(flow: FlowVersion, recorded: str, now: str, line: str) -> None:
    unfit.Clerk.turns = 0
    told = await fault_of(flow)
    found = re.search(
        rf"{flow.id} would not survive a crash behind entry \d+ \([\w.]+\): .*\n\n"
        rf"  recorded:  ({recorded})\n  now:       ({now})\n  at:        (.*)\n\n"
        r"What stands between the yields is run again",
        told,
    )
    assert found is not None, told
    assert found[1] != found[2]
    assert found[3] == line_of(flow, line)


async def test_another_end_is_told_by_its_error() -> None:
    told = await fault_of(unfit.end)
    sides = set(re.findall(r"(?:recorded|now): +(the end: \w+)", told))
    assert sides == {"the end: completed", "the end: failed"}, told
    assert "RuntimeError: odd" in told


async def test_what_can_be_read_in_a_flow_is_a_warning() -> None:
    with pytest.warns(FlowWarning, match=r"clock reads the clock by `datetime.now`") as warned:
        await fault_of(unfit.clock)
    assert [one.filename for one in warned] == [__file__]


async def test_who_does_not_want_the_check_is_not_checked() -> None:
    async with run(unfit.clock, check=False) as r:
        assert "It is" in r.text
        with pytest.raises(AssertionError, match="would not survive"):
            await r.check_replay()


async def test_what_is_shown_between_two_cuts_is_compared_too() -> None:
    """A long journal is cut at both ends of what was shown in a row; this differs in the middle."""
    told = await fault_of(unfit.talk)
    assert 'recorded:  text "Number' in told
    assert told.count("Number") == 2
