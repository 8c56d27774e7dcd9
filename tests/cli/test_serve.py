"""`dispatch serve`: what it says, what keeps it from starting, and how it stops."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from dispatch.cli import main
from tests.cli.process import SERVED, Ended, Server, dispatch, end, line_with, serving, started

pytestmark = pytest.mark.slow


def asked(capsys: pytest.CaptureFixture[str], server: Server, *arguments: str) -> Ended:
    """A command to the server, carried out in this process: a tenth of the time."""
    return Ended(main([*arguments, "--url", server.url]), *capsys.readouterr())


def test_it_says_what_it_serves_and_when_it_is_ready(tmp_path: Path) -> None:
    with started("serve", SERVED, "--port", "0", "--db", "j.db", cwd=tmp_path) as process:
        assert line_with(process, "journals").split() == ["journals", str(tmp_path / "j.db")]
        assert "decide, fails, hello, long, moody v2, number, two" in line_with(process, "flows")
        address = line_with(process, "address").split()[-1]
        assert line_with(process, "ready").split() == ["ready", address]
        assert httpx.get(f"{address}/v1/flows").is_success
        done = end(process, signal.SIGTERM)
    assert (done.code, done.err) == (0, "")


def test_without_modules_it_serves_the_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(cwd=tmp_path) as server:
        assert asked(capsys, server, "run", "weather").code == 3
    assert (tmp_path / "dispatch.db").exists()


def test_a_default_flow(tmp_path: Path) -> None:
    with serving(SERVED, "--default-flow", "hello", cwd=tmp_path) as server:
        answer = httpx.post(f"{server.url}/v1/dispatch", json={"messages": []})
        assert "Hello, you." in answer.text


def test_an_origin_that_may_call(tmp_path: Path) -> None:
    origin = "https://app.example"
    with serving(SERVED, "--cors-origin", origin, cwd=tmp_path) as server:
        answer = httpx.get(f"{server.url}/v1/flows", headers={"origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        other = httpx.get(f"{server.url}/v1/flows", headers={"origin": "https://other.example"})
        assert other.status_code == 403


# --- what keeps it from starting ------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ended:
    """What never comes to serving can be tried in this process."""
    return Ended(main(["serve", *arguments]), *capsys.readouterr())


def test_a_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = refused(capsys, SERVED, "--port", str(port), "--db", str(tmp_path / "j.db"))
    assert (ended.code, ended.out) == (1, "")
    assert not list(tmp_path.iterdir())
    assert ended.err == (
        f"error: cannot listen on 127.0.0.1:{port}: another process listens there; "
        "choose another with --port (cannot-listen)\n"
    )


def test_an_address_beyond_loopback(capsys: pytest.CaptureFixture[str]) -> None:
    ended = refused(capsys, SERVED, "--host", "0.0.0.0")  # noqa: S104 - it is refused
    assert ended.code == 1
    assert ended.err.endswith("(host-not-loopback)\n")


@pytest.mark.parametrize("db", ["nowhere/j.db", "."])
def test_a_database_that_cannot_be_opened(tmp_path: Path, db: str) -> None:
    ended = dispatch("serve", SERVED, "--port", "0", "--db", db, cwd=tmp_path)
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert ended.err.endswith("(cannot-open)\n")
    assert ended.err.count("\n") == 1


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "j.db").write_text("not a database, " * 1000)
    ended = dispatch("serve", SERVED, "--port", "0", "--db", "j.db", cwd=tmp_path)
    assert (ended.code, ended.err.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nothing.py",), 1),
        ((SERVED, "--default-flow", "nothing"), 1),
        ((SERVED, "--cors-origin", "*"), 2),
        ((SERVED, "--synchronous", "OFF"), 2),
        ((SERVED, "--port", "many"), 2),
    ],
)
def test_what_makes_no_sense(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int
) -> None:
    ended = refused(capsys, *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err
    assert "Traceback" not in ended.err


# --- how it stops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_breaks_its_streams_off_closes_its_generators_and_goes(
    tmp_path: Path, signal: signal.Signals
) -> None:
    closed = tmp_path / "closed"
    with (
        serving(SERVED, cwd=tmp_path, env={"CLOSED_FILE": str(closed)}) as server,
        httpx.stream("POST", f"{server.url}/v1/dispatch", json={"flowId": "long"}) as stream,
    ):
        pieces = stream.iter_bytes()
        next(pieces)
        done = end(server.process, signal)
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)
    assert (done.code, done.err) == (0, "")
    assert closed.exists()


def test_a_terminal_that_is_closed_may_say_so_twice(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    with (
        serving(SERVED, cwd=tmp_path, env={"CLOSED_FILE": str(closed)}) as server,
        httpx.stream("POST", f"{server.url}/v1/dispatch", json={"flowId": "long"}) as stream,
    ):
        pieces = stream.iter_bytes()
        next(pieces)
        server.process.send_signal(signal.SIGHUP)
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)  # it is stopping
        done = end(server.process, signal.SIGHUP)
    assert (done.code, done.err) == (0, "")
    assert closed.exists()


def test_a_closed_terminal_does_not_end_what_was_told_to_outlive_it(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with serving(SERVED, cwd=tmp_path) as server:
            server.process.send_signal(signal.SIGHUP)
            begun = httpx.post(f"{server.url}/v1/dispatch", json={"flowId": "hello"})
            assert begun.status_code == 200
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_ctrl_c_while_it_begins_is_no_error(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "dispatch", "serve"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "dispatch.store.base" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in told


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    closing = tmp_path / "closing"
    env = {"CLOSED_FILE": str(closing), "CLOSES_SLOWLY": "1"}
    with (
        serving(SERVED, cwd=tmp_path, env=env) as server,
        httpx.stream("POST", f"{server.url}/v1/dispatch", json={"flowId": "long"}) as stream,
    ):
        next(stream.iter_bytes())
        server.process.send_signal(signal.SIGTERM)
        while not closing.exists():
            assert server.process.poll() is None
        done = end(server.process, signal.SIGTERM)
    assert done.code == -signal.SIGTERM


def test_what_is_open_goes_on_when_it_starts_again_also_for_who_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(SERVED, cwd=tmp_path) as server:
        id = asked(capsys, server, "run", "number").execution_id
        port = server.url.rpartition(":")[2]
        follow = ("events", id, "--follow", "--json")
        with started(*follow, cwd=tmp_path, env=server.env) as following:
            line_with(following, '"await"')
            assert end(server.process, signal.SIGTERM).code == 0
            with started("serve", SERVED, "--port", port, cwd=tmp_path) as second:
                line_with(second, "ready")
                output = ("--output", "get_number=1")
                assert asked(capsys, server, "resume", id, *output).code == 0
                followed = end(following)
                assert end(second, signal.SIGTERM).code == 0
    assert followed.code == 0
    assert followed.events[-1]["type"] == "execution_complete"
    seqs = [event["seq"] for event in followed.events]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


def test_an_execution_whose_code_has_changed_is_parked_and_can_be_retried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(SERVED, cwd=tmp_path) as server:
        id = asked(capsys, server, "run", "moody").execution_id
    with serving(SERVED, cwd=tmp_path, env={"OTHER_CODE": "1"}) as server:
        parked = asked(capsys, server, "resume", id, "--output", "get=1")
        assert parked.code == 1
        assert "divergence" in parked.out
        assert f"dispatch retry {id}" in parked.err
    with serving(SERVED, cwd=tmp_path) as server:
        retried = asked(capsys, server, "retry", id)
        assert (retried.code, "Done." in retried.out) == (0, True)
