"""Figures beside the targets: a table for people, a document for programs."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from scripts.benchmarks.measures import Figures, Plan
from scripts.benchmarks.peers import table as peers
from scripts.benchmarks.peers.known import LLAMA_AGENTS, OURS

#: Figure -> kind of server -> one value a round.
Samples = dict[str, dict[str, list[float]]]

PACKAGES = ("starlette", "sse-starlette", "uvicorn", "uvloop", "httptools", "msgspec", "aiosqlite")


class Line(NamedTuple):
    """`ours` beside another server: `how` they are compared, and what that has to come to.

    `target` is the number of the target that it belongs to.
    """

    title: str
    figure: str
    ours: str
    other: str | None = None
    how: Literal["ratio", "difference", "value"] = "value"
    at_least: float | None = None
    at_most: float | None = None
    target: int | None = None


def _ratio(
    title: str,
    figure: str,
    ours: str,
    other: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    target: int | None = None,
) -> Line:
    return Line(title, figure, ours, other, "ratio", at_least, at_most, target)


LINES = (
    _ratio("events/s, 1 stream", "events_1", "durable", "bare", at_least=2, target=1),
    _ratio("events/s, 64 streams", "events_64", "durable", "bare", at_least=2, target=1),
    _ratio("events/s, 1 stream", "events_1", "durable", "writerless"),
    _ratio("events/s, 64 streams", "events_64", "durable", "writerless"),
    _ratio("cycles/s, 1 client", "cycles_1", "durable", "writerless", at_least=0.75, target=2),
    _ratio("cycles/s, 32 clients", "cycles_32", "durable", "writerless", at_least=0.85, target=2),
    _ratio("cycles/s, 1 client", "cycles_1", "durable", "bare"),
    _ratio("cycles/s, 32 clients", "cycles_32", "durable", "bare"),
    _ratio("CPU ms a cycle, 1 client", "cycle_cpu_ms_1", "durable", "writerless"),
    _ratio("CPU ms a cycle, 32 clients", "cycle_cpu_ms_32", "durable", "writerless"),
    Line(
        "yield → client p50, 64 streams × 50/s, ms",
        "delay_p50",
        "durable",
        "bare",
        "difference",
        at_most=0.3,
        target=3,
    ),
    Line(
        "yield → client p99, 64 streams × 50/s, ms",
        "delay_p99",
        "durable",
        "bare",
        "difference",
        at_most=5,
        target=3,
    ),
    Line("yield → client p50, ms", "delay_p50", "durable", "writerless", "difference"),
    Line("yield → client p99, ms", "delay_p99", "durable", "writerless", "difference"),
    _ratio("first event, idle, p50, ms", "first_idle_p50", "durable", "writerless"),
    _ratio("first event, idle, p50, ms", "first_idle_p50", "durable", "bare"),
    _ratio("first event, idle, p99, ms", "first_idle_p99", "durable", "bare"),
    _ratio(
        "first event beside 16 flat out p50, ms",
        "first_loaded_p50",
        "durable",
        "writerless",
        at_most=4,
        target=4,
    ),
    _ratio("first event beside 16 flat out p50, ms", "first_loaded_p50", "durable", "bare"),
    _ratio("first event beside 16 flat out p99, ms", "first_loaded_p99", "durable", "bare"),
    Line("commit p50, loop at rest, ms", "commit_rest_p50", "busy"),
    Line("commit p99, loop at rest, ms", "commit_rest_p99", "busy"),
    Line("commit p50, loop busy in 1 ms turns, ms", "commit_burn_p50", "busy"),
    Line(
        "commit p99, loop busy in 1 ms turns, ms",
        "commit_burn_p99",
        "busy",
        at_most=10,
        target=5,
    ),
    *(
        line
        for name in ("suspended_100000", "suspended_1000000", "entries_10000000")
        for line in (
            _ratio("events/s", "scale_events", name, "suspended_1000", at_least=0.9, target=6),
            _ratio(
                "resume p50, ms", "scale_resume_p50", name, "suspended_1000", at_most=1.2, target=6
            ),
            _ratio("resume p99, ms", "scale_resume_p99", name, "suspended_1000"),
            _ratio("start-up, s", "scale_start", name, "suspended_1000", at_most=1.2, target=6),
            _ratio(
                "resume p50, file not in memory, ms",
                "scale_resume_disk_p50",
                name,
                "suspended_1000",
            ),
            _ratio("start-up, file not in memory, s", "scale_start_disk", name, "suspended_1000"),
        )
    ),
    # What one more costs in memory is nothing; what is measured is what an allocator rounds up to.
    Line("cold suspended execution, KiB", "cold_kib", "cold", at_most=0.5, target=7),
    Line(
        "its rows and pages beside its entries, KiB of file",
        "file_kib",
        "cold",
        at_most=1,
        target=7,
    ),
    Line("warm suspended execution, KiB", "warm_kib", "warm", at_most=6, target=8),
    Line("idle reader of 1 000, KiB", "reader_kib", "warm", at_most=45, target=8),
    Line("idle reader of 5 000, KiB", "reader_kib_in_the_end", "warm", at_most=45, target=8),
    Line("warm resume to first new event p50, ms", "warm_10_p50", "durable", at_most=1.5, target=9),
    _ratio("warm resume, 10 entries, p50, ms", "warm_10_p50", "durable", "bare"),
    _ratio("warm resume, 10 entries, p99, ms", "warm_10_p99", "durable", "bare"),
    _ratio("cold resume, 10 entries, p50, ms", "cold_10_p50", "cold", "bare"),
    _ratio("cold resume, 10 entries, p99, ms", "cold_10_p99", "cold", "bare"),
    Line("cold resume, 1 000 entries, p50, ms", "cold_1000_p50", "cold", at_most=25, target=9),
    Line("cold resume, 1 000 entries, p99, ms", "cold_1000_p99", "cold"),
    _ratio("cold resume, 1 000 entries, p50, ms", "cold_1000_p50", "cold", "bare"),
    _ratio("cold resume, 100 000 entries, ms", "cold_100000", "cold", "bare"),
    _ratio("… in segments of 1 000 (`continue_as`), ms", "cold_renewed", "cold", "bare"),
    Line(
        "catch-up of 100 000 events, 1 reader, events/s",
        "catch_up_1",
        "durable",
        at_least=300_000,
        target=10,
    ),
    Line("catch-up of 100 000 events, 16 readers, events/s in all", "catch_up_16", "durable"),
    *(
        Line(f"{title}, {count} subscribers", figure.format(count), "durable")
        for count in (1, 100, 1000)
        for title, figure in (
            ("fan-out: events/s in all", "fan_out_{}"),
            ("fan-out: CPU µs an event", "fan_out_cpu_us_{}"),
            ("fan-out: yield → subscriber p50, ms", "arrival_{}_p50"),
            ("fan-out: yield → subscriber p99, ms", "arrival_{}_p99"),
        )
    ),
    Line(
        "1 000 cut off by a SIGKILL run again, s",
        "recovery_seconds",
        "durable",
        at_most=2,
        target=11,
    ),
    Line("first event meanwhile p99, ms", "recovery_first_p99", "durable"),
    Line("first event then, idle p99, ms", "recovery_first_idle_p99", "durable"),
    _ratio("`FULL`: cycles/s, 32 clients", "full_cycles", "full", "durable"),
    _ratio("`FULL`: events/s, 64 streams", "full_events", "full", "durable"),
    _ratio("cycles/s, 32 clients in all", "shared_cycles", "two processes", "one process"),
    _ratio("events/s, 64 streams in all", "shared_events", "two processes", "one process"),
    *(
        _ratio(title, figure, OURS.kind, LLAMA_AGENTS.kind, at_least=at_least, target=12)
        for title, figure, at_least in (
            ("cycles/s, 1 client", "peer_cycles_1", 30),
            ("cycles/s, 32 clients", "peer_cycles_32", 30),
            ("events/s, 1 run", "peer_events_1", 100),
            ("events/s, 16 runs", "peer_events_16", 100),
        )
    ),
)

_BEGIN, _END = "<!-- figures: written by scripts/bench --write -->\n", "<!-- end of figures -->\n"
_SIGNS = {"ratio": "×", "difference": "+", "value": ""}


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


def markdown(plan: Plan, samples: Samples) -> str:
    """What they were measured on, the targets in their order, and everything."""
    told = conditions(plan)
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    machine = f"{told['processor']}, {told['cores']} cores, {told['system']}"
    return f"""\
{machine};
Python {told["python"]}, SQLite {told["sqlite"]},
{versions}.
{plan.rounds} rounds on {datetime.now(UTC).date()}, load average at the end
{told["load_average"][0]:.1f}. Medians over the rounds, with the least and the greatest.

