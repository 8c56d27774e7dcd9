"""Run a flow in a test: in this process, with scripted answers and a clock that leaps.

    async with run(refund, {"order_id": "A-17"}, tools={"get_history": []}, approvals=True) as r:
        assert r.result == {"refunded": True}

The one thing to know: nothing of ours is imitated. Engine and store are the server's, the latter on
a file that is gone afterwards. Only the caller is made up, and the time. When the test is through,
the flow is rehearsed behind each entry of its journal, as if the server had died there.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict, Unpack

import anyio
import anyio.to_thread

from dispatch.core.errors import DispatchError, FlowMistake
from dispatch.core.journal import ClientTool
from dispatch.engine.dispatcher import Start
from dispatch.flow import FlowVersion, Registry
from dispatch.store.sqlite import SqliteStore
from dispatch.testing.clock import FakeClock
from dispatch.testing.trial import Call, GivenDecision, Trial
from dispatch.testing.worker import Worker

__all__ = ["Call", "FakeClock", "FlowWarning", "Trial", "run"]


class FlowWarning(UserWarning):
    """Something in the flow's code would not survive a restart; a server logs it, too."""


class Brings(TypedDict, total=False):
    """What else a dispatch may bring, for the flow to find in its `run`."""

    client_tools: list[ClientTool]
    context: Any
    record: Any
    metadata: Any
    conversation_id: str


@asynccontextmanager
async def run(
    flow: FlowVersion,
    inputs: Any = None,
    *,
    tools: Mapping[str, Any] | None = None,
    approvals: Mapping[str, GivenDecision] | bool | None = None,
    steps: Mapping[str, Any] | None = None,
    messages: Sequence[Mapping[str, Any]] = (),
    flows: Iterable[FlowVersion] = (),
    starts_at: datetime = datetime(2025, 6, 15, 15, 0, tzinfo=UTC),
    check: bool = True,
    patience_seconds: float = 10.0,
    **brings: Unpack[Brings],
) -> AsyncIterator[Trial]:
    """Dispatch `flow` and play it to its end, or to a wait for which nothing is given.

    What is given goes by name: the answer itself, or a function that makes it, sync or async. An
    exception, raised or given, is a failure.

    - `tools`: outputs. A function gets the call's parameters, a dict. A `ToolTimeout` means that
      nobody answers; an `AssertionError` is the test's own.
    - `approvals`: True, False or a `Decision`; `Decision("timeout")` means that nobody decides. A
      function gets the parameters. A plain bool is for all of them.
    - `steps`: what stands in for a step of that name. A function gets its arguments, and may be an
      async generator. All other steps are really done.

    `flows` are other flows and versions to register; `starts_at` is the first `run.now`. A step or
    body that takes longer than `patience_seconds` fails the test.

    When the context is left, the test fails if the flow has not completed (unless it asked for
    `status`, `error` or `waiting`, or cancelled it), and, with `check`, if the flow would not have
    gone on as it did after a crash (`Trial.check_replay`). What can be told by reading the flow is
    a `FlowWarning` before it begins.
    """
    __tracebackhide__ = True
    if not isinstance(flow, FlowVersion):
        raise FlowMistake(f"{flow!r} is not a flow: decorate it with @flow(…)")
    _check_asyncio()
    if check:
        # In a thread: it reads source files.
        for warning in await anyio.to_thread.run_sync(lambda: flow.warnings):
            warnings.warn(warning, FlowWarning, stacklevel=3)
    start = Start(
        flow=flow.id,
        version=flow.version,
        inputs={} if inputs is None else inputs,
        messages=[*messages],
        **brings,
    )
    clock = FakeClock(starts_at.timestamp())
    error: BaseException | None = None
    async with _folder() as folder:
        store = SqliteStore(folder / "dispatch.db", clock=clock)
        worker = Worker(store, Registry([flow, *flows]), clock, {} if steps is None else steps)
        async with store.session(worker.worker), worker.running():
            trial = Trial(worker, {} if tools is None else tools, approvals, patience_seconds)
            try:
                with _telling():
                    await trial.begin(start)
                    yield trial
                await trial.end(check=check)
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except BaseException as exc:
                error = exc  # raised in here, the engine's task group would make a group of it
    if isinstance(error, DispatchError):
        # A refusal: the engine's frames would hide the author's line.
        raise error.with_traceback(None) from None
    if error is not None:
        raise error


def _check_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError as exc:
        raise RuntimeError(
            "flows run on asyncio, and this is another loop: with anyio's pytest plugin, have a "
            'fixture `anyio_backend` that returns "asyncio"'
        ) from exc


@asynccontextmanager
async def _folder() -> AsyncIterator[Path]:
    made = await anyio.to_thread.run_sync(lambda: TemporaryDirectory(prefix="dispatch-test-"))
    try:
        yield Path(made.name)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(made.cleanup)


@contextmanager
def _telling() -> Iterator[None]:
    """Let the log hold what flows and steps raised, with tracebacks: pytest shows it with a test
    that fails.
    """
    logger = logging.getLogger("dispatch.engine")
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
