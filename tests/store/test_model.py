"""A stateful model: whatever is done in whatever order, a store agrees with a list and a few
variables.

Hypothesis rules are sync: a machine has one loop, and calls the store through it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dispatch.core.errors import Conflict, Gone, LeaseLost
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.core.lifecycle import Status
from dispatch.store.base import Change, Store
from dispatch.store.sqlite import SqliteStore
from tests.store.entries import (
    BEGIN,
    TickingClock,
    call,
    cancel,
    final,
    head,
    journal,
    new,
    output,
    parked,
    phase,
    text,
    timer,
    turn,
)

R = TypeVar("R")

PLAIN = st.lists(
    st.one_of(
        st.builds(text, st.text(max_size=5)),
        st.builds(phase, st.sampled_from("ab")),
        st.just(head()),
    ),
    max_size=4,
)
CUTS = st.integers(0, 30)


@dataclass
class Model:
    """What a store should know of one execution."""

    id: ExecutionId
    drafts: list[Draft]
    waits: dict[str, str] = field(default_factory=dict)  # id -> status
    worker: str | None = None
    token: int = 0
    runnable: bool = False
    over: bool = False
    deleted: bool = False

    @property
    def last_seq(self) -> int:
        return len(self.drafts)

    def append(self, drafts: list[Draft]) -> None:
        self.drafts += drafts

    def end(self) -> None:
        self.over, self.worker, self.runnable = True, None, False
        for id, status in self.waits.items():
            if status == "open":
                self.waits[id] = "abandoned"


class StoreMachine(RuleBasedStateMachine):
    """Some executions, done to as drivers, commands, timers and workers do."""

    executions = Bundle("executions")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = TickingClock()
        self.models: list[Model] = []
        self.open("w1")

    def run(self, call: Coroutine[Any, Any, R]) -> R:
        return self.runner.run(call)

    def open(self, worker: str) -> None:
        self.worker = worker
        self.store: Store = SqliteStore(Path(self.folder.name) / "a.db", clock=self.clock)
        self.stack = AsyncExitStack()
        self.run(self.stack.enter_async_context(self.store.session(worker)))

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()

    # --- rules ------------------------------------------------------------------------------------

    @rule(target=executions, held=st.booleans())
    def create(self, held: bool) -> Model:
        wanted = new(worker=self.worker if held else None)
        self.run(self.store.create(wanted))
        model = Model(wanted.id, [wanted.start])
        model.worker, model.token, model.runnable = wanted.worker, int(held), not held
        self.models.append(model)
        return model

    def append(
        self,
        model: Model,
        drafts: list[Draft],
        firm: list[Draft],
        *,
        behind: int = 0,
        stale: int = 0,
        release: bool = False,
    ) -> bool:
        """As a driver; whether the firm part landed."""
        appending = self.store.append(
            model.id,
            drafts,
            firm,
            expected_seq=model.last_seq - behind,
            token=model.token - stale,
            release=release,
        )
        if model.deleted:
            expected: type[Exception] = Gone
        elif stale:
            expected = LeaseLost
        elif model.over:
            expected = Conflict
        elif model.worker is None:
            expected = LeaseLost
        else:
            landed = not behind or not (firm or release)
            model.append(drafts + (firm if landed else []))
            assert self.run(appending) == (model.last_seq, landed)
            if release and landed:
                model.worker = None
            return landed
        with pytest.raises(expected):
            self.run(appending)
        return False

    @rule(
        model=executions,
        drafts=PLAIN,
        firm=PLAIN,
        behind=st.integers(0, 1),
        stale=st.integers(0, 1),
        release=st.booleans(),
    )
    def drive(
        self,
        model: Model,
        drafts: list[Draft],
        firm: list[Draft],
        behind: int,
        stale: int,
        release: bool,
    ) -> None:
        self.append(model, drafts, firm, behind=behind, stale=stale, release=release)

    @rule(model=executions, kind=st.sampled_from(["tool", "timer"]), behind=st.integers(0, 1))
    def suspend(self, model: Model, kind: str, behind: int) -> None:
        id = f"wait_{len(model.waits)}"
        opened = [call(id), turn(id)] if kind == "tool" else [timer(id, BEGIN + 5)]
        if self.append(model, [text()], opened, behind=behind, release=True):
            model.waits[id] = "open"

    @rule(model=executions)
    def park(self, model: Model) -> None:
        if self.append(model, [], [parked()]):
            model.worker = None

    @rule(model=executions)
    def finish(self, model: Model) -> None:
        if self.append(model, [text()], [final()]):
            model.end()

    @rule(model=executions, wake=st.booleans(), take=st.booleans())
    def settle(self, model: Model, wake: bool, take: bool) -> None:
        """The first open wait, as a resume does; with none open nothing is appended."""
        seen: list[str] = []

        def decide(row: object, waits: Any) -> Change:
            seen.extend(wait.id for wait in waits)
            if not seen:
                return Change((), wake)
            return Change([head(), output(seen[0])], wake)

        calling = self.store.transact(model.id, decide, take_for=self.worker if take else None)
        if model.deleted:
            with pytest.raises(Gone):
                self.run(calling)
            return
        changed = self.run(calling)
        assert seen == [id for id, status in model.waits.items() if status == "open"]
        assert changed.first_seq == model.last_seq + 1
        if seen:
            model.append([head(), output(seen[0])])
            model.waits[seen[0]] = "settled"
        free = wake and model.worker is None and not model.over
        taken = free and take and bool(seen)
        assert changed.taken == taken
        if taken:
            model.worker, model.token, model.runnable = self.worker, model.token + 1, False
        elif free:
            model.runnable = True

    @rule(model=executions)
    def ask_to_cancel(self, model: Model) -> None:
        if not model.over and not model.deleted and "cancel" not in model.waits:
            drafts = [cancel(BEGIN + 9)]
            self.run(self.store.transact(model.id, lambda row, waits: Change(drafts)))
            model.append(drafts)
            model.waits["cancel"] = "open"

    @rule(model=executions)
    def take(self, model: Model) -> None:
        taken = self.run(self.store.acquire(model.id, self.worker))
        if model.deleted or model.over or model.worker is not None:
            assert taken is None
        else:
            assert taken is not None
            model.worker, model.token, model.runnable = self.worker, model.token + 1, False

    @rule(model=executions, stale=st.integers(0, 1), runnable=st.booleans())
    def let_go(self, model: Model, stale: int, runnable: bool) -> None:
        token = model.token - stale
        self.run(self.store.release(model.id, token=token, runnable=runnable))
        if not stale and model.worker is not None:
            model.worker, model.runnable = None, runnable

    @rule(model=executions)
    def delete(self, model: Model) -> None:
        deleting = self.store.delete(model.id)
        if model.over and not model.deleted:
            self.run(deleting)
            model.deleted = True
            model.drafts.clear()
        else:
            with pytest.raises(Gone if model.deleted else Conflict):
                self.run(deleting)

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def reopen(self, worker: str) -> None:
        self.run(self.stack.aclose())
        for model in self.models:
            if model.worker is not None:
                model.worker, model.runnable = None, True
        self.open(worker)

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def rows_agree(self) -> None:
        for model in self.models:
            if model.deleted:
                with pytest.raises(Gone):
                    self.run(self.store.get(model.id))
                continue
            row = self.run(self.store.get(model.id))
            assert row.last_seq == model.last_seq
            assert (row.worker, row.token) == (model.worker, model.token)
            assert row.runnable == model.runnable
            assert row.status.is_final == model.over
            waits = self.run(self.store.waits(model.id))
            assert {wait.id: wait.status for wait in waits} == model.waits
        rows = self.run(self.store.runnable(100))
        assert {row.id for row in rows} == {model.id for model in self.models if model.runnable}
        alive = [model for model in self.models if not model.deleted]
        listed = self.run(self.store.executions())
        assert [row.id for row in listed] == [model.id for model in reversed(alive)]
        final = self.run(self.store.executions(status=Status.COMPLETED))
        assert [row.id for row in final] == [model.id for model in reversed(alive) if model.over]

    @rule(model=executions, after=CUTS, until=CUTS)
    def journals_agree(self, model: Model, after: int, until: int) -> None:
        entries = self.run(journal(self.store, model.id, after=after))
        assert [(entry.kind, entry.origin, entry.private) for entry in entries] == [
            (draft.kind, draft.origin, draft.private) for draft in model.drafts[after:]
        ]
        seqs = [entry.seq for entry in entries]
        assert seqs == list(range(after + 1, model.last_seq + 1))
        cut = self.run(self.store.read(model.id, after=after, until=until))
        assert [entry for chunk in cut for entry in chunk.entries()] == entries[
            : max(until - after, 0)
        ]


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_store_agrees_with_its_model() -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=10,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
