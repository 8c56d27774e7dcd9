"""One of two servers on a file is stopped past its lease and goes on; both are killed."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.crash.two_servers import trial


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_what_a_stopped_server_held_goes_on_at_the_other(tmp_path: Path) -> None:
    counts = trial(tmp_path, executions=40, kills=2, rng=Random(1))
    assert counts.taken > 0
    assert counts.fenced >= counts.taken
    assert counts.repeated > 0
