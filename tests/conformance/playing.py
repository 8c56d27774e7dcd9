"""Play a case on a real engine over real SQLite: its caller moves, time passes, engines die.

Nothing is done twice by the player because of a crash: what it does next follows from what is
recorded, so an engine that goes on with a journal that was cut off meets the same world.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.lowlevel

from dispatch import Decision
from dispatch.core.clock import parse_iso
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Entry
from dispatch.core.lifecycle import Status
from dispatch.store.base import WaitRow
from tests.conformance.case import COMES_BACK, Case, Move
from tests.conformance.lab import Lab
from tests.engine.worker import PATIENCE_SECONDS, Bench, Play, Worker


class Moment(NamedTuple):
    """Something happens at a time: a move of the caller, else what time itself does."""

    at: float
    play: Play
    row: WaitRow | None = None
    move: Move | None = None


class Player:
    """Carries executions of one case to their ends, over as many engines as die on the way."""

    def __init__(self, case: Case, lab: Lab, bench: Bench):
        self.case, self.lab, self.bench = case, lab, bench
        #: By execution and last seq: the status it had where it rested.
        self.rests: dict[tuple[ExecutionId, int], Status] = {}

    async def begin(self) -> Path:
        """Dispatch, and play to the end. Give back the file in which that is."""
        path = self.bench.path
        async with self.bench.worker(self.case.flow, path=path) as worker:
            id = (await worker.dispatch(self.case.flow, self.case.inputs)).id
            crash = await self._play(worker, [id])
        return path if crash is None else await self.finish([id], crash)

    async def finish(self, ids: Sequence[ExecutionId], path: Path) -> Path:
        """Recover what is in a file, and play it to the end."""
        while True:
            self.lab.dying.clear()
            async with self.bench.worker(self.case.flow, path=path) as worker:
                crash = await self._play(worker, ids)
            if crash is None:
                return path
            path = crash

    async def _play(self, worker: Worker, ids: Sequence[ExecutionId]) -> Path | None:
        """Until all is over, or, if a step has asked for it, a crash: then what is left of it."""
        plays, clock = [Play(worker, id) for id in ids], worker.clock
        while moments := [moment for play in plays for moment in await self._next(play)]:
            at = min(moment.at for moment in moments)
            clock.advance(max(0.0, at - clock.now()))
            for _, play, row, move in [moment for moment in moments if moment.at <= at]:
                if row is not None and move is not None:
                    await _act(play, row, move)
        return await worker.killed() if self.lab.dying else None

    async def _next(self, play: Play) -> list[Moment]:
        """What is next to happen to it, once nothing moves without that."""
        entries = await self._still(play)
        row = await play.execution()
        if row.status.is_final or play.id in self.lab.dying:
            return []
        self.rests[play.id, row.last_seq] = row.status
        if row.worker is not None:
            return [Moment(_retry_at(entries), play)]
        found = []
        for wait in await play.open():
            told = [entry.at for entry in entries if _tells(entry, wait)]
            moves = self.case.caller.get(wait.name, ())
            if told and moves:
                move = moves[min(len(told), len(moves)) - 1]
                found.append(Moment(told[0] + move.after, play, wait, move))
            if wait.due_at is not None:
                found.append(Moment(wait.due_at, play))
        assert found, f"nothing will ever happen to {row}, {await play.kinds()}"
        return [min(found, key=lambda moment: moment.at)]

    async def _still(self, play: Play) -> list[Entry]:
        """Its journal, once it is over, at rest, backing off, or waiting for its engine's death."""
        store, clock = play.worker.store, play.worker.clock
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:
                row = await store.get(play.id)
                if row.status.is_final or play.id in self.lab.dying:
                    return await play.entries()
                if not await store.due(clock.now(), 1):
                    row = await store.get(play.id)
                    if row.worker is None and not row.runnable:
                        return await play.entries()
                    if row.worker is not None:
                        last = await store.read(play.id, after=row.last_seq - 1)
                        if _retry_at(last[-1].entries()) > clock.now():
                            return await play.entries()
                await anyio.lowlevel.checkpoint()


async def _act(play: Play, row: WaitRow, move: Move) -> None:
    commands = play.worker.engine.dispatcher
    match move.gives:
        case Decision(outcome, reason):
            await commands.approve(play.id, row.id, outcome, reason)
        case gives if gives is COMES_BACK:
            await commands.resume(play.id, {}, None)
        case output:
            await commands.resume(play.id, {row.id: output}, None)


def _tells(entry: Entry, wait: WaitRow) -> bool:
    return entry.kind in ("await", "approval_start") and wait.id in (
        entry.facts.tool_call_id,
        entry.facts.approval_id,
    )


def _retry_at(entries: Sequence[Entry]) -> float:
    """When the step that failed last is attempted again; 0 if that isn't what it waits for."""
    last = entries[-1]
    return parse_iso(last.facts.retry_at) if last.kind == "error" and last.facts.retry_at else 0.0
