"""`python -m tests.crash.faulty DB`: a server of flows whose code does what no code should.

It serves on a free port, with limits that a test has the patience for.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import partial
from typing import Any

import anyio

from dispatch import Flow, Run, flow, listening, result, sleep, step, tool
from dispatch.app import create_app
from dispatch.settings import Settings

SETTINGS = {"close_seconds": 0.2, "stall_seconds": 0.5}


@step
def hangs_in_a_thread() -> None:
    threading.Event().wait()


@step(timeout=0.05)
def hangs_too_long() -> None:
    threading.Event().wait()


@step
async def swallows() -> None:
    while True:
        with suppress(BaseException):
            await anyio.sleep(3600)


@step
async def streams_and_swallows() -> AsyncGenerator[str, None]:
    while True:
        try:
            yield "more "
            await anyio.sleep(3600)
        except BaseException:  # noqa: S110 - which is what it is here for
            pass


@step
async def blocks(seconds: float) -> str:
    time.sleep(seconds)  # noqa: ASYNC251 - which is what it is here for
    return "blocked"


@step
async def spins(seconds: float) -> None:
    """In turns so short that other threads hardly ever come in between."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        turn = time.monotonic() + 0.001
        while time.monotonic() < turn:
            pass
        await asyncio.sleep(0)


@step
def exits() -> None:
    os._exit(3)


@step
def reads_nothing() -> None:
    ctypes.string_at(0)


@step
async def exits_on_the_loop() -> None:
    os._exit(3)


@step
async def takes(seconds: float) -> None:
    await anyio.sleep(seconds)


@step
def takes_a_thread(seconds: float) -> None:
    time.sleep(seconds)


@step
async def sets_the_clock(seconds: float) -> None:
    told = time.time
    time.time = lambda: told() + seconds


@flow("sleeps")
async def sleeps(run: Run[Any]) -> Flow:
    yield sleep(run.inputs["seconds"])


@flow("jumps")
async def jumps(run: Run[Any]) -> Flow:
    yield sets_the_clock(run.inputs["seconds"])


@flow("hung")
async def hung(run: Run[Any]) -> Flow:
    yield "begun"
    yield hangs_in_a_thread()


@flow("late")
async def late(run: Run[Any]) -> Flow:
    yield "begun"
    yield hangs_too_long()


@flow("deaf")
async def deaf(run: Run[Any]) -> Flow:
    yield "begun"
    yield swallows()


@flow("talks")
async def talks(run: Run[Any]) -> Flow:
    yield streams_and_swallows()


@flow("unclosable")
async def unclosable(run: Run[Any]) -> Flow:
    try:
        yield "begun"
        yield tool("a", {})
    finally:
        while True:
            with suppress(BaseException):
                await anyio.sleep(3600)


@flow("stalls")
async def stalls(run: Run[Any]) -> Flow:
    yield "begun"
    yield result((yield blocks(run.inputs["seconds"])))


@flow("busy")
async def busy(run: Run[Any]) -> Flow:
    yield spins(run.inputs["seconds"])


@flow("deadly")
async def deadly(run: Run[Any]) -> Flow:
    yield "begun"
    yield exits()


@flow("deadly-loop")
async def deadly_loop(run: Run[Any]) -> Flow:
    yield "begun"
    yield exits_on_the_loop()


@flow("works")
async def works(run: Run[Any]) -> Flow:
    for _ in range(run.inputs["count"]):
        yield takes(run.inputs["seconds"])


@flow("works-in-threads")
async def works_in_threads(run: Run[Any]) -> Flow:
    for _ in range(run.inputs["count"]):
        yield takes_a_thread(run.inputs["seconds"])


@flow("crashes")
async def crashes(run: Run[Any]) -> Flow:
    yield reads_nothing()


FLOWS = (
    busy,
    sleeps,
    jumps,
    crashes,
    works,
    works_in_threads,
    hung,
    late,
    deaf,
    talks,
    unclosable,
    stalls,
    deadly,
    deadly_loop,
)


def main(db: str) -> None:
    app = create_app(FLOWS, settings=Settings(db=db, **SETTINGS))  # type: ignore[arg-type] # floats
    sock = listening.listen("127.0.0.1", 0)
    address = listening.address_of(sock)

    def ready() -> None:
        sys.stdout.write(f"ready     {address}\n")
        sys.stdout.flush()

    anyio.run(
        partial(listening.serve, app, sock, shutdown_seconds=1.0, ready=ready),
        backend_options={"use_uvloop": True},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
