/** Types of client.js; what its methods do is told there. */

import type { ApprovalStart, Await, Event } from "./events.js";

export type * from "./events.js";

export interface Detail {
  message: string;
  code?: string;
  path?: string;
  suggestion?: string;
}

export class DispatchError extends Error {
  constructor(
    message: string,
    options?: { code?: string; status?: number | null; details?: Detail[]; cause?: unknown },
  );
  /** For programs; see the guide to errors. `unreachable`: there is no answer. */
  readonly code: string;
  /** Of the answer; null if there is none. */
  readonly status: number | null;
  readonly details: Detail[];
  readonly isPassing: boolean;
}

/** Aborting it ends following, not the execution: that is what `cancel` is for. */
export interface Abortable {
  signal?: AbortSignal;
}

export interface DispatchOptions extends Abortable {
  version?: number;
  messages?: object[];
  clientTools?: object[];
  idempotencyKey?: string;
}

export interface LegOptions extends Abortable {
  /** The last event known: then what came about before the leg is told, too. */
  after?: number;
}

export interface Decision {
  isApproved: boolean;
  reason?: string;
  /** It holds for later approvals of that name in the execution. */
  remember?: boolean;
}

/** Gets a call's parameters; what it throws is told to the flow as the call's failure. */
export type Tool = (parameters: any) => unknown;

export interface Answers extends Abortable {
  /** By name; a page's tool may be given without its `webmcp:`. */
  tools?: Record<string, Tool>;
  /** Null leaves it open. */
  onApproval?: (
    approval: ApprovalStart,
  ) => Decision | boolean | null | Promise<Decision | boolean | null>;
  onEvent?: (event: Event) => unknown;
}

/** What an execution came to: over, or where it needs somebody else. */
export interface Outcome {
  executionId: string;
  seq: number;
  /** `waiting`: for what nobody here answers (`open`); `parked`: to be mended and retried. */
  status: "completed" | "failed" | "cancelled" | "waiting" | "parked";
  /** All that was told on the way. */
  text: string;
  /** The value of the flow's last `result(…)`. */
  result: any;
  error: string | null;
  code: string | null;
  open: (Await | ApprovalStart)[];
}

export interface Tail extends AsyncIterable<Event> {
  readonly executionId: string | null;
  /** The last event told: the cursor. */
  readonly seq: number;
  /** `turn`: something is asked of the caller. Null while it goes on. */
  readonly end: "final" | "turn" | null;
}

export class Client {
  readonly url: string;
  constructor(
    url?: string | URL,
    options?: { headers?: Record<string, string>; backoffMs?: readonly number[] },
  );

  dispatch(flow: string, inputs?: object, options?: DispatchOptions): Tail;
  resume(
    executionId: string,
    outputs?: Record<string, unknown>,
    options?: LegOptions & { messages?: object[] },
  ): Tail;
  approve(
    executionId: string,
    approvalId: string,
    decision?: Partial<Decision> & LegOptions,
  ): Tail;
  retry(executionId: string, options?: Abortable): Tail;
  events(
    executionId: string,
    options?: LegOptions & { through?: boolean },
  ): Tail;

  runWithTools(flow: string, inputs?: object, options?: DispatchOptions & Answers): Promise<Outcome>;
  carry(tail: Tail, answers?: Answers): Promise<Outcome>;

  status(executionId: string, options?: Abortable): Promise<any>;
  cancel(executionId: string, reason?: string, options?: Abortable): Promise<any>;
  executions(
    query?: { status?: string; flow?: string; limit?: number; before?: string },
    options?: Abortable,
  ): Promise<any>;
  flows(options?: Abortable): Promise<any>;
}
