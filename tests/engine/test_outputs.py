"""An output is taken if its flow can decode it: the schema is read as msgspec reads the type."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from dispatch import Flow, Run, flow, result, tool
from dispatch.core.errors import Unprocessable
from dispatch.engine.outputs import check_output
from dispatch.store.base import WaitRow
from tests.engine.worker import Bench


class Weather(msgspec.Struct):
    celsius: int
    at: date | None = None


VALUES: list[Any] = [
    *(None, True, 0, 7, 7.0, 7.5, 1e300, 2**70),
    *("", "7", "7.5", "soon", "P1D", "P1Y", "2026-02-28", "2026-02-30", "aGk=", "aGk", "a$"),
    *("2026-02-28T00:00:00Z", "00000000-0000-0000-0000-000000000000"),
    *([], [7], [7.0], [7, "7"], {}, {"celsius": 7}, {"celsius": 7.0}, {"celsius": 7.5}),
    *({"celsius": 7, "at": "2026-02-28"}, {"celsius": 7, "at": "2026-02-30"}, {"7": 7}, {"a": 7.0}),
]
TYPES: list[Any] = [
    *(int, float, bool, str, None, UUID, date, timedelta, bytes, Weather),
    *(list[int], dict[str, int], int | None, list[Weather], tuple[int, str]),
]


@pytest.mark.parametrize("wanted", TYPES, ids=str)
def test_an_output_is_taken_if_it_can_be_decoded(wanted: Any) -> None:
    for value in VALUES:
        raw = msgspec.json.encode(value)
        assert taken(raw, wanted) == decodes(raw, wanted), value


def taken(raw: bytes, wanted: Any) -> bool:
    row = WaitRow(
        id="call_1",
        kind="tool",
        name="get",
        status="open",
        issued=True,
        opened_seq=1,
        returns=msgspec.json.encode(msgspec.json.schema(wanted)),
        raw=True,
    )
    try:
        check_output(row, raw)
    except Unprocessable:
        return False
    return True


def decodes(raw: bytes, wanted: Any) -> bool:
    try:
        msgspec.json.decode(raw, type=wanted)
    except msgspec.ValidationError:
        return False
    return True


def test_text_is_no_decimal_unless_it_is_one() -> None:
    """Stricter than the flow: msgspec takes numbers, too, and its schema speaks of text."""
    assert [taken(raw, Decimal) for raw in (b'"7.50"', b'"much"', b"7")] == [True, False, False]


async def test_a_float_is_no_int_and_the_caller_is_told(bench: Bench) -> None:
    @flow("counts")
    async def counts(run: Run[Any]) -> Flow:
        yield result((yield tool("count", returns=int)))

    async with bench.worker(counts) as worker:
        play = await worker.play(counts)
        with pytest.raises(Unprocessable, match=r"7\.0 is not of type 'integer'"):
            await play.answer("count", 7.0)
        await play.answer("count", 7)
        assert await play.result() == 7
