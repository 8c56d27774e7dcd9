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


# The one listed exception: the SQLite store reads rows and commits on the loop, within bounds, and
# lets its thread in by a short nap.
_MAY_CALL_SQLITE: Final = ("dispatch/store/sqlite.py", "dispatch/store/writer.py")
_MAY_NAP: Final = "dispatch/store/aside.py"


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
                for file in _MAY_CALL_SQLITE:
                    function.can_block_in(file, _EveryFunction())
            if name == "time.sleep" or name.startswith("threading."):
                function.can_block_in(_MAY_NAP, _EveryFunction())
        yield detector
