"""What the replay machine and its runner say to each other.

`Next` is what to do next, a closed union: the runner is a loop with one case for each member.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from dispatch.core.journal import Draft, Entry
from dispatch.core.nodes import StepNode


class Append(NamedTuple):
    """Append these if nothing unseen has arrived, and feed them back."""

    drafts: list[Draft]


class Act(NamedTuple):
    """Append these likewise; once they are durable, start these steps."""

    drafts: list[Draft]
    steps: list[StepNode]


class Answer(NamedTuple):
    """Send `value` into the generator, or throw `error`."""

    value: Any
    error: BaseException | None


class Idle(NamedTuple):
    """Nothing until something is fed: steps are at work."""


class Suspend(NamedTuple):
    """Append these and let go of the execution, both only if nothing unseen has arrived."""

    drafts: list[Draft]


class Restart(NamedTuple):
    """The segment is over: begin again from this entry."""

    entry: Entry


class Done(NamedTuple):
    """The journal has its final entry."""


Next = Append | Act | Answer | Idle | Suspend | Restart | Done


class Show(Enum):
    """What to do with a display."""

    LIVE = "append it"
    SKIP = "it was shown before"
    HOLD = "do not show it: decide() raises Cancelled here"


class Outcome(NamedTuple):
    """What the generator came to: no code means it returned. `where`: the flow's `file:line`."""

    error: BaseException | None = None
    code: str = ""
    message: str = ""
    where: str = ""
