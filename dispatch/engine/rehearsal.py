"""Rehearse an execution: replay its journal, or the first part of it, and append nothing.

The one thing to know: it is the engine's own runner that replays, over a journal that refuses to
grow. So a rehearsal finds what a restart at that place would, and begins no step, for none begins
before its entry is durable. Only the flow's own body runs, and nothing of it is seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import anyio
import anyio.abc
import msgspec

from dispatch.core.clock import Clock
from dispatch.core.counters import Counters
from dispatch.core.errors import Conflict
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft, Entry
from dispatch.core.lifecycle import Status
from dispatch.core.nodes import StepNode
from dispatch.engine.abandonable import Abandonable
from dispatch.engine.inbox import Journal
from dispatch.engine.outbox import Outbox
from dispatch.engine.runner import Runner
from dispatch.flow import Registry
from dispatch.store.base import Appended, Execution

#: How long a flow may take from one wait to the next before that is what is wrong with it.
PATIENCE_SECONDS = 10.0


class Problem(NamedTuple):
    """Why an execution would be parked, or fail, if it were replayed now."""

    code: str
    message: str


class Rehearsal(NamedTuple):
    """`problem`: None if the flow does what its journal says. `next`: what it would append then,
    beginning with what it shows; nothing if it has ended. `where`: the `file:line` at which the
    flow stood, for each of `next`.
    """

    problem: Problem | None
    next: list[Draft]
    where: list[str]


async def rehearse(
    registry: Registry,
    execution: Execution,
    entries: Sequence[Entry],
    *,
    clock: Clock,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Rehearsal:
    """Replay `entries`, the first of the journal of `execution`, with the code in `registry`.

    Private parts have to be among them. Never raises for what the flow's code does. Its clean-up
    (`finally`) runs as at any closing.
    """
    segment_seq = max(
        (entry.seq for entry in entries if entry.kind == "dispatch.continued"),
        default=entries[0].seq,
    )
    at_cut = msgspec.structs.replace(
        execution,
        status=Status.RUNNING,
        last_seq=entries[-1].seq,
        segment_seq=segment_seq,
    )
    async with anyio.create_task_group() as tasks:
        stage = _Stage(registry, clock, entries, tasks)
        runner = _Understudy(stage, at_cut)
        # Not the task group's, which a cancel scope that the flow leaves open would break.
        driver = asyncio.get_running_loop().create_task(runner.run())
        try:
            with anyio.move_on_after(patience_seconds) as scope:
                await stage.over.wait()
            if scope.cancelled_caught:
                where = runner.where
                runner.close()
                stage.problem = Problem(
                    "stuck",
                    f"the flow did not come to its next wait within {patience_seconds:g} s: what "
                    f"its body awaits belongs into a step ({where})",
                )
            await asyncio.wait([driver])
        finally:
            driver.cancel()
    refused = stage.journal.refused
    return Rehearsal(stage.problem, refused, runner.stood_at[: len(refused)])


class _AtItsEnd(Conflict):
    """To the runner: somebody else has ended it. It lets go without another word."""


class _Page(NamedTuple):
    last_seq: int
    items: Sequence[Entry]

    def entries(self) -> Sequence[Entry]:
        return self.items


class _ReadOnly:
    """A journal (`inbox.Journal`) that keeps what it refuses."""

    def __init__(self, entries: Sequence[Entry]):
        self.refused: list[Draft] = []
        self._entries = entries

    async def read(
        self, execution_id: ExecutionId, *, after: int, until: int | None = None, limit: int = 256
    ) -> Sequence[_Page]:
        last = self._entries[-1].seq if until is None else until
        found = [entry for entry in self._entries if after < entry.seq <= last]
        return [_Page(found[-1].seq, found)] if found else []

    async def append(
        self,
        execution_id: ExecutionId,
        drafts: Sequence[Draft],
        firm: Sequence[Draft] = (),
        *,
        expected_seq: int = 0,
        token: int,
        release: bool = False,
    ) -> Appended:
        self.refused += [*drafts, *firm]
        raise _AtItsEnd("this journal is only rehearsed")


class _Understudy(Runner):
    """Notes where the flow stands when it has something to append, and begins no step."""

    def __init__(self, stage: _Stage, execution: Execution):
        self.stood_at: list[str] = []
        super().__init__(stage, execution)

    def _new_outbox(self) -> Outbox:
        return _Noting(self, self._host.store, self.execution.id, self.token)

    def _start(self, node: StepNode) -> None:
        # One that backs off has nothing to append yet.
        raise _AtItsEnd("no step is begun in a rehearsal")

    def _log_failure(self, error: BaseException) -> None:
        """It was logged when it happened, if it did."""


class _Noting(Outbox):
    def __init__(self, runner: _Understudy, store: Journal, id: ExecutionId, token: int):
        super().__init__(store, id, token, runner._wake)
        self._runner = runner

    def put(self, drafts: Sequence[Draft]) -> None:
        self._note(drafts)
        super().put(drafts)

    async def append(
        self, firm: Sequence[Draft], *, expected_seq: int, release: bool = False
    ) -> Appended:
        self._note(firm)
        return await super().append(firm, expected_seq=expected_seq, release=release)

    def _note(self, drafts: Sequence[Draft]) -> None:
        self._runner.stood_at += [self._runner.where] * len(drafts)


class _Stage:
    """Where the runner plays: a `runner.Host` that keeps what it is told."""

    close_seconds = 5.0

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        entries: Sequence[Entry],
        tasks: anyio.abc.TaskGroup,
    ):
        self.registry, self.clock = registry, clock
        self.store = self.journal = _ReadOnly(entries)
        self._tasks = tasks
        self.abandonable = Abandonable(Counters(), self.close_seconds)
        self.over = anyio.Event()
        self.problem: Problem | None = None

    def spawn(self, function: Callable[..., Any], *args: Any) -> None:
        self._tasks.start_soon(function, *args)

    async def park(self, execution: Execution, code: str, message: str) -> None:
        self.problem = Problem(code, message)

    fail = park

    async def release(self, execution: Execution) -> None:
        pass

    def suspended(self, runner: Runner) -> None:
        pass

    async def leased(self) -> None:
        pass

    def timer_set(self) -> None:
        pass

    def caught_up(self, runner: Runner) -> None:
        pass

    def gone(self, runner: Runner) -> None:
        self.over.set()
