"""mypy reads `authoring.py` once, without its ignores, and finds just the errors expected there."""

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

AUTHORING = Path(__file__).with_name("authoring.py")
ROOT = AUTHORING.parents[2]
EXPECTED = re.compile(r"  # type: ignore\[([\w-]+)\]  # \w")
FOUND = re.compile(r"^[^:]+:(\d+): error: .*  \[([\w-]+)\]$", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_mypy_finds_the_errors_expected_and_no_others(tmp_path: Path) -> None:
    lines = AUTHORING.read_text().splitlines()
    expected = [
        (number, code) for number, line in enumerate(lines, 1) for code in EXPECTED.findall(line)
    ]
    bare = tmp_path / "authoring.py"
    bare.write_text("\n".join(re.sub(r"  # type: ignore.*", "", line) for line in lines))
    mypy = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    run = subprocess.run(
        [*mypy, "--cache-dir", ROOT / ".mypy_cache", "--no-error-summary", bare],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not run.stderr
    found = sorted({(int(line), code) for line, code in FOUND.findall(run.stdout)})
    assert found == expected, run.stdout
    assert len(expected) > 15


def test_authors_type_checkers_read_the_installed_package() -> None:
    assert (resources.files("dispatch") / "py.typed").is_file()
