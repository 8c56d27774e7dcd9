// Never run: `tsc` finds that what is right is right, and what is wrong is wrong.

import { Client, DispatchError } from "../../dispatch/console/client.js";
import type { Event, Outcome, Tail, TextDelta } from "../../dispatch/console/client.js";

const client = new Client("http://127.0.0.1:8000", { headers: { authorization: "x" } });

async function legs(signal: AbortSignal): Promise<string> {
  const tail: Tail = client.dispatch("weather", { city: "Oslo" }, { version: 1, signal });
  let text = "";
  for await (const event of tail) {
    if (event.type === "text_delta") text += event.delta;
    if (event.type === "approval_start") {
      client.approve(event.executionId, event.approvalId, { isApproved: false, after: event.seq });
    }
    // @ts-expect-error - there is no such type
    if (event.type === "text_data") text += "";
    // @ts-expect-error - not every event has one
    text += event.delta;
  }
  // @ts-expect-error - it ends in one of two ways
  if (tail.end === "over") return text;
  // @ts-expect-error - the tail counts, nobody else
  tail.seq = 0;
  const more = client.resume(tail.executionId ?? "", { get_weather: "rain" }, { after: tail.seq });
  for await (const event of more) text += spelled(event);
  for await (const event of client.events("exec_", { after: 3, through: false })) spelled(event);
  // @ts-expect-error - not an object
  client.resume("exec_", "rain");
  return text;
}

function spelled(event: Event): string {
  const deltas: TextDelta[] = event.type === "text_delta" ? [event] : [];
  return deltas.map(({ delta }) => delta).join("");
}

async function run(): Promise<Outcome> {
  // @ts-expect-error - what decides is asked for a decision
  await client.runWithTools("approval", {}, { onApproval: () => "yes" });
  await client.carry(client.events("exec_"), { tools: { a: async ({ x }) => x } });
  const outcome = await client.runWithTools("weather", { city: "Oslo" }, {
    tools: { get_weather: ({ city }: { city: string }) => `fine in ${city}` },
    onApproval: async ({ toolName }) => ({ isApproved: toolName !== "erase", reason: "why not" }),
    onEvent: ({ seq, type }) => console.log(seq, type),
    idempotencyKey: "order-4711",
  });
  // @ts-expect-error - there is no such status
  if (outcome.status === "done") return outcome;
  for (const call of outcome.open) console.log(call.toolName, call.parameters);
  return outcome;
}

async function documents(): Promise<void> {
  try {
    await client.cancel("exec_", "enough");
    await client.executions({ status: "suspended", limit: 5 });
    // @ts-expect-error - it can't be listed by that
    await client.executions({ name: "x" });
    console.log(await client.status("exec_"), await client.flows());
  } catch (error) {
    if (!(error instanceof DispatchError)) throw error;
    const told: [string, number | null, string | undefined] = [
      error.code,
      error.status,
      error.details[0]?.path,
    ];
    console.log(told);
  }
}

export { documents, legs, run };
