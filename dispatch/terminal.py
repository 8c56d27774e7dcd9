"""What a person at a terminal sees of an execution, and is asked.

What the flow shows goes to stdout; what we have to say beside it (errors, how to go on) to stderr.
Text that comes from a flow never carries control characters to the terminal.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatch.client import Received
from dispatch.core import events
from dispatch.core.clock import parse_iso
from dispatch.core.errors import DispatchError
from dispatch.core.journal import INTERNAL

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: How late a Ctrl-C at a question may be heard, in seconds.
_LOOK_SECONDS = 0.25
#: Longest JSON that is shown in a line.
_LINE = 200
#: A timer that runs out sooner than this is not shown.
_SHORT_SECONDS = 3.0


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raised as what it is: rich's SystemExit would end the event loop in the middle."""
        raise BrokenPipeError


def console(file: TextIO) -> Console:
    """Without a single escape if NO_COLOR is set or `file` is no terminal."""
    plain = bool(os.environ.get("NO_COLOR")) or not file.isatty()
    return _Console(
        file=file,
        color_system=None if plain else "auto",
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
        # A table is not to be cut where nobody looks at it.
        width=None if file.isatty() else 240,
    )


def to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def brief(value: Any) -> str:
    """A value in a line."""
    text = to_json(value)
    return text if len(text) <= _LINE else text[: _LINE - 1] + "…"


def labelled(flow: str, version: int) -> str:
    """A flow in a word or two."""
    return flow if version == 1 else f"{flow} v{version}"


