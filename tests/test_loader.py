"""MODULE_OR_FILE to flows; what goes wrong is one sentence with file and line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatch.core.errors import FlowMistake, InvalidRequest
from dispatch.loader import load

FLOW = """\
from __future__ import annotations
import msgspec
from dispatch import Flow, Run, flow

class Inputs(msgspec.Struct):
    city: str = "Oslo"

@flow("{name}")
async def {name}(run: Run[Inputs]) -> Flow:
    yield "hi"
"""


@pytest.fixture(autouse=True)
def _python_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules and import paths of a test are gone after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def names(*sources: str) -> list[str]:
    return [one.id for one in load(sources)]


def mistake(*sources: str) -> str:
    with pytest.raises((FlowMistake, InvalidRequest)) as raised:
        load(sources)
    return str(raised.value)


# --- what is found --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["a.py", "./a.py", "a", "a:first", "a.py:first"])
def test_a_flow_by_any_name(source: str) -> None:
    write("a.py", FLOW.format(name="first"))
    (found,) = load([source])
    assert found.id == "first"
    # Its annotations are looked up in its module, by name.
    assert found.inputs_schema()["$defs"]["Inputs"]["properties"]["city"]["type"] == "string"


def test_a_file_in_another_folder_imports_its_siblings() -> None:
    write("flows/a.py", "from words import WORD\n" + FLOW.format(name="first").split("\n", 1)[1])
    write("flows/words.py", "WORD = 'hi'\n")
    assert names("flows/a.py") == ["first"]


def test_siblings_of_one_name_in_two_folders_are_refused() -> None:
    for folder in ("a", "b"):
        write(f"{folder}/words.py", f"WORD = {folder!r}")
        write(f"{folder}/flows.py", FLOW.format(name=folder) + "from words import WORD\n")
    assert names("a/flows.py") == ["a"]
    sentence = mistake("b/flows.py")
    assert str(Path("b/words.py").resolve()) in sentence
    assert str(Path("a/words.py").resolve()) in sentence
    # Who doesn't import it isn't concerned.
    write("b/other.py", FLOW.format(name="other"))
    assert names("b/other.py") == ["other"]


def test_a_file_never_stands_for_a_module_of_its_name() -> None:
    write("json.py", FLOW.format(name="first"))
    import json

    assert names("json.py") == ["first"]
    assert sys.modules["json"] is json


def test_a_file_is_loaded_once() -> None:
    write("a.py", FLOW.format(name="first"))
    assert load(["a.py"]) == load(["./a.py"])


def test_flows_that_are_imported_count_and_none_counts_twice() -> None:
    write("a.py", FLOW.format(name="first"))
    write("b.py", "from a import first\n" + FLOW.format(name="second").split("\n", 1)[1])
    assert names("b.py") == ["first", "second"]
    assert names("a.py", "b.py", "a") == ["first", "second"]


def test_a_package_is_all_its_modules_but_its_program() -> None:
    write("shop/__init__.py", "")
    write("shop/a.py", FLOW.format(name="first"))
    write("shop/deep/__init__.py", "")
    write("shop/deep/b.py", FLOW.format(name="second"))
    write("shop/__main__.py", "raise SystemExit('a program')\n")
    assert names("shop") == ["first", "second"]
    assert names("shop.deep.b") == ["second"]


def test_one_flow_of_several() -> None:
    write("a.py", FLOW.format(name="first") + FLOW.format(name="second").split("\n", 1)[1])
    assert names("a.py:second") == ["second"]
    assert mistake("a.py:third") == "a.py has no flow named third"


def test_the_examples_load() -> None:
    assert "weather" in names("dispatch.examples")


# --- what goes wrong ------------------------------------------------------------------------------


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    assert mistake("a.py") == f"there is no file {tmp_path}/a.py"
    assert mistake("no_such_module") == (
        "there is no module no_such_module: a file is named with its ending, no_such_module.py"
    )
    assert "there is no module os.nothing" in mistake("os.nothing")
    assert mistake(":name") == "':name' names no module and no file"
    assert "is a folder" in mistake("./")


def test_a_module_without_flows() -> None:
    write("a.py", "x = 1\n")
    assert mistake("a.py") == (
        'a.py has no flow: decorate an async generator function with @flow("name")'
    )


@pytest.mark.parametrize("source", ["a.py", "a"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def f(:\n", "{file}:1: invalid syntax: def f(:"),
        ("x = 1\nimport no_such_thing\n", "{file}:2 imports no_such_thing, which is not installed"),
        ("x = 1\n\n1 / 0\n", "{file}:3 cannot be loaded: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)\n", "{file}:1 cannot be loaded: SystemExit: 3"),
        (
            'from dispatch import flow\n@flow("a")\nasync def a(run):\n    yield 1\n    return 2\n',
            "a flow cannot `return` a value: write `yield result(value)` and a bare `return` "
            "({file}:5)",
        ),
        (
            'from dispatch import flow\n@flow("a")\nasync def a(run):\n    return\n',
            "a is a coroutine, and a flow is an async generator: write `async def` and at least "
            "one `yield` ({file}:2)",
        ),
    ],
)
def test_a_module_that_cannot_be_loaded(
    tmp_path: Path, source: str, text: str, sentence: str
) -> None:
    write("a.py", text)
    assert mistake(source) == sentence.format(file=tmp_path / "a.py")


def test_where_it_went_wrong_is_the_innermost_line_of_their_own(tmp_path: Path) -> None:
    write("a.py", "import b\n")
    write("b.py", "x = 1\nx.nothing\n")
    assert mistake("a.py").startswith(f"{tmp_path}/b.py:2 cannot be loaded: AttributeError")


def test_what_could_not_be_loaded_is_loaded_when_it_is_mended() -> None:
    write("a.py", "1 / 0\n")
    mistake("a.py")
    write("a.py", FLOW.format(name="first"))
    assert names("a.py") == ["first"]
