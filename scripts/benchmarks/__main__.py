"""Measure a server against its targets, beside servers that do less, and say what came out."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import msgspec

from scripts.benchmarks import report
from scripts.benchmarks.load import start
from scripts.benchmarks.measures import Plan
from scripts.benchmarks.peers.environments import install
from scripts.benchmarks.sections import PEERS, SECTIONS, Section

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dispatch-bench"
GUIDE = Path(__file__).parents[2] / "dispatch" / "docs" / "performance.md"


async def measure(names: list[str], plan: Plan) -> report.Samples:
    samples: report.Samples = {}
    for name in names:
        began_at = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="dispatch-bench-") as folder:
            await _run(SECTIONS[name], plan, Path(folder), samples)
        print(f"{name}: {time.perf_counter() - began_at:.0f} s", file=sys.stderr)
    return samples


async def _run(section: Section, plan: Plan, folder: Path, samples: report.Samples) -> None:
    if section.alone is not None:
        for _ in range(min(plan.rounds, section.most_rounds or plan.rounds)):
            for name, figures in (await section.alone(plan, folder)).items():
                report.add(samples, name, figures)
        return
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(start(kind, folder)) for kind in section.kinds]
        for number in range(-1, plan.rounds):
            for one in section.measures:
                # Whoever is measured last has the warmest machine: each in turn.
                for server in servers if number % 2 else reversed(servers):
                    figures = await one(server, plan.warm_up if number < 0 else plan)
                    if number >= 0:
                        report.add(samples, server.kind, figures)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds, not five")
    parser.add_argument("--rounds", type=int, help="so many, not five")
    parser.add_argument("--count", type=int, default=64_000, help="texts streamed in one measure")
    parser.add_argument("--size", type=int, default=4, help="characters of a text")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="some of the sections")
    parser.add_argument("--large", action="store_true", help="10⁶ suspended and 10⁷ entries too")
    parser.add_argument("--peers", action="store_true", help="other servers too: installs them")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where files that are filled lie")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--write", action="store_true", help="put the tables into the guide")
    asked = parser.parse_args()
    plan = Plan(
        rounds=asked.rounds or (2 if asked.quick else 5),
        seconds=1.0 if asked.quick else 2.0,
        count=asked.count,
        size=asked.size,
        probes=40 if asked.quick else 200,
        suspended=(1000, 100_000, 1_000_000) if asked.large else (1000, 100_000),
        entries=(10_000_000,) if asked.large else (),
        cache=asked.cache,
    )
    # A thousand readers are as many files, here and in the server.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    names = asked.only or [name for name in SECTIONS if name != PEERS]
    if asked.peers and PEERS not in names:
        names.append(PEERS)
    if PEERS in names:
        install(plan.cache)
    samples = anyio.run(measure, names, plan, backend_options={"use_uvloop": True})
    told = report.markdown(plan, samples)
    print(told)
    if asked.json:
        document = msgspec.json.encode(report.document(plan, samples), enc_hook=str)
        asked.json.write_bytes(msgspec.json.format(document) + b"\n")
    if asked.write:
        report.write(GUIDE, told)


if __name__ == "__main__":
    main()
