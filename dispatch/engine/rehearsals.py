"""`--dev`: whatever comes to rest is rehearsed at once, so that its author learns what is wrong.

A flow that would not survive a restart mostly shows it on the first try: run again against its own
journal it does something else. One rehearsal at a time, the newest execution first, beside
whatever is live; it reads, and appends nothing.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from dispatch.core.clock import Clock
from dispatch.core.errors import WAYS_OUT, DispatchError
from dispatch.core.ids import ExecutionId
from dispatch.engine.inbox import read_journal
from dispatch.engine.rehearsal import rehearse
from dispatch.flow import Registry
from dispatch.store.base import Execution, Store

logger = logging.getLogger(__name__)

#: Executions that wait for their rehearsal, at most; those that came to rest first are left out.
MAX_WAITING = 100
_REMEDY = (
    "What a flow does may follow only from what it was given and answered: put what comes from "
    "elsewhere (a clock, chance, a file, a model) into a @step, or use run.now and run.random."
)


class Rehearsals:
    """Told by `at_rest` that an execution suspends or ends."""

    def __init__(self, store: Store, registry: Registry, clock: Clock):
        self._store, self._registry, self._clock = store, registry, clock
        self._waiting: OrderedDict[ExecutionId, None] = OrderedDict()
        self._some = anyio.Event()

    def at_rest(self, execution: Execution) -> None:
        self._waiting[execution.id] = None
        self._waiting.move_to_end(execution.id)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
        self._some.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Rehearse until the context is left; what was not rehearsed by then is not."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run)
            yield
            tasks.cancel_scope.cancel()

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            self._some = anyio.Event()
            while self._waiting:
                execution_id, _ = self._waiting.popitem()
                try:
                    await self._rehearse(execution_id)
                except DispatchError as exc:
                    logger.warning("cannot rehearse: %s", exc, extra={"execution_id": execution_id})
                except Exception:  # nothing that is only told may end the server
                    logger.exception("cannot rehearse", extra={"execution_id": execution_id})

    async def _rehearse(self, execution_id: ExecutionId) -> None:
        execution = await self._store.get(execution_id)
        journal = read_journal(
            self._store, execution_id, execution.segment_seq - 1, execution.last_seq
        )
        entries = [past async for past in journal]
        rehearsal = await rehearse(self._registry, execution, entries, clock=self._clock)
        problem = rehearsal.problem
        if problem is not None:
            logger.warning(
                "flow %s would not survive a restart: %s: %s%s",
                execution.flow,
                problem.code,
                problem.message.removesuffix(WAYS_OUT),
                _REMEDY if problem.message.endswith(WAYS_OUT) else "",
                extra={"execution_id": execution_id},
            )
