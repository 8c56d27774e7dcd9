"""Every error raised on purpose, each in one family with a stable code.

    DispatchError
    ├── InvalidRequest     cannot be read, or asks for nonsense
    ├── Unauthenticated, Forbidden
    ├── NotFound           never existed, or is not visible to the caller
    ├── Conflict           exists, but not in a condition for this
    ├── Gone               existed, and has expired
    ├── Unprocessable      well formed, but does not fit the flow's types
    ├── TooLarge           over a stated limit
    ├── Busy               too much at once
    ├── Unavailable        store, lease or shutdown: try again
    │   ├── LeaseLost      another worker drives it
    │   └── Damaged        the database is, where this is stored: it won't pass by itself
    └── FlowError          an outcome of flow code: it ends or parks an execution, not a request
        ├── FlowMistake    the flow is written in a way that cannot work; says what to write instead
        └── Divergence     a replayed flow does something else than its journal says

What flow authors catch (`StepFailed`, `ToolFailed`, `ToolTimeout`, `Cancelled`) is at the end. The
codes are part of the API; which HTTP status a family has is known to `api.errors` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec


class Detail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One finding within an error body (wire/dispatch-api.md 5.1)."""

    message: str
    code: str | None = None
    path: str | None = None
    suggestion: str | None = None


class DispatchError(Exception):
    """Root of the tree: a sentence for people, `code` for programs, `details` for both."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str | None = None, details: Sequence[Detail] = ()):
        super().__init__(message)
        self.message = message
        self.details = tuple(details)
        if code is not None:
            # Shadowing the class's code on the instance keeps one class for a family's many codes.
            self.__dict__["code"] = code


class InvalidRequest(DispatchError):
    code = "invalid-request"


class Unauthenticated(DispatchError):
    code = "unauthenticated"


class Forbidden(DispatchError):
    code = "forbidden"


class NotFound(DispatchError):
    code = "not-found"


class Conflict(DispatchError):
    code = "conflict"


class Gone(DispatchError):
    code = "gone"


class Unprocessable(DispatchError):
    code = "unprocessable"


class TooLarge(DispatchError):
    code = "too-large"


class Busy(DispatchError):
    code = "busy"

    def __init__(self, message: str, *, retry_after_seconds: int, code: str | None = None):
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(DispatchError):
    code = "unavailable"


class LeaseLost(Unavailable):
    """Another worker has taken the execution: a higher fencing token has been seen."""

    code = "lease-lost"


class Damaged(Unavailable):
    """What is asked for lies where the database is damaged. The rest of it may be sound."""

    code = "store-corrupt"


#: Of an execution that has diverged.
WAYS_OUT = (
    "Ways out: deploy the code that this execution began with and retry it, register the new code "
    "as another version, or cancel the execution."
)


class FlowError(DispatchError):
    code = "flow-error"


class FlowMistake(FlowError):
    """The flow asks for what cannot work; the message says what to write instead, with file and
    line.
    """

    code = "flow-mistake"


class Divergence(FlowError):
    """The flow did `yielded` where its journal says `recorded` (design.md 3, rule 3)."""

    code = "divergence"

    def __init__(self, *, seq: int, recorded: str, yielded: str, where: str = ""):
        super().__init__(
            f"the journal says {recorded} (seq {seq}), the flow now does {yielded}"
            + (f" at {where}" if where else "")
            + f". {WAYS_OUT}"
        )
        self.seq, self.recorded, self.yielded, self.where = seq, recorded, yielded, where


# --- what flow authors catch ----------------------------------------------------------------------


class WaitFailed(Exception):
    """A wait was answered with a failure; `type_name` is the type of the original exception."""

    def __init__(self, message: str, *, name: str = "", type_name: str = "Exception"):
        super().__init__(message)
        self.message, self.name, self.type_name = message, name, type_name


class StepFailed(WaitFailed):
    """A step's last attempt failed; the message is that attempt's."""


class ToolFailed(WaitFailed):
    """The caller's tool answered with an error, or with what its `returns=` type cannot hold."""


class ToolTimeout(ToolFailed):
    """No output came within the tool's `timeout=`."""


class Cancelled(BaseException):
    """Raised once in a flow that is to be cancelled; steps, text and `result` are allowed after it.

    A `BaseException`, so that a flow's `except Exception` cannot swallow it.
    """

    def __init__(self, reason: Any = None):
        super().__init__(reason or "cancelled")
        self.reason = reason
