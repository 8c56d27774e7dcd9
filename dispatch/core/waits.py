"""What a flow can yield to be answered, as values; `dispatch.flow` has the functions that make
them.

A wait knows what it asks for, where in the author's code it was made, and, once answered, its
`result`. Leaves (`StepWait`, `ToolWait`, `ApprovalWait`, `SleepWait`) have an entry in the journal
each; `Gather` and `Race` only say how their leaves' settlements make one answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec

from dispatch.core.errors import FlowMistake, WaitFailed

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: Waits made by the running flow's body and not yet yielded: each left over at the end is a
# mistake.
MADE: ContextVar[list[Wait[Any]] | None] = ContextVar("MADE", default=None)

_PACKAGE = __name__.partition(".")[0] + "."
_UNANSWERED: Any = object()


def author_line() -> str:
    """`file:line` of the nearest caller outside this package (its examples count as outside)."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if not (module + ".").startswith(_PACKAGE) or module.startswith(_PACKAGE + "examples"):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


class Wait(Generic[T_co]):
    """Something yielded to be answered. `where` is the author's `file:line`."""

    name: str = ""
    #: What its author calls it, beside its name.
    WORD: ClassVar[str] = ""

    def __init__(self) -> None:
        self.where = author_line()
        self._result: Any = _UNANSWERED
        made = MADE.get()
        if made is not None:
            made.append(self)

    @property
    def result(self) -> T_co:
        """The answer, for `yield (order := load_order(…))`. Raises `FlowMistake` before it is
        there.
        """
        if self._result is _UNANSWERED:
            raise FlowMistake(f"{self} has no result yet: yield it first ({self.where})")
        answer: T_co = self._result
        return answer

    def answered(self, result: Any) -> None:
        self._result = result

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    def __str__(self) -> str:
        """For sentences."""
        return f"{self.WORD} {self.name}".lstrip()

    def __await__(self) -> Any:
        raise FlowMistake(
            f"{self} was awaited at {author_line()}: a wait is yielded, `x = yield …`, "
            "so that its answer is recorded"
        )


class Leaf(Wait[T_co]):
    """A wait with an entry of its own. `TAG` is where its derived id begins."""

    TAG: ClassVar[str]


class StepWait(Leaf[T_co]):
    """One call of a step: `fn(*args, **kwargs)`, run here, its result recorded.

    `backoff_seconds` is waited after the first failed attempt and doubled after each further one.
    """

    TAG = "step"
    WORD = "step"

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        name: str,
        retries: int = 0,
        backoff_seconds: float = 0.5,
        timeout_seconds: float | None = None,
        private: bool = False,
        returns: Any = Any,
    ):
        self.fn, self.args, self.kwargs, self.name = fn, args, kwargs, name
        self.retries, self.backoff_seconds = retries, backoff_seconds
        self.timeout_seconds, self.private, self.returns = timeout_seconds, private, returns
        super().__init__()


class ToolWait(Leaf[T_co]):
    """A call of a tool that lives at the caller."""

    TAG = "call"
    WORD = "tool"

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Any],
        *,
        timeout_seconds: float | None = None,
        returns: Any = Any,
        private: bool = False,
        raw: bool = False,
    ):
        self.name, self.parameters = name, parameters
        self.timeout_seconds, self.returns, self.private, self.raw = (
            timeout_seconds,
            returns,
            private,
            raw,
        )
        super().__init__()


class Decision(msgspec.Struct, frozen=True):
    """What became of an approval."""

    outcome: Literal["approved", "denied", "timeout"]
    reason: str | None = None

    @property
    def approved(self) -> bool:
        return self.outcome == "approved"


class ApprovalWait(Leaf[Decision]):
    """A person's decision about calling `name` with `parameters`."""

    TAG = "approval"
    WORD = "approval"

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Any],
        *,
        reason: str | None = None,
        timeout_seconds: float | None = None,
    ):
        self.name, self.parameters = name, parameters
        self.reason, self.timeout_seconds = reason, timeout_seconds
        super().__init__()


class SleepWait(Leaf[None]):
    """Until `seconds` after it was yielded, or until `due_at` (Unix seconds): durable wall time."""

    TAG = "timer"
    name = "sleep"

    def __init__(self, *, seconds: float | None = None, due_at: float | None = None):
        self.seconds, self.due_at = seconds, due_at
        super().__init__()


class Ok(msgspec.Struct, Generic[T], frozen=True):
    """One branch's answer under `gather(settle=True)`."""

    value: T
    ok: ClassVar[bool] = True


class Failed(msgspec.Struct, frozen=True):
    """One branch's failure under `gather(settle=True)`."""

    error: WaitFailed
    ok: ClassVar[bool] = False


class Group(Wait[T_co]):
    """Waits that are open at the same time. `mark` is what it adds to the ids of its leaves."""

    mark: str

    def __init__(self, branches: tuple[Wait[Any], ...]):
        for number, branch in enumerate(branches, 1):
            if isinstance(branch, ContinueAs) or not isinstance(branch, Wait):
                raise FlowMistake(
                    f"branch {number} of {type(self).__name__.lower()} is a "
                    f"{type(branch).__name__} at {author_line()}: only steps, tools, approvals, "
                    "sleeps, gather and race can stand there (for a helper that suspends, use call)"
                )
        if not branches:
            raise FlowMistake(
                f"{type(self).__name__.lower()} of nothing at {author_line()}: give it waits"
            )
        self.branches = branches
        super().__init__()
        self.name = ", ".join(branch.name for branch in branches)
        made = MADE.get()
        if made is not None:
            made[:] = [wait for wait in made if wait not in branches]

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()}({self.name})"


class Gather(Group[T_co]):
    """Answered with all results in order, or by the first failure; with `settle`, by all as Ok or
    Failed.
    """

    def __init__(self, branches: tuple[Wait[Any], ...], *, settle: bool = False):
        self.settle = settle
        self.mark = "s" if settle else "g"
        super().__init__(branches)


class Race(Group[T_co]):
    """Answered by the first branch that is settled, also if it failed."""

    mark = "r"


class ContinueAs(Wait[None]):
    """Ends the segment: the flow starts again with `run.state` (design.md 3, rule 8).

    `version` is the flow's from then on; 0 leaves it as it is.
    """

    name = "continue_as"
    version = 0

    def __init__(self, state: Any, *, upgrade: bool = False):
        self.state, self.upgrade = state, upgrade
        super().__init__()
