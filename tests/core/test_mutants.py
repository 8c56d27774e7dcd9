"""The sweep sees each rule of the replay machine: broken copies of it don't get through."""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest

from dispatch.core import nodes, path, replay
from dispatch.core.errors import Divergence
from tests.core.sweep import sweep_many


@dataclass
class Mutant:
    """`new` instead of `old`, wherever it stands in the source of `module`."""

    breaks: str
    module: ModuleType
    old: str
    new: str


MUTANTS = [
    Mutant(
        "a race is won by its first branch",
        nodes,
        "first = min(decided, key=lambda branch: branch.seq)",
        "first = decided[0]",
    ),
    Mutant(
        "a race is won by the last branch that is settled",
        nodes,
        "first = min(decided, key=lambda branch: branch.seq)",
        "first = max(decided, key=lambda branch: branch.seq)",
    ),
    Mutant(
        "a gather waits for all although one has failed",
        nodes,
        "if failures and not node.wait.settle:",
        "if failures and len(decided) == len(branches) and not node.wait.settle:",
    ),
    Mutant(
        "a gather fails by its first branch, not by the first failure",
        nodes,
        "return min(failures, key=lambda branch: branch.seq)",
        "return failures[0]",
    ),
    Mutant(
        "losers are left open",
        replay,
        "lost = drafts.abandonments(losers(node, self._settlements))",
        "lost = drafts.abandonments([])",
    ),
    Mutant(
        "losers are abandoned in the outermost group only",
        nodes,
        "else losers(branch, settlements)",
        "else []",
    ),
    Mutant(
        "the place of Cancelled is not recorded at a yield",
        replay,
        "return Append([*self._head(now), self._marker(waiting=False)])",
        "self.cancelled = True; return self._answer(None, Cancelled(), self.fed_seq, now)",
    ),
    Mutant(
        "the place of Cancelled is one display late",
        replay,
        "place = CancelRaised(waits=self._waits, displays=self._displays, waiting=waiting)",
        "place = CancelRaised(waits=self._waits, displays=self._displays + 1, waiting=waiting)",
    ),
    Mutant(
        "a cancel comes before what was settled before it",
        replay,
        "(decided is None or decided.seq > self._cancel_seq)",
        "True",
    ),
    Mutant(
        "a cancel waits for the answer",
        replay,
        "(decided is None or decided.seq > self._cancel_seq)",
        "(decided is not None and decided.seq > self._cancel_seq)",
    ),
    Mutant(
        "Cancelled leaves open what the flow stood at",
        replay,
        "left = drafts.abandonments(self._open(node))",
        "left = drafts.abandonments([])",
    ),
    Mutant(
        "a cancel is raised while recorded entries lie ahead",
        replay,
        "return self._cancel is not None and not self.cancelled and not self.replaying",
        "return self._cancel is not None and not self.cancelled",
    ),
    Mutant(
        "recorded displays are shown again",
        path,
        "            stretch.displays -= 1\n            return True\n",
        "            stretch.displays -= 1\n            return False\n",
    ),
    Mutant(
        "one recorded display fewer is skipped",
        path,
        "            last.displays += 1\n",
        "            last.displays += bool(last.displays)\n",
    ),
    Mutant(
        "a step is run again although its result is there",
        replay,
        "steps = [leaf for leaf in self._open(node) if isinstance(leaf, StepNode)]",
        "steps = [leaf for leaf in leaves(node) if isinstance(leaf, StepNode)]",
    ),
    Mutant(
        "a step that a crash cut off is not run again",
        replay,
        "idle = [step for step in steps if not step.running]",
        "idle = [step for step in steps if not step.running and not step.attempts.started]",
    ),
    Mutant(
        "ids go on counting where a step is run again",
        replay,
        "ordinals = count(self._ordinal + 1)",
        "self._ordinal += len(self._attempts); ordinals = count(self._ordinal + 1)",
    ),
    Mutant(
        "what is raised instead of a wait is no place of its own",
        replay,
        "                self._displays += 1\n                return self._refuse(asked)\n",
        "                return self._refuse(asked)\n",
    ),
    Mutant(
        "what is raised instead of a wait forgets the displays recorded after it",
        replay,
        "at_wait = isinstance(self._asked, Node | Draft)",
        "at_wait = self._wait is not None",
    ),
    Mutant(
        "ids repeat in the next segment",
        replay,
        "unique = derive(self.base.start.seed, self.base.segment, next(ordinals), path)",
        "unique = derive(self.base.start.seed, next(ordinals), path)",
    ),
    Mutant(
        "run.messages are the newest that were fed",
        replay,
        "if seq <= self._answered_seq",
        "if True",
    ),
    Mutant(
        "run.now is when it was asked",
        replay,
        "        return self._answered_at\n",
        "        return float(self.fed_seq)\n",
    ),
    Mutant(
        "a leg goes on without a head",
        replay,
        "if first := self._head(now) + lost:",
        "if first := lost:",
    ),
    Mutant(
        "every answer begins a leg",
        replay,
        "if self.leg_open or self.replaying:",
        "if self.replaying:",
    ),
    Mutant(
        "calls are told again in the same leg",
        replay,
        "untold = [leaf for leaf in leaves if leaf.id not in issued]",
        "untold = leaves",
    ),
    Mutant(
        "a wait that needs no compensation is allowed after Cancelled",
        replay,
        "if self.cancelled and not _is_compensation(self._wait):",
        "if self.cancelled and self.replaying and not _is_compensation(self._wait):",
    ),
]

FLOWS = 200
UNBROKEN = Mutant("nothing", replay, "class Replay:", "class Replay:")


def rules(mutant: Mutant) -> Any:
    """The module of the replay machine, with the mutant's change in it or in what it imports."""
    source = Path(str(mutant.module.__file__)).read_text()
    assert mutant.old in source, mutant.old
    changed = _load(mutant.module.__name__, source.replace(mutant.old, mutant.new))
    if mutant.module is replay:
        return changed
    with patch.dict(sys.modules, {mutant.module.__name__: changed}):
        return _load(replay.__name__, Path(str(replay.__file__)).read_text())


def _load(name: str, source: str) -> ModuleType:
    module = ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)  # noqa: S102 our own source
    return module


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.breaks)
def test_a_broken_rule_is_caught(mutant: Mutant) -> None:
    broken = rules(mutant)
    with pytest.raises((AssertionError, Divergence)):
        sweep_many(FLOWS, Counter(), broken)


def test_the_unbroken_rules_pass() -> None:
    sweep_many(20, Counter(), rules(UNBROKEN))
