"""One server for each module of tests that only asks it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.process import SERVED, Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(SERVED, cwd=tmp_path_factory.mktemp("server")) as server:
        yield server
