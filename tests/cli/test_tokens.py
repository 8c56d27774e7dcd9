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


@pytest.mark.parametrize("arguments", [("list",), ("revoke", "token_1")])
def test_looking_for_tokens_makes_no_file(
    shell: Shell, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = shell("token", *arguments, "--db", "typo.db")
    assert (done.code, "there is no file typo.db" in done.err) == (2, True)
    assert not (tmp_path / "typo.db").exists()
