"""What flow authors write against: `@flow`, the `Run` that a flow is given, the registry.

Everything here only describes; the engine runs it. A `FlowVersion` is what `@flow` makes of an
async generator function; a `Registry` holds those that a server runs.
"""

from __future__ import annotations

import inspect
import logging
import re
import typing
from collections.abc import (
    AsyncGenerator,
    Callable,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import UTC, datetime
from functools import cached_property
from random import Random
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from dispatch import mistakes, survival
from dispatch.core.errors import Conflict, Detail, FlowMistake, NotFound, Unprocessable
from dispatch.core.events import Kind
from dispatch.core.ids import ExecutionId, derive
from dispatch.core.journal import ClientTool, StartPrivate
from dispatch.core.waits import author_line

logger = logging.getLogger(__name__)

I_co = TypeVar("I_co", covariant=True)

#: What a flow's function is annotated to return.
Flow = AsyncGenerator[Any, Any]


class Run(Generic[I_co]):
    """A flow's handle on its execution.

    `inputs` is what it was dispatched with, `state` what `continue_as` handed on (None in the first
    segment). `messages` and `now` change only when a wait is answered, to their value as of the
    entry that answered it. `random` and `uuid()` derive from the execution's seed: a replay draws
    the same.
    """

    def __init__(
        self,
        flow: FlowVersion,
        execution_id: ExecutionId,
        start: StartPrivate,
        *,
        inputs: I_co,
        segment: int,
        state: Any,
    ):
        self.id, self.flow, self.version = execution_id, flow.id, flow.version
        self.inputs, self.segment, self.state = inputs, segment, state
        self.messages: Sequence[Mapping[str, Any]] = start.messages
        self.now = datetime.fromtimestamp(0, UTC)
        self.client_tools: Sequence[ClientTool] = start.client_tools
        self.context, self.record, self.metadata = start.context, start.record, start.metadata
        self.conversation_id = start.conversation_id
        self._seed, self._uuids = start.seed, 0

    @cached_property
    def random(self) -> Random:
        """Made when it is first drawn from: it is 2.5 KB, and most flows never do."""
        # Reproducible on purpose, and no secret.
        return Random(derive(self._seed, self.segment, "random"))  # noqa: S311

    def uuid(self) -> str:
        """A new UUID each time it is asked, and the same again on replay: an idempotency key for
        steps.
        """
        self._uuids += 1
        halves = [derive(self._seed, self.segment, "uuid", self._uuids, half) for half in (0, 1)]
        return str(UUID(hex="".join(halves), version=4))

    def as_of(self, at: float, messages: Sequence[Mapping[str, Any]]) -> None:
        """The engine's: a wait was answered by an entry of that time (Unix seconds)."""
        self.now, self.messages = datetime.fromtimestamp(at, UTC), messages


class FlowVersion:
    """One version of a flow, as made by `@flow`. Calling it gives the generator, for helpers and
    tests.
    """

    def __init__(
        self,
        fn: Callable[[Any], AsyncGenerator[Any, Any]],
        *,
        id: str,
        version: int,
        kind: Kind,
        description: str | None,
    ):
        self.fn, self.id, self.version, self.kind = fn, id, version, kind
        self.description = description or inspect.getdoc(fn)
        self.where = mistakes.line_of(fn)
        mistakes.check_flow(fn)
        parameters = inspect.signature(fn).parameters
        if len(parameters) != 1:
            raise FlowMistake(
                f"{fn.__name__} takes {len(parameters)} parameters, and a flow takes one, its run: "
                f"what it is to work on comes as `run.inputs` ({self.where})"
            )

    def __call__(self, run: Any) -> AsyncGenerator[Any, Any]:
        return self.fn(run)

    def __repr__(self) -> str:
        return f"<flow {self.id} v{self.version}>"

    @cached_property
    def warnings(self) -> list[str]:
        """What in it would not survive a restart, a sentence each. Read when it is asked for, that
        is, when the names that the function uses are there.
        """
        return survival.warnings_of(inspect.unwrap(self.fn))

    @cached_property
    def inputs_type(self) -> Any:
        """X of the annotation `Run[X]`, else Any. Raises `FlowMistake` if inputs can't be decoded
        as that.
        """
        try:
            hints = typing.get_type_hints(self.fn)
        except NameError as exc:
            raise FlowMistake(
                f"an annotation of {self.fn.__name__} names what isn't there: {exc}; import it "
                f"outside of `if TYPE_CHECKING`, and define it outside of functions ({self.where})"
            ) from exc
        annotation = hints.get(next(iter(inspect.signature(self.fn).parameters)))
        inputs_type = next(iter(typing.get_args(annotation)), Any)
        try:
            msgspec.json.Decoder(inputs_type)
        except TypeError as exc:
            raise FlowMistake(
                f"inputs of {self.id} can't be a {inputs_type}: {exc} ({self.where})"
            ) from exc
        return inputs_type

    def inputs_schema(self) -> dict[str, Any]:
        """JSON Schema of the inputs, as published under /v1/flows."""
        return msgspec.json.schema(self.inputs_type)

    def decode_inputs(self, raw: bytes) -> Any:
        """Inputs as the flow's type. Raises `Unprocessable` (`inputs-invalid`) with the path that
        misfits.
        """
        try:
            return msgspec.json.decode(raw, type=self.inputs_type)
        except msgspec.ValidationError as exc:
            message, path = split_path(exc)
            raise Unprocessable(
                f"inputs do not fit flow {self.id}: {exc}",
                code="inputs-invalid",
                details=[Detail(message=message, path=path, code="inputs-invalid")],
            ) from exc


def split_path(error: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec's message without its path, and the path (`$` is the whole)."""
    found = re.fullmatch(r"(.*) - at `(.*)`", str(error), re.DOTALL)
    return (found[1], found[2]) if found else (str(error), "$")


def flow(
    id: str, *, version: int = 1, kind: Kind = "flow", description: str | None = None
) -> Callable[[Callable[[Any], AsyncGenerator[Any, Any]]], FlowVersion]:
    """Make an async generator function a flow.

    `id` is what callers name; `version` is what an execution stays with for life. `kind="agent"` is
    shown to clients. The description is the docstring if none is given. Raises `FlowMistake` for
    what can't work.
    """
    if not isinstance(id, str):
        raise FlowMistake(
            f'@flow takes a name: write @flow("{getattr(id, "__name__", "name")}") '
            f"({author_line()})"
        )
    if not id or len(id) > 200 or version < 1:
        raise FlowMistake(
            f"@flow({id!r}, version={version}): the name has 1 to 200 characters, "
            f"and versions begin at 1 ({author_line()})"
        )

    def decorate(fn: Callable[[Any], AsyncGenerator[Any, Any]]) -> FlowVersion:
        return FlowVersion(fn, id=id, version=version, kind=kind, description=description)

    return decorate


class Registry:
    """The flows that a server runs, each in one or several versions.

    `warns_of` names those whose authors are to be warned, if not all are.
    """

    def __init__(
        self, flows: Iterable[FlowVersion] = (), *, warns_of: Container[str] | None = None
    ):
        self._warns_of = warns_of
        self._versions: dict[str, dict[int, FlowVersion]] = {}
        for one in flows:
            self.add(one)

    def add(self, added: FlowVersion) -> None:
        """Register. Raises `Conflict` (`flow-twice`) for another flow with its name and version,
        and `FlowMistake` if its inputs can't be decoded.
        """
        _ = added.inputs_type
        versions = self._versions.setdefault(added.id, {})
        known = versions.setdefault(added.version, added)
        if known is not added:
            raise Conflict(
                f"two flows are called {added.id} version {added.version}, at {known.where} and "
                f"{added.where}: give one another name, or another version=",
                code="flow-twice",
            )

    def __iter__(self) -> Iterator[FlowVersion]:
        for id in sorted(self._versions):
            for version in sorted(self._versions[id]):
                yield self._versions[id][version]

    def log_warnings(self) -> None:
        """Tell what would not survive a restart. It reads source files: not on the event loop."""
        for one in self:
            is_meant = self._warns_of is None or one.id in self._warns_of
            for warning in one.warnings if is_meant else ():
                logger.warning("%s", warning)

    def find(self, id: str, version: int | None = None) -> FlowVersion:
        """The highest version, unless one is named. Raises `NotFound` (`flow-unknown`)."""
        versions = self._versions.get(id)
        if not versions:
            known = ", ".join(sorted(self._versions)) or "none"
            raise NotFound(f"no flow is called {id!r}; there are: {known}", code="flow-unknown")
        if version is None:
            version = max(versions)
        if version not in versions:
            raise NotFound(f"flow {id} has no version {version}", code="flow-unknown")
        return versions[version]
