"""Measures of two server processes on one file, beside one with a file to itself."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from scripts.benchmarks.load import Server, start
from scripts.benchmarks.measures import Figures, Plan, cycles, events_per_second

CLIENTS, STREAMS = 32, 64


async def shared(plan: Plan, _: Path) -> dict[str, Figures]:
    figures: dict[str, Figures] = {}
    for name, count in (("one process", 1), ("two processes", 2)):
        with TemporaryDirectory(prefix="dispatch-bench-") as folder:
            async with AsyncExitStack() as stack:
                servers = [
                    await stack.enter_async_context(start("durable", Path(folder)))
                    for _ in range(count)
                ]
                await _of_all(servers, plan.warm_up)
                figures[name] = await _of_all(servers, plan)
    return figures


async def _of_all(servers: list[Server], plan: Plan) -> Figures:
    """The same load in all, however many servers it is spread over."""
    summed = {"shared_cycles": 0.0, "shared_events": 0.0}
    share = len(servers)

    async def cycle(server: Server) -> None:
        figures = await cycles(server, plan, CLIENTS // share)
        summed["shared_cycles"] += figures[f"cycles_{CLIENTS // share}"]

    async def stream(server: Server) -> None:
        count = plan.count // STREAMS
        summed["shared_events"] += await events_per_second(
            server, STREAMS // share, count, plan.size
        )

    for one in (cycle, stream):
        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(one, server)
    return summed
