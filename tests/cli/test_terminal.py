"""A person at a terminal is asked; who asked not to see escapes sees none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.process import SERVED, execution_in, terminal

pytestmark = pytest.mark.slow


def test_outputs_are_asked_for_until_they_fit(tmp_path: Path) -> None:
    with terminal("run", "number", SERVED, cwd=tmp_path) as person:
        person.read_until("output of get_number (JSON or text): ")
        person.type('{"a":\n')
        assert "is not JSON" in person.read_until("output of get_number (JSON or text): ")
        person.type("many\n")
        assert "(output-invalid)" in person.read_until("output of get_number (JSON or text): ")
        person.type("3\n")
        code, shown = person.end()
    assert code == 0
    assert "It is 3." in shown
    assert "\x1b[32m✓ completed" in shown


def test_several_calls_are_answered_at_once(tmp_path: Path) -> None:
    with terminal("run", "two", SERVED, cwd=tmp_path) as person:
        person.read_until('output of get {"of":"a"} (JSON or text): ')
        person.type("first\n")
        person.read_until('output of get {"of":"b"} (JSON or text): ')
        person.type("second\n")
        assert "first and second" in person.end()[1]


def test_decisions_are_asked_for(tmp_path: Path) -> None:
    with terminal("run", "decide", SERVED, cwd=tmp_path) as person:
        person.read_until("approve delete? (y/n): ")
        person.type("perhaps\n")
        person.read_until("approve delete? (y/n): ")
        person.type("n\n")
        person.read_until("reason (may be empty): ")
        person.type("too new\n")
        code, shown = person.end()
    assert code == 0
    assert "denied: too new" in shown


def test_a_choice_is_made_by_its_number(tmp_path: Path) -> None:
    with terminal("run", "ask", "dispatch.examples", cwd=tmp_path) as person:
        shown = person.read_until("answer: ")
        assert "1  Red" in shown
        assert "2  Blue" in shown
        person.type("2\n")
        code, shown = person.end()
    assert code == 0
    assert "Blue" in shown


def test_who_has_no_answer_is_told_how_to_give_it_later(tmp_path: Path) -> None:
    with terminal("run", "number", SERVED, cwd=tmp_path) as person:
        person.read_until("output of get_number (JSON or text): ")
        person.type("\x04")  # Ctrl-D
        code, shown = person.end()
    assert code == 3
    assert f"dispatch resume {execution_in(shown)} --output get_number=JSON" in shown


def test_ctrl_c_at_a_question_leaves_the_execution_as_it_is(tmp_path: Path) -> None:
    with terminal("run", "number", SERVED, cwd=tmp_path) as person:
        person.read_until("output of get_number (JSON or text): ")
        person.interrupt()
        code, shown = person.end()
    assert code == 130
    assert f"dispatch events {execution_in(shown)} --after 4 --follow" in shown
    with terminal("resume", execution_in(shown), SERVED, cwd=tmp_path) as person:
        person.read_until("output of get_number (JSON or text): ")
        person.type("5\n")
        code, shown = person.end()
    assert (code, "It is 5." in shown) == (0, True)


def test_no_color_means_not_one_escape(tmp_path: Path) -> None:
    with terminal("run", "hello", SERVED, cwd=tmp_path, env={"NO_COLOR": "1"}) as person:
        code, shown = person.end()
    assert (code, "\x1b" in shown) == (0, False)
    assert "✓ completed" in shown


def test_json_asks_nobody(tmp_path: Path) -> None:
    with terminal("run", "number", SERVED, "--json", cwd=tmp_path) as person:
        code, shown = person.end()
    assert code == 3
    assert "JSON or text" not in shown
