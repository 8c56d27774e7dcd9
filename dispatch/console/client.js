/**
 * Client of a dispatch server for browsers and Node 20.3+: one module, nothing else.
 *
 *   import { Client } from "http://127.0.0.1:8000/client.js";
 *   const client = new Client();
 *   const outcome = await client.runWithTools("weather", { city: "Oslo" }, {
 *     tools: { get_weather: ({ city }) => `fine in ${city}` },
 *     onEvent: (event) => console.log(event.type),
 *   });
 *
 * Types are in client.d.ts. The one thing to know: a stream ends in three ways. The final event
 * means that it is over, an await or an approval that it is the caller's turn, and neither that one
 * has to come back with the cursor. The latter is done here, so that whoever iterates over a `Tail`
 * sees one sequence: no event twice, none left out, over any number of connections.
 */

/** Before each attempt to come back; after the last one it is given up. */
const BACKOFF_MS = [0, 100, 250, 500, 1000, 2000, 4000, 8000, 8000, 8000, 8000, 8000];
/** A silent stream is pinged every 10 s: one that is silent for longer has lost its server. */
const SILENCE_MS = 35_000;
const FINAL = ["execution_complete", "execution_error"];

/** A server's refusal, with its code; `unreachable` if there is no answer. */
export class DispatchError extends Error {
  name = "DispatchError";

  constructor(message, { code = "refused", status = null, details = [], cause } = {}) {
    super(message, { cause });
    Object.assign(this, { code, status, details });
  }

  /** Whether it may pass by itself. */
  get isPassing() {
    return this.code === "unreachable" || this.status === 429 || this.status >= 500;
  }
}

/** A server's executions. */
export class Client {
  /** Without a `url`: the server that this module was loaded from. */
  constructor(url = home(), { headers = {}, backoffMs = BACKOFF_MS } = {}) {
    this.url = String(url).replace(/\/+$/, "");
    this.headers = headers;
    this.backoffMs = backoffMs;
  }

  /**
   * Start an execution; iterate over the tail to follow its first leg. With the same
   * `idempotencyKey` it is started once, however often it is asked for.
   */
  dispatch(flow, inputs = {}, options = {}) {
    const { version, messages = [], clientTools = [], idempotencyKey = randomKey() } = options;
    const body = { flow: { id: flow, version }, inputs, messages, clientTools };
    const request = post("/v1/dispatch", body, { "idempotency-key": idempotencyKey });
    return new Tail(this, request, { after: 0, signal: options.signal });
  }

  /** Deliver outputs, by call id or tool name; without any, the open calls are told again. */
  resume(executionId, outputs = {}, { messages, ...options } = {}) {
    // JSON has no undefined, and leaving a call out would leave it open.
    const toolOutputs = Object.fromEntries(
      Object.entries(outputs).map(([key, output]) => [key, output ?? null]),
    );
    const request = post("/v1/dispatch/resume", { executionId, toolOutputs, messages });
    return new Tail(this, request, { ...options, executionId });
  }

  /** Decide an approval, and follow the leg that this begins. */
  approve(executionId, approvalId, decision = {}) {
    const { isApproved = true, reason, remember = false, ...options } = decision;
    const request = post("/v1/dispatch/approve", {
      executionId,
      approvalId,
      decision: isApproved ? "approved" : "denied",
      reason,
      remember,
    });
    return new Tail(this, request, { ...options, executionId });
  }

  /** Replay a parked execution, and follow on. */
  retry(executionId, options = {}) {
    return new Tail(this, post(path(executionId, "retry"), {}), { ...options, executionId });
  }

  /** All events behind `after`, to the final one or, unless `through`, the caller's turn. */
  events(executionId, { after = 0, through = true, signal } = {}) {
    const request = { path: eventsPath(executionId, after) };
    return new Tail(this, request, { executionId, after, through, signal, isLeg: false });
  }

  status(executionId, { signal } = {}) {
    return this.#document({ path: path(executionId, "status"), signal });
  }

  /** Cancel it; answers with its status when the final event is durable. */
  cancel(executionId, reason, { signal } = {}) {
    return this.#document({ ...post(path(executionId, "cancel"), { reason }), signal });
  }

  /** Newest first. `status`, `flow`, `limit`, `before` (an execution's id) narrow the list. */
  executions(query = {}, { signal } = {}) {
    const given = Object.entries(query).filter(([, value]) => value !== undefined);
    return this.#document({ path: `/v1/executions?${new URLSearchParams(given)}`, signal });
  }

  flows({ signal } = {}) {
    return this.#document({ path: "/v1/flows", signal });
  }

