"""The Python clients play the cases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.client.cases import Case, Player, Stage, cases, stage
from tests.client.players import play_async, play_sync


@pytest.fixture(scope="module")
async def place(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("cases")) as place:
        yield place


@pytest.mark.parametrize("player", [play_async, play_sync])
@pytest.mark.parametrize("case", cases())
async def test_a_case(place: Stage, case: Case, player: Player) -> None:
    await place.check(case, player)
