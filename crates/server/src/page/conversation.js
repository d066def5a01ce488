// A conversation is a tree of messages: an edited question or another try at an answer is a sibling, and nothing is
// lost. What is shown and sent is the path from the root to the `leaf`.
//
// A message: { id, parent, role: user | assistant | tool, content, created } and, of an assistant,
// { reasoning, thought (ms), calls: [{ id, name, arguments }], state, problem, usage, timings }; of a tool, { call }.
// `state` says how an answer ended: writing, done, length, stopped, lost, failed.

const fresh = () => crypto.randomUUID?.() ?? `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;

export function newConversation() {
  const now = Date.now();
  return { id: fresh(), title: "", created: now, updated: now, leaf: null, messages: {} };
}

/** Appends a message below the leaf, or below another parent. */
export function add(conversation, message, parent = conversation.leaf) {
  const whole = { id: fresh(), parent, content: "", created: Date.now(), ...message };
  conversation.messages[whole.id] = whole;
  conversation.leaf = whole.id;
  conversation.updated = whole.created;
  if (!conversation.title && whole.role === "user") conversation.title = titleOf(whole.content);
  return whole;
}

function titleOf(text) {
  const line = text.trim().split("\n")[0];
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

/** The messages from the root to the leaf. */
export function path(conversation) {
  const found = [];
  for (let at = conversation.messages[conversation.leaf]; at; at = conversation.messages[at.parent]) found.push(at);
  return found.reverse();
}

/** The messages in the place of this one, oldest first, itself among them. */
export function siblings(conversation, message) {
  const all = Object.values(conversation.messages);
  const beside = all.filter((other) => other.parent === message.parent && other.role === message.role);
  return beside.sort((a, b) => a.created - b.created);
}

/** Shows the branch of this message, as far as it went. */
export function choose(conversation, message) {
  let at = message;
  for (;;) {
    const below = Object.values(conversation.messages).filter((other) => other.parent === at.id);
    if (below.length === 0) break;
    at = below.reduce((a, b) => (b.created >= a.created ? b : a));
  }
  conversation.leaf = at.id;
}

/** The calls at the end of the path that nobody has answered yet. */
export function openCalls(conversation) {
  const messages = path(conversation);
  const answered = new Set();
  while (messages.at(-1)?.role === "tool") answered.add(messages.pop().call);
  const last = messages.at(-1);
  if (last?.role !== "assistant" || !["done", "stopped"].includes(last.state)) return [];
  return (last.calls ?? []).filter((call) => !answered.has(call.id));
}

/** The path as the API wants it. */
export function forRequest(messages) {
  return messages
    .filter((message) => message.role !== "assistant" || message.content || message.calls?.length)
    .map((message) => {
      if (message.role === "user" || message.role === "system") return { role: message.role, content: message.content };
      if (message.role === "tool") return { role: "tool", tool_call_id: message.call, content: message.content };
      const said = { role: "assistant", content: message.content };
      if (message.reasoning) said.reasoning_content = message.reasoning;
      if (message.calls?.length) {
        said.tool_calls = message.calls.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } }));
      }
      return said;
    });
}

/**
 * Conversations from a file that somebody exported.
 *
 * @throws {Error} that says what is wrong with it
 */
export function fromFile(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("This file is no JSON.");
  }
  if (file?.format !== "ds4-conversations" || !Array.isArray(file.conversations)) {
    throw new Error("This file has no conversations of ds4 in it.");
  }
  for (const conversation of file.conversations) {
    const { id, messages, leaf } = conversation ?? {};
    const sound = (message) =>
      message && ["user", "assistant", "tool"].includes(message.role) && typeof message.content === "string" &&
      (message.parent === null || Object.hasOwn(messages, message.parent));
    if (typeof id !== "string" || typeof messages !== "object" || !messages || !Object.values(messages).every(sound) ||
      (leaf !== null && !Object.hasOwn(messages, leaf)) || hasLoop(messages)) {
      throw new Error("A conversation in this file is damaged; nothing was imported.");
    }
  }
  return file.conversations;
}

/** Whether some message is below itself. */
function hasLoop(messages) {
  const sound = new Set();
  for (let message of Object.values(messages)) {
    const trail = new Set();
    for (; message && !sound.has(message); message = messages[message.parent]) {
      if (trail.has(message)) return true;
      trail.add(message);
    }
    trail.forEach((seen) => sound.add(seen));
  }
  return false;
}

export const toFile = (conversations) => JSON.stringify({ format: "ds4-conversations", version: 1, conversations }, null, 1);
