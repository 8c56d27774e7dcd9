"""What is done once nobody kills any more: executions come to rest, and who comes late is told."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import anyio

from tests.crash.clients import Client, Execution, Told, client_of

AT_ONCE = 24
#: How long nothing may happen before all are at rest.
SETTLE_SECONDS = 60.0


async def come_to_rest(urls: Sequence[str], told: Told, rng: Random) -> None:
    """Answer what is open, but for what is left alone; each must end, or wait for somebody."""
    async with client_of(urls, told, rng) as client:
        await _find_unknown(client, told)
        restless = list(told.executions.values())
        patience, known = time.monotonic() + SETTLE_SECONDS, 0
        while restless:
            resting: set[str] = set()

            async def look(one: Execution, resting: set[str] = resting) -> None:
                if await _rests(client, one):
                    resting.add(one.id)

            await _each(restless, look)
            restless = [one for one in restless if one.id not in resting]
            if told.counts["events"] > known:  # there is progress
                patience, known = time.monotonic() + SETTLE_SECONDS, told.counts["events"]
            if restless and time.monotonic() > patience:
                for one in restless:
                    status = await client.status(one)
                    told.violated(f"{one.id} ({one.flow}) does not come to rest: {status}")
                return


async def _find_unknown(client: Client, told: Told) -> None:
    """Those whose server was killed before it could tell their clients: nobody answers them."""
    async for id, flow in client.listed():
        if id not in told.executions:
            one = told.of(id)
            one.flow, one.left_alone = flow, True
            told.counts["executions that no client knew"] += 1


async def _each(
    executions: Sequence[Execution], look: Callable[[Execution], Awaitable[None]]
) -> None:
    """A few at a time."""
    left = list(executions)

    async def work() -> None:
        while left:
            await look(left.pop())

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(work)


async def _rests(client: Client, one: Execution) -> bool:
    poll = await client.status(one)
    status = poll["status"]
    if status == "paused":
        if one.left_alone:
            return True
        await client.tail(one, max(one.events, default=0), most=1000, seconds=0.1)
        await client.answer(one)
    elif status == "failed" and poll.get("code") == "crash-loop":
        # It was driven by three servers that were killed in a row.
        await client.retry(one)
    return status in ("completed", "failed", "cancelled") and poll.get("code") != "crash-loop"


async def tell_late_joiners(urls: Sequence[str], told: Told) -> None:
    """Who comes when all is over is told everything, and then that there is no more."""
    async with client_of(urls, told, Random(0)) as client:

        async def look(one: Execution) -> None:
            if one.left_alone and not one.is_final:
                return
            await client.tail(one, 0, most=1_000_000, seconds=20)
            if not one.is_final or sorted(one.events) != list(range(1, max(one.events) + 1)):
                told.violated(f"a late joiner of {one.id} was told {sorted(one.events)}")
            elif await client.tail(one, max(one.events), most=1, seconds=20) != 204:
                told.violated(f"{one.id} has ended, and its last cursor is not answered with 204")

        await _each(list(told.executions.values()), look)
