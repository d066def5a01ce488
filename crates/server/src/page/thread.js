// The conversation as it is shown: an article for each message of the path.

import { choose, path, siblings } from "./conversation.js";
import { byId, button, copyButton, h } from "./dom.js";
import { costLine } from "./live.js";
import * as markdown from "./markdown.js";

const WHO = { user: "You", assistant: "Model", tool: "Tool" };
const ENDS = {
  length: "The reply reached its longest length.",
  stopped: "Stopped.",
  lost: "The reply broke off.",
};

const views = new Map();

/**
 * Shows a conversation.
 *
 * @param {object} actions what buttons do: edit, again, goOn, answer, changed
 */
export function show(conversation, actions) {
  const messages = path(conversation);
  const shown = new Set(messages.map((message) => message.id));
  for (const [id, view] of views) {
    if (shown.has(id)) continue;
    view.article.remove();
    views.delete(id);
  }
  const thread = byId("thread");
  messages.forEach((message, at) => {
    const view = views.get(message.id) ?? views.set(message.id, makeView(message)).get(message.id);
    if (thread.children[at] !== view.article) thread.insertBefore(view.article, thread.children[at] ?? null);
    update(conversation, message, actions);
  });
}

/** Forgets what is shown, for another conversation. */
export function clear() {
  views.clear();
  byId("thread").replaceChildren();
}

function makeView(message) {
  const view = {
    thought: h("div", { class: "thought-text" }),
    summary: h("summary"),
    body: h("div", { class: "text" }),
    calls: h("div", { class: "calls" }),
    foot: h("div", { class: "foot" }),
  };
  view.details = h("details", { class: "thought", hidden: true }, view.summary, view.thought);
  view.article = h("article", { class: message.role, data: { id: message.id }, aria: { label: `${WHO[message.role]} said` } },
    h("h2", { class: "who" }, WHO[message.role]), view.details, view.body, view.calls, view.foot);
  return view;
}

/** Brings what is shown of a message up to date. */
export function update(conversation, message, actions) {
  const view = views.get(message.id);
  if (!view) return;
  const { state } = message;
  view.article.setAttribute("aria-busy", String(state === "writing"));
  if (message.role === "assistant") {
    showThought(view, message);
    markdown.show(view.body, message.content);
    view.calls.replaceChildren(...(message.calls ?? []).filter(Boolean).map((call) => callCard(conversation, message, call, actions)));
  } else if (message.role === "user") view.body.textContent = message.content;
  else view.body.replaceChildren(h("pre", { tabIndex: 0 }, message.content));
  const isWaiting = state === "writing" && !message.content && !message.reasoning && !message.calls?.length;
  view.article.classList.toggle("waiting", isWaiting);
  if (state === "writing") view.foot.replaceChildren();
  else view.foot.replaceChildren(...foot(conversation, message, actions));
}

function showThought(view, message) {
  view.details.hidden = !message.reasoning;
  if (!message.reasoning) return;
  const isThinking = message.state === "writing" && message.thinkingSince;
  const time = message.thought === undefined ? "" : ` for ${(message.thought / 1000).toFixed(1)} s`;
  view.summary.textContent = isThinking ? "Thinking…" : `Thought${time}`;
  markdown.show(view.thought, message.reasoning);
}

function callCard(conversation, message, call, actions) {
  const isWritten = message.state !== "writing";
  const result = isWritten && path(conversation).find((other) => other.role === "tool" && other.call === call.id);
  const card = h("section", { class: "call", aria: { label: `Call of ${call.name}` } },
    h("h3", {}, "Calls ", h("code", {}, call.name)),
    h("pre", { tabIndex: 0 }, isWritten ? pretty(call.arguments) : call.arguments));
  if (isWritten && !result && message.state === "done") {
    const text = h("textarea", { rows: 2, ariaLabel: `What ${call.name} returns`, placeholder: "What it returns" });
    const send = (event) => {
      event.preventDefault();
      actions.answer(call, text.value);
    };
    card.append(h("form", { onsubmit: send }, text, h("button", { class: "primary", type: "submit" }, "Return it")));
  }
  return card;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function foot(conversation, message, actions) {
  const { role, state } = message;
  const parts = [];
  if (message.problem) parts.push(h("p", { class: "problem", role: "alert" }, message.problem.text));
  else if (ENDS[state]) parts.push(h("p", { class: "ended" }, ENDS[state]));
  const buttons = h("div", { class: "actions" });
  const beside = siblings(conversation, message);
  if (beside.length > 1) {
    const at = beside.indexOf(message);
    const go = (to) => () => {
      choose(conversation, beside[to]);
      actions.changed();
    };
    buttons.append(
      button("‹", go(at - 1), { class: "quiet", disabled: at === 0, ariaLabel: "The version before" }),
      h("span", { class: "muted" }, `${at + 1} / ${beside.length}`),
      button("›", go(at + 1), { class: "quiet", disabled: at === beside.length - 1, ariaLabel: "The next version" }),
    );
  }
  const quiet = { class: "quiet" };
  if (role !== "tool" && message.content) buttons.append(copyButton(() => message.content));
  if (role === "user") buttons.append(button("Edit", () => edit(message, actions), quiet));
  if (role === "assistant") {
    const failed = state === "failed" || state === "lost";
    buttons.append(button(failed ? "Try again" : "Regenerate", () => actions.again(message), failed ? {} : quiet));
    const canGoOn = message.content && !message.calls?.length && ["length", "stopped", "lost"].includes(state);
    if (canGoOn) buttons.append(button("Continue", () => actions.goOn(message), quiet));
    buttons.append(h("span", { class: "cost muted" }, costLine(message)));
  }
  if (buttons.children.length) parts.push(buttons);
  return parts;
}

/** Turns a message into a box to change it in. */
function edit(message, actions) {
  const view = views.get(message.id);
  const text = h("textarea", { value: message.content, rows: Math.min(12, message.content.split("\n").length + 1), ariaLabel: "Message" });
  const leave = () => actions.changed();
  const send = (event) => {
    event.preventDefault();
    if (text.value.trim()) actions.edit(message, text.value);
  };
  const form = h("form", { class: "edit", onsubmit: send }, text,
    h("div", { class: "buttons" }, button("Cancel", leave), h("button", { type: "submit", class: "primary" }, "Send")));
  text.onkeydown = (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      leave();
    }
  };
  view.body.replaceChildren(form);
  view.foot.replaceChildren();
  text.focus();
}
