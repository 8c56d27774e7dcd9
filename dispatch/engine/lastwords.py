"""Has a process that dies by what an author's code does say so, to whoever takes over.

Two ways out leave no time for anything else: `os._exit`, which is therefore replaced while a worker
runs, and a crash in C, of which Python's fault handler writes a traceback.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn

from dispatch.core.ids import ExecutionId
from dispatch.engine import whereabouts

#: The execution whose code runs here: threads and tasks that it starts inherit this.
DRIVEN: ContextVar[ExecutionId | None] = ContextVar("driven", default=None)


@contextmanager
def written_to(handle: int) -> Iterator[None]:
    """While this is entered, last words go to the file with that descriptor."""
    process, end, is_open = os.getpid(), os._exit, True

    def leave(status: int) -> NoReturn:
        # A process that was forked has its own reasons to end.
        if is_open and os.getpid() == process:
            where = whereabouts.of_frame(sys._getframe(1))
            driven = DRIVEN.get()
            who = "somebody" if driven is None else f"execution {driven}"
            os.write(handle, f"{who} called os._exit({status}) at {where}\n".encode())
        end(status)

    os._exit = leave
    handles_faults = not faulthandler.is_enabled()  # else somebody has put it elsewhere
    if handles_faults:
        faulthandler.enable(handle, all_threads=False)
    try:
        yield
    finally:
        is_open = False
        if os._exit is leave:
            os._exit = end
        if handles_faults:
            faulthandler.disable()
