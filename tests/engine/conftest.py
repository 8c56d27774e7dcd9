"""Every test of a flow runs warm and cold: its generator kept in memory, or replayed each time."""

from pathlib import Path

import pytest
from blockbuster import BlockBuster

from tests.engine.worker import Bench


@pytest.fixture(params=[0, 1000], ids=["cold", "warm"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(tmp_path / "dispatch.db", request.param)


@pytest.fixture(autouse=True)
def _flows_are_made_in_tests(blockbuster: BlockBuster) -> None:
    """`@flow` reads the source of its function: at import, but here while the loop runs."""
    for function in blockbuster.functions.values():
        function.can_block_in("dispatch/mistakes.py", "check_flow")
