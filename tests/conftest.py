"""What holds for every test: one async backend, and no blocking call on the event loop."""

from collections.abc import Iterator
from typing import Final

import hypothesis
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

# No test asserts a duration, so neither do Hypothesis's.
hypothesis.settings.register_profile("dispatch", deadline=None)
hypothesis.settings.load_profile("dispatch")


class _EveryFunction(frozenset[str]):
    """The functions of a file, all of them; blockbuster itself only takes a list of names."""

    def __contains__(self, name: object) -> bool:
        return True


# The one listed exception: a bounded commit of the SQLite store runs on the loop.
_MAY_CALL_SQLITE: Final = "dispatch/store/sqlite.py"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    # aiosqlite and sse-starlette need asyncio.
    return "asyncio"


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail whatever blocks the event loop.

    A test that must block takes this fixture and lists where, with `can_block_in`.
    """
    with blockbuster_ctx() as detector:
        for name, function in detector.functions.items():
            if name.startswith("sqlite3."):
                function.can_block_in(_MAY_CALL_SQLITE, _EveryFunction())
        yield detector
