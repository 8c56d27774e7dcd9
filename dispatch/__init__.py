"""Durable flows that talk to the world while they run: what flow authors import.

The map, read top-down as a request goes (each layer imports only those below it):

    cli, app          arguments; the composition root
    api               HTTP: decode, call the engine, render
    engine            runs flows: commands in, entries out
    stream            out to subscribers: hub and tails
    store             journals, durable
    flow, yields      what flow authors write against; events: what else they can yield
    core              the rules: pure, sync, deterministic

Beside it: `testing`, a flow in a test; `pytest_plugin`, exported executions as tests.
"""

from dispatch.core.errors import Cancelled, StepFailed, ToolFailed, ToolTimeout, WaitFailed
from dispatch.core.waits import Decision, Failed, Ok
from dispatch.flow import Flow, Run, flow
from dispatch.yields import (
    approval,
    continue_as,
    gather,
    phase,
    race,
    result,
    sleep,
    sleep_until,
    step,
    tool,
)

__all__ = [
    "Cancelled",
    "Decision",
    "Failed",
    "Flow",
    "Ok",
    "Run",
    "StepFailed",
    "ToolFailed",
    "ToolTimeout",
    "WaitFailed",
    "approval",
    "continue_as",
    "flow",
    "gather",
    "phase",
    "race",
    "result",
    "sleep",
    "sleep_until",
    "step",
    "tool",
]
