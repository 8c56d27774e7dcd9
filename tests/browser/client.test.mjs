// What only the JavaScript client has, and what is seen best without a server: `fetch` is replaced.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { afterEach, beforeEach, test } from "node:test";
import { Client, DispatchError } from "../../dispatch/console/client.js";
import * as client from "../../dispatch/console/client.js";

const ID = "exec_" + "0".repeat(32);
const realFetch = globalThis.fetch;
let asked, answers;

beforeEach(() => {
  [asked, answers] = [[], []];
  globalThis.fetch = async (url, { method = "GET", signal, headers }) => {
    signal?.throwIfAborted();
    asked.push(`${method} ${new URL(url).pathname}`);
    return answers.shift()({ signal, headers });
  };
});

afterEach(() => {
  globalThis.fetch = realFetch;
});

function event(seq, type, fields = {}) {
  const data = JSON.stringify({ type, executionId: ID, seq, ...fields });
  return `event: ${type}\ndata: ${data}\nid: ${seq}\n\n`;
}

const DELTAS = ["é", "€", "😀", "\u2028", "a\r\nb"];
const STREAM =
  event(1, "execution_start") +
  DELTAS.map((delta, at) => event(at + 2, "text_delta", { delta })).join("") +
  event(7, "execution_complete", { success: true });

/** The pieces, then the end or, if it `hangs`, nothing until it is aborted. */
function streamed(pieces, { hangs = false } = {}) {
  return ({ signal }) => {
    const body = new ReadableStream({
      start(controller) {
        for (const piece of pieces) controller.enqueue(piece);
        if (!hangs) controller.close();
        signal.addEventListener("abort", () => {
          if (hangs) controller.error(signal.reason);
        });
      },
    });
    return new Response(body);
  };
}

function encode(text) {
  return new TextEncoder().encode(text);
}

function pieces(bytes, size) {
  const count = Math.ceil(bytes.length / size);
  return Array.from({ length: count }, (_, at) => bytes.subarray(at * size, (at + 1) * size));
}

async function deltas(tail) {
  const told = [];
  for await (const { type, delta } of tail) if (type === "text_delta") told.push(delta);
  return told;
}

const newlines = { LF: "\n", CRLF: "\r\n", CR: "\r" };
for (const [name, newline] of Object.entries(newlines)) {
  test(`frames are read in pieces of any size, lines ended by ${name}`, async () => {
    const encoded = encode(("\ufeff:hello\n\n" + STREAM).replaceAll("\n", newline));
    for (let size = 1; size < 20; size++) {
      answers.push(streamed(pieces(encoded, size)));
      assert.deepEqual(await deltas(new Client("http://x").dispatch("flow")), DELTAS);
    }
  });
}

test("each dispatch has a key of its own, and all have the client's headers", async () => {
  const keys = new Set();
  for (let at = 0; at < 3; at++) {
    answers.push(({ headers, signal }) => {
      assert.equal(headers.authorization, "Bearer x");
      keys.add(headers["idempotency-key"]);
      return streamed([encode(STREAM)])({ signal });
    });
    await deltas(new Client("http://x", { headers: { authorization: "Bearer x" } }).dispatch("f"));
  }
  assert.equal(keys.size, 3);
});

test("what is told again is not told twice", async () => {
  const seen = STREAM.indexOf("id: 4\n\n") + "id: 4\n\n".length;
  answers.push(streamed([encode(STREAM.slice(0, seen))]), streamed([encode(STREAM)]));
  assert.deepEqual(await deltas(new Client("http://x").events(ID)), DELTAS);
  assert.equal(asked.length, 2);
});

test("who aborts is told so, wherever it is", async () => {
  const bytes = encode(event(1, "execution_start"));
  for (const when of ["before", "reading", "pausing"]) {
    const controller = new AbortController();
    const { signal } = controller;
    const client = new Client("http://x", { backoffMs: [60_000] });
    if (when === "before") controller.abort();
    answers = [streamed([bytes], { hangs: when === "reading" })];
    const follow = async () => {
      for await (const _ of client.dispatch("flow", {}, { signal })) {
        setTimeout(() => controller.abort(), 5);
      }
    };
    await assert.rejects(follow, { name: "AbortError" });
  }
});

test("who aborts a document is told so, too", async () => {
  const signal = AbortSignal.abort();
  await assert.rejects(new Client("http://x").flows({ signal }), { name: "AbortError" });
});

test("who leaves a tail leaves its connection, and may come back to it", async () => {
  const seen = STREAM.indexOf("id: 2\n\n") + "id: 2\n\n".length;
  let isLeft = false;
  answers.push(
    ({ signal }) => {
      signal.addEventListener("abort", () => (isLeft = true));
      return streamed([encode(STREAM.slice(0, seen))], { hangs: true })({ signal });
    },
    streamed([encode(STREAM.slice(seen))]),
    () => Response.json({ status: "running", lastSeq: 9 }),
  );
  const tail = new Client("http://x").dispatch("flow");
  for await (const event of tail) if (event.seq === 2) break;
  assert.equal(isLeft, true);
  assert.deepEqual(await deltas(tail), DELTAS.slice(1));
  assert.equal(asked[1], `GET /v1/executions/${ID}/events`);
});

test("what is refused has its code, and what is not ours its status", async () => {
  const details = [{ message: "x", path: "$.a" }];
  const refuse = (body, status) => () => new Response(body, { status });
  answers.push(refuse(JSON.stringify({ error: "no", code: "some-code", details }), 422));
  answers.push(refuse("<html>", 502));
  const client = new Client("http://x");
  await assert.rejects(client.flows(), { message: "no", code: "some-code", status: 422, details });
  await assert.rejects(client.flows(), { code: "refused", status: 502, isPassing: true });
});

test("where nobody listens nothing is sent again", async () => {
  globalThis.fetch = realFetch;
  const { createServer } = await import("node:net");
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  const client = new Client(`http://127.0.0.1:${port}`, { backoffMs: [60_000] });
  await assert.rejects(deltas(client.dispatch("flow")), { code: "unreachable", status: null });
});

test("from a file it has to be told where the server is", () => {
  assert.throws(() => new Client(), /new Client\(url\)/);
});

test("what is declared is there", async () => {
  const types = new URL("../../dispatch/console/client.d.ts", import.meta.url);
  const declared = await readFile(types, "utf8");
  const classes = [...declared.matchAll(/^export class (\w+)[^{]*\{(.*?)^\}/gms)];
  assert.deepEqual(classes.map(([, name]) => name).sort(), ["Client", "DispatchError"]);
  assert.deepEqual(Object.keys(client).sort(), ["Client", "DispatchError", "Tail"]);
  const methods = [...classes.at(-1)[2].matchAll(/^  (\w+)\(/gm)].map(([, name]) => name);
  const own = Object.getOwnPropertyNames(Client.prototype);
  assert.deepEqual(methods.sort(), own.filter((name) => name !== "send").sort());
  assert.ok(new DispatchError("x") instanceof Error);
});
