"""A store on which some calls fail, or lose their answers: a wrapper around a real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Any

from dispatch.core.errors import LeaseLost, Unavailable
from dispatch.store.base import Store

WRITES = ("create", "append", "transact", "acquire", "release", "bury_dead")
READS = ("get", "read", "runnable", "due", "next_due", "held")


class Fault(Enum):
    FULL = "store-full"
    FAILED = "store-failed"
    #: It is carried out, and its caller is told that it failed.
    ANSWER_LOST = "answer lost"
    #: Refused with the token of a worker that holds it all the same.
    LEASE = "lease-lost"

    def error(self) -> Unavailable:
        if self is Fault.LEASE:
            return LeaseLost("taken, it seems")
        code = "store-full" if self is Fault.FULL else "store-failed"
        return Unavailable("made to fail", code=code)


class FaultyStore:
    """Fails the calls that `is_hit`: it is given a call's number among those of all `methods`, and
    among those of its own, counted from 1.
    """

    def __init__(
        self,
        store: Store,
        fault: Fault,
        is_hit: Callable[[int, int], bool],
        methods: tuple[str, ...] = WRITES,
    ):
        self.__dict__.update(
            sound=store, _fault=fault, _is_hit=is_hit, _methods=methods, calls=Counter(), hits=[]
        )

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.sound, name)
        return self._failing(name, found) if name in self._methods else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.sound, name, value)

    def _failing(self, name: str, method: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            if not self._is_hit(self.calls.total(), self.calls[name]):
                return await method(*args, **kwargs)
            self.hits.append(name)
            if self._fault is Fault.ANSWER_LOST:
                await method(*args, **kwargs)
            raise self._fault.error()

        return call
