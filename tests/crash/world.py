"""A real engine over a real SQLite file, a clock that is moved by hand, and a world that does to
executions what clients, people and time do: in any order, twice, in part, too late.

An engine's life ends by a crash: the file as it is after some commit is kept, and all that this
engine still does afterwards is nobody's business.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol, cast

import anyio
import anyio.abc

from dispatch.core.errors import Conflict, DispatchError, Gone, InvalidRequest, Unprocessable
from dispatch.core.ids import ExecutionId, execution_id
from dispatch.core.lifecycle import Status
from dispatch.core.projection import CANCEL_TIMER
from dispatch.engine.engine import Engine
from dispatch.flow import Registry
from dispatch.store.base import Execution, Store, WaitRow
from dispatch.store.sqlite import SqliteStore
from tests.crash.cuts import Journal
from tests.crash.watch import StepLab, Violation, Watch, WatchedStore, shown
from tests.engine.worker import FakeClock, Recorder

#: Turns without anything new before an execution is called stuck.
PATIENCE = 400
NOBODY_MOVES_SECONDS = 0.004


class Flows(Protocol):
    """Flows whose steps do what `lab` says, which is set anew for each engine."""

    lab: Any
    registry: Registry


class SeededEngine(Engine):
    """Draws its ids and seeds from `rng`, so that a sweep can be repeated."""

    rng: Random

    def new_id(self) -> ExecutionId:
        return execution_id(self.clock.now(), self.rng.randbytes(10))

    def new_seed(self) -> str:
        return self.rng.randbytes(16).hex()


class World:
    """Acts on the executions of one engine until all are over, or the engine has crashed."""

    def __init__(
        self,
        engine: Engine,
        watch: Watch,
        lab: StepLab,
        clock: FakeClock,
        rng: Random,
        *,
        mischief: float,
    ):
        self.engine, self.watch, self.lab = engine, watch, lab
        self.clock, self.rng, self.mischief = clock, rng, mischief
        self.foreign: dict[str, list[str]] = defaultdict(list)
        self.refused: Counter[str] = Counter()
        self._busy: set[ExecutionId] = set()
        self._acts = False
        self._tasks: anyio.abc.TaskGroup

    async def act_until_over(self, ids: Sequence[ExecutionId]) -> None:
        """Raise `Violation` if one is parked, or if nothing moves any more."""
        alive, idle = set(ids), 0
        async with anyio.create_task_group() as self._tasks:
            self._acts = True
            while alive and not self.watch.crashed.is_set() and not self.lab.violations:
                with anyio.move_on_after(NOBODY_MOVES_SECONDS) as waited:
                    await self.watch.changed.wait()
                idle = idle + 1 if waited.cancelled_caught else 0
                if idle:
                    moved = alive
                    self.clock.advance(self.rng.choice([0.3, 1.0, 1.0, 2.0]))
                else:
                    moved = self.watch.moved & alive
                self.watch.changed, self.watch.moved = anyio.Event(), set()
                for id in sorted(moved):
                    row = await self.engine.store.get(id)
                    if row.status.is_final:
                        alive.discard(id)
                    else:
                        # When nothing moves, mischief would only hide that something is stuck.
                        await self._act(row, 0.0 if idle else self.mischief)
                if idle > PATIENCE:
                    raise Violation(await self._described(min(alive)))
            self._acts = False
            self._tasks.cancel_scope.cancel()
        if self.lab.violations:
            raise Violation("; ".join(self.lab.violations))

    async def _act(self, row: Execution, mischief: float) -> None:
        if row.status is Status.INTERRUPTED:
            raise Violation(f"parked: {row}, {await self._reason(row)}")
        gates, rng = self.lab.gates[row.id], self.rng
        if gates and rng.random() < 0.6:
            gates.pop(rng.randrange(len(gates))).set()
        if row.id in self._busy:
            return
        waits = await self.engine.store.waits(row.id)
        is_open = [wait for wait in waits if wait.status == "open"]
        calls = [wait for wait in is_open if wait.kind in ("tool", "approval")]
        at_rest = row.worker is None and not row.runnable
        if rng.random() < mischief:
            command = rng.choice([self._cancel, self._repeat, self._nonsense, self._messages])
            self._start(row, command, waits)
        elif calls and (at_rest or rng.random() < mischief):
            self._start(row, self._answer, calls)
        elif at_rest or row.runnable or rng.random() < 0.05:
            self.clock.advance(rng.choice([0.1, 0.5, 1.0, 1.0, 3.0]))

    async def _described(self, id: ExecutionId) -> str:
        store = self.engine.store
        chunks = await store.read(id, after=0)
        journal = shown([entry for chunk in chunks for entry in chunk.entries()])
        return f"stuck: {await store.get(id)}, {await store.waits(id)}\n{journal}"

    async def _reason(self, row: Execution) -> str:
        last = await self.engine.store.read(row.id, after=row.last_seq - 1)
        return last[-1].entries()[-1].data.decode()

    def _start(self, row: Execution, command: Any, waits: Sequence[WaitRow]) -> None:
        self._busy.add(row.id)
        self._tasks.start_soon(self._carry_out, row, command, waits)

    async def _carry_out(self, row: Execution, command: Any, waits: Sequence[WaitRow]) -> None:
        try:
            await command(row, waits)
        except (Conflict, Gone, InvalidRequest, Unprocessable) as exc:
            self.refused[exc.code] += 1
        except DispatchError:
            if not self.watch.crashed.is_set():
                raise
        finally:
            self._busy.discard(row.id)
            self.watch.touch(row.id)

    async def intrude(self, id: ExecutionId) -> None:
        """Be quicker than the driver of an execution, now and then."""
        if not self._acts or self.rng.random() > self.mischief / 2:
            return
        row = await self.engine.store.get(id)
        waits = [wait for wait in await self.engine.store.waits(id) if wait.status == "open"]
        calls = [wait for wait in waits if wait.kind in ("tool", "approval")]
        self._note(row, "between two entries")
        commands = [self._messages, self._cancel, *([self._answer] * 3 if calls else [])]
        await self._carry_out(row, self.rng.choice(commands), calls or waits)

    # --- what the world does ----------------------------------------------------------------------

    async def _answer(self, row: Execution, calls: Sequence[WaitRow]) -> None:
        """Some or all of what is open, in another order; sometimes from two clients at once."""
        rng, commands = self.rng, self.engine.dispatcher
        tools = [wait for wait in calls if wait.kind == "tool"]
        approvals = [wait for wait in calls if wait.kind == "approval"]
        if approvals and (not tools or rng.random() < 0.5):
            self._note(row, "approval")
            wait = rng.choice(approvals)
            decisions = [rng.choice(["approved", "denied"]) for _ in range(rng.choice([1, 1, 2]))]
            for decision in decisions:
                await commands.approve(row.id, wait.id, decision, rng.choice([None, "why"]))
            return
        rng.shuffle(tools)
        some = tools[: rng.randint(1, len(tools))]
        self._note(row, "output" if len(some) == len(tools) else "some outputs")
        outputs = {wait.id: self._output(wait) for wait in some}
        if rng.random() < 0.2:
            self._note(row, "two at once")
            self._tasks.start_soon(self._carry_out, row, self._resume_otherwise, [rng.choice(some)])
        await commands.resume(row.id, outputs, None)

    async def _resume_otherwise(self, row: Execution, waits: Sequence[WaitRow]) -> None:
        outputs = {wait.id: self._output(wait) for wait in waits}
        await self.engine.dispatcher.resume(row.id, outputs, None)

    def _output(self, wait: WaitRow) -> Any:
        rng = self.rng
        if wait.returns is not None:
            return rng.choice([rng.randrange(50), 7.0, _mcp(str(rng.randrange(50)))])
        return rng.choice(
            [rng.randrange(50), "æ", None, {"b": [1.0], "a": {}}, _mcp("no", fails=True), _mcp("x")]
        )

    async def _cancel(self, row: Execution, waits: Sequence[WaitRow]) -> None:
        if any(wait.id == CANCEL_TIMER for wait in waits) or self.rng.random() < 0.7:
            return
        self._note(row, "cancel")
        # It answers when all is over; meanwhile the world goes on.
        self._tasks.start_soon(
            self._carry_out, row, lambda row, _: self.engine.dispatcher.cancel(row.id, "enough"), ()
        )

    async def _repeat(self, row: Execution, waits: Sequence[WaitRow]) -> None:
        """Answer what is settled, timed out or abandoned: must be refused, or change nothing."""
        over = [wait for wait in waits if wait.kind == "tool" and wait.status != "open"]
        if over:
            self._note(row, "too late")
            wait = self.rng.choice(over)
            await self.engine.dispatcher.resume(row.id, {wait.id: self._output(wait)}, None)

    async def _nonsense(self, row: Execution, waits: Sequence[WaitRow]) -> None:
        self._note(row, "refused")
        some = [wait for wait in waits if wait.kind == "approval"]
        outputs = {some[0].id if some else "nothing": 1}
        try:
            await self.engine.dispatcher.resume(row.id, outputs, None)
        except DispatchError:
            raise
        raise Violation(f"taken: {outputs} for {row}")

    async def _messages(self, row: Execution, waits: Sequence[WaitRow]) -> None:
        self._note(row, "messages")
        messages = [{"role": "user", "content": "hi"}] * self.rng.randrange(3)
        await self.engine.dispatcher.resume(row.id, {}, messages)

    def _note(self, row: Execution, what: str) -> None:
        self.foreign[row.id].append(what)


def _mcp(text: str, *, fails: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": fails}


async def live(
    path: Path,
    flows: Flows,
    act: Callable[[World], Any],
    rng: Random,
    *,
    now: float,
    worker: str,
    crash_to: Path | None = None,
    crash_at: int = 0,
    max_live: int = 0,
    mischief: float = 0.15,
    found: Sequence[Journal] = (),
) -> tuple[World, bool]:
    """One engine's life on the file at `path`; whether it ended by a crash, kept at `crash_to`."""
    clock = FakeClock(now)
    store = SqliteStore(path, clock=clock)
    watch = Watch(store, path, crash_to, crash_at)
    lab = StepLab(rng, watch)
    for journal in found:
        lab.found(journal.execution.id, journal.entries)
    flows.lab = lab
    watched = WatchedStore(store, watch)
    engine = SeededEngine(
        cast(Store, watched),
        Recorder(),
        flows.registry,
        clock,
        worker=worker,
        max_live=max_live,
    )
    engine.rng = rng
    watch.listen_for(store.listener)
    world = World(engine, watch, lab, clock, rng, mischief=mischief)
    watched.intrude = world.intrude
    async with store.session(worker), engine.running():
        await act(world)
    return world, watch.crashed.is_set()
