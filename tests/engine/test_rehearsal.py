"""A rehearsal finds what a restart would, at every entry, and leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from dispatch import Flow, Run, approval, continue_as, flow, result, step, tool
from dispatch.core.journal import Entry, Origin
from dispatch.engine.rehearsal import Rehearsal, rehearse
from dispatch.examples import FLOWS
from dispatch.flow import FlowVersion, Registry
from tests.engine.test_examples import play_through
from tests.engine.worker import Bench, FakeClock, Play

pytestmark = pytest.mark.anyio


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "dispatch.db", 1000)


async def rehearsed(play: Play, code: FlowVersion, until: int | None = None) -> Rehearsal:
    entries = (await play.entries())[:until]
    return await rehearse(Registry([code]), await play.execution(), entries, clock=FakeClock())


@pytest.mark.parametrize("example", FLOWS, ids=[example.id for example in FLOWS])
async def test_every_example_would_go_on_at_every_entry(bench: Bench, example: FlowVersion) -> None:
    async with bench.worker(example) as worker:
        play = await play_through(worker, example)
        entries = await play.entries()
        for cut in range(1, len(entries)):
            found = await rehearsed(play, example, cut)
            assert found.problem is None
            recorded = entries[cut]
            if recorded.origin is Origin.FLOW:
                shown = [placed for placed in found.next if placed.origin is Origin.FLOW]
                assert shown[0].kind == recorded.kind
                if recorded.kind == "text_delta":
                    assert _ends_with(recorded, shown[0].rest)
        assert (await rehearsed(play, example)).next == []
        assert await play.entries() == entries


def _ends_with(recorded: Entry, rest: bytes) -> bool:
    return recorded.data.endswith(rest.partition(b'"delta":')[2])


async def test_a_chance_in_the_body_is_a_problem_with_both_sides_and_the_line(
    bench: Bench,
) -> None:
    chances = iter(["first", "second"])

    @flow("chancy")
    async def chancy(run: Run[Any]) -> Flow:
        name = next(chances)
        yield "hm"
        yield tool(name)

    async with bench.worker(chancy) as worker:
        play = await worker.play(chancy)
        found = await rehearsed(play, chancy)
    assert found.problem is not None
    code, message = found.problem
    assert code == "divergence"
    assert "tool first" in message
    assert "tool second" in message
    assert f"{__file__}:" in message


async def test_an_end_where_a_wait_is_recorded_names_the_flow(bench: Bench) -> None:
    chances = iter([True, False])

    @flow("curt")
    async def curt(run: Run[Any]) -> Flow:
        if next(chances):
            yield tool("ask")
        yield "Bye."

    async with bench.worker(curt) as worker:
        play = await worker.play(curt)
        found = await rehearsed(play, curt)
    assert found.problem is not None
    assert f"the flow now does the end: completed at {curt.where}" in found.problem.message


async def test_steps_are_not_begun_and_clean_up_runs(bench: Bench) -> None:
    begun: list[str] = []

    @step
    async def work() -> int:
        begun.append("step")
        return 1

    @flow("worker")
    async def worker_flow(run: Run[Any]) -> Flow:
        try:
            yield work()
            yield tool("ask")
        finally:
            begun.append("closed")

    async with bench.worker(worker_flow) as worker:
        play = await worker.play(worker_flow)
        kinds = [entry.kind for entry in await play.entries()]
        begun.clear()
        # Behind its attempt, as after a crash within the step.
        cut = kinds.index("step_complete")
        found = await rehearsed(play, worker_flow, cut)
        assert found.problem is None
        assert [placed.kind for placed in found.next] == ["dispatch.step_attempt"]
        assert begun == ["closed"]


async def test_a_step_that_backs_off_is_not_waited_for(bench: Bench) -> None:
    @step(retries=1, backoff=3600)
    async def fail() -> None:
        raise OSError

    @flow("patient")
    async def patient(run: Run[Any]) -> Flow:
        yield fail()

    async with bench.worker(patient) as worker:
        play = await worker.dispatch(patient)
        await play.sees("error")
        assert await rehearsed(play, patient) == (None, [], [])


async def test_only_the_last_segment_is_rehearsed(bench: Bench) -> None:
    began: list[Any] = []

    @flow("segments")
    async def segments(run: Run[Any]) -> Flow:
        began.append(run.state)
        if run.state is None:
            yield tool("first")
            yield continue_as("on")
        yield approval("go")
        yield result("done")

    async with bench.worker(segments) as worker:
        play = await worker.play(segments)
        await play.answer("first", 1)
        began.clear()
        assert await rehearsed(play, segments) == (None, [], [])
        assert began == ["on"]


async def test_a_flow_that_awaits_without_end_is_stuck_and_says_where(bench: Bench) -> None:
    never = [anyio.Event()]
    never[0].set()

    @flow("waits")
    async def waits(run: Run[Any]) -> Flow:
        await never[0].wait()
        yield tool("ask")

    async with bench.worker(waits) as worker:
        play = await worker.play(waits)
        never[0] = anyio.Event()
        found = await rehearse(
            Registry([waits]),
            await play.execution(),
            await play.entries(),
            clock=FakeClock(),
            patience_seconds=0.05,
        )
    assert found.problem is not None
    assert found.problem.code == "stuck"
    assert f"{__file__}:" in found.problem.message


async def test_code_that_is_not_there_is_a_problem(bench: Bench) -> None:
    @flow("gone")
    async def gone(run: Run[Any]) -> Flow:
        yield tool("ask")

    async with bench.worker(gone) as worker:
        play = await worker.play(gone)
        found = await rehearse(
            Registry(), await play.execution(), await play.entries(), clock=FakeClock()
        )
    assert found.problem is not None
    assert found.problem.code == "version-missing"


async def test_a_scope_that_the_flow_leaves_open_breaks_nothing(bench: Bench) -> None:
    @flow("leaves")
    async def leaves(run: Run[Any]) -> Flow:
        anyio.CancelScope().__enter__()
        yield tool("ask")

    async with bench.worker(leaves) as worker:
        play = await worker.play(leaves)
        assert (await rehearsed(play, leaves)).problem is None
