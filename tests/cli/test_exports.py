"""Executions as files: exported from one database, replayed offline, imported into another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from dispatch.cli import main
from tests.cli.process import Ended, serving

SECRET = "Mrs. Peel"
FLOWS = """
from dispatch import Flow, Run, continue_as, flow, step, tool

@step
async def ring() -> None: ...

@step(private=True)
async def look(name: str) -> str:
    return name.upper()

@flow("visit")
async def visit(run: Run[dict[str, str]]) -> Flow:
    yield ring()
    yield "Who is it? "
    name: str = yield tool("ask", {"of": "guest"}, returns=str, private=True)
    seen: str = yield look(name)
    yield tool("greet", {"how": "politely"})
    yield "Welcome."

@flow("diary")
async def diary(run: Run[dict[str, str]]) -> Flow:
    note = yield tool("note", private=run.state is None)
    yield continue_as((run.state or 0) + 1)
"""


class Shell:
    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ended:
        return Ended(main(arguments), *self._capsys.readouterr())


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "visit.py").write_text(FLOWS)
    return Shell(capsys)


def begin(shell: Shell, *inputs: str) -> str:
    """A visit that waits for its second tool."""
    id = shell("run", "visit", "visit.py", *inputs).execution_id
    assert shell("resume", id, "visit.py", "--output", f"ask={SECRET}").code == 3
    return id


def export(shell: Shell, id: str, *options: str) -> str:
    done = shell("export", id, *options)
    assert (done.code, done.err) == (0, "")
    Path("bug.jsonl").write_text(done.out)
    return done.out


def kinds(lines: Sequence[str]) -> list[str]:
    return [msgspec.json.decode(line)["event"]["type"] for line in lines[1:]]


@pytest.mark.slow
def test_what_was_exported_is_replayed_offline(shell: Shell, tmp_path: Path) -> None:
    export(shell, begin(shell), "--private")
    (tmp_path / "dispatch.db").unlink()
    matching = shell("replay", "bug.jsonl", "visit.py")
    assert (matching.code, matching.err) == (0, "")
    assert matching.out.startswith("match: visit v1 does what its journal says up to entry 16")

    (tmp_path / "new.py").write_text(FLOWS.replace('"greet"', '"welcome"'))
    line = 1 + FLOWS.splitlines().index('    yield tool("greet", {"how": "politely"})')
    other = shell("replay", "bug.jsonl", "new.py")
    assert (other.code, other.err) == (1, "")
    assert other.out.startswith("divergence: visit v1: the journal says tool greet")
    assert "the flow now does tool welcome" in other.out
    assert f"new.py:{line}" in other.out

    told = shell("replay", "bug.jsonl", "--json")  # the examples have no such flow
    assert (told.code, told.json["verdict"]) == (1, "version-missing")
    assert list(tmp_path.glob("dispatch.db*")) == []


@pytest.mark.slow
def test_without_private_parts_it_is_replayed_as_far_as_it_goes(shell: Shell) -> None:
    id = begin(shell)
    public = export(shell, id)
    assert SECRET.upper() not in public.upper()
    cut = shell("replay", "bug.jsonl", "visit.py")
    assert cut.code == 1
    assert cut.out == (
        "incomplete: visit v1 does what its journal says up to entry 7; for the rest the export "
        "was made without --private: it lacks the parameters of entry 8 and more; "
        f"ask for `dispatch export {id} --private`\n"
    )
    Path("new.py").write_text(FLOWS.replace("ring", "knock"))
    assert shell("replay", "bug.jsonl", "new.py").out.startswith("divergence: visit v1")
    refused = shell("import", "bug.jsonl", "--db", "other.db")
    assert (refused.code, "export-incomplete" in refused.err) == (1, True)
    assert not Path("other.db").exists()

    export(shell, begin(shell, "--inputs", '{"door": "red"}'))
    nothing = shell("replay", "bug.jsonl", "visit.py", "--json")
    assert (nothing.code, nothing.json["lastSeq"]) == (1, 0)
    assert "lacks the inputs of entry 1" in nothing.json["message"]


@pytest.mark.slow
def test_what_is_missing_of_earlier_segments_is_not_missed(shell: Shell) -> None:
    id = shell("run", "diary", "visit.py").execution_id
    assert shell("resume", id, "visit.py", "--output", f"note={SECRET}").code == 3
    public = export(shell, id).splitlines()
    lacking = [one["seq"] for one in map(msgspec.json.decode, public[1:]) if "withheld" in one]
    begun = 1 + kinds(public).index("custom")
    assert lacking[0] < begun == lacking[-1]  # the state, too, is private
    other = shell("replay", "bug.jsonl", "visit.py")
    assert f"lacks the state of entry {begun}; ask" in other.out
    # As if it were not.
    shown = public[begun].replace('"withheld":["state"]', '"none":0')
    public[begun] = shown.replace('"private":{', '"private":{"state":1,')
    Path("bug.jsonl").write_text("\n".join(public))
    assert shell("replay", "bug.jsonl", "visit.py").out.startswith("match: diary v1")


@pytest.mark.slow
def test_what_was_imported_rests_until_it_is_taken_up(shell: Shell) -> None:
    id = begin(shell)
    exported = export(shell, id, "--private").splitlines()
    imported = shell("import", "bug.jsonl", "--db", "other.db")
    assert (imported.code, imported.out) == (0, f"{id} interrupted\n")
    assert f"dispatch retry {id}" in imported.err
    again = export(shell, id, "--private", "--db", "other.db").splitlines()
    assert again[1:-1] == exported[1:]
    assert kinds(again)[-1] == "error"

    other = ("visit.py", "--db", "other.db")
    [listed] = shell("executions", *other, "--json").json["executions"]
    assert (listed["status"], listed["code"]) == ("interrupted", "imported")
    assert shell("retry", id, *other).code == 3
    done = shell("resume", id, *other, "--output", "greet=1")
    assert (done.code, "Welcome." in done.out) == (0, True)
    # What is over stays so.
    export(shell, id, "--private", "--db", "other.db")
    assert shell("import", "bug.jsonl", "--db", "third.db").out == f"{id} completed\n"
    assert shell("replay", "bug.jsonl", "visit.py").code == 0


@pytest.mark.slow
def test_what_is_there_already_is_not_imported_again(shell: Shell) -> None:
    export(shell, begin(shell), "--private")
    refused = shell("import", "bug.jsonl")
    assert (refused.code, refused.out) == (1, "")
    assert "execution-exists" in refused.err


@pytest.mark.slow
def test_a_server_is_not_in_the_way(shell: Shell, tmp_path: Path) -> None:
    with serving("visit.py", cwd=tmp_path) as server:
        url = ("--url", server.url)
        id = shell("run", "visit", *url).execution_id
        export(shell, id, "--private")
        assert shell("replay", "bug.jsonl", "visit.py").code == 0
        text = Path("bug.jsonl").read_text()
        other = f"exec_{'0' * 32}"
        Path("bug.jsonl").write_text(text.replace(id, other))
        assert shell("import", "bug.jsonl").code == 0
        assert shell("executions", *url).out.count("imported") == 1
        cancelled = shell("cancel", other, *url)
        assert (cancelled.code, cancelled.out) == (0, f"{other} cancelled\n")
        assert shell("resume", id, *url, "--output", "ask=x").code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("export", "exec_1", "--db", "nothing.db"), 2, "there is no file nothing.db"),
        (("replay", "nothing.jsonl", "visit.py"), 2, "cannot be read: No such file"),
        (("import", "."), 2, "cannot be read: Is a directory"),
        (("import", "visit.py"), 1, "line 2 of the export: this is no export"),
        (("replay",), 2, "FILE"),
    ],
)
def test_what_cannot_be_done_is_told(
    shell: Shell, arguments: Sequence[str], code: int, why: str
) -> None:
    refused = shell(*arguments)
    assert (refused.code, refused.out) == (code, "")
    assert why in refused.err
    assert not list(Path().glob("*.db"))


@pytest.mark.slow
def test_an_execution_that_is_not_there_is_told_before_anything_is_written(shell: Shell) -> None:
    begin(shell)
    refused = shell("export", "exec_1")
    assert (refused.code, refused.out) == (1, "")
    assert "execution-unknown" in refused.err
