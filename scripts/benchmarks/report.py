"""Figures beside the targets: a table for people, a document for programs."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from scripts.benchmarks.measures import Figures, Plan

#: Figure -> kind of server -> one value a round.
Samples = dict[str, dict[str, list[float]]]

PACKAGES = ("starlette", "sse-starlette", "uvicorn", "uvloop", "httptools", "msgspec", "aiosqlite")


class Line(NamedTuple):
    """`ours` beside another server: `how` they are compared, and what that has to come to."""

    title: str
    figure: str
    ours: str
    other: str | None
    how: Literal["ratio", "difference", "value"]
    at_least: float | None = None
    at_most: float | None = None


LINES = (
    Line("events/s, 1 stream", "events_1", "durable", "bare", "ratio", at_least=2.0),
    Line("events/s, 64 streams", "events_64", "durable", "bare", "ratio", at_least=2.0),
    Line("events/s, 1 stream", "events_1", "durable", "writerless", "ratio"),
    Line("events/s, 64 streams", "events_64", "durable", "writerless", "ratio"),
    Line("cycles/s, 1 client", "cycles_1", "durable", "writerless", "ratio", at_least=0.75),
    Line("cycles/s, 32 clients", "cycles_32", "durable", "writerless", "ratio", at_least=0.85),
    Line("cycles/s, 1 client", "cycles_1", "durable", "bare", "ratio"),
    Line("cycles/s, 32 clients", "cycles_32", "durable", "bare", "ratio"),
    Line("CPU ms a cycle, 1 client", "cycle_cpu_ms_1", "durable", "writerless", "ratio"),
    Line("CPU ms a cycle, 32 clients", "cycle_cpu_ms_32", "durable", "writerless", "ratio"),
    Line("yield → client p50, ms", "delay_p50", "durable", "bare", "difference", at_most=0.3),
    Line("yield → client p99, ms", "delay_p99", "durable", "bare", "difference", at_most=5.0),
    Line("yield → client p50, ms", "delay_p50", "durable", "writerless", "difference"),
    Line("yield → client p99, ms", "delay_p99", "durable", "writerless", "difference"),
    Line("first event, idle, ms", "first_idle", "durable", "writerless", "ratio"),
    Line("first event, idle, ms", "first_idle", "durable", "bare", "ratio"),
    Line(
        "first event beside 16 flat out, ms",
        "first_loaded",
        "durable",
        "writerless",
        "ratio",
        at_most=4.0,
    ),
    Line("first event beside 16 flat out, ms", "first_loaded", "durable", "bare", "ratio"),
    Line("commit p50, loop at rest, ms", "commit_rest_p50", "busy", None, "value"),
    Line("commit p99, loop at rest, ms", "commit_rest_p99", "busy", None, "value"),
    Line("commit p50, loop busy, ms", "commit_burn_p50", "busy", None, "value"),
    Line("commit p99, loop busy, ms", "commit_burn_p99", "busy", None, "value", at_most=10.0),
    Line("warm resume, 10 entries, ms", "warm_10", "durable", None, "value", at_most=1.5),
    Line("warm resume, 10 entries, ms", "warm_10", "durable", "bare", "ratio"),
    Line("cold resume, 10 entries, ms", "cold_10", "cold", "bare", "ratio"),
    Line("cold resume, 1 000 entries, ms", "cold_1000", "cold", None, "value", at_most=25.0),
    Line("cold resume, 1 000 entries, ms", "cold_1000", "cold", "bare", "ratio"),
    Line("cold resume, 100 000 entries, ms", "cold_100000", "cold", "bare", "ratio"),
    Line("1 000 cut off run again, s", "recovery_seconds", "durable", None, "value", at_most=2.0),
    Line("first event meanwhile p99, ms", "recovery_first_p99", "durable", None, "value"),
    Line("first event then, idle p99, ms", "recovery_first_idle_p99", "durable", None, "value"),
)


def add(samples: Samples, kind: str, figures: Figures) -> None:
    for figure, value in figures.items():
        samples.setdefault(figure, {}).setdefault(kind, []).append(value)


def conditions(plan: Plan) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "versions": {package: version(package) for package in PACKAGES},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "count": plan.count,
        "size": plan.size,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def compared(line: Line, samples: Samples) -> list[float]:
    """One value a round."""
    ours = samples[line.figure][line.ours]
    if line.other is None:
        return ours
    pairs = zip(ours, samples[line.figure][line.other], strict=True)
    if line.how == "ratio":
        return [one / other for one, other in pairs]
    return [one - other for one, other in pairs]


def is_met(line: Line, values: Sequence[float]) -> bool | None:
    """Whether the median is; None without a target."""
    median = statistics.median(values)
    if line.at_least is not None:
        return median >= line.at_least
    return None if line.at_most is None else median <= line.at_most


def document(plan: Plan, samples: Samples) -> dict[str, Any]:
    rows = [
        {
            **line._asdict(),
            "median": statistics.median(values),
            "values": values,
            "met": is_met(line, values),
        }
        for line, values in _measured(samples)
    ]
    return {"conditions": conditions(plan), "samples": samples, "lines": rows}


def table(samples: Samples) -> str:
    """Markdown: medians over the rounds, with the least and the greatest."""
    rows = [
        ("", "median (min – max)", "beside it", "median (min – max)", "compared", "target", "met")
    ]
    for line, values in _measured(samples):
        theirs = "" if line.other is None else _spread(samples[line.figure][line.other])
        met = is_met(line, values)
        sign = {"ratio": "×", "difference": "+", "value": ""}[line.how]
        rows.append(
            (
                line.title,
                _spread(samples[line.figure][line.ours]),
                line.other or "",
                theirs,
                "" if line.other is None else f"{sign}{_spread(values)}",
                _target(line),
                "" if met is None else "met" if met else "**not met**",
            )
        )
    rows.insert(1, ("---",) * 7)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _measured(samples: Samples) -> list[tuple[Line, list[float]]]:
    return [(line, compared(line, samples)) for line in LINES if line.figure in samples]


def _target(line: Line) -> str:
    if line.at_least is not None:
        return f"≥ {line.at_least:g}"
    return "" if line.at_most is None else f"≤ {line.at_most:g}"


def _spread(values: Sequence[float]) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{_short(middle)} ({_short(least)} – {_short(most)})"


def _short(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1000 else f"{value:.3g}"
