"""Every error has a status and a body as promised, whatever was raised and wherever."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from dispatch.api.errors import STATUSES, render, status_of
from dispatch.core import errors
from dispatch.core.errors import (
    Busy,
    Conflict,
    Detail,
    DispatchError,
    FlowError,
    InvalidRequest,
    LeaseLost,
    Unavailable,
)
from tests.api.caller import Caller, refusal


def tree(family: type[DispatchError] = DispatchError) -> Iterator[type[DispatchError]]:
    for below in family.__subclasses__():
        yield below
        yield from tree(below)


def test_every_family_has_its_status() -> None:
    statuses = {cls.__name__: status_of(make(cls)) for cls in tree()}
    outcomes = {FlowError.__name__, *(cls.__name__ for cls in tree(FlowError))}
    assert {name for name, status in statuses.items() if status is None} == outcomes
    assert statuses["LeaseLost"] == 503
    assert len(STATUSES) == len(set(STATUSES.values()))


def make(cls: type[DispatchError]) -> DispatchError:
    if cls is errors.Divergence:
        return errors.Divergence(seq=1, recorded="a", yielded="b")
    if cls is Busy:
        return Busy("busy", retry_after_seconds=3)
    return cls("said")


def test_the_body_has_error_code_and_details() -> None:
    details = [Detail(message="m", path="$.a", code="c"), Detail(message="n")]
    answer = render(InvalidRequest("said", code="that-one", details=details))
    assert answer.status_code == 400
    assert answer.body == (
        b'{"error":"said","code":"that-one","details":'
        b'[{"message":"m","code":"c","path":"$.a"},{"message":"n"}],'
        b'"guide":"/guide/errors#that-one"}'
    )
    assert render(Conflict("said")).body == (
        b'{"error":"said","code":"conflict","guide":"/guide/errors#conflict"}'
    )


def test_busy_says_when_in_whole_seconds() -> None:
    answer = render(Busy("later", retry_after_seconds=7))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


def test_what_is_unavailable_says_when_to_try_again() -> None:
    answer = render(Unavailable("the disk is full", code="store-full"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("exc", [ValueError("secret"), FlowError("secret"), KeyError("secret")])
def test_what_is_not_meant_for_callers_is_told_without_detail(exc: Exception) -> None:
    answer = render(exc)
    assert (answer.status_code, answer.body) == (
        500,
        b'{"error":"internal error","code":"internal","guide":"/guide/errors#internal"}',
    )


class Failing:
    """A dispatcher that raises."""

    def __init__(self, exc: Exception):
        self._exc = exc

    async def fail(self, *_: Any) -> Any:
        raise self._exc


@pytest.mark.parametrize(
    ("exc", "status", "code"),
    [
        (Unavailable("disk full", code="store-full"), 503, "store-full"),
        (Unavailable("broken", code="store-failed"), 503, "store-failed"),
        (Unavailable("stopping", code="shutting-down"), 503, "shutting-down"),
        (LeaseLost("taken"), 503, "lease-lost"),
        (Busy("later", retry_after_seconds=2), 429, "busy"),
    ],
)
async def test_a_command_that_fails_is_answered_by_its_family(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, exc: Exception, status: int, code: str
) -> None:
    monkeypatch.setattr(caller.app.state.engine.store, "create", Failing(exc).fail)
    refused = await caller.refused("/v1/dispatch", {"flowId": "talk"})
    assert refused[:2] == (status, code)


async def test_a_bug_is_logged_with_its_traceback_and_told_without_detail(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = caller.app.state.engine.store
    monkeypatch.setattr(store, "create", Failing(RuntimeError("secret")).fail)
    with caplog.at_level(logging.ERROR):
        headers = {"origin": "http://localhost:3000"}
        answer = await caller.post("/v1/dispatch", {"flowId": "talk"}, **headers)
    assert refusal(answer)[:2] == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    (record,) = caplog.records
    assert record.name == "dispatch.api.errors"
    assert "RuntimeError: secret" in (record.exc_text or "")


async def test_a_store_that_fails_in_the_middle_of_a_stream_breaks_it(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = await caller.dispatch("talk")
    hub = caller.app.state.hub
    hub._channels.clear()  # what the ring holds needs no store
    failing = Failing(Unavailable("broken", code="store-failed")).fail
    monkeypatch.setattr(caller.app.state.engine.store, "read", lambda *_, **__: failing())
    with caplog.at_level(logging.ERROR):
        seen = await caller.events(told.id)
    assert seen.is_broken
    assert seen.events == []
