import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.core.canonical import canonical, digest, encode, encode_ordered, hidden
from dispatch.core.errors import FlowMistake

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=8,
)

# Few enough that two of them are often equal.
SMALL = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 0.0, 1.0, 1.5, "", "1"]),
    lambda values: (
        st.lists(values, max_size=2) | st.dictionaries(st.sampled_from("ab"), values, max_size=2)
    ),
    max_leaves=3,
)


def respelled(value: Any) -> Any:
    """The same value: keys in another order, whole numbers as floats."""
    if isinstance(value, dict):
        return {key: respelled(item) for key, item in reversed(value.items())}
    if isinstance(value, list):
        return [respelled(item) for item in value]
    return float(value) if type(value) is int else value


@given(JSON)
def test_canonical_is_the_same_for_every_spelling(value: Any) -> None:
    raw = json.dumps(value).encode()
    other = json.dumps(respelled(value), indent=1, ensure_ascii=False).encode("utf-8")
    assert canonical(raw) == canonical(other)
    assert digest(raw) == digest(other)


@given(JSON)
def test_canonical_is_itself_canonical_and_equal(value: Any) -> None:
    once = canonical(encode(value))
    assert canonical(once) == once
    assert msgspec.json.decode(once) == value


def as_json_means_it(value: Any) -> Any:
    """A value that Python calls equal exactly to those that JSON does: True is not 1."""
    if isinstance(value, list):
        return [as_json_means_it(item) for item in value]
    if isinstance(value, dict):
        return {key: as_json_means_it(item) for key, item in value.items()}
    return ("boolean", value) if isinstance(value, bool) else value


@given(SMALL, SMALL)
def test_canonical_tells_values_apart(one: Any, other: Any) -> None:
    same = as_json_means_it(one) == as_json_means_it(other)
    assert (canonical(encode(one)) == canonical(encode(other))) is same


@pytest.mark.parametrize(
    ("one", "other"),
    [(b"1", b"1.0"), (b"0", b"-0.0"), (b"1e2", b"100"), (b'"\\u0041"', b'"A"'), (b"[ ]", b"[]")],
)
def test_spellings_of_one_value(one: bytes, other: bytes) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(b"1", b"true"), (b"0", b"false"), (b'"1"', b"1"), (b"null", b"0"), (b"[1,2]", b"[2,1]")],
)
def test_values_that_differ(one: bytes, other: bytes) -> None:
    assert canonical(one) != canonical(other)


def test_keys_are_sorted() -> None:
    assert canonical(b'{"b":{"d":1,"c":2},"a":3}') == b'{"a":3,"b":{"c":2,"d":1}}'


@dataclass
class Order:
    id: str
    note: str | None = None


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (Order("o1"), b'{"id":"o1","note":null}'),
        (datetime(2026, 1, 2, tzinfo=UTC), b'"2026-01-02T00:00:00Z"'),
        ((1, None), b"[1,null]"),
        (2**70, b"1180591620717411303424"),
        ({"a": msgspec.Raw(b'{"b":null}')}, b'{"a":{"b":null}}'),
        ("null", b'"null"'),
        ("a\0b", b'"a\\u0000b"'),
    ],
)
def test_encode_takes_what_authors_have(value: Any, raw: bytes) -> None:
    assert encode(value) == raw


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        [None, {"a": float("-inf")}],
        {"a": [1.5, float("nan")]},
        "\ud800",
        {"\udfff": 1},
        object(),
        {("a", "b"): 1},
        lambda: None,
    ],
)
def test_encode_refuses_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises(FlowMistake, match="cannot be written to the journal") as caught:
        encode(value)
    assert caught.value.code == "not-json"


def test_encode_refuses_what_contains_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(FlowMistake):
        encode(endless)


def test_ordered_keeps_the_author_s_order_except_in_sets() -> None:
    assert encode_ordered({"b": 1, "a": [2, 1]}) == b'{"b":1,"a":[2,1]}'
    raw = encode_ordered({"b": {"z", "y", "x"}, "a": 1})
    assert msgspec.json.decode(raw) == {"b": ["x", "y", "z"], "a": 1}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"a": 1}, "object"),
        ([1], "array"),
        ("a", "string"),
        (1, "number"),
        (1.5, "number"),
        (True, "boolean"),
        (None, "null"),
    ],
)
def test_hidden_shows_type_and_digest_only(value: Any, kind: str) -> None:
    raw = encode(value)
    assert hidden(raw) == {"private": True, "type": kind, "digest": digest(raw)}
