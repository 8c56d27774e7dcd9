"""What the Dispatch family is asked, as types, and which flow a dispatch means (wire 2, 3).

Only what is acted on, or has to be refused, is declared; other fields are tolerated and ignored,
since the published clients send many. A field that is null is a field that is absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dispatch.core import canonical
from dispatch.core.errors import InvalidRequest, NotFound, Unprocessable
from dispatch.core.events import Kind
from dispatch.core.ids import EXECUTION_ID, ExecutionId
from dispatch.core.journal import ClientTool
from dispatch.engine.dispatcher import Start
from dispatch.flow import FlowVersion, Registry

Id = Annotated[str, Meta(min_length=1, max_length=200)]
Object = dict[str, Any]
#: Up to a year.
Milliseconds = Annotated[int, Meta(ge=1, le=366 * 24 * 3600 * 1000)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A JSON object; what it does not declare is ignored."""


class FlowTarget(_Body, frozen=True, kw_only=True):
    id: Id | None = None
    name: Id | None = None
    version: int | None = None
    steps: list[Any] | None = None
    content_hash: str | None = None


class AgentTarget(_Body, frozen=True, kw_only=True):
    agent_id: Id | None = None
    name: Id | None = None
    version: int | None = None


class Message(_Body, frozen=True, kw_only=True):
    """Checked, and handed to the flow as it came (wire 2.2)."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[Object] | None = None
    tool_calls: list[Object] | None = None
    tool_results: list[Object] | None = None


class DeclaredTool(_Body, frozen=True, kw_only=True):
    """A tool that the caller can run; one of a `catalog` is not the caller's, and is ignored."""

    name: Id
    description: str | None = None
    parameters_schema: Object | None = None
    origin: Literal["webmcp", "sdk"] | None = None
    page_origin: str | None = None
    catalog: str | None = None


class ToolsPolicy(_Body, frozen=True, kw_only=True):
    allowlist: list[str] | None = None


class Options(_Body, frozen=True, kw_only=True):
    stream_response: bool | None = None
    flow_mode: Literal["existing", "create", "virtual", "upsert"] | None = None
    client_tool_outputs: Object | None = None
    flow_timeout_ms: Milliseconds | None = None
    step_timeout_ms: Milliseconds | None = None
    resume_from: Any = None


class DispatchBody(_Body, frozen=True, kw_only=True):
    flow: FlowTarget | None = None
    agent: AgentTarget | None = None
    flow_id: Id | None = None
    record: Object | None = None
    messages: list[Message] | None = None
    inputs: Object | None = None
    client_tools: list[DeclaredTool] | None = None
    client_tools_policy: ToolsPolicy | None = None
    conversation_id: Annotated[str, Meta(max_length=1000)] | None = None
    history: Literal["inline", "stored"] | None = None
    options: Options | None = None
    secrets: Object | None = None
    context: Object | None = None
    metadata: Object | None = None

    @property
    def streams(self) -> bool:
        # Absent means streaming: Persona sends no options at all, and expects it (wire 2.1).
        return self.options is None or self.options.stream_response is not False


class ExecuteBody(DispatchBody, frozen=True, kw_only=True):
    """A dispatch to the agent in the path: what to stream is said beside the options."""

    stream_response: bool | None = None

    @property
    def streams(self) -> bool:
        return self.stream_response is not False and super().streams


class Continuation(_Body, frozen=True, kw_only=True):
    """What all of them say: which execution goes on, and how it is answered."""

    execution_id: Id
    stream_response: bool | None = None

    @property
    def streams(self) -> bool:
        return self.stream_response is not False


class ResumeBody(Continuation, frozen=True, kw_only=True):
    tool_outputs: Object | None = None
    messages: list[Message] | None = None


Reason = Annotated[str, Meta(max_length=10_000)]


class ApproveBody(Continuation, frozen=True, kw_only=True):
    """`remember`: it holds for later approvals of that name in the execution, too."""

    approval_id: Id
    decision: Literal["approved", "denied"]
    reason: Reason | None = None
    remember: bool | None = None


class ToolOutput(_Body, frozen=True, kw_only=True, tag_field="type", tag="tool-output"):
    tool_outputs: Object | None = None
    messages: list[Message] | None = None


class ApprovalDecision(_Body, frozen=True, kw_only=True, tag_field="type", tag="approval"):
    approval_id: Id
    decision: Literal["approved", "denied"]
    reason: Reason | None = None
    remember: bool | None = None


class ContinueBody(Continuation, frozen=True, kw_only=True):
    """A resume or an approval in one envelope (wire 3.3)."""

    continuation: ToolOutput | ApprovalDecision


class RetryBody(_Body, frozen=True, kw_only=True):
    stream_response: bool | None = None

    @property
    def streams(self) -> bool:
        return self.stream_response is not False


class CancelBody(_Body, frozen=True, kw_only=True):
    reason: Reason | None = None


def execution_id(text: str) -> ExecutionId:
    """`text` as an id. Raises `NotFound` (`execution-unknown`): no other form is ever given out."""
    if EXECUTION_ID.match(text) is None:
        raise NotFound(f"no execution has the id {text[:100]!r}", code="execution-unknown")
    return ExecutionId(text)


# --- what a dispatch means ------------------------------------------------------------------------


