"""The JavaScript client in Node: the cases of all clients, what only it has, its types, the
guide's programs.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import msgspec
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from dispatch.api.guide import DOCS
from tests.child import Child
from tests.client.cases import Case, Play, Player, Seen, Stage, cases, stage
from tests.docs.pages import ROOT, Block, blocks
from tests.docs.session import ADDRESS

HERE = Path(__file__).parent
CONSOLE = ROOT / "dispatch" / "console"
LONGEST_LINE = 1 << 20


@pytest.fixture(scope="module")
async def place(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("cases")) as place:
        yield place


@pytest.fixture(scope="module")
async def node(anyio_backend: str) -> AsyncIterator[Player]:
    """Plays one case after another in one process."""
    script = ROOT / "tests" / "client" / "play.mjs"
    async with await anyio.open_process(["node", str(script)], stderr=None) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told, lines = process.stdin, BufferedByteReceiveStream(process.stdout)

        async def play(one: Play) -> Seen:
            await told.send(msgspec.json.encode(one) + b"\n")
            line = await lines.receive_until(b"\n", LONGEST_LINE)
            # What is null is absent in Python's answers.
            return msgspec.json.decode(line, type=Seen)

        yield play
        await told.aclose()
        assert await process.wait() == 0


@pytest.mark.parametrize("case", cases())
async def test_a_case(place: Stage, case: Case, node: Player) -> None:
    await place.check(case, node)


def _programs() -> list[Block]:
    return [block for block in blocks(DOCS / "clients.md") if block.language == "js"]


def test_what_only_it_has() -> None:
    _do("node", "--test", str(HERE / "client.test.mjs"))


def test_its_types_are_what_is_used() -> None:
    _do(str(HERE / "node_modules" / ".bin" / "tsc"), "--project", str(HERE))


@pytest.mark.parametrize("block", _programs(), ids=lambda block: block.name)
def test_a_program_of_the_guide(block: Block, server: Child, tmp_path: Path) -> None:
    program = tmp_path / str(block.name)
    program.write_text(block.text.replace(ADDRESS, server.url))
    (tmp_path / "client.mjs").write_text(httpx.get(f"{server.url}/client.js").text)
    _do("node", str(program))


def test_the_folder_is_a_package(tmp_path: Path) -> None:
    """As npm would install it."""
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "dispatch-client").symlink_to(CONSOLE)
    program = "import { Client } from 'dispatch-client'; new Client('http://127.0.0.1:8000')"
    _do("node", "--input-type=module", "--eval", program, folder=tmp_path)


def _do(*command: str, folder: Path = HERE) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
