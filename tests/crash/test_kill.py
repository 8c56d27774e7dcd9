"""A server is killed before, or after, a certain write, and another one takes over: what its client
was told holds, and it goes on as if nothing had happened.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import anyio
import anyio.to_thread
import httpx
import pytest

from tests.crash.clients import Told, client_of
from tests.crash.judge import judge
from tests.crash.servers import Server

PATIENCE_SECONDS = 60.0


@contextmanager
def mortal(server: Server, when: str, number: int) -> Iterator[subprocess.Popen[str]]:
    """The server that dies by itself; it is ready when this is entered."""
    command = [sys.executable, "-m", "tests.crash.killed_server"]
    command += [str(server.port), str(server.db), when, str(number)]
    environment = os.environ | server.environment
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready")
            yield process
        finally:
            process.kill()


async def carry_on(server: Server, told: Told, rng: Random) -> None:
    """A client that wants an answer: dispatches, answers, asks again, until there is an end."""
    async with client_of([server.url], told, rng) as client:
        while not (told.executions and all(one.is_final for one in told.executions.values())):
            try:
                if not told.executions:
                    await client.dispatch("single", streams=True)
                for one in list(told.executions.values()):
                    await client.tail(one, max(one.events, default=0), most=100, seconds=0.3)
                    await client.answer(one)
            except httpx.TransportError:
                return


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("when", "number"),
    [
        (when, number)
        for number in range(1, 9)
        for when in ("before", "after")
        if number % 2 == (when == "after")
    ],
)
async def test_killed_at_a_write(when: str, number: int, tmp_path: Path) -> None:
    told, server, rng = Told(), Server(tmp_path), Random(number)
    with anyio.fail_after(PATIENCE_SECONDS):
        life = mortal(server, when, number)
        process = await anyio.to_thread.run_sync(life.__enter__)
        try:
            await carry_on(server, told, rng)
            assert await anyio.to_thread.run_sync(process.wait) == -9
        finally:
            await anyio.to_thread.run_sync(life.__exit__, None, None, None)
        await server.start()
        try:
            await carry_on(server, told, rng)
        finally:
            await server.stop()
    assert [one.is_final for one in told.executions.values()] == [True]
    assert await anyio.to_thread.run_sync(judge, told, server.db, server.traces) == []