{_targets(samples)}

Everything that was measured:

{_everything(samples)}
{_peers(samples)}"""


def write(page: Path, told: str) -> None:
    """Put `told` between the two markers of `page`."""
    before, _, rest = page.read_text().partition(_BEGIN)
    page.write_text(f"{before}{_BEGIN}\n{told}\n{_END}{rest.partition(_END)[2]}")


def _targets(samples: Samples) -> str:
    rows: list[tuple[str, ...]] = [("#", "what", "measured", "target", "")]
    measured = dict(_measured(samples))
    lines = [line for line in LINES if line.target is not None]
    for line in sorted(lines, key=lambda line: line.target or 0):
        how, verdict = "", "not measured"
        if line in measured:
            values = measured[line]
            how = f"{_SIGNS[line.how]}{_spread(values)}"
            verdict = "met" if is_met(line, values) else "**not met**"
        rows.append((str(line.target), _title(line), how, _target(line), verdict))
    return _rendered(rows)


def _everything(samples: Samples) -> str:
    rows: list[tuple[str, ...]] = [
        ("", "", "median (min – max)", "beside it", "median (min – max)", "compared")
    ]
    for line, values in _measured(samples):
        ours = _spread(samples[line.figure][line.ours])
        if line.other is None:
            rows.append((line.title, _kind(line.ours), ours, "", "", ""))
        else:
            theirs = _spread(samples[line.figure][line.other])
            how = f"{_SIGNS[line.how]}{_spread(values)}"
            rows.append((line.title, _kind(line.ours), ours, _kind(line.other), theirs, how))
    return _rendered(rows)


def _peers(samples: Samples) -> str:
    those = peers.measured(samples)
    if not those:
        return ""
    versions = sorted({requirement for peer in those for requirement in peer.requirements})
    rounds = len(samples["peer_resumed"][OURS.kind])
    return f"""
