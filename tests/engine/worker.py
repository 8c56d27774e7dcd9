"""A worker as these tests use it: real SQLite, the real engine, and a clock that only tests move.

Nothing here waits for time: a test waits for a fact (nobody drives the execution any more, an entry
is there), and moves the clock when a timer has to fire.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from dispatch.core.events import ErrorInfo
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Entry
from dispatch.core.lifecycle import Status
from dispatch.engine.dispatcher import Leg, Start
from dispatch.engine.engine import Engine
from dispatch.flow import FlowVersion, Registry
from dispatch.store.base import Committed, Execution, Held, Store, WaitRow
from dispatch.store.sqlite import SqliteStore
from dispatch.testing import FakeClock as FakeClock

PATIENCE_SECONDS = 10.0
TEXT_EDGES = ("text_start", "text_complete")


class Recorder:
    """Stands where the hub does: keeps what was published, execution by execution."""

    def __init__(self) -> None:
        self.published: dict[ExecutionId, list[Entry]] = {}
        self.followed: set[ExecutionId] = set()
        self.known: dict[ExecutionId, int] = {}

    def publish(self, committed: Committed) -> None:
        self.published.setdefault(committed.execution.id, []).extend(committed.entries())

    def grown(self, execution_id: ExecutionId, last_seq: int) -> None:
        self.known[execution_id] = last_seq

    def break_off(self, execution_id: ExecutionId) -> None:
        self.followed.discard(execution_id)


_NUMBERS = count(1)


class Worker:
    def __init__(self, engine: Engine, store: Store, clock: FakeClock, hub: Recorder, path: Path):
        self.engine, self.store, self.clock, self.hub = engine, store, clock, hub
        self.path = path

    async def killed(self, said: str = "") -> Path:
        """What a SIGKILL at this moment would leave: a copy of the file, in a folder of its own,
        where no worker's lock lies. What it `said` are last words, which another death leaves.
        """
        copy = self.path.parent / f"killed-{next(_NUMBERS)}" / self.path.name
        await anyio.to_thread.run_sync(_copy, self.path, copy)
        words = copy.with_name(f"{copy.name}-words-{self.engine.worker}")
        await anyio.to_thread.run_sync(words.write_text, said)
        return copy

    async def dispatch(self, flow: FlowVersion | str, inputs: Any = None, **start: Any) -> Play:
        name = flow if isinstance(flow, str) else flow.id
        leg = await self.engine.dispatcher.dispatch(Start(flow=name, inputs=inputs or {}, **start))
        return Play(self, leg.execution.id)

    async def play(self, flow: FlowVersion | str, inputs: Any = None, **start: Any) -> Play:
        """Dispatch, and wait until nobody drives it any more."""
        play = await self.dispatch(flow, inputs, **start)
        await play.rest()
        return play


class Play:
    """One execution, as a test acts on it and looks at it."""

    def __init__(self, worker: Worker, execution_id: ExecutionId):
        self.worker, self.id = worker, execution_id

    def at(self, worker: Worker) -> Play:
        """The same, seen and acted on at another worker."""
        return Play(worker, self.id)

    # --- what is so -------------------------------------------------------------------------------

    async def execution(self) -> Execution:
        return await self.worker.store.get(self.id)

    async def status(self) -> Status:
        return (await self.execution()).status

    async def entries(self) -> list[Entry]:
        chunks = await self.worker.store.read(self.id, after=0, limit=1000)
        entries = [entry for chunk in chunks for entry in chunk.entries()]
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        return entries

    async def kinds(self) -> list[str]:
        """The entries' kinds, text blocks' edges left out."""
        return [entry.kind for entry in await self.entries() if entry.kind not in TEXT_EDGES]

    async def facts(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [
            msgspec.json.decode(entry.data) for entry in await self.entries() if entry.kind == kind
        ]

    async def text(self) -> str:
        return "".join(fact["delta"] for fact in await self.facts("text_delta"))

    async def output(self) -> str | None:
        """`finalOutput` of the final event."""
        final: dict[str, Any] = msgspec.json.decode((await self.entries())[-1].data)
        assert final["type"] in ("execution_complete", "execution_error"), final
        return final.get("finalOutput")

    async def result(self) -> Any:
        """What it gives, once it has completed."""
        assert await self.status() is Status.COMPLETED, (await self.entries())[-1]
        return (await self.facts("dispatch.result"))[-1]["value"].get("value")

    async def failure(self) -> ErrorInfo:
        """Why it failed, or is parked."""
        event = msgspec.json.decode((await self.entries())[-1].data)
        assert event["type"] in ("execution_error", "error"), event
        return msgspec.convert(event["error"], ErrorInfo)

    async def open(self, name: str | None = None) -> list[WaitRow]:
        return [
            row
            for row in await self.worker.store.waits(self.id)
            if row.status == "open" and name in (None, row.name)
        ]

    # --- waiting for facts ------------------------------------------------------------------------

    async def rest(self) -> Execution:
        """Return when nobody drives it, and nobody has to; and its driver here knows that."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while (row := await self.execution()).worker is not None or row.runnable:
                await anyio.lowlevel.checkpoint()
            while self.worker.engine.drives(Held(self.id, row.token)):
                await anyio.lowlevel.checkpoint()
        return row

    async def sees(self, kind: str, times: int = 1) -> None:
        """Return when the journal has that many entries of a kind."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while (await self.kinds()).count(kind) < times:
                await anyio.lowlevel.checkpoint()

    # --- acting -----------------------------------------------------------------------------------

    async def resume(self, outputs: dict[str, Any], messages: list[Any] | None = None) -> Leg:
        leg = await self.worker.engine.dispatcher.resume(self.id, outputs, messages)
        await self.rest()
        return leg

    async def answer(self, name: str, output: Any) -> None:
        """Give the first open call of that tool its output."""
        await self.resume({(await self.open(name))[0].id: output})

    async def decide(self, decision: str = "approved", reason: str | None = None) -> None:
        waiting = [row for row in await self.open() if row.kind == "approval"]
        await self.worker.engine.dispatcher.approve(self.id, waiting[0].id, decision, reason)
        await self.rest()

    async def retry(self) -> None:
        await self.worker.engine.dispatcher.retry(self.id)
        await self.rest()

    async def cancel(self, reason: str | None = None) -> Execution:
        return await self.worker.engine.dispatcher.cancel(self.id, reason)

    async def pass_time(self, seconds: float) -> None:
        """Move the clock, and wait for what that has fired to have been dealt with."""
        self.worker.clock.advance(seconds)
        await self.timers_fired()
        await self.rest()

    async def timers_fired(self) -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            while await self.worker.store.due(self.worker.clock.now(), 1):
                await anyio.lowlevel.checkpoint()


class Bench:
    """Makes workers over one file. `max_live` is what a test is parametrised over."""

    def __init__(self, path: Path, max_live: int):
        self.path, self.max_live = path, max_live
        self.close_seconds = 5.0
        self.clock = FakeClock()
        self.at_rest: Callable[[Execution], None] | None = None

    @asynccontextmanager
    async def worker(
        self,
        *flows: FlowVersion,
        path: Path | None = None,
        wrap: Callable[[Store], Store] | None = None,
    ) -> AsyncIterator[Worker]:
        """Run a worker until the context is left: then it shuts down cleanly."""
        name = f"worker-{next(_NUMBERS)}"
        path = path or self.path
        sqlite: Store = SqliteStore(path, clock=self.clock)
        store = wrap(sqlite) if wrap is not None else sqlite
        hub = Recorder()
        engine = Engine(
            store,
            hub,
            Registry(flows),
            self.clock,
            worker=name,
            max_live=self.max_live,
            close_seconds=self.close_seconds,
            at_rest=self.at_rest,
        )
        async with sqlite.session(name), engine.running():
            yield Worker(engine, store, self.clock, hub, path)


def _copy(path: Path, copy: Path) -> None:
    copy.parent.mkdir()
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    try:
        source.backup(target)
    finally:
        source.close()
        target.close()
