"""What peers came to, beside this server: a table with a column for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from scripts.benchmarks.peers.known import OURS, PEERS, Peer
from scripts.benchmarks.peers.rounds import KILLED

#: Figure -> kind of server -> one value a round.
Samples = Mapping[str, Mapping[str, Sequence[float]]]

#: Figure -> what it is, and whether it is told how many times as much the other one comes to.
FIGURES = {
    "peer_cycles_1": ("cycles/s, 1 client", True),
    "peer_cycles_32": ("cycles/s, 32 clients", True),
    "peer_events_1": ("events/s, 1 run", True),
    "peer_events_16": ("events/s, 16 runs", True),
    "peer_first_event": ("first event p50, ms", False),
    "peer_idle_mib": ("memory at rest, MiB", False),
    "peer_suspended_kib": ("a suspended run, KiB", False),
    "peer_resumed": (f"of {KILLED} suspended at a SIGKILL, resumed", False),
}


def measured(samples: Samples) -> list[Peer]:
    """Those that were, in every round: one that has failed in some is left out."""
    values = samples.get("peer_resumed", {})
    rounds = len(values.get(OURS.kind, ()))
    return [peer for peer in PEERS if rounds and len(values.get(peer.kind, ())) == rounds]


def rows(
    peers: Sequence[Peer], samples: Samples, told: Callable[[Sequence[float]], str]
) -> list[tuple[str, ...]]:
    """A head and a row for each figure. `told` says what values come to, over the rounds."""
    rows: list[tuple[str, ...]] = [("", OURS.kind, *(peer.kind for peer in peers))]
    for figure, (title, is_compared) in FIGURES.items():
        ours = samples[figure][OURS.kind]
        cells = [told(ours)]
        for peer in peers:
            theirs = samples[figure][peer.kind]
            cell = told(theirs)
            if is_compared:
                pairs = zip(ours, theirs, strict=True)
                cell += f"; ×{told([one / other for one, other in pairs])}"
            cells.append(cell)
        rows.append((title, *cells))
    return rows
