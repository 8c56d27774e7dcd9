"""The parts of a run, each of which `--only` selects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.benchmarks.measures import (
    Figures,
    Measure,
    Plan,
    commits,
    cycles_1,
    cycles_32,
    delay,
    events_1,
    events_64,
    first_event_idle,
    first_event_loaded,
    full_cycles,
    full_events,
    recovery,
    resume,
    resume_again,
)
from scripts.benchmarks.peers.rounds import peers
from scripts.benchmarks.readers import arrival, catch_up, fan_out
from scripts.benchmarks.resting import resting
from scripts.benchmarks.scale import scale
from scripts.benchmarks.shared import shared

#: One round, which sees to its own servers: figures by what they are called beside each other.
Alone = Callable[[Plan, Path], Awaitable[dict[str, Figures]]]


class Section(NamedTuple):
    """Servers that are up together, and what is measured of each of them; or `alone`.

    `most_rounds`: of what takes so long that it has fewer of them.
    """

    kinds: Sequence[str] = ()
    measures: Sequence[Measure] = ()
    alone: Alone | None = None
    most_rounds: int | None = None


#: The section that is only measured if it is asked for.
PEERS = "peers"

SECTIONS = {
    "events": Section(("durable", "writerless", "bare"), (events_1, events_64)),
    "cycles": Section(("durable", "writerless", "bare"), (cycles_1, cycles_32)),
    "delay": Section(("durable", "writerless", "bare"), (delay,)),
    "first": Section(("durable", "writerless", "bare"), (first_event_idle, first_event_loaded)),
    "commits": Section(("busy",), (commits,)),
    "scale": Section(alone=scale),
    "resting": Section(alone=resting),
    "warm": Section(("durable", "bare"), (resume("warm_10", 10),)),
    "cold": Section(
        ("cold", "bare"),
        (
            resume("cold_10", 10),
            resume("cold_1000", 1000, share=8),
            resume_again("cold_100000", 100_000),
            resume_again("cold_renewed", 100_000, "renewed"),
        ),
    ),
    "readers": Section(("durable",), (catch_up(1), catch_up(16))),
    "fan-out": Section(
        ("durable",),
        tuple(one(count) for count in (1, 100, 1000) for one in (fan_out, arrival)),
    ),
    "recovery": Section(("durable",), (recovery,)),
    "full": Section(("full", "durable"), (full_cycles, full_events)),
    "shared": Section(alone=shared),
    PEERS: Section(alone=peers, most_rounds=3),
}
