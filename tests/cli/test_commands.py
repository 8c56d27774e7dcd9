"""What each command says of a server's executions, and with which exit code."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from dispatch.cli import main
from tests.cli.process import Ended, Server, end, execution_in, line_with, started

pytestmark = pytest.mark.slow


class Shell:
    """Command lines carried out in this process, which is much faster, against the server."""

    def __init__(self, server: Server, cwd: Path, capsys: pytest.CaptureFixture[str]):
        self.server, self.cwd, self._capsys = server, cwd, capsys

    def __call__(self, *arguments: str) -> Ended:
        code = main(arguments)
        return Ended(code, *self._capsys.readouterr())


@pytest.fixture
def shell(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.setenv("DISPATCH_URL", server.url)
    return Shell(server, tmp_path, capsys)


# --- run ------------------------------------------------------------------------------------------


def test_a_run_shows_what_the_flow_shows_and_its_result(shell: Shell) -> None:
    done = shell("run", "hello", "--inputs", '{"name": "Ada"}')
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == f"▸ hello v1  {done.execution_id}"
    assert lines[1] == "Hello, Ada. \ufffd[31mred"
    assert lines[2].startswith("✓ completed")
    assert lines[3] == '{"greeted":true}'
    assert done.err == ""


def test_a_flow_cannot_write_escapes_to_the_terminal(shell: Shell) -> None:
    assert "\x1b" not in shell("run", "hello").out


def test_a_failed_execution_is_exit_code_1(shell: Shell) -> None:
    done = shell("run", "fails")
    assert done.code == 1
    assert "Not for long." in done.out
    assert "✗ failed: RuntimeError: boom" in done.out


def test_json_is_the_events_one_a_line_and_nothing_else(shell: Shell) -> None:
    done = shell("run", "hello", "--json")
    assert done.code == 0
    assert [event["seq"] for event in done.events] == list(range(1, len(done.events) + 1))
    assert done.events[-1]["type"] == "execution_complete"
    assert done.err == ""


def test_a_run_that_waits_says_how_to_go_on_and_that_works(shell: Shell) -> None:
    waiting = shell("run", "number")
    assert waiting.code == 3
    assert '→ get_number {"least":1}' in waiting.out
    say, command = waiting.err.splitlines()
    assert say == 'waiting for get_number {"least":1}'
    words = command.split()
    assert words[:2] == ["dispatch", "resume"]
    assert words[-2:] == ["--output", "get_number=JSON"]
    done = shell(*words[1:-1], "get_number=42")
    assert done.code == 0
    assert "It is 42." in done.out


def test_waiting_is_told_beside_json_too(shell: Shell) -> None:
    waiting = shell("run", "number", "--json")
    assert waiting.code == 3
    assert waiting.events[-1]["type"] == "await"
    assert f"dispatch resume {waiting.execution_id}" in waiting.err


def test_two_calls_of_one_tool_are_named_by_their_ids(shell: Shell) -> None:
    waiting = shell("run", "two")
    keys = [word.removesuffix("=JSON") for word in waiting.err.split() if "=JSON" in word]
    assert len(set(keys)) == 2
    partly = shell("resume", waiting.execution_id, "--output", f"{keys[1]}=B")
    assert partly.code == 3
    assert keys[1] not in partly.err
    done = shell("resume", waiting.execution_id, "--output", f'{keys[0]}="A"')
    assert (done.code, "A and B" in done.out) == (0, True)


def test_ctrl_c_leaves_the_execution_going_and_says_how_to_follow_it(shell: Shell) -> None:
    with started("run", "long", cwd=shell.cwd, env=shell.server.env) as process:
        line_with(process, "It takes a minute.")
        interrupted = end(process, signal.SIGINT)
    assert interrupted.code == 130
    id = execution_in(interrupted.err)
    assert "goes on without you" in interrupted.err
    follow = interrupted.err.splitlines()[-1].split()
    assert follow[:3] == ["dispatch", "events", id]
    assert [one["status"] for one in _listed(shell, "long") if one["executionId"] == id] == [
        "running"
    ]
    with started(*follow[1:], "--json", cwd=shell.cwd, env=shell.server.env) as following:
        assert shell("cancel", id).code == 0
        done = end(following)
    assert done.code == 1
    assert done.events[-1]["stopReason"] == "cancelled"
    assert done.events[0]["seq"] == int(follow[follow.index("--after") + 1]) + 1


# --- resume, approve, deny, cancel, retry ---------------------------------------------------------


def test_an_output_that_does_not_fit_is_refused_in_a_sentence(shell: Shell) -> None:
    waiting = shell("run", "number")
    refused = shell("resume", waiting.execution_id, "--output", "get_number=many")
    assert refused.code == 1
    assert refused.out == ""
    assert refused.err.startswith("error: ")
    assert refused.err.endswith("(output-invalid)\n")


def test_a_resume_without_outputs_tells_again_what_is_open(shell: Shell) -> None:
    waiting = shell("run", "number")
    again = shell("resume", waiting.execution_id)
    assert (again.code, again.err) == (3, waiting.err)


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [("approve", (), "approved: None"), ("deny", ("--reason", "too new"), "denied: too new")],
)
def test_decisions(shell: Shell, command: str, arguments: tuple[str, ...], told: str) -> None:
    waiting = shell("run", "decide")
    assert waiting.code == 3
    assert '? delete {"id":7} (it is old)' in waiting.out
    offered = [line.split() for line in waiting.err.splitlines()[1:]]
    assert [words[1] for words in offered] == ["approve", "deny"]
    words = next(words for words in offered if words[1] == command)
    done = shell(*words[1:], *arguments)
    assert (done.code, told in done.out) == (0, True)


def test_a_cancelled_execution(shell: Shell) -> None:
    id = shell("run", "number").execution_id
    cancelled = shell("cancel", id, "--reason", "changed my mind", "--json")
    assert cancelled.code == 0
    assert (cancelled.json["executionId"], cancelled.json["status"]) == (id, "cancelled")
    again = shell("cancel", shell("run", "hello", "--json").execution_id)
    assert again.code == 1
    assert again.err.endswith("(final)\n")


def test_what_is_not_parked_cannot_be_retried(shell: Shell) -> None:
    refused = shell("retry", shell("run", "number").execution_id)
    assert refused.code == 1
    assert refused.err.endswith("(not-parked)\n")


# --- events ---------------------------------------------------------------------------------------


def test_events_are_those_there_are(shell: Shell) -> None:
    id = shell("run", "number").execution_id
    seen = shell("events", id, "--json")
    assert seen.code == 0
    assert seen.events[-1]["type"] == "await"
    rest = shell("events", id, "--after", "3", "--json")
    assert rest.events == seen.events[3:]
    none = shell("events", id, "--after", str(len(seen.events)), "--json")
    assert (none.code, none.out) == (0, "")


def test_the_events_of_a_finished_execution_are_all_of_them(shell: Shell) -> None:
    done = shell("run", "hello", "--json")
    assert shell("events", done.execution_id, "--json").events == done.events
    followed = shell("events", done.execution_id, "--json", "--follow")
    assert (followed.code, followed.events) == (0, done.events)


def test_a_cursor_that_is_ahead_is_refused(shell: Shell) -> None:
    done = shell("run", "hello", "--json")
    refused = shell("events", done.execution_id, "--after", "999")
    assert refused.code == 1
    assert refused.err.endswith("(cursor-ahead)\n")


# --- lists ----------------------------------------------------------------------------------------


def _listed(shell: Shell, flow: str) -> list[dict[str, str]]:
    listed = shell("executions", "--flow", flow, "--json")
    assert listed.code == 0
    executions: list[dict[str, str]] = listed.json["executions"]
    return executions


def test_executions_are_listed_newest_first(shell: Shell) -> None:
    older, newer = shell("run", "number"), shell("run", "fails", "--json")
    lines = shell("executions").out.splitlines()
    assert lines[0].split() == ["execution", "flow", "status", "phase", "events", "created"]
    assert lines[1].split()[:4] == [newer.execution_id, "fails", "failed", "flow-failed"]
    assert lines[2].split()[:4] == [older.execution_id, "number", "suspended", "asking"]
    only = shell("executions", "--status", "suspended", "--flow", "number", "--limit", "1")
    assert [line.split()[0] for line in only.out.splitlines()[1:]] == [older.execution_id]


def test_flows_are_listed_with_the_first_line_of_what_they_say(shell: Shell) -> None:
    rows = {line.split()[0]: line.split() for line in shell("flows").out.splitlines()}
    assert rows["hello"] == ["hello", "flow", "Greet."]
    assert rows["moody"][:2] == ["moody", "v2"]
    told = {one["id"]: one for one in shell("flows", "--json").json["flows"]}
    assert told["hello"]["description"] == "Greet.\n\nAnd no more."
    assert told["hello"]["inputsSchema"]["type"] == "object"


# --- the server -----------------------------------------------------------------------------------


def test_what_a_server_refuses_is_one_sentence_with_its_code(shell: Shell) -> None:
    refused = shell("run", "nothing")
    assert refused.code == 1
    assert refused.err.startswith("error: no flow is called 'nothing'")
    assert refused.err.endswith("(flow-unknown)\n")


def test_a_server_that_is_not_there(shell: Shell) -> None:
    refused = shell("flows", "--url", "http://127.0.0.1:9")
    assert refused.code == 1
    assert refused.err.startswith("error: no answer from http://127.0.0.1:9")
    assert "dispatch serve" in refused.err


def test_the_url_of_the_command_line_wins(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCH_URL", "http://127.0.0.1:9")
    done = shell("run", "number", "--url", shell.server.url)
    assert done.code == 3
    assert done.err.rstrip().endswith(f"--url {shell.server.url}")
    assert httpx.get(f"{shell.server.url}/v1/executions/{done.execution_id}/status").is_success
