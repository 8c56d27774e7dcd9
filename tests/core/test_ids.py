from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.clock import iso, parse_iso
from dispatch.core.ids import EXECUTION_ID, derive, execution_id

MOMENTS = st.floats(0, 200_000_000_000, allow_nan=False)


@given(MOMENTS, st.binary(min_size=10, max_size=16))
def test_an_execution_id_is_a_uuid_v7(at: float, randomness: bytes) -> None:
    id = execution_id(at, randomness)
    assert EXECUTION_ID.match(id)
    uuid = UUID(id.removeprefix("exec_"))
    assert (uuid.version, uuid.variant) == (7, "specified in RFC 4122")
    assert uuid.int >> 80 == int(at * 1000)


@given(MOMENTS, st.floats(0.002, 1e9), st.binary(min_size=10, max_size=10))
def test_execution_ids_are_ordered_by_time(at: float, later: float, randomness: bytes) -> None:
    assert execution_id(at, b"\xff" * 10) < execution_id(at + later, randomness)


def test_74_bits_are_random() -> None:
    one = UUID(execution_id(0, bytes(10)).removeprefix("exec_")).int
    other = UUID(execution_id(0, b"\xff" * 10).removeprefix("exec_")).int
    assert (one ^ other).bit_count() == 74


@pytest.mark.parametrize(
    "odd", ["", "exec_", "exec_" + "g" * 32, "exec_" + "a" * 33, "exec_" + "a" * 32 + "\n"]
)
def test_other_strings_are_no_execution_ids(odd: str) -> None:
    assert not EXECUTION_ID.match(odd)


@given(st.lists(st.integers() | st.text(st.characters(exclude_characters="\x1f")), max_size=4))
def test_derived_ids_depend_on_their_parts_alone(parts: list[int | str]) -> None:
    assert derive("seed", *parts) == derive("seed", *parts)
    assert derive("seed", *parts) != derive("other", *parts)
    assert derive("seed", *parts) != derive("seed", *parts, 0)
    assert len(derive("seed", *parts)) == 16


def test_derived_ids_tell_where_one_part_ends() -> None:
    assert derive("s", 1, 23) != derive("s", 12, 3)
    assert derive("s", 1, 2) != derive("s", 2, 1)


@given(st.integers(0, 4_000_000_000_000))
def test_a_timestamp_is_read_back_to_the_millisecond(milliseconds: int) -> None:
    at = milliseconds / 1000
    assert abs(parse_iso(iso(at)) - at) <= 0.001
    assert iso(at).endswith("Z")
