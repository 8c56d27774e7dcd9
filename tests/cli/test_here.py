"""Commands that are given MODULE_OR_FILE: they are the server, for as long as they run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from dispatch.cli import main
from tests.cli.process import (
    PATIENCE_SECONDS,
    SERVED,
    Ended,
    dispatch,
    end,
    execution_in,
    line_with,
    started,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Somebody else's server is not asked by a command that is one itself.
    monkeypatch.setenv("DISPATCH_URL", "http://127.0.0.1:9")


class Shell:
    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ended:
        return Ended(main(arguments), *self._capsys.readouterr())


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_a_run_that_waits_is_gone_on_with_by_the_command_that_it_prints(
    shell: Shell, tmp_path: Path
) -> None:
    waiting = shell("run", "number", SERVED, "--db", "j.db")
    assert waiting.code == 3
    words = waiting.err.splitlines()[-1].split()
    assert words[-3:] == [SERVED, "--db", "j.db"]
    done = shell(*(word.replace("=JSON", "=7") for word in words[1:]))
    assert (done.code, "It is 7." in done.out) == (0, True)
    assert (tmp_path / "j.db").exists()


def test_the_file_is_the_one_that_serve_has_by_default(shell: Shell, tmp_path: Path) -> None:
    assert shell("run", "hello", SERVED).code == 0
    assert (tmp_path / "dispatch.db").exists()


def test_lists_and_events(shell: Shell) -> None:
    done = shell("run", "hello", SERVED, "--json")
    listed = shell("executions", SERVED, "--json").json["executions"]
    assert [one["executionId"] for one in listed] == [done.execution_id]
    assert shell("events", done.execution_id, SERVED, "--json").events == done.events
    assert "moody v2" in shell("flows", SERVED).out


def test_ctrl_c_leaves_it_to_whoever_opens_the_file_next(tmp_path: Path) -> None:
    with started("run", "long", SERVED, cwd=tmp_path) as process:
        line_with(process, "It takes a minute.")
        interrupted = end(process, signal.SIGINT)
    assert interrupted.code == 130
    assert "rests until somebody opens its file again" in interrupted.err
    id = execution_in(interrupted.err)
    cancelled = dispatch("cancel", id, SERVED, cwd=tmp_path)
    assert (cancelled.code, cancelled.out) == (0, f"{id} cancelled\n")


def test_a_reader_that_leaves_ends_the_command_and_no_more(tmp_path: Path) -> None:
    many = '{"count": 20000, "size": 20}'
    command = ("run", "tokens", "dispatch.examples", "--json", "--inputs", many)
    with started(*command, cwd=tmp_path) as process:
        line_with(process, "text_delta")
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE_SECONDS) == 1


HASTY = """
import time
from dispatch import flow

@flow("{0}")
async def {0}(run):
    yield f"It is {{time.time()}}."
"""


def test_a_run_warns_of_the_flow_that_it_begins_and_of_no_other(
    shell: Shell, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "hasty.py").write_text(HASTY.format("hasty") + HASTY.format("rash"))
    assert shell("run", "hasty", "hasty.py").code == 0
    [told] = caplog.messages
    assert told.startswith("hasty reads the clock")
    caplog.clear()
    assert shell("executions", "hasty.py").code == 0
    assert caplog.messages == []


def test_what_keeps_the_flows_from_loading_is_one_sentence(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    refused = shell("run", "hello", "broken.py")
    assert refused.code == 1
    assert refused.err == (
        f"error: {tmp_path}/broken.py:1 imports nothing_of_that_name, which is not installed "
        "(flow-mistake)\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "hello", "--nonsense"),
        ("nonsense",),
        ("run", "hello", "--inputs", "{"),
        ("run", "hello", "--inputs", "[1]"),
        ("run", "hello", SERVED, "--url", "http://127.0.0.1:9"),
        ("run", "hello", "--db", "j.db"),
        ("resume", "exec_1", "--output", "key"),
        ("resume", "exec_1", "--output", "=1"),
        ("resume", "exec_1", "--output", 'key={"a":'),
        ("resume", "exec_1", "--output", "key=1", "--output", "key=2"),
        ("executions", "--status", "nonsense"),
    ],
)
def test_arguments_that_make_no_sense_are_exit_code_2(
    shell: Shell, arguments: tuple[str, ...]
) -> None:
    refused = shell(*arguments)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err


@pytest.mark.parametrize("arguments", [(), ("--help",), ("--version",), ("run", "--help")])
def test_help_is_no_failure(shell: Shell, arguments: tuple[str, ...]) -> None:
    told = shell(*arguments)
    assert (told.code, told.err) == (0, "")
    assert told.out


def test_what_a_flow_raises_here_is_shown_with_its_line(tmp_path: Path) -> None:
    done = dispatch("run", "fails", SERVED, cwd=tmp_path)
    assert done.code == 1
    assert "Traceback" in done.err
    assert f'File "{SERVED}"' in done.err
