"""Kill servers again and again under their clients, and hold what these saw against the journals.

`scripts/soak --minutes N` runs `soak`, on and on until there were enough kills, executions and
duplicate resumes too; with `--processes 2` there are two servers on one file, which are also frozen
for longer than their lease; `scripts/soak sweep --minutes N` runs the sweep without end.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory, mkdtemp
from typing import NamedTuple

import anyio
import anyio.to_thread

from dispatch.engine.dispatcher import Start
from tests.crash.clients import Told, client_of
from tests.crash.judge import judge
from tests.crash.plans import PlanFlows, drawn
from tests.crash.rest import come_to_rest, tell_late_joiners
from tests.crash.servers import LEASE_SECONDS, Server
from tests.crash.sweep import Covered, report, sweep
from tests.crash.watch import Violation

CLIENTS = 24
#: How long a server is left in peace, at most.
PAUSE_SECONDS = 4.0
#: Of each violation that is told.
MOST_CHARACTERS = 4000
BATCH = 6


class Enough(NamedTuple):
    """What must have been seen before a soak may end."""

    kills: int = 5
    executions: int = 200
    duplicates: int = 50
    freezes: int = 5  # if there are several processes


async def soak(
    folder: Path,
    seconds: float,
    enough: Enough,
    rng: Random,
    *,
    processes: int = 1,
    clients: int = CLIENTS,
    pause_seconds: float = PAUSE_SECONDS,
) -> Told:
    """Run for that long, and until it was enough; judge. Whatever is wrong is in `violations`."""
    told, servers = Told(), [Server(folder) for _ in range(processes)]
    urls = [server.url for server in servers]
    ends_at = time.monotonic() + seconds

    def is_over() -> bool:
        counts = told.counts
        reached = (
            counts["kills"] >= enough.kills
            and counts["executions"] >= enough.executions
            and counts["duplicate resumes"] >= enough.duplicates
            and (counts["freezes"] >= enough.freezes or processes == 1)
        )
        return bool(told.violations) or (time.monotonic() > ends_at and reached)

    deeds = {"kills": 6, "stops": 1, "freezes": 3 if processes > 1 else 0}

    async def disturb(server: Server) -> None:
        while not is_over():
            await anyio.sleep(rng.uniform(0.5, pause_seconds))
            [deed] = rng.choices(list(deeds), list(deeds.values()))
            told.counts[deed] += 1
            if deed == "freezes":
                await server.freeze()
                # Whoever has just started looks for a whole lease before it believes it.
                await anyio.sleep(2 * LEASE_SECONDS + rng.uniform(0.0, 3.0))
                server.thaw()
                continue
            await (server.stop() if deed == "stops" else server.kill())
            await anyio.sleep(rng.uniform(0.0, 2.0) if processes > 1 else 0.0)
            await server.start()

    try:
        for server in servers:
            await server.start()
        async with acting(urls, told, rng, is_over, clients), anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(disturb, server)
        await come_to_rest(urls, told, rng)
        await tell_late_joiners(urls, told)
        for server in servers:
            await server.stop()
    finally:
        for server in servers:
            await anyio.to_thread.run_sync(server.close)
    told.violations = await anyio.to_thread.run_sync(judge, told, server.db, server.traces)
    told.counts["executions taken from the frozen"] = await anyio.to_thread.run_sync(server.taken)
    return told


@asynccontextmanager
async def acting(
    urls: Sequence[str], told: Told, rng: Random, is_over: Callable[[], bool], clients: int
) -> AsyncIterator[None]:
    """So many clients, as long as it lasts and until it is over."""

    async def act() -> None:
        async with client_of(urls, told, Random(rng.random())) as client:
            while not is_over():
                await client.act()

    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(act)
        yield


def summary(told: Told) -> str:
    """The counts, the great ones first."""
    counts = Counter(told.counts)
    first = ("kills", "stops", "freezes", "executions", "events", "resumes", "duplicate resumes")
    words = [f"{counts.pop(name, 0)} {name}" for name in first]
    words += [f"{count} {name}" for name, count in sorted(counts.items())]
    return "\n".join([*words, f"{len(told.violations)} violations"])


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# --- command line ---------------------------------------------------------------------------------


def run_soak(seconds: float, seed: int, processes: int) -> int:
    folder = Path(mkdtemp(prefix="soak-"))
    running = partial(soak, processes=processes)
    told = anyio.run(running, folder, seconds, Enough(), Random(seed))
    _say(summary(told))
    if not told.violations:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        return 0
    _say("\n".join(one[:MOST_CHARACTERS] for one in told.violations[:20]))
    _say(f"kept: {folder}")
    return 1


def run_sweep(seconds: float, seed: int) -> int:
    logging.disable(logging.WARNING)  # engines that crash have much to say
    covered: Covered = Counter()
    flows, ends_at, cuts, batches = PlanFlows(), time.monotonic() + seconds, 0, 0
    while time.monotonic() < ends_at:
        rng = Random(f"{seed} {batches}")
        starts = [Start(flow="plan", inputs=plan) for plan in drawn(rng.randrange(2**32), BATCH)]
        with TemporaryDirectory() as folder:
            try:
                cuts += sweep(
                    flows,
                    starts,
                    rng.randrange(2**32),
                    Path(folder),
                    covered,
                    warm=rng.random() < 0.5,
                )
            except Violation as exc:
                _say(f"batch {batches} of seed {seed}: {exc}")
                return 1
        batches += 1
    _say(report(covered))
    _say(f"{batches * BATCH} flows, {cuts} cuts, 0 violations")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["kill", "sweep"], default="kill")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    # As Ctrl-C does: the server that was started is taken along.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _say(f"seed {asked.seed}")
    if asked.what == "sweep":
        return run_sweep(asked.minutes * 60, asked.seed)
    return run_soak(asked.minutes * 60, asked.seed, asked.processes)


if __name__ == "__main__":
    sys.exit(main())