class Screen:
    """Shows events as they come; with `as_json` one JSON line each, and nothing else on stdout."""

    def __init__(self, *, as_json: bool = False):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        self.as_json = as_json
        self._out, self._beside = console(sys.stdout), console(sys.stderr)
        self._in_line = False
        self._text = ""  # of the newest block
        self._names: dict[str, str] = {}

    @property
    def is_interactive(self) -> bool:
        """Whether there is somebody to be asked."""
        return not self.as_json and sys.stdin.isatty() and sys.stdout.isatty()

    # --- beside -----------------------------------------------------------------------------------

    def say(self, text: str, style: str = "") -> None:
        """A line on stderr."""
        self._break_line()
        self._beside.print(Text(_clean(text), style))

    def refused(self, error: DispatchError) -> None:
        """Somebody's refusal: a sentence and its code."""
        self.say(f"error: {error.message} ({error.code})", "red")

    # --- documents --------------------------------------------------------------------------------

    def document(self, value: Any) -> None:
        """One JSON document on stdout."""
        self._send(to_json(value) + "\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(_clean(cell)) for cell in row))
        self._out.print(table, soft_wrap=False)

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Names, and beside them what they are."""
        width = max(len(name) for name, _ in facts)
        for name, value in facts:
            shown = (f"{name:{width}}  ", "bold") if name or value else ""
            self._out.print(Text.assemble(shown, _clean(value)))

    # --- events -----------------------------------------------------------------------------------

    def show(self, received: Received, execution_id: str) -> None:
        if self.as_json:
            self._send(received.json + "\n")
            return
        match received.event:
            case events.TextDelta(delta=delta):
                self._text += delta
                self._write(delta)
            case events.ReasoningDelta(delta=delta):
                self._write(delta, "dim italic")
            case events.ArtifactDelta(delta=delta) | events.ToolOutputDelta(delta=delta):
                self._write(delta, "dim")
            case None | events.Await() | events.Ping():
                pass
            case events.ExecutionStart() as begun if not begun.resumed:
                name = begun.flow_id or begun.agent_id or ""
                self.line(f"▸ {name} v{begun.flow_version or 1}  {execution_id}", "dim")
            case event:
                self._event(event)

    def _event(self, event: events.Event) -> None:
        match event:
            case events.TextStart():
                self._text = ""
                self._break_line()
            case events.StepStart():
                self.line(f"· {event.name or event.id}", "dim")
            case events.StepComplete(success=False):
                self.line(f"✗ {event.name or event.id}: {event.error}", "red")
            case events.ToolStart():
                self._names[event.tool_call_id] = event.tool_name
                self.line(f"→ {event.tool_name} {brief(event.parameters)}", "cyan")
            case events.ToolComplete():
                self._tool_complete(event)
            case events.ApprovalStart():
                self._names[event.approval_id] = event.tool_name
                reason = f" ({event.reason})" if event.reason else ""
                self.line(f"? {event.tool_name} {brief(event.parameters)}{reason}", "yellow")
            case events.ApprovalComplete():
                name = self._names.get(event.approval_id, event.approval_id)
                self.line(f"← {name}: {event.decision}", "yellow")
            case events.ArtifactStart():
                self.line(f"□ {event.title or event.artifact_type}", "dim")
            case events.Source():
                self.line(f"§ {event.title or ''} {event.url or ''}", "dim")
            case events.MediaComplete():
                self.line(f"□ {event.media_type or 'media'} {event.url or ''}", "dim")
            case events.Error():
                self.line(f"! {_message(event.error)}", "yellow" if event.recoverable else "red")
            case events.Custom():
                self._custom(event)
            case events.ExecutionComplete():
                self._complete(event)
            case events.ExecutionError():
                self.line(f"✗ failed: {_message(event.error)}", "red")
            case _:
                self._break_line()

    def _tool_complete(self, event: events.ToolComplete) -> None:
        name = event.tool_name or self._names.get(event.tool_call_id, event.tool_call_id)
        if event.success:
            self.line(f"← {name} {brief(event.result)}", "cyan")
        else:
            self.line(f"✗ {name}: {event.error}", "red")

    def _custom(self, event: events.Custom) -> None:
        value = event.value if isinstance(event.value, dict) else {}
        match event.name:
            case "dispatch.phase":
                self.line(f"— {value.get('name', '')}", "bold")
            case "dispatch.timer_set" if parse_iso(value["dueAt"]) > time.time() + _SHORT_SECONDS:
                self.line(f"⏲ until {value['dueAt']}", "dim")
            case name if not name.startswith(INTERNAL):
                self.line(f"{name} {brief(event.value)}", "dim")
            case _:
                pass  # the engine's own

    def _complete(self, event: events.ExecutionComplete) -> None:
        took = "" if event.duration_ms is None else f" after {event.duration_ms / 1000:.1f} s"
        if not event.success:
            self.line(f"✗ {event.stop_reason or 'failed'}{took}", "red")
            return
        self.line(f"✓ completed{took}", "green")
        if event.final_output and event.final_output.strip() != self._text.strip():
            self.line(event.final_output)

    def _write(self, text: str, style: str = "") -> None:
        text = _clean(text)
        if text:
            if style:
                self._out.out(text, style=style, end="", highlight=False)
            else:
                self._send(text)
            self._in_line = not text.endswith("\n")

    def _send(self, text: str) -> None:
        """Past rich, which takes ten times as long; there may be thousands a second."""
        self._out.file.write(text)
        self._out.file.flush()

    def line(self, text: str, style: str = "") -> None:
        """A line on stdout."""
        self._break_line()
        self._out.print(Text(_clean(text), style))

    def _break_line(self) -> None:
        if self._in_line:
            self._out.out("")
            self._in_line = False

    # --- questions --------------------------------------------------------------------------------

    def ask_output(self, call: events.Await, *, is_alone: bool) -> Any:
        """The output of a call, JSON or text; one that isn't alone is told by its parameters.

        Raises `EOFError` if there is to be none.
        """
        if call.tool_name == "ask_user_question" and isinstance(call.parameters, dict):
            return self._ask_questions(call.parameters.get("questions") or [])
        what = str(call.tool_name)
        if not is_alone:
            what += f" {brief(call.parameters)}"
        while True:
            try:
                return parse_value(self._ask(f"output of {what} (JSON or text): "))
            except ValueError as exc:
                self.say(str(exc), "red")

    def _ask_questions(self, questions: Sequence[Mapping[str, Any]]) -> Any:
        """As the browser widget answers (wire/dispatch-api.md 7.3)."""
        answers: dict[str, str] = {}
        for one in questions:
            question = str(one.get("question", ""))
            labels = [str(option.get("label", "")) for option in one.get("options") or []]
            self.line(question, "bold")
            for number, label in enumerate(labels, 1):
                self.line(f"  {number}  {label}")
            answer = self._ask("answer: ")
            is_number = answer.isdecimal() and 1 <= int(answer) <= len(labels)
            answers[question] = labels[int(answer) - 1] if is_number else answer
        return next(iter(answers.values())) if len(answers) == 1 else answers

    def ask_decision(self, approval: events.ApprovalStart) -> tuple[bool, str | None]:
        """Whether it is approved, and the reason of a denial. Raises `EOFError`."""
        while True:
            answer = self._ask(f"approve {approval.tool_name}? (y/n): ").lower()
            if answer in ("y", "yes"):
                return True, None
            if answer in ("n", "no"):
                return False, self._ask("reason (may be empty): ") or None

    def _ask(self, prompt: str) -> str:
        self._break_line()
        self._out.print(Text(prompt, "bold"), end="")
        # `input` is asked only for what is there: a Ctrl-C in the moment before it begins to wait
        # would not be heard until something is typed.
        while not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
            pass
        return self._out.input().strip()


def parse_value(text: str) -> Any:
    """JSON, else the text itself. Raises `ValueError` for what begins like JSON and is none."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as exc:
        if text.startswith(("{", "[", '"')):
            raise ValueError(f"{text} is not JSON: {exc}") from exc
    return text


def _clean(text: str) -> str:
    return _CONTROL.sub("�", text.replace("\r\n", "\n"))


def _message(error: str | events.ErrorInfo) -> str:
    return error if isinstance(error, str) else f"{error.message} ({error.code})"
