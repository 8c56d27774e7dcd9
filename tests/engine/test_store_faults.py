"""A store that fails at any of its calls: nothing is lost, done twice, or stuck, without a restart.

The scenario is a handful of flows at once, and clients who answer, decide and cancel, and ask again
when they are refused. Each run of it has one fault, at one place.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from dispatch import (
    Cancelled,
    Flow,
    Run,
    approval,
    continue_as,
    flow,
    gather,
    race,
    result,
    sleep,
    step,
    tool,
)
from dispatch.core.errors import Unavailable
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Entry
from dispatch.core.lifecycle import Status
from dispatch.engine.dispatcher import Start
from dispatch.engine.rehearsal import rehearse
from dispatch.flow import FlowVersion, Registry
from dispatch.store.base import Changed, Execution, Store
from tests.crash.sweep import check_journal
from tests.engine.faults import READS, WRITES, Fault, FaultyStore
from tests.engine.worker import PATIENCE_SECONDS, Bench, Play, Recorder, Worker

#: Rounds in which nobody acts, and the clock moves on, before what isn't over is stuck.
IDLE_ROUNDS = 40


# --- the flows ------------------------------------------------------------------------------------


class Lab:
    """Where steps are done: none after its result is durable."""

    def __init__(self) -> None:
        self.hub = Recorder()
        self._has_failed: set[str] = set()

    def called(self, id: ExecutionId, name: str) -> None:
        done = [
            entry.facts.name
            for entry in self.hub.published.get(id, ())
            if entry.kind == "step_complete" and entry.facts.success
        ]
        assert name not in done, f"{name} of {id} is done again"

    def fail_once(self, id: ExecutionId) -> None:
        if id not in self._has_failed:
            self._has_failed.add(id)
            raise ValueError("not yet")


def flows_in(lab: Lab) -> list[FlowVersion]:
    @step
    async def read_it(id: ExecutionId) -> AsyncGenerator[str, None]:
        lab.called(id, "read_it")
        for number in range(3):
            yield f"line {number} "

    @step(retries=1, backoff=1.0)
    async def flaky(id: ExecutionId) -> str:
        lab.called(id, "flaky")
        lab.fail_once(id)
        return "done"

    @step
    def in_thread(id: ExecutionId) -> int:
        lab.called(id, "in_thread")
        return 7

    @step
    async def undo(id: ExecutionId) -> str:
        lab.called(id, "undo")
        return "undone"

    @flow("asks")
    async def asks(run: Run[Any]) -> Flow:
        yield "Let me see. "
        text = yield read_it(run.id)
        output = yield tool("look", {"at": run.uuid()})
        yield f"I see {output}. "
        yield result([text, output, (yield in_thread(run.id))])

    @flow("parallel")
    async def parallel(run: Run[Any]) -> Flow:
        looks = tool("look", {"at": 1}), tool("look", {"at": 2})
        yield result((yield gather(*looks, flaky(run.id))))

    @flow("races")
    async def races(run: Run[Any]) -> Flow:
        first = yield race(tool("never"), sleep(2.5), approval("never"))
        if run.state is None:
            yield continue_as("again")
        yield result(first[0])

    @flow("decided")
    async def decided(run: Run[Any]) -> Flow:
        decision = yield approval("delete_record", {"id": 7})
        yield result([decision.outcome, (yield flaky(run.id))])

    @flow("undoes")
    async def undoes(run: Run[Any]) -> Flow:
        try:
            yield in_thread(run.id)
            yield tool("never")
        except Cancelled:
            yield (yield undo(run.id))

    return [asks, parallel, races, decided, undoes]


# --- the clients ----------------------------------------------------------------------------------


class Clients:
    """They do what there is to do, again and again until it is acknowledged."""

    def __init__(self, worker: Worker):
        self._worker, self._dispatcher = worker, worker.engine.dispatcher
        self.dispatched: set[ExecutionId] = set()
        self.answers: dict[str, str] = {}
        self._cancelling: set[ExecutionId] = set()
        self._tasks: anyio.abc.TaskGroup

    async def act_until_over(self, flows: Sequence[FlowVersion]) -> None:
        async with anyio.create_task_group() as self._tasks:
            for one in flows:
                await self._until_taken(self._dispatch, one)
            idle = 0
            while alive := [row for row in await self.executions() if not row.status.is_final]:
                acted = [await self._act(row) for row in alive]
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                idle = 0 if any(acted) else idle + 1
                if idle > 3:
                    self._worker.clock.advance(0.5)
                assert idle < IDLE_ROUNDS, f"stuck: {alive}"

    async def executions(self) -> list[Execution]:
        return await self._worker.store.executions()

    async def _act(self, row: Execution) -> bool:
        assert row.status is not Status.INTERRUPTED, f"parked: {row}"
        if row.flow == "undoes" and row.id not in self._cancelling and row.last_seq > 3:
            self._cancelling.add(row.id)
            self._tasks.start_soon(self._until_taken, self._cancel, row.id)
            return True
        for wait in await self._worker.store.waits(row.id):
            if wait.status == "open" and wait.issued and wait.id not in self.answers:
                if wait.name == "look":
                    return await self._taken(self._answer, row.id, wait.id)
                if wait.name == "delete_record":
                    return await self._taken(self._approve, row.id, wait.id)
        return False

    async def _until_taken(self, command: Callable[..., Any], *args: Any) -> None:
        while not await self._taken(command, *args):
            await anyio.lowlevel.checkpoint()

    async def _taken(self, command: Callable[..., Any], *args: Any) -> bool:
        try:
            await command(*args)
        except Unavailable:
            return False
        return True

    async def _dispatch(self, one: FlowVersion) -> None:
        leg = await self._dispatcher.dispatch(Start(flow=one.id))
        self.dispatched.add(leg.execution.id)

    async def _answer(self, id: ExecutionId, call: str) -> None:
        await self._dispatcher.resume(id, {call: f"seen {call}"}, None)
        self.answers[call] = f"seen {call}"

    async def _approve(self, id: ExecutionId, approval_id: str) -> None:
        await self._dispatcher.approve(id, approval_id, "approved", None)
        self.answers[approval_id] = "approved"

    async def _cancel(self, id: ExecutionId) -> None:
        assert (await self._dispatcher.cancel(id, "enough")).status is Status.CANCELLED


# --- one run of it --------------------------------------------------------------------------------


async def run_scenario(bench: Bench, make_faulty: Callable[[Store], FaultyStore]) -> FaultyStore:
    lab = Lab()
    flows = flows_in(lab)
    made: list[FaultyStore] = []

    def wrap(store: Store) -> Any:
        made.append(make_faulty(store))
        return made[0]

    async with bench.worker(*flows, wrap=wrap) as worker:
        (faulty,) = made
        worker.store, lab.hub = faulty.sound, worker.hub
        clients = Clients(worker)
        await clients.act_until_over(flows)
        rows = await clients.executions()
        assert clients.dispatched <= {row.id for row in rows}
        for row in rows:
            entries = await Play(worker, row.id).entries()
            check_journal(entries)
            published = [(entry.seq, entry.kind) for entry in worker.hub.published[row.id]]
            assert published == [(entry.seq, entry.kind) for entry in entries]
            assert row.status is (Status.CANCELLED if row.flow == "undoes" else Status.COMPLETED)
            replayed = await rehearse(Registry(flows), row, entries, clock=worker.clock)
            assert replayed.problem is None
            check_answers(entries, clients.answers)
    return faulty


def check_answers(entries: Sequence[Entry], answers: dict[str, str]) -> None:
    for entry in entries:
        if entry.kind in ("tool_complete", "approval_complete"):
            id = entry.facts.tool_call_id or entry.facts.approval_id
            assert answers.get(id, "").encode() in entry.data


#: Of a method's first `WHILE` calls one in `PERIOD` fails, and in the next run the one behind each,
#: so that whatever is called is hit, however the calls of several methods mingle. After that they
#: may recover: a period could hit the same write of a replay for ever.
PERIOD, WHILE = 5, 20


async def sweep(
    bench: Bench, folder: Path, fault: Fault, methods: tuple[str, ...] = WRITES
) -> set[str]:
    hits: set[str] = set()
    for first in range(PERIOD):

        def is_hit(_: int, call: int, first: int = first) -> bool:
            return call % PERIOD == first and call <= WHILE

        def make_faulty(store: Store, is_hit: Callable[[int, int], bool] = is_hit) -> FaultyStore:
            return FaultyStore(store, fault, is_hit, methods)

        bench.path = folder / f"{first}.db"
        hits.update((await run_scenario(bench, make_faulty)).hits)
    return hits


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault)
async def test_writes_may_fail_anywhere(tmp_path: Path, bench: Bench, fault: Fault) -> None:
    hits = await sweep(bench, tmp_path, fault)
    assert {"create", "append", "transact", "acquire"} <= hits


@pytest.mark.slow
async def test_reads_may_fail_anywhere(tmp_path: Path, bench: Bench) -> None:
    hits = await sweep(bench, tmp_path, Fault.FAILED, READS)
    assert {"runnable", "due", "next_due", "held"} <= hits


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.FULL, Fault.ANSWER_LOST])
async def test_everything_may_fail_for_a_while(bench: Bench, fault: Fault) -> None:
    faulty = await run_scenario(
        bench, lambda store: FaultyStore(store, fault, lambda n, _: 12 <= n < 60, (*WRITES, *READS))
    )
    assert len(faulty.hits) == 48


async def test_what_cannot_be_taken_up_is_tried_again_each_second_not_more(
    tmp_path: Path, bench: Bench
) -> None:
    @flow("waits")
    async def waits(run: Run[Any]) -> Flow:
        if not run.messages:
            await anyio.sleep_forever()
        yield result("done")

    async with bench.worker(waits) as worker:
        play = await worker.dispatch(waits)
        copy = await worker.killed()
    stores: list[FaultyStore] = []

    def wrap(store: Store) -> Any:
        stores.append(FaultyStore(store, Fault.FULL, lambda n, _: n <= 2, ("acquire",)))
        return stores[0]

    async with bench.worker(waits, path=copy, wrap=wrap) as worker:
        for tries in (1, 2, 3):
            with anyio.fail_after(PATIENCE_SECONDS):
                while stores[0].calls.total() < tries:
                    await anyio.lowlevel.checkpoint()
            for _ in range(100):
                await anyio.lowlevel.checkpoint()
            assert stores[0].calls.total() == tries
            bench.clock.advance(1.0)
        with anyio.fail_after(PATIENCE_SECONDS):
            while (await play.at(worker).execution()).worker is None:
                await anyio.lowlevel.checkpoint()


# --- one that fails alone -------------------------------------------------------------------------


class Poisoned(FaultyStore):
    """No command works on the execution `id`."""

    def __init__(self, store: Store):
        super().__init__(store, Fault.FAILED, lambda *_: False, ())
        self.__dict__["id"] = None

    async def transact(self, execution_id: ExecutionId, *args: Any, **kwargs: Any) -> Changed:
        if execution_id == self.id:
            raise Fault.FAILED.error()
        changed: Changed = await self.sound.transact(execution_id, *args, **kwargs)
        return changed


async def test_a_timer_that_cannot_be_settled_keeps_no_other(bench: Bench) -> None:
    @flow("sleeps")
    async def sleeps(run: Run[dict[str, float]]) -> Flow:
        yield sleep(run.inputs["seconds"])
        yield result("awake")

    stores: list[Poisoned] = []

    def wrap(store: Store) -> Any:
        stores.append(Poisoned(store))
        return stores[0]

    async with bench.worker(sleeps, wrap=wrap) as worker:
        poisoned, other = [await worker.play(sleeps, {"seconds": after}) for after in (1.0, 2.0)]
        stores[0].__dict__["id"] = poisoned.id
        bench.clock.advance(3.0)
        await other.sees("execution_complete")
        assert "dispatch.timer_fired" not in await poisoned.kinds()
        stores[0].__dict__["id"] = None
        bench.clock.advance(1.0)
        await poisoned.sees("execution_complete")
