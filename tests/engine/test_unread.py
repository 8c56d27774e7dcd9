"""Entries that a runner did not see being appended: it reads them, in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dispatch import Cancelled, Flow, Run, flow, result, tool
from dispatch.core.clock import iso
from dispatch.core.journal import CancelRequested, Origin, draft
from dispatch.store.base import Appended, Change, Changed, Execution, Store, WaitRow
from tests.engine.worker import Bench


class CancelsBehindResumes:
    """A store on which somebody else asks for a cancel as soon as an execution is taken, before its
    worker gets to driving it.
    """

    def __init__(self, store: Store):
        self.__dict__["_store"] = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._store, name, value)

    async def transact(self, execution_id: Any, decide: Any, **options: Any) -> Changed:
        changed: Changed = await self._store.transact(execution_id, decide, **options)
        if changed.taken:
            await self._store.transact(execution_id, _cancel)
        return changed


def _cancel(execution: Execution, _: Sequence[WaitRow]) -> Change:
    deadline = iso(execution.updated_at + 1_000_000)
    return Change([draft(CancelRequested(deadline=deadline), Origin.WORLD)], wake=True)


async def test_what_comes_between_taking_and_driving_is_not_overlooked(bench: Bench) -> None:
    @flow("talks")
    async def talks(run: Run[Any]) -> Flow:
        try:
            yield tool("look")
            for number in range(1000):
                yield f"{number} "
            yield tool("look")
        except Cancelled:
            yield result("cancelled")

    bench.max_live = 0
    async with bench.worker(talks, wrap=lambda store: CancelsBehindResumes(store)) as worker:
        play = await worker.play(talks)
        await play.answer("look", 1)
        assert (await play.kinds())[-1] == "execution_complete"
        assert await play.output() == "cancelled"


class ResumesAtOnce:
    """A store on which a client answers a call before its worker has heard that it is asked."""

    def __init__(self, store: Store):
        self.__dict__.update(_store=store, engine=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._store, name, value)

    async def append(self, execution_id: Any, *what: Any, **options: Any) -> Appended:
        appended: Appended = await self._store.append(execution_id, *what, **options)
        if options.get("release") and appended.landed:
            engine, self.__dict__["engine"] = self.engine, None
            if engine is not None:
                await engine.dispatcher.resume(execution_id, {"look": 1}, None)
        return appended


async def test_who_suspends_takes_nothing_from_who_goes_on(bench: Bench) -> None:
    @flow("looks")
    async def looks(run: Run[Any]) -> Flow:
        yield result((yield tool("look")))

    stores: list[ResumesAtOnce] = []

    def wrap(store: Store) -> Any:
        stores.append(ResumesAtOnce(store))
        return stores[0]

    async with bench.worker(looks, wrap=wrap) as worker:
        stores[0].__dict__["engine"] = worker.engine
        play = await worker.dispatch(looks)
        await play.sees("execution_complete")
        assert await play.result() == 1
        assert (await play.execution()).token == 2
        assert worker.store.counters.appends_fenced == 0