  /** Dispatch, and `carry` it to its end. */
  runWithTools(flow, inputs, { tools, onApproval, onEvent, ...options } = {}) {
    const tail = this.dispatch(flow, inputs, options);
    return this.carry(tail, { tools, onApproval, onEvent, signal: options.signal });
  }

  /**
   * Follow an execution from `tail` on, and answer what it asks, until it is over or waits for what
   * nobody here answers. Each call is run once, whatever connections do.
   */
  async carry(tail, { tools = {}, onApproval, onEvent, signal } = {}) {
    const answering = new Answering(tools, onApproval);
    while (tail !== null) {
      try {
        for await (const event of tail) {
          answering.take(event);
          await onEvent?.(event);
        }
        answering.ended();
      } catch (error) {
        answering.refused(error);
      }
      await answering.answer();
      signal?.throwIfAborted();
      tail = answering.nextLeg(this, signal);
    }
    return answering.outcome();
  }

  /** Send a request; throws the server's refusal. `{ path, method?, headers?, body?, signal? }`. */
  async send({ path, headers, signal, ...init }) {
    let response;
    try {
      const all = { ...this.headers, ...headers };
      response = await fetch(this.url + path, { ...init, headers: all, signal, cache: "no-store" });
    } catch (error) {
      signal?.throwIfAborted();
      throw unreachable(error, this.url);
    }
    if (response.status >= 400) throw await refusal(response);
    return response;
  }

  async #document(request) {
    const response = await this.send(request);
    try {
      return await response.json();
    } catch (error) {
      request.signal?.throwIfAborted();
      throw unreachable(error, this.url);
    }
  }
}

/**
 * An execution from some event on: iterate over it, then look at `end`, which is "final" or "turn".
 * `seq` is the last event told, the cursor. Throws the server's refusal and, if the server stays
 * away, a `DispatchError` with code `unreachable`.
 */
export class Tail {
  #client;
  #request;
  #through;
  #isLeg;
  #hasPlace; // events may be missed only behind a place that is known
  #signal;
  #failures = 0;
  #last = null;
  #connection = null;

  constructor(client, request, options) {
    const { executionId = null, after = null, through = false, isLeg = true, signal } = options;
    this.executionId = executionId;
    this.seq = after ?? 0;
    this.end = null;
    this.#client = client;
    this.#request = request;
    this.#through = through;
    this.#isLeg = isLeg;
    this.#hasPlace = after !== null;
    this.#signal = signal;
  }

  async *[Symbol.asyncIterator]() {
    if (this.end !== null) return;
    if (this.#last !== null) this.#goByCursor(); // it was left in the middle
    try {
      try {
        await this.#open();
      } catch (error) {
        // It may have arrived. All requests may be sent again: a dispatch has a key.
        if (error.code !== "unreachable" || isUnsent(error)) throw error;
        await this.#comeBack(error);
      }
      while (this.end === null) {
        let lost = new DispatchError("the connection ended", { code: "unreachable" });
        try {
          yield* this.#events();
        } catch (error) {
          if (!error.isPassing) throw error;
          lost = error;
        }
        if (this.end === null) await this.#comeBack(lost);
      }
    } finally {
      this.#connection?.close();
    }
  }

  // --- one connection ---

  async #open() {
    this.#connection?.close();
    this.#connection = new Connection(this.#signal);
    const response = await this.#connection.open(this.#client, this.#request);
    this.executionId ??= response.headers.get("x-execution-id");
    if (response.status === 204) {
      this.end = "final"; // it is over, and the cursor is behind all of it
    } else if (this.seq > 0 && !this.#isLeg) {
      await this.#look(); // what there is for now may end at the cursor
    }
  }

  /** What comes, until the connection ends or has to be left. */
  async *#events() {
    while (this.end === null) {
      const frames = await this.#connection.read();
      if (frames === null) return;
      for (const { id, data } of frames) {
        this.#failures = 0;
        const event = JSON.parse(data);
        this.executionId ??= event.executionId;
        if (id === null || event.type === "ping" || event.seq <= this.seq) continue;
        if (this.#isLeg && this.#hasPlace && event.seq > this.seq + 1) {
          this.#goByCursor(); // something came about before this leg: it is told first
          return;
        }
        this.#last = event;
        this.seq = event.seq;
        this.#hasPlace = true;
        yield event;
      }
      if (this.#last !== null) await this.#look();
    }
  }

