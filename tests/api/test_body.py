"""What a body may be: strict JSON of the right types, within its limits of size and time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.api import body
from dispatch.core.errors import InvalidRequest
from tests.api.caller import Caller, refusal

DISPATCH = "/v1/dispatch"
RESUME = "/v1/dispatch/resume"


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"body_bytes": 100_000, "body_seconds": 0.2}


def nested(depth: int) -> bytes:
    """A dispatch whose body is `depth` deep."""
    inner = depth - 2
    return b'{"flowId":"echo","inputs":{"a":%b%b}}' % (b"[" * inner, b"]" * inner)


# --- strict JSON ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "ends"),
        (b"   ", "ends"),
        (b'{"flowId":"talk"', "ends"),
        (b'{"flowId":"talk"}x', "trailing"),
        (b'{"flowId":"talk",}', "trailing comma"),
        (b"{'flowId':'talk'}", "keys"),
        (b'\xef\xbb\xbf{"flowId":"talk"}', "byte order mark"),
        (b'{"flowId":"talk","flowId":"talk"}', "twice"),
        (b'{"flowId":"talk","inputs":{"a":1,"b":2,"\\u0061":3}}', "'a' twice"),
        (b'{"flowId":"talk","inputs":{"a":[{"x":1,"x":1}]}}', "'x' twice"),
        (b'{"flowId":"talk","inputs":{"a":NaN}}', "NaN"),
        (b'{"flowId":"talk","inputs":{"a":Infinity}}', "Infinity"),
        (b'{"flowId":"talk","inputs":{"a":-Infinity}}', "-Infinity"),
        (b'{"flowId":"talk","inputs":{"a":1e999}}', "out of range"),
        (b'{"flowId":"talk","inputs":{"a":-1e999}}', "out of range"),
        (b'{"flowId":"talk","inputs":{"a":18446744073709551616}}', "64 bits"),
        (b'{"flowId":"talk","inputs":{"a":-9223372036854775809}}', "64 bits"),
        (b'{"flowId":"talk","inputs":{"a":%b}}' % (b"1" * 400), ""),
        (b'{"flowId":"talk","inputs":{"a":"\\ud800"}}', "surrogate"),
        (b'{"flowId":"talk","inputs":{"a":"\\udc00x"}}', "surrogate"),
        (b'{"flowId":"talk","inputs":{"a":"\\ud800\\u0041"}}', "surrogate"),
        (b'{"flowId":"talk","inputs":{"\\udfff":1}}', "surrogate"),
        (b'{"flowId":"talk","inputs":{"a":"\xff"}}', "UTF-8"),
        (b'{"flowId":"talk","inputs":{"a":"\xed\xa0\x80"}}', "UTF-8"),
        (b'{"flowId":"talk","inputs":{"a":"\x00"}}', "character"),
        (b'{"flowId":"talk","inputs":{"a":01}}', "number"),
        (nested(129), "128"),
        (nested(5_000), "128"),
        (b"[" * 90_000, "128"),
        (b'{"a":' * 15_000, "128"),
    ],
)
async def test_what_two_readers_could_read_differently_is_400(
    caller: Caller, content: bytes, word: str
) -> None:
    answer = await caller.post(DISPATCH, content)
    assert refusal(answer)[:2] == (400, "json-invalid")
    assert word in answer.json()["error"]


@pytest.mark.parametrize(
    "content",
    [
        nested(128),
        b'{"flowId":"echo","inputs":{"a":"\\u0000","b":"\\ud83d\\ude00","c":"[[[{{{NaN"}}',
        b'{"flowId":"echo","inputs":{"a":"' + b"[" * 500 + b'\\""}}',
        b'{"flowId":"echo","inputs":{"a":' + json.dumps([{}] * 500).encode() + b"}}",
        b' {"flowId" : "echo", "inputs" : {"a" : [1.5e3, -0, 18446744073709551615]}}\r\n',
    ],
)
async def test_what_all_read_alike_is_taken(caller: Caller, content: bytes) -> None:
    assert (await caller.post(DISPATCH, content)).status_code == 200


@hypothesis.settings(max_examples=50)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False, max_value=1e300, min_value=-1e300)
        | st.text(st.characters(codec="utf-8")),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner)
        ),
    )
)
def test_every_json_value_is_decoded_as_it_is(value: Any) -> None:
    for ensure_ascii in (True, False):
        assert body.decode(json.dumps(value, ensure_ascii=ensure_ascii).encode()) == value


@given(st.binary() | st.text('[]{}",:\\truefalsn0123.e-').map(str.encode))
def test_any_bytes_are_decoded_or_refused(content: bytes) -> None:
    try:
        value = body.decode(content)
    except InvalidRequest as exc:
        assert exc.code == "json-invalid"  # noqa: PT017 - either outcome is fine, no other is
    else:
        assert json.loads(content) == value


def test_what_was_made_to_be_slow_is_refused_as_fast_as_anything() -> None:
    # Quadratic time would take this over any time limit of a test.
    with pytest.raises(InvalidRequest, match="nested"):
        body.decode(b"[" * 129 + b'"' + b'\\"' * 1_000_000)


# --- types ----------------------------------------------------------------------------------------

WRONG: list[Any] = [None, True, 7, 1.5, "x", [], {}, [[]], [{}], ["x"], {"a": 1}]
FIELDS: dict[str, dict[str, type]] = {
    DISPATCH: {
        "flow": dict,
        "agent": dict,
        "flowId": str,
        "record": dict,
        "messages": list,
        "inputs": dict,
        "clientTools": list,
        "clientToolsPolicy": dict,
        "conversationId": str,
        "history": str,
        "options": dict,
        "secrets": dict,
        "context": dict,
        "metadata": dict,
    },
    RESUME: {"executionId": str, "toolOutputs": dict, "messages": list, "streamResponse": bool},
}


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (path, field, value)
        for path, fields in FIELDS.items()
        for field, right in fields.items()
        for value in WRONG
        if not isinstance(value, right) and value is not None
    ],
)
async def test_a_field_of_the_wrong_type_is_400_and_named(
    caller: Caller, path: str, field: str, value: Any
) -> None:
    asked = {"flowId": "talk", "executionId": "exec_1"} | {field: value}
    status, code, details = await caller.refused(path, asked)
    assert (status, code) == (400, "body-invalid")
    assert details[0]["path"] == f"$.{field}"
    assert details[0]["message"]


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({"messages": [{}]}, "$.messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "$.messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "$.messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "$.messages[0].content[0]"),
        ({"messages": [{"role": "user", "toolCalls": {}}]}, "$.messages[0].toolCalls"),
        ({"clientTools": [{}]}, "$.clientTools[0]"),
        ({"clientTools": [{"name": ""}]}, "$.clientTools[0].name"),
        ({"clientTools": [{"name": "a", "origin": "x"}]}, "$.clientTools[0].origin"),
        (
            {"clientTools": [{"name": "a", "parametersSchema": 1}]},
            "$.clientTools[0].parametersSchema",
        ),
        ({"clientToolsPolicy": {"allowlist": "a"}}, "$.clientToolsPolicy.allowlist"),
        ({"options": {"streamResponse": "no"}}, "$.options.streamResponse"),
        ({"options": {"flowMode": "other"}}, "$.options.flowMode"),
        ({"options": {"clientToolOutputs": []}}, "$.options.clientToolOutputs"),
        ({"flow": {"id": 1}}, "$.flow.id"),
        ({"flow": {"id": ""}}, "$.flow.id"),
        ({"flow": {"name": "x" * 201}}, "$.flow.name"),
        ({"flow": {"steps": {}}}, "$.flow.steps"),
        ({"flow": {"version": "1"}}, "$.flow.version"),
        ({"agent": {"agentId": 1}}, "$.agent.agentId"),
        ({"flowId": ""}, "$.flowId"),
        ({"flowId": "x" * 90_000}, "$.flowId"),
        ({"history": "some"}, "$.history"),
    ],
)
async def test_what_is_wrong_inside_is_named(caller: Caller, asked: Any, path: str) -> None:
    status, code, details = await caller.refused(DISPATCH, {"flowId": "talk"} | asked)
    assert (status, code) == (400, "body-invalid")
    assert details[0]["path"] == path


@pytest.mark.parametrize("content", [b"[]", b'"x"', b"1", b"null", b"true"])
async def test_a_body_that_is_no_object_is_400(caller: Caller, content: bytes) -> None:
    for path in (DISPATCH, RESUME, "/v1/dispatch/approve"):
        assert (await caller.refused(path, content))[:2] == (400, "body-invalid")


# --- limits ---------------------------------------------------------------------------------------


async def test_a_body_that_says_it_is_too_large_is_413(caller: Caller) -> None:
    assert (await caller.refused(DISPATCH, b" " * 100_001))[:2] == (413, "body-too-large")


async def test_a_body_that_turns_out_too_large_is_413(caller: Caller) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    answer = await caller.http.post(DISPATCH, content=pieces())
    assert refusal(answer)[:2] == (413, "body-too-large")
    # The connection is good for another request.
    assert (await caller.post(DISPATCH, {"flowId": "talk"})).status_code == 200


async def test_a_body_of_just_the_limit_is_taken(caller: Caller) -> None:
    content = b'{"flowId":"talk"}'
    assert (await caller.post(DISPATCH, content.ljust(100_000))).status_code == 200


async def test_a_large_body_in_pieces_is_put_together(caller: Caller) -> None:
    content = json.dumps({"flowId": "echo", "inputs": {"a": ["x" * 100] * 500}}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 999):
            yield content[start : start + 999]

    answer = await caller.http.post(DISPATCH, content=pieces())
    assert answer.status_code == 200


async def test_a_body_that_does_not_arrive_in_time_is_408(caller: Caller) -> None:
    sent = b"POST /v1/dispatch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"
    url = caller.http.base_url
    with anyio.fail_after(10):
        async with await anyio.connect_tcp(url.host, url.port or 80) as stream:
            await stream.send(sent)
            seen = b""
            try:
                while True:
                    seen += await stream.receive()
            except anyio.EndOfStream:
                pass
    assert seen.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body-slow"' in seen


async def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(
    caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    sent = b"POST /v1/dispatch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"
    url = caller.http.base_url
    for _ in range(3):
        stream = await anyio.connect_tcp(url.host, url.port or 80)
        await stream.send(sent)
        await stream.aclose()
    assert (await caller.post(DISPATCH, {"flowId": "talk"})).status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_body_beyond_what_is_decoded_at_once_does_not_block(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "_THREAD_BYTES", 10)
    assert (await caller.post(DISPATCH, {"flowId": "talk"})).status_code == 200
    assert (await caller.refused(DISPATCH, b'{"a":1,"a":2}'))[:2] == (400, "json-invalid")
