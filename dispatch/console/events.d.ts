// The events as on the wire; made of dispatch/core/events.py.

export interface EventBase {
  executionId: string;
  /** Its place in the execution: 1, 2, 3 …, without a gap. */
  seq: number;
}

export interface ExecutionStart extends EventBase {
  type: "execution_start";
  kind: "agent" | "flow";
  startedAt: string;
  flowId?: string;
  flowName?: string;
  flowVersion?: number;
  agentId?: string;
  agentName?: string;
  totalSteps?: number;
  maxTurns?: number;
  source?: string;
  config?: unknown;
  resumed?: boolean;
}

export interface ExecutionComplete extends EventBase {
  type: "execution_complete";
  kind: "agent" | "flow";
  success: boolean;
  completedAt?: string;
  durationMs?: number;
  finalOutput?: string;
  totalSteps?: number;
  successfulSteps?: number;
  failedSteps?: number;
  iterations?: number;
  stopReason?: string;
  totalCost?: number;
  totalTokens?: { input: number; output: number };
  details?: unknown;
}

export interface ExecutionError extends EventBase {
  type: "execution_error";
  kind: "agent" | "flow";
  error: string | { code: string; message: string; details?: unknown };
  completedAt?: string;
  code?: string;
  upgradeUrl?: string;
  stopReason?: string;
  finalOutput?: string;
}

export interface TurnStart extends EventBase {
  type: "turn_start";
  id: string;
  role: "assistant" | "system" | "user";
  iteration?: number;
  turnIndex?: number;
}

export interface TurnComplete extends EventBase {
  type: "turn_complete";
  id: string;
  role: "assistant" | "system" | "user";
  iteration?: number;
  content?: unknown;
  tokens?: { input: number; output: number };
  cost?: number;
  stopReason?: "content_filter" | "end_turn" | "error" | "length" | "max_tool_calls" | "unknown";
  completedAt?: string;
  fallback?: unknown;
}

export interface StepStart extends EventBase {
  type: "step_start";
  id: string;
  name?: string;
  stepType?: string;
  index?: number;
  totalSteps?: number;
  startedAt?: string;
  outputVariable?: string;
}

export interface StepComplete extends EventBase {
  type: "step_complete";
  id: string;
  name?: string;
  stepType?: string;
  success?: boolean;
  durationMs?: number;
  result?: unknown;
  error?: string;
  code?: string;
  errorType?: string;
  stopReason?: "content_filter" | "end_turn" | "error" | "length" | "max_tool_calls" | "unknown";
  completedAt?: string;
  unresolvedVariables?: unknown;
  fallback?: unknown;
}

export interface StepSkip extends EventBase {
  type: "step_skip";
  id: string;
  name?: string;
  stepType?: string;
  index?: number;
  totalSteps?: number;
  when?: string;
  skippedAt?: string;
}

export interface TextStart extends EventBase {
  type: "text_start";
  id: string;
  role?: "assistant" | "system" | "user";
  turnId?: string;
  stepId?: string;
  parentToolCallId?: string;
}

export interface TextDelta extends EventBase {
  type: "text_delta";
  id: string;
  delta: string;
}

export interface TextComplete extends EventBase {
  type: "text_complete";
  id: string;
  text?: string;
}

export interface ReasoningStart extends EventBase {
  type: "reasoning_start";
  id: string;
  scope?: "loop" | "turn";
  parentToolCallId?: string;
}

export interface ReasoningDelta extends EventBase {
  type: "reasoning_delta";
  id: string;
  delta: string;
}

export interface ReasoningComplete extends EventBase {
  type: "reasoning_complete";
  id: string;
  text?: string;
  scope?: "loop" | "turn";
}

export interface MediaStart extends EventBase {
  type: "media_start";
  id: string;
  mediaType: string;
  role?: "assistant" | "system" | "user";
  toolCallId?: string;
}

export interface MediaDelta extends EventBase {
  type: "media_delta";
  id: string;
  delta: string;
}