  /**
   * Whether it has ended with the last event, for now. It is not known by the end of a connection:
   * an answer that was cut looks whole to Node where the server was asked to close behind it. So the
   * caller's turn is looked up: a suspension's last await is what the journal ends with.
   */
  async #look() {
    const end = endOf(this.#last);
    if (end === "final") this.end = end;
    if (this.#through || (this.#last !== null && end !== "turn")) return;
    try {
      const standing = await this.#client.status(this.executionId, { signal: this.#signal });
      const rests = ["paused", "failed"].includes(standing.status);
      if (standing.lastSeq === this.seq && rests) this.end = "turn";
    } catch (error) {
      if (!error.isPassing) throw error; // else the connection will tell
    }
  }

  // --- and the next one ---

  /** With the request itself as long as nothing was heard, then by the cursor. */
  async #comeBack(lost) {
    if (this.#last !== null) this.#goByCursor();
    for (const pause of this.#client.backoffMs.slice(this.#failures)) {
      await sleep(pause, this.#signal);
      this.#failures += 1;
      try {
        return await this.#open();
      } catch (error) {
        if (!error.isPassing) throw error;
        lost = error;
      }
    }
    const what = `${this.executionId ?? "the request"} behind event ${this.seq}`;
    const options = { code: "unreachable", cause: lost };
    throw new DispatchError(`${what} is given up: ${lost.message}`, options);
  }

  #goByCursor() {
    this.#request = { path: eventsPath(this.executionId, this.seq) };
    this.#isLeg = false;
  }
}

/** One response, read frame by frame. It is broken off by the caller's signal, or by silence. */
class Connection {
  #abort = new AbortController();
  #decoder = new FrameDecoder();
  #signal;
  #reader;

  constructor(signal) {
    this.#signal = signal;
  }