_KEY = re.compile(r"[!-~]{1,255}")


def idempotency_key(text: str | None) -> str | None:
    """`text` as a key. Raises `InvalidRequest` (`idempotency-key-invalid`)."""
    if text is not None and _KEY.fullmatch(text) is None:
        raise InvalidRequest(
            "an idempotency-key has 1 to 255 printable ASCII characters and no space",
            code="idempotency-key-invalid",
        )
    return text


def start_of(flow: FlowVersion, body: DispatchBody, raw: Object, key: str | None) -> Start:
    """What to start. `raw` is the object that `body` was made of, whose messages are handed on as
    they came.
    """
    _refuse_what_is_not_kept(body)
    options = body.options or Options()
    return Start(
        flow=flow.id,
        version=flow.version,
        inputs=body.inputs or {},
        messages=raw.get("messages") or [],
        client_tools=as_client_tools(body.client_tools or (), body.client_tools_policy),
        context=body.context,
        record=body.record,
        metadata=body.metadata,
        conversation_id=body.conversation_id,
        tool_outputs=options.client_tool_outputs or {},
        timeout=_seconds(options.flow_timeout_ms),
        step_timeout=_seconds(options.step_timeout_ms),
        idempotency_key=key,
        # A path names an agent as a body does.
        request_digest="" if key is None else canonical.digest(canonical.encode([flow.id, raw])),
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _refuse_what_is_not_kept(body: DispatchBody) -> None:
    if body.secrets:
        raise InvalidRequest(
            "secrets are not taken with a dispatch: give them to the server's flows",
            code="RUNTIME_FLOW_TRANSIENT_SECRETS_UNSUPPORTED",
        )
    if body.options is not None and body.options.resume_from is not None:
        raise InvalidRequest(
            "options.resumeFrom is not supported: resume the execution itself",
            code="resume-from-unsupported",
        )
    if body.history == "stored":
        raise InvalidRequest(
            "no history is kept between dispatches: send the messages",
            code="stored-history-unsupported",
        )


def find_agent(name: str, registry: Registry) -> FlowVersion:
    """The flow registered with `kind="agent"` under that name. Raises `NotFound`
    (`flow-unknown`).
    """
    return _named(registry, (name,), None, "agent")


def find_flow(body: DispatchBody, registry: Registry, default: str | None) -> FlowVersion:
    """The flow or agent that a dispatch means. Raises `NotFound` and `InvalidRequest`."""
    if body.flow is not None and body.agent is not None:
        raise InvalidRequest("a dispatch names a flow or an agent, not both", code="two-targets")
    if body.agent is not None:
        agent = body.agent
        if agent.agent_id is None and agent.name is None:
            raise InvalidRequest(
                "agents are not defined by a dispatch: name one by agent.agentId or agent.name",
                code="inline-agent-unsupported",
            )
        return _named(registry, (agent.agent_id, agent.name), agent.version, "agent")
    if body.flow is not None:
        return _find_flow(body.flow, body, registry)
    name = body.flow_id or default
    if name is None:
        raise InvalidRequest(
            "the dispatch names no flow, and the server has no --default-flow", code="no-target"
        )
    return _named(registry, (name,), None, None)


def _find_flow(flow: FlowTarget, body: DispatchBody, registry: Registry) -> FlowVersion:
    names = (flow.id, flow.name, body.flow_id)
    try:
        if any(names):
            return _named(registry, names, flow.version, None)
    except NotFound:
        pass
    if flow.content_hash is not None and flow.steps is None:
        # The published client then sends the steps, and is told below what is wrong with them.
        raise Unprocessable(
            "the flow is not registered here under that id or name", code="FLOW_DEFINITION_REQUIRED"
        )
    mode = body.options.flow_mode if body.options is not None else None
    if flow.steps is not None or mode not in (None, "existing"):
        raise InvalidRequest(
            "flows are written in Python and registered with the server; steps that come with a "
            "dispatch are not run: name a registered flow by flow.id or flow.name",
            code="inline-steps-unsupported",
        )
    if not any(names):
        raise InvalidRequest("the flow is named by neither id nor name", code="no-target")
    return _named(registry, names, flow.version, None)


def _named(
    registry: Registry, names: tuple[str | None, ...], version: int | None, kind: Kind | None
) -> FlowVersion:
    """The first of `names` that is registered, as `kind` if that matters. Raises `NotFound`."""
    refusal: NotFound | None = None
    for name in names:
        if name is None:
            continue
        try:
            found = registry.find(name, version)
        except NotFound as exc:
            refusal = refusal or exc
            continue
        if kind is None or found.kind == kind:
            return found
        refusal = refusal or NotFound(f"{name!r} is not an {kind}", code="flow-unknown")
    assert refusal is not None
    raise refusal


def as_client_tools(
    tools: Iterable[DeclaredTool], policy: ToolsPolicy | None = None
) -> list[ClientTool]:
    """Those of `tools` that are the caller's, and that `policy` allows."""
    allowed = None if policy is None else policy.allowlist
    return [
        ClientTool(
            name=tool.name,
            description=tool.description,
            parameters_schema=tool.parameters_schema,
            origin=tool.origin,
            page_origin=tool.page_origin,
        )
        for tool in tools
        if tool.catalog is None and (allowed is None or tool.name in allowed)
    ]
