"""Every cut of a journal, made in the SQLite file, is recovered by a fresh engine, crashed again,
and finished: for flows that Hypothesis makes up, and for the examples.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
from blockbuster import BlockBuster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatch.core import replay
from dispatch.engine import runner
from dispatch.engine.dispatcher import Start
from dispatch.examples import FLOWS
from dispatch.flow import Registry
from tests.core.test_mutants import MUTANTS, UNBROKEN, Mutant, rules
from tests.crash.plans import Plan, PlanFlows, drawn, plans
from tests.crash.sweep import Covered, report, sweep
from tests.crash.watch import Violation

BATCHES = 5
#: Plans that share their files, so that an engine recovers a crowd.
BATCH = 6
#: Broken copies of the rules that these flows run into, and the batch that shows it; tests/core
#: sees the others too.
SHOWN_HERE = {
    "losers are left open": 0,
    "the place of Cancelled is not recorded at a yield": 1,
    "Cancelled leaves open what the flow stood at": 0,
    "a cancel is raised while recorded entries lie ahead": 0,
    "recorded displays are shown again": 0,
    "a step is run again although its result is there": 0,
    "ids go on counting where a step is run again": 0,
    "ids repeat in the next segment": 14,
    "one recorded display fewer is skipped": 0,
    "run.now is when it was asked": 0,
}


@pytest.fixture(autouse=True)
def _may_block(blockbuster: BlockBuster) -> None:
    # The sweep reads and cuts files between the lives of engines; nobody else uses its loop.
    blockbuster.deactivate()


def batches(size: int) -> st.SearchStrategy[tuple[list[Plan], int, bool]]:
    """Plans, a seed, and whether generators are kept warm."""
    return st.tuples(
        st.lists(plans, min_size=size, max_size=size), st.integers(0, 2**32), st.booleans()
    )


def sweep_batch(flows: PlanFlows, batch: tuple[list[Plan], int, bool], covered: Covered) -> int:
    some, number, warm = batch
    starts = [Start(flow="plan", inputs=plan) for plan in some]
    with TemporaryDirectory() as folder:
        return sweep(flows, starts, number, Path(folder), covered, warm=warm)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_made_up_flows_survive_every_cut() -> None:
    covered: Covered = Counter()
    flows = PlanFlows()

    @settings(max_examples=BATCHES, suppress_health_check=list(HealthCheck))
    @given(batches(BATCH))
    def run(batch: tuple[list[Plan], int, bool]) -> None:
        sweep_batch(flows, batch, covered)

    run()
    sys.stdout.write(report(covered))  # shown by -s


class ExampleFlows:
    """The examples do their own work."""

    def __init__(self) -> None:
        self.lab: Any = None
        self.registry = Registry(FLOWS)


INPUTS = {"tokens": {"count": 3, "delay_ms": 5}, "tokens_step": {"count": 3}}
MESSAGES = [{"role": "user", "content": "hello there"}]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_examples_survive_every_cut(warm: bool, tmp_path: Path) -> None:
    starts = [Start(flow=one.id, inputs=INPUTS.get(one.id, {}), messages=MESSAGES) for one in FLOWS]
    covered: Covered = Counter()
    cuts = sweep(ExampleFlows(), starts, 7, tmp_path, covered, warm=warm)
    assert cuts > 10 * len(FLOWS)
    stood = {stood for stood, _, _ in covered}
    assert {"tool", "approval", "timer", "step", "no wait", "the end"} <= stood


def broken(stack: ExitStack, mutant: Mutant) -> None:
    """Have the engine obey a broken copy of the rules."""
    copy: ModuleType = rules(mutant)
    for name, value in vars(copy).items():
        if name in vars(replay) and getattr(runner, name, None) is vars(replay)[name]:
            stack.enter_context(patch.object(runner, name, value))


def try_out(mutant: Mutant, batches: Iterable[int]) -> None:
    """These batches, which are the same for all."""
    flows = PlanFlows()
    with ExitStack() as stack:
        broken(stack, mutant)
        for number in batches:
            # Hypothesis would run what has failed once more, and threads may make it pass then.
            sweep_batch(flows, (drawn(number, BATCH), number, number % 2 == 0), Counter())


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("breaks", "shown_by"), SHOWN_HERE.items(), ids=SHOWN_HERE)
def test_a_broken_rule_is_caught_in_files_too(breaks: str, shown_by: int) -> None:
    (mutant,) = [mutant for mutant in MUTANTS if mutant.breaks == breaks]
    with pytest.raises(Violation):
        try_out(mutant, [shown_by, *range(20)])


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_rules_are_obeyed_unbroken() -> None:
    try_out(UNBROKEN, [0])