  async open(client, request) {
    const signals = [this.#abort.signal, ...(this.#signal ? [this.#signal] : [])];
    const signal = AbortSignal.any(signals);
    const response = await this.#unlessSilent(client.send({ ...request, signal }));
    this.#reader = response.body?.getReader();
    return response;
  }

  /** The frames that the next piece completes; null at the proper end. */
  async read() {
    const { done, value } = await this.#unlessSilent(this.#reader.read());
    return done ? null : this.#decoder.feed(value);
  }

  close() {
    this.#abort.abort();
  }

  async #unlessSilent(answer) {
    const timer = setTimeout(() => this.#abort.abort(), SILENCE_MS);
    try {
      return await answer;
    } catch (error) {
      this.#signal?.throwIfAborted();
      throw error instanceof DispatchError ? error : unreachable(error);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Turn pieces of an event stream, cut anywhere, into frames (WHATWG HTML, section 9.2.6). */
class FrameDecoder {
  #text = new TextDecoder(); // keeps the first half of a character, and drops a byte order mark
  #line = ""; // that is not ended yet
  #afterCr = false;
  #data = [];
  #id = null;

  feed(bytes) {
    let text = this.#text.decode(bytes, { stream: true });
    if (text === "") return [];
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    const frames = [];
    for (const line of lines) {
      if (line !== "") {
        this.#field(line);
      } else if (this.#data.length > 0) {
        frames.push({ id: this.#id, data: this.#data.join("\n") });
        this.#data = [];
      }
    }
    return frames;
  }

  #field(line) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.#id = value;
  }
}

/** One execution, as far as it was told: which calls are to be run, what is sent, what it came to. */
class Answering {
  #tools;
  #onApproval;
  #executionId = null;
  #seq = 0;
  #last = null;
  #text = "";
  #result = null;
  #open = new Map(); // call or approval by id
  #outputs = new Map();
  #decisions = new Map();
  #refusal = null;

  constructor(tools, onApproval) {
    this.#tools = tools;
    this.#onApproval = onApproval;
  }

  take(event) {
    this.#executionId = event.executionId;
    this.#seq = event.seq;
    this.#last = event;
    this.#refusal = null;
    if (event.type === "text_delta") this.#text += event.delta;
    else if (event.type === "custom" && event.name === "dispatch.result") {
      this.#result = event.value.value;
    } else if (event.type === "await" && event.toolCallId && event.toolName) {
      this.#open.set(event.toolCallId, event);
    } else if (event.type === "approval_start") this.#open.set(event.approvalId, event);
    else if (event.type === "tool_complete") this.#open.delete(event.toolCallId);
    else if (event.type === "approval_complete") this.#open.delete(event.approvalId);
    else if (FINAL.includes(event.type)) this.#open.clear();
  }

  ended() {
    const refusal = this.#refusal;
    this.#refusal = null;
    if (refusal !== null) throw refusal; // nothing was told behind it
  }

  /** Somebody else was faster, or it timed out: what became of it is told next, or it is thrown. */
  refused(error) {
    const isConflict = error instanceof DispatchError && [409, 410].includes(error.status);
    if (!isConflict || this.#executionId === null || this.#refusal !== null) throw error;
    this.#refusal = error;
  }

  /** Run the open calls, all at once, and ask about the open approvals. */
  async answer() {
    const running = [];
    for (const [id, { type, toolName, parameters }] of this.#open) {
      if (type !== "await" || this.#outputs.has(id)) continue;
      // A page's tool may be given without its prefix.
      const names = [toolName, toolName.replace(/^webmcp:/, "")];
      const name = names.find((one) => Object.hasOwn(this.#tools, one));
      if (name !== undefined) running.push(this.#run(id, this.#tools[name], parameters));
    }
    await Promise.all(running);
    if (!this.#onApproval) return;
    for (const [id, call] of this.#open) {
      if (call.type !== "approval_start" || this.#decisions.has(id)) continue;
      const decision = await this.#onApproval(call);
      const isPlain = typeof decision === "boolean";
      this.#decisions.set(id, isPlain ? { isApproved: decision } : (decision ?? null));
    }
  }

  async #run(id, tool, parameters) {
    try {
      this.#outputs.set(id, await tool(parameters));
    } catch (error) {
      // The flow is told, and decides what becomes of it.
      const text = String(error?.message || error?.name || error);
      this.#outputs.set(id, { isError: true, content: [{ type: "text", text }] });
    }
  }

  /** What is sent next; null if it is over, or somebody else's turn. */
  nextLeg(client, signal) {
    const [id, options] = [this.#executionId, { after: this.#seq, signal }];
    if (this.#refusal !== null) return client.events(id, { ...options, through: false });
    const ready = [...this.#open.keys()].filter((call) => this.#outputs.has(call));
    if (ready.length > 0) {
      const outputs = Object.fromEntries(ready.map((call) => [call, this.#outputs.get(call)]));
      return client.resume(id, outputs, options);
    }
    for (const approval of this.#open.keys()) {
      const decision = this.#decisions.get(approval);
      if (decision) return client.approve(id, approval, { ...decision, ...options });
    }
    return null;
  }

  outcome() {
    return {
      executionId: this.#executionId,
      seq: this.#seq,
      ...cameTo(this.#last),
      text: this.#text,
      result: this.#result,
      open: [...this.#open.values()],
    };
  }
}

/** What it means if this is the last event for now. */
function endOf(event) {
  if (FINAL.includes(event?.type)) return "final";
  if (["await", "approval_start"].includes(event?.type)) return "turn";
  return event?.type === "error" && event.recoverable === false ? "turn" : null;
}

function cameTo(last) {
  const none = { error: null, code: null };
  if (last?.type === "execution_complete") {
    const ended = last.stopReason === "cancelled" ? "cancelled" : "failed";
    return { status: last.success ? "completed" : ended, ...none };
  }
  if (endOf(last) === null || last.error === undefined) return { status: "waiting", ...none };
  const { error, code = null } = last;
  const told = typeof error === "string" ? { error } : { error: error.message };
  const status = last.type === "execution_error" ? "failed" : "parked";
  return { status, ...told, code: code ?? error.code ?? null };
}

// --- requests and answers ---

function post(path, body, headers = {}) {
  const sent = { "content-type": "application/json", ...headers };
  return { path, method: "POST", headers: sent, body: JSON.stringify(body) };
}

function path(executionId, what) {
  return `/v1/executions/${encodeURIComponent(executionId)}/${what}`;
}

function eventsPath(executionId, after) {
  return `${path(executionId, "events")}?after=${after}`;
}

async function refusal(response) {
  const { status, url } = response;
  let body;
  try {
    body = await response.json();
  } catch {
    body = null; // not our server, or something in front of it
  }
  if (typeof body?.error !== "string") body = { error: `${url} answered ${status}` };
  return new DispatchError(body.error, { ...body, status });
}

/** No answer, or no more of it. What the caller aborted is told as it is. */
function unreachable(error, url = "the server") {
  const reason = error.cause?.message || error.message;
  return new DispatchError(`no answer from ${url}: ${reason}`, { code: "unreachable", cause: error });
}

/** Nobody listens there (only Node tells): it makes no sense to send a first request again. */
function isUnsent(error) {
  return error.cause?.cause?.code === "ECONNREFUSED";
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

function randomKey() {
  // Not randomUUID: pages that are served without TLS lack it.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function home() {
  if (import.meta.url.startsWith("http")) return new URL(".", import.meta.url);
  throw new TypeError("new Client(url): this module was loaded from a file, and knows no server");
}
