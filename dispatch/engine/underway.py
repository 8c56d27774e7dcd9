"""The steps of one execution that are under way, and what they report to its driver.

A step is wanted until its end is in the journal, whoever put it there: then it is cancelled here,
and what it still reports is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import anyio

from dispatch.core.errors import DispatchError
from dispatch.core.journal import Draft
from dispatch.core.nodes import Attempts, StepNode
from dispatch.engine import steps

logger = logging.getLogger(__name__)


class Report(NamedTuple):
    """What a step has come to: an attempt, a failed one, its end. The step waits for `durable`."""

    step: StepNode
    draft: Draft
    durable: anyio.Event


class UnderWay:
    """Those of one runner, which is their `StepHost`."""

    __slots__ = ("_reports", "_scopes")

    def __init__(self) -> None:
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._reports: list[Report] = []

    @property
    def has_reports(self) -> bool:
        return bool(self._reports)

    def begin(self, step: StepNode, host: steps.StepHost, spawn: Callable[..., Any]) -> None:
        """Have a task carry it out; its first attempt is durable, or it backs off."""
        step.running = True
        scope = self._scopes[step.id] = anyio.CancelScope()
        # A copy: the machine goes on counting what is fed back.
        spawn(self._carry_out, step, replace(step.attempts), scope, host)

    def ended(self, step_id: str) -> None:
        """Its end is in the journal."""
        scope = self._scopes.pop(step_id, None)
        if scope is not None:
            scope.cancel()

    def cancel(self) -> None:
        """The execution is let go of; what its steps have not recorded is forgotten."""
        for scope in self._scopes.values():
            scope.cancel()

    def report(self, step: StepNode, draft: Draft) -> Report:
        """For the driver to append, and to say when it is durable."""
        report = Report(step, draft, anyio.Event())
        self._reports.append(report)
        return report

    def take(self) -> list[Report]:
        """All reports of steps that are still wanted; `put_back` those that did not land."""
        wanted = [report for report in self._reports if report.step.id in self._scopes]
        self._reports.clear()
        return wanted

    def put_back(self, reports: list[Report]) -> None:
        self._reports[:0] = reports

    async def _carry_out(
        self, step: StepNode, attempts: Attempts, scope: anyio.CancelScope, host: steps.StepHost
    ) -> None:
        with scope:
            try:
                await steps.carry_out(step, attempts, host)
            except DispatchError as exc:
                logger.info("step %s ends: %s", step.wait.name, exc)
