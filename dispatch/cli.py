"""Arguments of `dispatch`; the work is done by `app`, `client`, and those who show it.

Every command but `serve` asks a server or, given MODULE_OR_FILE, is one itself (`place`). Exit
codes: 0 ok, 1 failed, 2 usage, 3 waiting for somebody's answer, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import msgspec
from cyclopts import App, CycloptsError, Parameter

from dispatch import exports, listening, loader, place, tokens, upkeep
from dispatch.app import create_app
from dispatch.client import Client, Tail
from dispatch.core.errors import DispatchError
from dispatch.core.lifecycle import Status
from dispatch.flow import Registry
from dispatch.legs import FAILED, INTERRUPTED, OK, USAGE, Legs
from dispatch.place import Usage
from dispatch.reloading import Reloading
from dispatch.settings import Settings
from dispatch.terminal import Screen, labelled, parse_value

_DEFAULTS = Settings()

app = App(
    name="dispatch",
    help="Durable flows that talk to the world while they run.",
    help_epilogue="Exit codes: 0 ok, 1 failed, 2 usage, 3 waiting for an answer.",
    help_format="plaintext",
    version=place.own_version,
    result_action="return_value",
)

Sources = Annotated[
    str,
    Parameter(
        name="MODULE_OR_FILE",
        help="Flows to run here: my_flows.py, a dotted module, or either with :name.",
    ),
]
Execution = Annotated[str, Parameter(name="EXECUTION", help="Its id.")]
Approval = Annotated[str, Parameter(name="APPROVAL", help="Its id.")]
Reason = Annotated[str | None, Parameter(help="Told to the flow.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """What all commands but `serve` take."""

    url: Annotated[
        str | None, Parameter(help=f"The server; else DISPATCH_URL, else {place.DEFAULT_URL}.")
    ] = None
    db: Annotated[
        str | None,
        Parameter(help=f"With MODULE_OR_FILE: the file of the journals, else {_DEFAULTS.db}."),
    ] = None
    json: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="JSON on stdout and nothing else: a document, or lines.",
        ),
    ] = False


_ANYWHERE = Where()


# --- serve ----------------------------------------------------------------------------------------


@app.command
def serve(
    *sources: Annotated[
        str,
        Parameter(
            name="MODULE_OR_FILE",
            help="Flows: my_flows.py, a dotted module, or either with :name; else the examples.",
        ),
    ],
    host: Annotated[
        str, Parameter(help="Address to listen on: loopback, as long as there are no keys.")
    ] = _DEFAULTS.host,
    port: Annotated[int, Parameter(help="0 takes a free one.")] = _DEFAULTS.port,
    db: Annotated[str, Parameter(help="SQLite file of the journals.")] = _DEFAULTS.db,
    synchronous: Annotated[
        Literal["NORMAL", "FULL"],
        Parameter(help="NORMAL survives a killed process, FULL also a loss of power."),
    ] = _DEFAULTS.synchronous,
    lease_seconds: Annotated[
        float,
        Parameter(help="A server that stood still for so long loses what it drives to others."),
    ] = _DEFAULTS.lease_seconds,
    max_live: Annotated[
        int, Parameter(help="Suspended executions whose generator stays in memory.")
    ] = _DEFAULTS.max_live,
    default_flow: Annotated[
        str | None, Parameter(help="The flow of a dispatch that names none.")
    ] = None,
    cors_origin: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            show_default=False,
            help="An origin whose pages may call, beside loopback's. May be repeated.",
        ),
    ] = (),
    dev: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="Begin anew when their code changes, and report what would not survive a restart.",
        ),
    ] = False,
) -> int:
    """Serve flows until SIGTERM, SIGINT or SIGHUP.

    Nothing is lost by that: streams are broken off, and executions go on when the file is opened again.
    """  # noqa: E501 - cyclopts prints the lines as they are
    _log_to_stderr("%(asctime)s %(levelname)s %(name)s: %(message)s", logging.INFO)
    settings = Settings(
        host=host,
        port=port,
        db=str(Path(db).absolute()),
        synchronous=synchronous,
        lease_seconds=lease_seconds,
        max_live=max_live,
        default_flow=default_flow,
        cors_origins=cors_origin,
        dev=dev,
    )
    sources, screen = sources or (place.EXAMPLES,), Screen()
    reloading = Reloading(sources, settings, screen) if dev else None
    load = partial(_load, sources, default_flow)
    try:
        registry = load() if reloading is None else reloading.load(load)
        application = create_app(registry, settings=settings)
    except ValueError as exc:
        raise Usage(str(exc)) from exc
    sock = listening.listen(host, port) if reloading is None else reloading.listen()
    address = listening.address_of(sock)
    screen.line(f"journals  {settings.db}")
    screen.line(f"flows     {', '.join(labelled(one.id, one.version) for one in registry)}")
    screen.line(f"address   {address}")
    serving = partial(
        listening.serve,
        application,
        sock,
        shutdown_seconds=settings.shutdown_seconds,
        ready=partial(screen.line, f"ready     {address}"),
    )
    program = serving if reloading is None else partial(reloading.serve, serving)
    anyio.run(program, backend_options=place.LOOP_OPTIONS)
    return OK


def _load(sources: Sequence[str], default_flow: str | None) -> Registry:
    registry = Registry(loader.load(sources))
    if default_flow is not None:
        registry.find(default_flow)
    return registry


# --- carrying an execution on ---------------------------------------------------------------------


@app.command
def run(
    flow: Annotated[str, Parameter(name="FLOW", help="Its name.")],
    /,
    *sources: Sources,
    inputs: Annotated[str, Parameter(help="A JSON object.")] = "{}",
    message: Annotated[str | None, Parameter(help="What the user says: one message.")] = None,
    version: Annotated[int | None, Parameter(help="Of the flow; else the highest.")] = None,
    where: Where = _ANYWHERE,
) -> int:
    """Start an execution and carry it on: show it, and ask for outputs and decisions.

    Where nobody can be asked it ends with exit code 3 and says how to go on. Ctrl-C leaves the execution going and says how to follow it.
    """  # noqa: E501 - cyclopts prints the lines as they are
    values = _object("--inputs", inputs)
    messages = [] if message is None else [{"role": "user", "content": message}]
    return _carry(
        where,
        sources,
        lambda client: client.dispatch(flow, values, version=version, messages=messages),
        flow,
    )


@app.command
def resume(
    execution: Execution,
    /,
    *sources: Sources,
    output: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            show_default=False,
            help="KEY=JSON or KEY=text; KEY is a tool's name or a call's id. Without any, what is "
            "open is told again, and asked for.",
        ),
    ] = (),
    where: Where = _ANYWHERE,
) -> int:
    """Deliver outputs, and carry the execution on."""
    outputs = dict(_output(one) for one in output)
    if len(outputs) < len(output):
        raise Usage("--output names a KEY twice")
    return _carry(where, sources, lambda client: client.resume(execution, outputs))


@app.command
def approve(
    execution: Execution, approval: Approval, /, *sources: Sources, where: Where = _ANYWHERE
) -> int:
    """Approve, and carry the execution on."""
    return _carry(where, sources, lambda client: client.approve(execution, approval))


@app.command
def deny(
    execution: Execution,
    approval: Approval,
    /,
    *sources: Sources,
    reason: Reason = None,
    where: Where = _ANYWHERE,
) -> int:
    """Deny, and carry the execution on."""
    return _carry(
        where,
        sources,
        lambda client: client.approve(execution, approval, is_approved=False, reason=reason),
    )


@app.command
def retry(execution: Execution, /, *sources: Sources, where: Where = _ANYWHERE) -> int:
    """Replay a parked execution, and carry it on."""
    return _carry(where, sources, lambda client: client.retry(execution))


@app.command
def events(
    execution: Execution,
    /,
    *sources: Sources,
    after: Annotated[int, Parameter(help="Only what comes behind this event.")] = 0,
    follow: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Go on until the final event.")
    ] = False,
    where: Where = _ANYWHERE,
) -> int:
    """Show the events of an execution: those there are or, with --follow, all to come."""
    screen = Screen(as_json=where.json)
    with _at(where, sources) as here:
        legs, tail = Legs(here, screen), here.client.events(execution, after=after)
        return legs.carry(tail) if follow else legs.show(execution, tail)


@contextmanager
def _at(where: Where, sources: Sequence[str], flow: str | None = None) -> Iterator[place.Place]:
    """Where a command goes. Of flows that run here the tracebacks of what they raise are told, and
    of `flow`, which is begun, what would not survive a restart.
    """
    if sources:
        _log_to_stderr("%(levelname)s %(message)s", logging.WARNING)
        logging.getLogger("dispatch").setLevel(logging.INFO)
    with place.at(where.url, where.db, sources, flow) as here:
        yield here


def _carry(
    where: Where,
    sources: Sequence[str],
    begin: Callable[[Client], Tail],
    flow: str | None = None,
) -> int:
    screen = Screen(as_json=where.json)
    with _at(where, sources, flow) as here:
        return Legs(here, screen).carry(begin(here.client))


# --- documents ------------------------------------------------------------------------------------


@app.command
def cancel(
    execution: Execution, /, *sources: Sources, reason: Reason = None, where: Where = _ANYWHERE
) -> int:
    """Cancel an execution; returns when it has ended."""
    status = _ask(where, sources, lambda client: client.cancel(execution, reason))
    _tell(where, status, lambda screen: screen.line(f"{execution} {status['status']}"))
    return OK


@app.command
def executions(
    *sources: Sources,
    status: Annotated[Status | None, Parameter(help="Only those of this status.")] = None,
    flow: Annotated[str | None, Parameter(help="Only those of this flow.")] = None,
    limit: Annotated[int, Parameter(help="At most so many.")] = 20,
    where: Where = _ANYWHERE,
) -> int:
    """List executions, newest first."""
    listed = _ask(
        where,
        sources,
        lambda client: client.executions(status=status, flow=flow, limit=limit),
    )
    rows = [
        (
            one["executionId"],
            labelled(one["flow"], one["version"]),
            one["status"],
            one.get("code") or one.get("phase") or "",
            str(one["lastSeq"]),
            one["createdAt"],
        )
        for one in listed["executions"]
    ]
    columns = ("execution", "flow", "status", "phase", "events", "created")
    _tell(where, listed, lambda screen: screen.table(columns, rows))
    return OK


@app.command
def flows(*sources: Sources, where: Where = _ANYWHERE) -> int:
    """List the flows of the server or, given MODULE_OR_FILE, those in there."""
    listed = _ask(where, sources, lambda client: client.flows())
    rows = [
        (labelled(one["id"], one["version"]), one["kind"], _first_line(one.get("description")))
        for one in listed["flows"]
    ]
    _tell(where, listed, lambda screen: screen.table(("flow", "kind", "description"), rows))
    return OK


def _ask(
    where: Where, sources: Sequence[str], ask: Callable[[Client], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    with _at(where, sources) as here:
        return here.call(ask, here.client)


def _tell(where: Where, document: Mapping[str, Any], show: Callable[[Screen], None]) -> None:
    screen = Screen(as_json=where.json)
    if where.json:
        screen.document(document)
    else:
        show(screen)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


# --- files ----------------------------------------------------------------------------------------


app.command(exports.export)
app.command(exports.import_, name="import")
app.command(exports.replay)
app.command(upkeep.doctor)
app.command(upkeep.backup)
app.command(tokens.token)


# --- what arguments hold --------------------------------------------------------------------------


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise Usage(f"{option} takes a JSON object, not {text!r}: {exc}") from exc


def _output(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise Usage(f"--output takes KEY=JSON or KEY=text, not {text!r}")
    try:
        return key, parse_value(value)
    except ValueError as exc:
        raise Usage(f"--output {key}: {exc}") from exc


# --- the process ----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; gives the exit code."""
    try:
        code = app(arguments, exit_on_error=False)
        sys.stdout.flush()
    except CycloptsError:
        return USAGE  # cyclopts has said why
    except Usage as exc:
        Screen().say(f"error: {exc}", "red")
        return USAGE
    except DispatchError as exc:
        _explain(exc)
        return FAILED
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return int(code or OK)


def _explain(error: DispatchError) -> None:
    screen = Screen()
    screen.refused(error)
    if error.code == "unreachable":
        screen.say("start one with `dispatch serve`, name another with --url, or run flows here:")
        screen.say("  dispatch run FLOW my_flows.py")


class _Lines(logging.Formatter):
    """A line, with the fields that say which execution it is about."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        for field in ("execution_id", "seq"):
            if hasattr(record, field):
                text += f" {field}={getattr(record, field)}"
        return text


def _log_to_stderr(form: str, level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(form))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