Beside other servers, {rounds} rounds, with
{", ".join(versions).replace("==", " ")}.

{_rendered(peers.rows(those, samples, _spread))}
"""


def _title(line: Line) -> str:
    if line.other is None:
        return line.title
    return f"{line.title}: {_kind(line.ours)} beside {_kind(line.other)}"


def _kind(name: str) -> str:
    what, _, count = name.partition("_")
    return f"{int(count):,} {what}".replace(",", " ") if count.isdigit() else name


def _rendered(rows: list[tuple[str, ...]]) -> str:
    rows.insert(1, ("---",) * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _measured(samples: Samples) -> list[tuple[Line, list[float]]]:
    return [(line, compared(line, samples)) for line in LINES if _is_measured(line, samples)]


def _is_measured(line: Line, samples: Samples) -> bool:
    """In as many rounds as what it is compared with: a peer may have failed in one."""
    kinds = samples.get(line.figure, {})
    rounds = {len(kinds.get(kind, ())) for kind in (line.ours, line.other or line.ours)}
    return len(rounds) == 1 and 0 not in rounds


def _target(line: Line) -> str:
    if line.at_least is not None:
        return f"≥ {line.at_least:g}"
    return "" if line.at_most is None else f"≤ {line.at_most:g}"


def _spread(values: Sequence[float]) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{_short(middle)} ({_short(least)} – {_short(most)})"


def _short(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 999.5 else f"{value:.3g}"
