"""Text that takes its time, and a flow that fails.

`sleep` is durable: a restart in the middle shortens no sleep and repeats no text.
"""

from typing import Any

from dispatch import Flow, Run, flow, result, sleep

TICKS = 12


@flow("slow")
async def slow(run: Run[Any]) -> Flow:
    """Tick a dozen times, in about four seconds."""
    for number in range(TICKS):
        yield f"tick{number} "
        yield sleep(0.35)
    yield result(TICKS)


@flow("quiet")
async def quiet(run: Run[Any]) -> Flow:
    """Say nothing for 35 seconds, then something: readers see pings meanwhile."""
    yield sleep(35)
    yield "That was quiet."


@flow("failing")
async def failing(run: Run[Any]) -> Flow:
    """Say something, then fail. What was said stands."""
    yield "This will not end well. "
    raise RuntimeError("boom")
