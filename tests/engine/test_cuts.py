"""Where a journal is cut, and what a cut shows that the whole doesn't."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dispatch import Flow, Run, flow, result, tool
from dispatch.core.journal import Entry, Origin
from dispatch.engine.cuts import Fault, cuts, find_fault
from dispatch.examples import FLOWS
from dispatch.flow import FlowVersion, Registry
from tests.engine.test_examples import play_through
from tests.engine.worker import Bench, FakeClock, Play


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "dispatch.db", 1000)


async def fault_of(play: Play, code: FlowVersion) -> Fault | None:
    entries = await play.entries()
    return await find_fault(Registry([code]), await play.execution(), entries, clock=FakeClock())


@pytest.mark.parametrize("example", FLOWS, ids=[example.id for example in FLOWS])
async def test_no_example_has_a_fault(bench: Bench, example: FlowVersion) -> None:
    async with bench.worker(example) as worker:
        play = await play_through(worker, example)
        assert await fault_of(play, example) is None


async def test_nor_has_one_that_is_cancelled_in_the_middle_of_its_text(bench: Bench) -> None:
    @flow("talk")
    async def talk(run: Run[Any]) -> Flow:
        for number in range(2000):
            yield f"{number} "
        yield tool("ask")

    async with bench.worker(talk) as worker:
        play = await worker.dispatch(talk)
        await play.sees("text_delta")
        await play.cancel()
        assert await fault_of(play, talk) is None


async def test_a_fault_tells_both_sides_and_where_the_flow_stood(bench: Bench) -> None:
    numbers = count(1)

    @flow("counting")
    async def counting(run: Run[Any]) -> Flow:
        yield "All is well. "
        yield tool("ask")
        yield result(next(numbers))

    async with bench.worker(counting) as worker:
        play = await worker.play(counting)
        await play.answer("ask", 1)
        fault = await fault_of(play, counting)
    assert fault is not None
    # Behind the output: what comes before is as it was.
    assert fault.behind.kind == "tool_complete"
    assert (fault.recorded, fault.now) == ("result 1", "result 2")
    assert fault.where == f"{__file__}:{counting.fn.__code__.co_firstlineno + 4}"


def entry(seq: int, kind: str) -> Entry:
    return Entry(seq, kind, Origin.FLOW, 0.0, b"{}")


def test_a_short_journal_is_cut_behind_every_entry() -> None:
    entries = [entry(seq, "text_delta") for seq in range(1, 11)]
    assert cuts(entries, 10) == list(range(1, 11))


def test_a_long_one_is_cut_at_waits_and_at_both_ends_of_what_was_shown() -> None:
    kinds = ["execution_start", *["text_delta"] * 20, "tool_start", "await", *["text_delta"] * 20]
    entries = [entry(seq, kind) for seq, kind in enumerate(kinds, 1)]
    assert cuts(entries, 10) == [1, 21, 22, 23, 43]


def test_a_very_long_one_is_cut_so_many_times_and_at_its_end() -> None:
    entries = [entry(seq, "tool_start") for seq in range(1, 1001)]
    chosen = cuts(entries, 10)
    assert len(chosen) == 10
    assert chosen[-1] == 1000
