"""The contract of `store.base`: what entries do to waits, and which are due."""

from __future__ import annotations

import msgspec
import pytest

from dispatch.core.canonical import digest
from dispatch.core.journal import Draft
from dispatch.store.base import Store
from tests.store.entries import (
    BEGIN,
    TickingClock,
    abandoned,
    always,
    approval,
    approval_turn,
    call,
    cancel,
    decided,
    final,
    fired,
    head,
    held,
    hidden_output,
    output,
    timer,
    turn,
    unanswered,
)


async def test_a_tool_call_is_a_wait(store: Store) -> None:
    execution = await held(store)
    schema = {"type": "object"}
    opened = call("c", name="paint", timeout=2.5, returns=schema, raw=True, private=True)
    await store.append(execution.id, [opened], token=1)
    [wait] = await store.waits(execution.id)
    assert (wait.id, wait.kind, wait.name, wait.status) == ("c", "tool", "paint", "open")
    assert (wait.opened_seq, wait.issued, wait.timeout, wait.due_at) == (2, False, 2.5, None)
    assert (wait.raw, wait.private, wait.digest) == (True, True, "")
    assert msgspec.json.decode(wait.returns or b"") == schema


async def test_a_timeout_runs_from_the_first_await(store: Store) -> None:
    execution = await held(store)
    await store.append(
        execution.id, [call("c", timeout=2.5), approval("a", timeout=60.0), call("d")], token=1
    )
    assert await store.next_due() is None
    await store.append(execution.id, [turn("c"), approval_turn("a"), turn("d")], token=1)
    issued_at = (await store.get(execution.id)).updated_at
    await store.append(execution.id, [head(), turn("c"), approval_turn("a"), turn("d")], token=1)
    waits = await store.waits(execution.id)
    assert [wait.issued for wait in waits] == [True, True, True]
    assert [wait.due_at for wait in waits] == [issued_at + 2.5, issued_at + 60.0, None]
    assert await store.next_due() == issued_at + 2.5


@pytest.mark.parametrize(
    ("settlement", "status", "result_digest"),
    [
        (output("c", {"b": 1, "a": 2.0}), "settled", digest(b'{"a":2,"b":1}')),
        (hidden_output("c", "secret"), "settled", digest(b'"secret"')),
        (unanswered("c", "timeout"), "timeout", ""),
        (unanswered("c", "abandoned"), "abandoned", ""),
    ],
)
async def test_what_settles_a_call(
    store: Store, settlement: Draft, status: str, result_digest: str
) -> None:
    execution = await held(store)
    await store.append(execution.id, [call("c"), turn("c")], token=1)
    await store.transact(execution.id, always(head(), settlement))
    [wait] = await store.waits(execution.id)
    assert (wait.status, wait.digest) == (status, result_digest)
    # The leg is the one that the same command began.
    assert (wait.settled_seq, wait.leg_seq) == (5, 4)


async def test_what_settles_approvals_and_timers(store: Store) -> None:
    execution = await held(store)
    opened = [approval("a"), timer("t1", BEGIN + 5), timer("t2", BEGIN + 6)]
    await store.append(execution.id, opened, token=1)
    await store.append(execution.id, [decided("a"), fired("t1"), abandoned("t2")], token=1)
    waits = await store.waits(execution.id)
    assert [wait.kind for wait in waits] == ["approval", "timer", "timer"]
    assert [wait.status for wait in waits] == ["settled", "settled", "abandoned"]
    assert [wait.leg_seq for wait in waits] == [1, 1, 1]
    assert waits[0].digest == "approved"


async def test_the_first_settlement_stands(store: Store) -> None:
    execution = await held(store)
    await store.append(execution.id, [call("c"), output("c", 1), output("c", 2)], token=1)
    [wait] = await store.waits(execution.id)
    assert (wait.settled_seq, wait.digest) == (3, digest(b"1"))


async def test_the_end_abandons_what_is_open(store: Store) -> None:
    execution = await held(store)
    opened = [call("c1", timeout=1.0), call("c2"), timer("t", BEGIN), cancel(BEGIN + 10)]
    await store.append(execution.id, [*opened, turn("c1"), output("c2")], token=1)
    await store.append(execution.id, [final()], token=1)
    statuses = {wait.id: wait.status for wait in await store.waits(execution.id)}
    assert statuses == {"c1": "abandoned", "c2": "settled", "t": "abandoned", "cancel": "abandoned"}
    assert await store.next_due() is None
    assert await store.due(BEGIN + 1e9, 10) == []


async def test_due_are_timers_timeouts_and_cancels(store: Store, clock: TickingClock) -> None:
    one, two = await held(store), await held(store)
    await store.append(one.id, [timer("t", BEGIN + 30), call("c", timeout=10.0)], token=1)
    await store.append(one.id, [turn("c")], token=1)
    await store.append(two.id, [cancel(BEGIN + 20), call("d")], token=1)
    called_at = (await store.get(one.id)).updated_at
    assert await store.next_due() == called_at + 10.0
    assert await store.due(called_at + 9.9, 10) == []

    due = await store.due(BEGIN + 30, 10)
    assert [(execution_id, wait.id) for execution_id, wait in due] == [
        (one.id, "c"),
        (two.id, "cancel"),
        (one.id, "t"),
    ]
    assert [wait.kind for _, wait in due] == ["tool", "cancel", "timer"]
    assert await store.due(BEGIN + 30, 1) == due[:1]

    await store.append(one.id, [output("c"), fired("t")], token=1)
    assert [wait.id for _, wait in await store.due(BEGIN + 30, 10)] == ["cancel"]
