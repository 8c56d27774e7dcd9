"""The contract of `store.base`, reading: chunks, pages, cursors, lists."""

from __future__ import annotations

import pytest

from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft, Edge
from dispatch.core.lifecycle import Status
from dispatch.store import growth, sqlite
from dispatch.store.base import Change, Store
from tests.store.entries import (
    UNKNOWN,
    approval,
    approval_turn,
    call,
    chunks,
    final,
    head,
    journal,
    new,
    output,
    parked,
    text,
    texts,
    turn,
)


async def filled(store: Store) -> ExecutionId:
    """Chunks 1 · 2–6 · 7 · 8–11, the last with private parts."""
    execution, _ = await store.create(new(worker="w1"))
    await store.append(execution.id, texts(5), token=1)
    await store.append(execution.id, [text()], token=1)
    await store.append(execution.id, [text(), call("c"), text(), call("d")], token=1)
    return execution.id


# --- pages and cursors ----------------------------------------------------------------------------


async def test_every_cursor_reads_what_is_behind_it(store: Store) -> None:
    id = await filled(store)
    whole = await journal(store, id)
    assert [entry.seq for entry in whole] == list(range(1, 12))
    assert [entry.private is not None for entry in whole] == [
        seq in (1, 9, 11) for seq in range(1, 12)
    ]
    for after in range(13):
        for until in range(13):
            found = await store.read(id, after=after, until=until)
            entries = [entry for chunk in found for entry in chunk.entries()]
            assert entries == whole[after:until]
            for chunk in found:
                assert len(chunk.origins) == chunk.last_seq - chunk.first_seq + 1
                assert chunk.frames.count(b"\n\n") == len(chunk.origins)


async def test_a_cut_chunk_is_no_head_and_no_end(store: Store) -> None:
    execution, _ = await store.create(new(worker="w1"))
    await store.append(execution.id, [head(), text(), call("c"), turn("c")], token=1)
    [whole] = await store.read(execution.id, after=1)
    assert (whole.head, whole.end) == (True, Edge.TURN)
    [behind] = await store.read(execution.id, after=2)
    assert (behind.first_seq, behind.head, behind.end) == (3, False, Edge.TURN)
    [before] = await store.read(execution.id, after=1, until=4)
    assert (before.last_seq, before.head, before.end) == (4, True, Edge.NONE)


async def test_a_page_has_so_many_chunks(store: Store) -> None:
    id = await filled(store)
    assert [chunk.last_seq for chunk in await store.read(id, after=0, limit=2)] == [1, 6]
    assert [chunk.last_seq for chunk in await store.read(id, after=3, limit=2)] == [6, 7]
    assert await store.read(id, after=11) == []


async def test_a_page_of_large_chunks_is_shorter(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MAX_PAGE_BYTES", 2000)
    execution, _ = await store.create(new(worker="w1"))
    for _ in range(4):
        await store.append(execution.id, [text("x" * 1500)], token=1)
    pages = []
    after = 0
    while page := await store.read(execution.id, after=after):
        after = page[-1].last_seq
        pages.append(after)
    assert pages == [3, 5]


async def test_an_unknown_execution_has_no_chunks(store: Store) -> None:
    assert await store.read(UNKNOWN, after=0) == []
    assert await store.waits(UNKNOWN) == []


# --- where chunks are cut -------------------------------------------------------------------------

T, C, H, P, X = text(), turn("c"), head(), parked(), final()


@pytest.mark.parametrize(
    ("drafts", "expected"),
    [
        ([T, T, T], [(2, 4, False, "")]),
        ([H, T], [(2, 3, True, "")]),
        ([T, H, T], [(2, 2, False, ""), (3, 4, True, "")]),
        ([H, H], [(2, 2, True, ""), (3, 3, True, "")]),
        ([T, C], [(2, 3, False, "t")]),
        ([T, C, C, C], [(2, 5, False, "t")]),
        ([C, T], [(2, 2, False, "t"), (3, 3, False, "")]),
        ([C, C, H, C], [(2, 3, False, "t"), (4, 5, True, "t")]),
        ([T, P], [(2, 3, False, "p")]),
        ([P, H, T], [(2, 2, False, "p"), (3, 4, True, "")]),
        ([C, P], [(2, 2, False, "t"), (3, 3, False, "p")]),
        ([T, X], [(2, 3, False, "x")]),
        ([C, X], [(2, 2, False, "t"), (3, 3, False, "x")]),
    ],
)
async def test_chunks_are_cut_at_the_edges_of_legs(
    store: Store, drafts: list[Draft], expected: list[tuple[int, int, bool, str]]
) -> None:
    execution, _ = await store.create(new())
    await store.transact(execution.id, lambda row, waits: Change(drafts))
    found = await store.read(execution.id, after=1)
    assert [(chunk.first_seq, chunk.last_seq, chunk.head, chunk.end) for chunk in found] == expected


async def test_a_run_of_turns_may_mix_awaits_and_approvals(store: Store) -> None:
    execution, _ = await store.create(new(worker="w1"))
    drafts = [call("c"), approval("a"), turn("c"), approval_turn("a")]
    await store.append(execution.id, drafts, token=1)
    [chunk] = await store.read(execution.id, after=1)
    assert chunk.end is Edge.TURN


async def test_large_chunks_are_cut_by_size(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "MAX_CHUNK_BYTES", 2000)
    execution, _ = await store.create(new(worker="w1"))
    sizes = [700, 700, 5000, 10, 700, 700, 700]
    drafts = [*(text("x" * size) for size in sizes), call("c"), *(turn("c") for _ in range(20))]
    await store.append(execution.id, drafts, token=1)
    found = await chunks(store, execution.id, after=1)
    assert [chunk.last_seq for chunk in found[:3]] == [3, 4, 7]
    assert [chunk.end for chunk in found] == [Edge.NONE] * (len(found) - 1) + [Edge.TURN]
    assert len(await journal(store, execution.id)) == 29


# --- lists ----------------------------------------------------------------------------------------


async def test_lists_are_newest_first_and_go_on_behind_one(store: Store) -> None:
    made = [(await store.create(new(flow=flow))).execution for flow in "abab"]
    newest = made[::-1]
    assert await store.executions() == newest
    assert await store.executions(limit=3) == newest[:3]
    assert await store.executions(before=newest[1].id, limit=1) == newest[2:3]
    assert await store.executions(before=newest[-1].id) == []
    assert await store.executions(flow="b") == newest[::2]
    assert await store.executions(flow="b", before=newest[0].id) == newest[2:3]
    assert await store.executions(flow="c") == []


async def test_lists_by_status(store: Store) -> None:
    one, two, three = [(await store.create(new(worker="w1"))).execution for _ in range(3)]
    await store.append(one.id, [final()], token=1)
    await store.append(two.id, [call("c"), turn("c")], token=1)
    assert [row.id for row in await store.executions(status=Status.COMPLETED)] == [one.id]
    assert [row.id for row in await store.executions(status=Status.SUSPENDED)] == [two.id]
    assert [row.id for row in await store.executions(status=Status.PENDING)] == [three.id]
    assert await store.executions(status=Status.PENDING, flow="other") == []
    await store.append(two.id, [head(), output("c")], token=1)
    assert [row.id for row in await store.executions(status=Status.RUNNING)] == [two.id]


async def test_runnable_are_those_that_nobody_has(store: Store) -> None:
    made = [(await store.create(new())).execution for _ in range(3)]
    assert await store.runnable(10) == made
    assert await store.runnable(2) == made[:2]
    await store.acquire(made[0].id, "w1")
    assert await store.runnable(10) == made[1:]
