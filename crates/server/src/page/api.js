// Talking to the server: its own address, JSON, server-sent events, a key if it asks for one.

const KEY = "ds4-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** A refusal, in the server's own words. */
export class Refused extends Error {
  constructor(status, message, type) {
    super(message);
    this.status = status;
    this.type = type;
  }
}

/** Nobody answered, or the answer broke off. */
export class Unreachable extends Error {}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  let problem;
  try {
    problem = (await response.json()).error;
  } catch {
    problem = null;
  }
  throw new Refused(response.status, problem?.message ?? `The server answered ${response.status}.`, problem?.type);
}

/** What a route says. */
export async function read(path) {
  return (await send(path)).json();
}

/**
 * Streams a chat completion, chunk by chunk.
 *
 * @throws {Refused} if the server refuses, also amid the stream
 * @throws {Unreachable} if the stream ends before its end
 */
export async function* stream(body, signal) {
  const response = await send("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Unreachable("The connection was lost before the reply was complete.");
    }
    if (part.done) throw new Unreachable("The server ended the connection before the reply was complete.");
    rest += part.value;
    const frames = rest.split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue; // a comment: the server is alive
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(chunk.error.status ?? 500, chunk.error.message, chunk.error.type);
      yield chunk;
    }
  }
}
