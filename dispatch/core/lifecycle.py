"""Statuses of an execution, the commands it takes in each, and what each family calls them."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Where an execution stands (design.md 5). `interrupted` is parked, and not final."""

    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in FINAL


#: The code of what is parked because it came from a file and was not over.
IMPORTED = "imported"

FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Command(StrEnum):
    RESUME = "resume"
    RETRY = "retry"
    CANCEL = "cancel"


#: (status, command) -> the status it leads to. What is missing is refused, and changes nothing.
TRANSITIONS: dict[tuple[Status, Command], Status] = {
    (Status.PENDING, Command.RESUME): Status.RUNNING,
    (Status.RUNNING, Command.RESUME): Status.RUNNING,
    (Status.SUSPENDED, Command.RESUME): Status.RUNNING,
    (Status.INTERRUPTED, Command.RESUME): Status.RUNNING,
    (Status.INTERRUPTED, Command.RETRY): Status.RUNNING,
    (Status.PENDING, Command.CANCEL): Status.CANCELLED,
    (Status.RUNNING, Command.CANCEL): Status.CANCELLED,
    (Status.SUSPENDED, Command.CANCEL): Status.CANCELLED,
    (Status.INTERRUPTED, Command.CANCEL): Status.CANCELLED,
}

#: What the status poll of the Dispatch family says (design.md 5).
POLL: dict[Status, str] = {
    Status.PENDING: "queued",
    Status.RUNNING: "running",
    Status.SUSPENDED: "paused",
    Status.INTERRUPTED: "failed",
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
}
