"""`dispatch token`: made once, listed, revoked, beside a server that heeds it at once."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.cli.process import SERVED, serving
from tests.cli.test_upkeep import Shell, shell

__all__ = ["shell"]

pytestmark = pytest.mark.slow


def test_a_token_lives_until_it_is_revoked(shell: Shell, tmp_path: Path) -> None:
    with serving(SERVED, cwd=tmp_path) as server:
        made = shell("token", "create", "number", "--origin", "https://Shop.example/").out.strip()
        (listed,) = shell("token", "list", "--json").json
        assert (listed["flow"], listed["origins"]) == ("number", ["https://shop.example"])
        assert made not in str(listed)

        def init() -> httpx.Response:
            return httpx.post(
                f"{server.url}/v1/client/init",
                json={"token": made},
                headers={"Origin": "https://shop.example"},
                trust_env=False,
            )

        assert init().status_code == 200
        assert shell("token", "revoke", listed["id"]).code == 0
        assert init().status_code == 403
        assert shell("token", "revoke", listed["id"]).code == 1
    assert "revokedAt" in shell("token", "list", "--json").json[0]
    assert "https://shop.example" in shell("token", "list").out


def test_an_origin_that_is_none_is_refused(shell: Shell, tmp_path: Path) -> None:
    refused = shell("token", "create", "number", "--origin", "shop.example")
    assert refused.code == 2
    assert "https://app.example" in refused.err
    assert not (tmp_path / "dispatch.db").exists()


def test_a_flow_that_is_not_there_is_refused_or_asked_about(shell: Shell, tmp_path: Path) -> None:
    there = ("--origin", "https://shop.example")
    assert shell("run", "hello", SERVED).code == 0
    refused = shell("token", "create", "helo", SERVED, *there)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert refused.err.startswith("error: no flow is called 'helo'; there are: decide, ")
    assert shell("token", "list", "--json").json == []
    assert "is that its name?" in shell("token", "create", "helo", *there).err
    for known in (("hello",), ("number", SERVED)):
        assert "is that its name?" not in shell("token", "create", *known, *there).err


CREATE = ("create", "number", "--origin", "https://shop.example")


@pytest.mark.parametrize("arguments", [("list",), ("revoke", "token_1"), CREATE])
def test_a_file_that_is_not_there_is_not_made(
    shell: Shell, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = shell("token", *arguments, "--db", "typo.db")
    assert (done.code, "there is no file typo.db" in done.err) == (2, True)
    assert not (tmp_path / "typo.db").exists()
