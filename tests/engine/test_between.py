"""What comes in between: just before or behind an append of the driver's, and while a worker stops.

The sweeps in tests/crash come upon these by chance; here each is made to happen.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import anyio
import anyio.lowlevel

from dispatch import Cancelled, Flow, Run, continue_as, flow, race, result, step, tool
from dispatch.core.clock import iso
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import CancelRequested, Draft, Origin, draft
from dispatch.core.lifecycle import Status
from dispatch.store.base import Change, Changed, Store
from tests.engine.worker import Bench, Worker

Comes = Callable[[ExecutionId], Awaitable[Any]]


class Between:
    """A store that lets others come before or behind the append of an entry of some kind, and
    before a command.
    """

    def __init__(self, store: Store):
        self.__dict__.update(_store=store, before={}, behind={}, command=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._store, name, value)

    async def append(
        self, id: ExecutionId, drafts: Sequence[Draft], firm: Sequence[Draft], **options: Any
    ) -> Any:
        kinds = [placed.kind for placed in [*drafts, *firm]]
        await self._let(self.before, kinds, id)
        appended = await self._store.append(id, drafts, firm, **options)
        await self._let(self.behind, kinds, id)
        return appended

    async def transact(self, id: ExecutionId, *args: Any, **options: Any) -> Changed:
        if self.command is not None:
            await self.command()
        changed: Changed = await self._store.transact(id, *args, **options)
        return changed

    async def _let(self, places: dict[str, Comes], kinds: list[str], id: ExecutionId) -> None:
        for kind in kinds:
            if comes := places.pop(kind, None):
                await comes(id)


async def test_a_cancel_right_behind_continue_as_is_raised_in_the_next_segment(
    bench: Bench,
) -> None:
    @flow("goes-on")
    async def goes_on(run: Run[Any]) -> Flow:
        if run.state is None:
            yield continue_as(1)
        try:
            yield tool("never")
        except Cancelled as cancelled:
            yield result([run.segment, str(cancelled)])

    async with bench.worker(goes_on, wrap=between) as worker:

        async def cancel(id: ExecutionId) -> None:
            deadline = iso(bench.clock.now() + 10)
            asked = draft(CancelRequested(deadline=deadline, reason="enough"), Origin.WORLD)
            await worker.store.transact(id, lambda *_: Change([asked], wake=True), keys=[])

        store_of(worker).behind["dispatch.continued"] = cancel
        play = await worker.play(goes_on)
        assert await play.status() is Status.CANCELLED
        assert await play.output() == '[1,"enough"]'


async def test_a_step_that_is_not_wanted_any_more_is_not_attempted_again(bench: Bench) -> None:
    calls = []

    @step(retries=1, backoff=8)
    async def flaky() -> None:
        calls.append(1)
        raise ValueError("not yet")

    @flow("races")
    async def races(run: Run[Any]) -> Flow:
        yield result((yield race(flaky(), tool("quick"))))

    async with bench.worker(races, wrap=between) as worker:

        async def answer(id: ExecutionId) -> None:
            await worker.engine.dispatcher.resume(id, {"quick": "first"}, None)

        play = await worker.dispatch(races)
        await play.sees("error")
        store_of(worker).before["dispatch.step_attempt"] = answer
        bench.clock.advance(8)
        await play.rest()
        assert await play.result() == [1, "first"]
        assert len(calls) == 1
        assert (await play.kinds()).count("dispatch.step_attempt") == 1


async def test_what_a_command_takes_while_its_worker_stops_is_left_to_the_next(
    bench: Bench,
) -> None:
    stopping, taken = anyio.Event(), anyio.Event()
    here = []

    @flow("lingers")
    async def lingers(run: Run[Any]) -> Flow:
        try:
            yield step(anyio.sleep_forever)()
        finally:
            stopping.set()
            await taken.wait()  # as long as this closes, the worker stops

    @flow("answered")
    async def answered(run: Run[Any]) -> Flow:
        answer = yield tool("ask")
        here.append(answer)
        yield result(answer)

    async with anyio.create_task_group() as tasks:
        async with bench.worker(lingers, answered, wrap=between) as worker:
            play = await worker.play(answered)
            await (await worker.dispatch(lingers)).sees("dispatch.step_attempt")
            waiting = anyio.Event()

            async def until_it_stops() -> None:
                waiting.set()
                await stopping.wait()

            async def resume() -> None:
                await worker.engine.dispatcher.resume(play.id, {"ask": 1}, None)
                taken.set()

            store_of(worker).__dict__["command"] = until_it_stops
            tasks.start_soon(resume)
            await waiting.wait()
        assert here == []
    async with bench.worker(answered) as worker:
        play = play.at(worker)
        await play.rest()
        assert await play.result() == 1


def between(store: Store) -> Store:
    return cast(Store, Between(store))


def store_of(worker: Worker) -> Between:
    return cast(Between, worker.store)
