"""Forms of ids. Execution ids are time-ordered; all others derive from the execution's seed.

Derived ids make a replayed flow ask for the same things under the same names (design.md 3, rule 6).
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NewType

ExecutionId = NewType("ExecutionId", str)
WaitId = NewType("WaitId", str)

EXECUTION_ID = re.compile(r"exec_[0-9a-f]{32}\Z")


def execution_id(at: float, randomness: bytes) -> ExecutionId:
    """`exec_` and a UUID v7 in hex: 48 bits of `at` in milliseconds, then 74 bits of `randomness`
    (10 bytes).
    """
    head = int(at * 1000).to_bytes(6, "big")
    tail = bytearray(randomness[:10])
    tail[0] = 0x70 | tail[0] & 0x0F
    tail[2] = 0x80 | tail[2] & 0x3F
    return ExecutionId("exec_" + (head + tail).hex())


def derive(seed: str, *parts: object) -> str:
    """16 hex digits that depend on all of `parts` and on nothing else."""
    text = "\x1f".join(str(part) for part in (seed, *parts))
    return blake2b(text.encode(), digest_size=8).hexdigest()
