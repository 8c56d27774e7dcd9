"""Where an author's code is just now, for log lines about code that does not come back."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
from pathlib import Path
from types import FrameType
from typing import Any, Final

_OURS: Final = str(Path(__file__).parent.parent)
_EXAMPLES: Final = str(Path(_OURS) / "examples")
_LIBRARIES: Final = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def of_thread(ident: int | None) -> str:
    """`file:line` of the innermost frame of a thread that is an author's, else of the innermost."""
    return _line(_frames(sys._current_frames().get(ident or 0)))


def of_frame(frame: FrameType) -> str:
    """The same, from that frame outwards."""
    return _line(_frames(frame))


def of_task(task: asyncio.Task[Any]) -> str:
    """The same of a task that waits; of one that runs, ask its thread."""
    frames: list[FrameType] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = next(
            (
                found
                for name in ("cr_frame", "ag_frame", "gi_frame")
                if (found := getattr(awaited, name, None)) is not None
            ),
            None,
        )
        if frame is not None:
            frames.insert(0, frame)
        awaited = next(
            (
                found
                for name in ("cr_await", "ag_await", "gi_yieldfrom")
                if (found := getattr(awaited, name, None)) is not None
            ),
            None,
        )
    return _line(frames)


def _frames(innermost: FrameType | None) -> list[FrameType]:
    frames = []
    while innermost is not None:
        frames.append(innermost)
        innermost = innermost.f_back
    return frames


def _line(frames: list[FrameType]) -> str:
    """`frames`: innermost first."""
    if not frames:
        return "?"
    frame = next((one for one in frames if _is_authors(one)), frames[0])
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _is_authors(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith("<"):
        return False
    if file.startswith(_OURS):
        return file.startswith(_EXAMPLES)
    return not file.startswith(_LIBRARIES)
