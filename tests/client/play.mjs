// How the JavaScript client plays cases: a line of JSON in, a line of JSON out.

import { createInterface } from "node:readline";
import { Client, DispatchError } from "../../dispatch/console/client.js";

const BACKOFF_MS = Array(8).fill(0);

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await play(JSON.parse(line))));
}

async function play({ url, direct, executionId, case: asked }) {
  const { flow, inputs, tools = {}, approvals = {}, after, through, cancelAt } = asked;
  const client = new Client(url, { backoffMs: BACKOFF_MS });
  const seen = { events: [], runs: {}, asked: {} };

  const onEvent = async (event) => {
    seen.events.push(event);
    executionId = event.executionId;
    if (event.seq === cancelAt) await client.cancel(executionId);
  };

  const run = async (name, { gives, raises, echoes, beaten }, parameters) => {
    seen.runs[name] = (seen.runs[name] ?? 0) + 1;
    if (beaten != null) {
      const body = JSON.stringify({ executionId, toolOutputs: { [name]: beaten } });
      const answer = await fetch(`${direct}/v1/dispatch/resume`, { method: "POST", body });
      await answer.text();
    }
    if (raises != null) throw new Error(raises);
    // What gives nothing gives undefined here.
    return echoes != null ? parameters[echoes] : (gives ?? undefined);
  };

  const onApproval = ({ toolName }) => {
    seen.asked[toolName] = (seen.asked[toolName] ?? 0) + 1;
    return approvals[toolName];
  };

  try {
    if (asked.ask === "run") {
      const entries = Object.entries(tools);
      const { executionId: _, seq, ...outcome } = await client.runWithTools(flow, inputs, {
        tools: Object.fromEntries(entries.map(([name, tool]) => [name, run.bind(null, name, tool)])),
        onApproval: Object.keys(approvals).length > 0 ? onApproval : undefined,
        onEvent,
      });
      return { ...seen, ...outcome, open: outcome.open.map((call) => call.toolName) };
    }
    const tail =
      asked.ask === "dispatch"
        ? client.dispatch(flow, inputs)
        : client.events(executionId, { after, through });
    for await (const event of tail) await onEvent(event);
    return { ...seen, end: tail.end };
  } catch (error) {
    if (!(error instanceof DispatchError)) throw error;
    return { ...seen, raises: error.code };
  }
}
