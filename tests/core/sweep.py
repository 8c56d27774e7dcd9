"""Run a flow to its end, then cut its journal after every entry, recover, crash again, finish.

The world is random: it settles what is open in any order and twice, cancels, resumes with nothing,
and does so between any two actions of the worker. `Covered` counts where: what the flow stood at,
what the journal was cut after, and what the world then appended.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dispatch.core import replay, settle
from dispatch.core.errors import Cancelled, FlowMistake, WaitFailed
from dispatch.core.journal import Edge, Entry, Origin, ResultSet
from dispatch.core.projection import WaitOpened
from dispatch.core.waits import Failed, Gather, Group, Ok, Race, Wait
from tests.core.harness import Worker
from tests.core.journals import Journal, begun
from tests.core.plans import PLANS, Plan, flow_of

ROUNDS = 150
Covered = Counter[tuple[str, str, str]]


@dataclass
class World:
    """Everybody else who appends to one journal."""

    journal: Journal
    random: Random
    covered: Covered
    cut: str = "begin"
    settled: list[WaitOpened] = field(default_factory=list)

    def between(self, worker: Worker) -> None:
        if self.random.random() < 0.12:
            self.act(worker)

    def window(self) -> int:
        return self.random.choice([0, 0, 2, 5])

    def act(self, worker: Worker) -> bool:
        """Append something that is possible now, if anything is."""
        journal, random = self.journal, self.random
        if journal.is_final:
            return False
        waits = list(journal.open().values())
        done = ""
        if not journal.is_cancelled and random.random() < 0.04:
            journal.cancel("enough")
            done = "cancel"
        elif self.settled and random.random() < 0.1:
            journal.settle(random.choice(self.settled), "late")
            done = "settle again"
        elif waits and random.random() < 0.1:
            journal.resume([], messages=[random.randrange(9)])
            done = "resume with nothing"
        elif waits:
            done = self._settle(random.choice(waits))
        if done:
            self.covered[worker.standing, self.cut, done] += 1
        return bool(done)

    def _settle(self, wait: WaitOpened) -> str:
        random = self.random
        self.settled.append(wait)
        if wait.kind == "timer":
            self.journal.settle(wait)
            return "timer"
        if random.random() < 0.2:
            self.journal.settle(wait, random.choice(["timeout", "boom"]), fails=True)
            return "approval times out" if wait.kind == "approval" else "tool fails"
        value = random.choice([random.randrange(99), "text", None])
        if wait.kind == "approval" or random.random() < 0.5:
            self.journal.settle(wait, value)
            return "approval" if wait.kind == "approval" else "tool"
        self.journal.resume([(wait, value)], messages=[random.randrange(9)])
        return "resume"

    def supply(self, worker: Worker) -> None:
        """Let something happen: a step moves, or the world acts."""
        random = self.random
        for _ in range(random.choice([1, 1, 2, 3])):
            steps = [id for id in worker.steps if not self.journal.is_settled(id)]
            if steps and random.random() < 0.6:
                what = random.choice(["text", "succeed", "succeed", "fail"])
                worker.do(random.choice(steps), what, random.randrange(99))
                self.covered[worker.standing, self.cut, f"step: {what}"] += 1
            else:
                self.act(worker)

    def drive(self, flow: Any, rules: Any, rounds: int = ROUNDS) -> Worker:
        """A worker that has driven the execution, to its end if `rounds` suffice."""
        worker = Worker(flow, self.journal, self.between, rules, self.window)
        for _ in range(rounds):
            if worker.advance() == "done":
                return worker
            assert worker.machine.cancelled or not self.journal.is_cancelled, "cancel is overdue"
            assert _deciding_entry(self.journal, worker) is None, "an answer is overdue"
            self.supply(worker)
        assert rounds < ROUNDS, "never ends"
        worker.crash()
        return worker


def sweep(plan: Plan, seed: int, covered: Covered, rules: Any = replay) -> int:
    """Raises `AssertionError` or `Divergence` at the first thing that is wrong; counts the cuts."""
    flow = flow_of(plan)
    journal = begun(messages=["hello"])
    first = World(journal, Random(seed), covered).drive(flow, rules)
    _check(journal, first)
    _check_replay(journal, flow, first, rules)
    for length in range(1, journal.last_seq + 1):
        random = Random(seed + length)
        recovered = journal.cut(length)
        cut = recovered.entries[-1].kind
        World(recovered, random, covered, cut).drive(flow, rules, rounds=random.randrange(6))
        again = recovered.cut(recovered.last_seq)
        last = World(again, random, covered, f"{cut}, again").drive(flow, rules)
        assert _facts(again.entries[:length]) == _facts(journal.entries[:length])
        _check(again, last)
        _check_same_past(journal, length, first, last)
        _check_replay(again, flow, last, rules)
    return journal.last_seq


def sweep_many(
    examples: int, covered: Covered, rules: Any = replay, *, repeatable: bool = True
) -> int:
    """Sweep that many flows that Hypothesis makes up, the same ones each time if `repeatable`.

    Counts the cuts. A repeatable sweep stops at the first failure as it is; another one shrinks it.
    """
    cuts = 0

    @settings(
        max_examples=examples,
        derandomize=repeatable,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate] if repeatable else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(PLANS, st.integers(0, 2**32))
    def run(plan: Plan, seed: int) -> None:
        nonlocal cuts
        cuts += sweep(plan, seed, covered, rules)

    run()
    return cuts


def _facts(entries: list[Entry]) -> list[Any]:
    return [(e.seq, e.kind, e.origin, e.data, e.private) for e in entries]


def _check(journal: Journal, worker: Worker) -> None:
    """What is true of any finished journal, and of who finished it."""
    entries = journal.entries
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [e.seq for e in entries if e.edge is Edge.FINAL] == [len(entries)]
    _check_settled_once(entries)
    _check_legs(entries)
    _check_said(journal, worker)
    _check_answers(journal, worker)


OPENINGS = ("tool_start", "step_start", "dispatch.approval_opened", "dispatch.timer_set")
SETTLEMENTS = ("tool_complete", "step_complete", "approval_complete")
TIMERS = ("dispatch.timer_fired", "dispatch.abandoned")


def _id(entry: Entry) -> str:
    facts = entry.facts
    if entry.kind.startswith("dispatch."):
        value = msgspec.json.decode(facts.value)
        return str(value.get("id") or value.get("approvalId") or value.get("stepId"))
    return facts.tool_call_id or facts.approval_id or facts.id


def _check_settled_once(entries: list[Entry]) -> None:
    opened: set[str] = set()
    settled: set[str] = set()
    for entry in entries:
        if entry.kind in OPENINGS:
            assert _id(entry) not in opened, "opened twice"
            opened.add(_id(entry))
        elif entry.kind in SETTLEMENTS or entry.kind in TIMERS:
            assert _id(entry) in opened, "settled before it was opened"
            assert _id(entry) not in settled, "settled twice"
            settled.add(_id(entry))
        elif entry.kind == "dispatch.step_attempt":
            assert _id(entry) not in settled, "attempted although its result is there"
    assert opened == settled, "left open"


def _check_legs(entries: list[Entry]) -> None:
    leg_open, told = False, set[str]()
    for entry in entries:
        if entry.edge is Edge.HEAD:
            # Those that the machine writes carry no messages; a caller may begin a leg at any time.
            assert not leg_open or entry.private is not None, "a head within a leg"
            leg_open = True
            told.clear()
        elif entry.edge is Edge.TURN:
            assert _id(entry) not in told, "told twice in one leg"
            told.add(_id(entry))
            leg_open = False
        elif entry.origin is Origin.FLOW:
            assert leg_open, f"{entry.kind} outside of a leg"


def _check_said(journal: Journal, worker: Worker) -> None:
    """What the flow showed is in the journal once."""
    shown = [
        e.payload(ResultSet).value
        if e.kind == "dispatch.result"
        else msgspec.json.decode(e.data)["delta"]
        for e in _segment(journal)
        if e.kind in ("text_delta", "dispatch.result") and e.origin is Origin.FLOW
    ]
    assert shown == worker.said


def _segment(journal: Journal) -> list[Entry]:
    starts = [i for i, e in enumerate(journal.entries) if e.kind == "dispatch.continued"]
    return journal.entries[starts[-1] + 1 :] if starts else journal.entries


def _check_answers(journal: Journal, worker: Worker) -> None:
    """Each wait was answered by the first entry that decided it, entries taken one at a time."""
    entries = _segment(journal)
    ids = iter([_id(entry) for entry in entries if entry.kind in OPENINGS])
    cancel = next((e.seq for e in entries if e.kind == "dispatch.cancel_requested"), None)
    for wait, answer in worker.given:
        if isinstance(answer, Cancelled):
            return
        if isinstance(answer, FlowMistake):
            continue
        decided = _decided(wait, [next(ids) for _ in _leaves(wait)], entries)
        assert decided is not None, "answered before it was decided"
        entry, expected = decided
        assert cancel is None or entry.seq < cancel, "answered although it was to be cancelled"
        assert repr(answer) == repr(expected)


def _deciding_entry(journal: Journal, worker: Worker) -> Entry | None:
    """The entry that decides what the worker waits for, if it is there already."""
    entries = _segment(journal)
    ids = [_id(entry) for entry in entries if entry.kind in OPENINGS]
    wait = worker.waits_for
    decided = _decided(wait, ids[len(ids) - len(_leaves(wait)) :], entries)
    return None if decided is None else decided[0]


def _decided(wait: Wait[Any], ids: list[str], entries: list[Entry]) -> tuple[Entry, Any] | None:
    """The first entry by which `wait`, its leaves opened as `ids`, is decided, and the answer."""
    leaves = dict(zip(ids, _leaves(wait), strict=True))
    told: dict[Wait[Any], Any] = {}
    for entry in entries:
        if entry.kind in (*SETTLEMENTS, *TIMERS) and (leaf := leaves.get(_id(entry))) is not None:
            done = settle.settled(leaf, entry)
            told[leaf] = done.error or done.value
            _tell(wait, told)
            if wait in told:
                return entry, told[wait]
    return None


def _leaves(wait: Wait[Any]) -> list[Any]:
    if isinstance(wait, Group):
        return [leaf for branch in wait.branches for leaf in _leaves(branch)]
    return [wait]


def _tell(wait: Wait[Any], told: dict[Wait[Any], Any]) -> None:
    """Add the answers, values or errors, of the groups that are decided now."""
    if not isinstance(wait, Group):
        return
    for branch in wait.branches:
        _tell(branch, told)
    settled = [branch for branch in wait.branches if branch in told]
    failed = [told[branch] for branch in settled if isinstance(told[branch], WaitFailed)]
    if wait in told or not settled:
        return
    if isinstance(wait, Race):
        index, answer = wait.branches.index(settled[0]), told[settled[0]]
        told[wait] = answer if failed else (index, answer)
    elif isinstance(wait, Gather) and wait.settle:
        if len(settled) == len(wait.branches):
            answers = [told[branch] for branch in settled]
            told[wait] = [Failed(a) if isinstance(a, WaitFailed) else Ok(a) for a in answers]
    elif failed:
        told[wait] = failed[0]
    elif len(settled) == len(wait.branches):
        told[wait] = [told[branch] for branch in settled]


def _check_replay(journal: Journal, flow: Any, driven: Worker, rules: Any) -> None:
    """A replay of the whole journal appends nothing and gives the flow what it was given."""
    replayed = Worker(flow, journal.cut(journal.last_seq), rules=rules)
    assert replayed.advance() == "done"
    assert replayed.appended == []
    assert repr(replayed.trace) == repr(driven.trace)


def _check_same_past(journal: Journal, length: int, first: Worker, last: Worker) -> None:
    """What was decided by the entries that were kept was answered again likewise."""
    kept_until = journal.entries[length - 1].at
    for segment in first.traces.keys() & last.traces.keys():
        past = [given for given in _by_entries(first.traces[segment]) if given[1] < kept_until]
        assert repr(_by_entries(last.traces[segment])[: len(past)]) == repr(past)


def _by_entries(trace: list[Any]) -> list[Any]:
    """Without what no entry decided: mistakes."""
    return [given for given in trace if not str(given[0]).startswith("('FlowMistake'")]
