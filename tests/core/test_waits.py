from pathlib import Path

import pytest

from dispatch.core import errors
from dispatch.core.errors import Busy, Cancelled, DispatchError, FlowMistake
from dispatch.core.waits import MADE, ContinueAs, Gather, Race, SleepWait, ToolWait, Wait


def test_a_wait_knows_the_author_s_line() -> None:
    wait: ToolWait[object] = ToolWait("a", {})
    file, _, line = wait.where.rpartition(":")
    assert file == __file__
    assert "ToolWait" in Path(__file__).read_text().splitlines()[int(line) - 1]


def test_waits_that_were_made_are_known_until_they_stand_in_a_group() -> None:
    made: list[Wait[object]] = []
    token = MADE.set(made)
    try:
        one: ToolWait[object] = ToolWait("a", {})
        other: ToolWait[object] = ToolWait("b", {})
        assert made == [one, other]
        group: Gather[object] = Gather((one,))
        assert made == [other, group]
    finally:
        MADE.reset(token)


@pytest.mark.parametrize("group", [Gather, Race])
@pytest.mark.parametrize("odd", ["text", 5, None, ContinueAs(1)])
def test_a_group_takes_waits_only(group: type[Gather[object]], odd: object) -> None:
    with pytest.raises(FlowMistake, match=f"branch 2 of {group.__name__.lower()} is a"):
        group((SleepWait(seconds=1), odd))  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(FlowMistake, match="of nothing"):
        group(())


async def test_a_wait_that_is_awaited_says_to_yield_it() -> None:
    with pytest.raises(FlowMistake, match=r"was awaited at .*test_waits.py:\d+: a wait is yielded"):
        await ToolWait("a", {})


def test_a_wait_shows_what_it_is_for() -> None:
    assert repr(Race((ToolWait("a", {}), SleepWait(seconds=1)))) == "Race(a, sleep)"


def test_every_error_has_a_code_of_its_own_family() -> None:
    families = DispatchError.__subclasses__()
    codes = [family.code for family in families]
    assert len(set(codes)) == len(codes)
    assert "error" not in codes


def test_an_error_may_have_a_finer_code() -> None:
    error = errors.Conflict("settled already", code="await-settled")
    assert (error.code, errors.Conflict.code) == ("await-settled", "conflict")
    assert Busy("later", retry_after_seconds=3).retry_after_seconds == 3


def test_cancelled_passes_through_except_exception() -> None:
    assert not issubclass(Cancelled, Exception)
    assert (str(Cancelled()), str(Cancelled("enough"))) == ("cancelled", "enough")
