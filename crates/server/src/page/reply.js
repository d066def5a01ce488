// One answer, from the request to its last word, written into a message as it comes.

import { stream, Refused } from "./api.js";
import { forRequest } from "./conversation.js";

/**
 * Asks for an answer and fills `message` with it. Never throws: how it ended stands in `message.state`, and what went
 * wrong in `message.problem`.
 *
 * @param {object[]} before the messages that it answers
 * @param {object} message the assistant's; what is in it already is continued
 * @param {object} wishes fields of the request: sampling, thinking, tools
 * @param {(progress: object) => void} tell called after each change
 * @param {AbortSignal} signal
 */
export async function reply(before, message, wishes, tell, signal) {
  const continued = message.content !== "";
  const body = {
    model: "",
    messages: [...forRequest(before), ...(continued ? forRequest([{ ...message, calls: [] }]) : [])],
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
    ...wishes,
    // A text that was begun goes on as text.
    ...(continued ? { continue_final_message: true, thinking: { type: "disabled" } } : {}),
  };
  Object.assign(message, { state: "writing", problem: null });
  message.reasoning ??= "";
  message.calls ??= [];
  const progress = { phase: "waiting", begun: performance.now(), first: null, pieces: 0, done: 0, total: 0, known: 0 };
  let state = "done";
  try {
    tell(progress);
    for await (const chunk of stream(body, signal)) {
      state = take(chunk, message, progress) ?? state;
      tell(progress);
    }
  } catch (error) {
    if (error.name === "AbortError") state = "stopped";
    else if (error instanceof Refused) {
      state = "failed";
      message.problem = { text: error.message, status: error.status };
    } else {
      state = "lost";
      message.problem = { text: error.message };
    }
    // A call that is half written can be neither carried out nor sent back.
    message.calls = [];
  }
  endThought(message);
  message.state = state;
  tell({ ...progress, phase: "idle" });
}

/** Puts a chunk where it belongs. Returns the message's state if this chunk says it. */
function take(chunk, message, progress) {
  if (chunk.timings) message.timings = chunk.timings;
  if (chunk.usage) message.usage = chunk.usage;
  if (chunk.prompt_progress) {
    const { processed, total, cache } = chunk.prompt_progress;
    Object.assign(progress, { phase: "reading", done: processed, total, known: cache });
  }
  const choice = chunk.choices[0];
  if (!choice) return null;
  const { reasoning_content: reasoning, content, tool_calls: calls } = choice.delta;
  if (reasoning || content || calls) {
    progress.phase = "writing";
    progress.first ??= performance.now();
    progress.pieces += 1;
  }
  if (reasoning) {
    message.thinkingSince ??= Date.now();
    message.reasoning += reasoning;
  }
  if (content) {
    endThought(message);
    message.content += content;
  }
  for (const delta of calls ?? []) {
    endThought(message);
    if (delta.id) message.calls[delta.index] = { id: delta.id, name: delta.function.name, arguments: "" };
    message.calls[delta.index].arguments += delta.function.arguments ?? "";
  }
  return choice.finish_reason === "length" ? "length" : null;
}

function endThought(message) {
  if (!message.thinkingSince) return;
  message.thought = (message.thought ?? 0) + Date.now() - message.thinkingSince;
  delete message.thinkingSince;
}
