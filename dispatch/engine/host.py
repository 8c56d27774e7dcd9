"""What a runner needs of the engine, or of whoever else has it drive an execution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dispatch.core.clock import Clock
from dispatch.engine.abandonable import Abandonable
from dispatch.engine.inbox import Journal
from dispatch.flow import Registry
from dispatch.store.base import Execution

if TYPE_CHECKING:
    from dispatch.engine.runner import Runner


class Host(Protocol):
    """Tells where things are, and is told what becomes of the execution."""

    registry: Registry
    clock: Clock
    abandonable: Abandonable
    close_seconds: float

    @property
    def store(self) -> Journal: ...

    def spawn(self, function: Any, *args: Any) -> None: ...

    def suspended(self, runner: Runner) -> None:
        """Its execution is nobody's now; the generator is warm until `close` or `revive`."""

    async def leased(self) -> None:
        """Return at once if this worker's lease is held, else when it has been renewed."""

    def timer_set(self) -> None:
        """A wait with a due time has been committed."""

    def caught_up(self, runner: Runner) -> None:
        """It has replayed its journal, or come to its end."""

    def gone(self, runner: Runner) -> None:
        """Its task has ended."""

    async def park(self, execution: Execution, code: str, message: str) -> None: ...

    async def fail(self, execution: Execution, code: str, message: str) -> None: ...

    async def release(self, execution: Execution) -> None: ...