export interface MediaComplete extends EventBase {
  type: "media_complete";
  id: string;
  mediaType?: string;
  url?: string;
  data?: string;
  toolCallId?: string;
}

export interface ArtifactStart extends EventBase {
  type: "artifact_start";
  id: string;
  artifactType: "component" | "markdown";
  title?: string;
  component?: string;
  file?: { path: string; mimeType: string; language?: string };
}

export interface ArtifactDelta extends EventBase {
  type: "artifact_delta";
  id: string;
  delta: string;
}

export interface ArtifactUpdate extends EventBase {
  type: "artifact_update";
  id: string;
  component: string;
  props: unknown;
}

export interface ArtifactComplete extends EventBase {
  type: "artifact_complete";
  id: string;
}

export interface Source extends EventBase {
  type: "source";
  id?: string;
  url?: string;
  title?: string;
  sourceType?: string;
}

export interface ToolStart extends EventBase {
  type: "tool_start";
  toolCallId: string;
  toolName: string;
  toolType: string;
  parameters?: unknown;
  stepId?: string;
  iteration?: number;
  startedAt?: string;
  origin?: "sdk" | "webmcp";
  pageOrigin?: string;
  hiddenParameterNames?: string[];
}

export interface ToolInputDelta extends EventBase {
  type: "tool_input_delta";
  toolCallId: string;
  delta: string;
}

export interface ToolInputComplete extends EventBase {
  type: "tool_input_complete";
  toolCallId: string;
  parameters: Record<string, unknown>;
  toolName?: string;
  hiddenParameterNames?: string[];
}

export interface ToolOutputDelta extends EventBase {
  type: "tool_output_delta";
  toolCallId: string;
  delta: string;
}

export interface ToolComplete extends EventBase {
  type: "tool_complete";
  toolCallId: string;
  success: boolean;
  toolId?: string;
  toolName?: string;
  result?: unknown;
  error?: string;
  code?: string;
  executionTime?: number;
  stepId?: string;
  iteration?: number;
}

export interface ApprovalStart extends EventBase {
  type: "approval_start";
  approvalId: string;
  toolName: string;
  toolCallId?: string;
  toolType?: string;
  description?: string;
  reason?: string;
  parameters?: unknown;
  timeout?: number;
  startedAt?: string;
  iteration?: number;
}

export interface ApprovalComplete extends EventBase {
  type: "approval_complete";
  approvalId: string;
  decision: "approved" | "denied" | "timeout";
  resolvedBy?: "system" | "user";
  reason?: string;
  remember?: boolean;
  code?: string;
  completedAt?: string;
}

export interface Await extends EventBase {
  type: "await";
  toolCallId?: string;
  toolId?: string;
  toolName?: string;
  parameters?: unknown;
  origin?: "sdk" | "webmcp";
  pageOrigin?: string;
  awaitedAt?: string;
  awaitReason?: string;
  stepId?: string;
  crawlId?: string;
  elicitation?: unknown;
}

export interface Error extends EventBase {
  type: "error";
  error: string | { code: string; message: string; details?: unknown };
  recoverable?: boolean;
  code?: string;
  stepId?: string;
  attempt?: number;
  retryAt?: string;
}

export interface Ping extends EventBase {
  type: "ping";
  timestamp: string;
}

export interface Custom extends EventBase {
  type: "custom";
  name: string;
  value?: unknown;
}

export type Event =
  | ExecutionStart
  | ExecutionComplete
  | ExecutionError
  | TurnStart
  | TurnComplete
  | StepStart
  | StepComplete
  | StepSkip
  | TextStart
  | TextDelta
  | TextComplete
  | ReasoningStart
  | ReasoningDelta
  | ReasoningComplete
  | MediaStart
  | MediaDelta
  | MediaComplete
  | ArtifactStart
  | ArtifactDelta
  | ArtifactUpdate
  | ArtifactComplete
  | Source
  | ToolStart
  | ToolInputDelta
  | ToolInputComplete
  | ToolOutputDelta
  | ToolComplete
  | ApprovalStart
  | ApprovalComplete
  | Await
  | Error
  | Ping
  | Custom;
