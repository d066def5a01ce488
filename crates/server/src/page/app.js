// The page put together: which conversation is open, what the buttons do, who is told of what.
//
// `conversation.js` is the data, `store.js` keeps it, `reply.js` fetches an answer, `thread.js` shows messages
// (`markdown.js` their text), `settings.js` and `live.js` are the panels.

import { key, read, Refused } from "./api.js";
import { add, fromFile, newConversation, openCalls, path, toFile } from "./conversation.js";
import { announce, byId, button, download, h } from "./dom.js";
import * as live from "./live.js";
import { reply } from "./reply.js";
import * as settings from "./settings.js";
import * as store from "./store.js";
import * as thread from "./thread.js";

const EXAMPLES = ["What is 12 + 30?", "Hello! Who are you?", "Count from one to five."];
/** How often an unfinished answer is kept, in ms. */
const KEEP_EVERY = 700;
/** Largest text that is attached, in bytes. */
const LARGEST = 1 << 20;

let current = newConversation();
/** Conversations with an answer on its way, and how to stop it. */
const running = new Map();

const composer = byId("composer-text");
const scroller = byId("scroller");

// ---- what is shown ----

function show() {
  const messages = path(current);
  byId("title").textContent = current.title || "New chat";
  document.title = current.title ? `${current.title} · ds4` : "ds4";
  byId("welcome").hidden = messages.length > 0;
  thread.show(current, actions);
  const isRunning = running.has(current.id);
  byId("stop").hidden = !isRunning;
  byId("send").hidden = isRunning;
  live.showCost(messages.findLast((message) => message.usage));
  if (!isRunning) live.showProgress({ phase: "idle" });
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

async function listConversations() {
  const wanted = byId("search").value.toLowerCase();
  const all = await store.all();
  const found = all.filter((one) => !wanted ||
    `${one.title}\n${Object.values(one.messages).map((message) => message.content).join("\n")}`.toLowerCase().includes(wanted));
  byId("conversations").replaceChildren(...found.map(listItem));
}

function listItem(conversation) {
  const isOpen = conversation.id === current.id;
  const name = conversation.title || "New chat";
  const choose = button(name, () => open(conversation.id), { class: "name", title: name });
  if (isOpen) choose.setAttribute("aria-current", "true");
  const rename = async () => {
    const title = prompt("Name of the conversation", name);
    if (!title) return;
    const fresh = isOpen ? current : await store.get(conversation.id);
    fresh.title = title;
    await keep(fresh);
    if (isOpen) show();
  };
  const remove = async () => {
    if (!confirm(`Delete “${name}”?`)) return;
    running.get(conversation.id)?.abort();
    await store.remove(conversation.id);
    if (isOpen) await open(null);
    else await listConversations();
  };
  return h("li", {}, choose,
    button("✎", rename, { class: "quiet", ariaLabel: `Rename ${name}` }),
    button("✕", remove, { class: "quiet", ariaLabel: `Delete ${name}` }));
}

/** Keeps a conversation, and says so if it cannot. */
async function keep(conversation) {
  try {
    await store.put(conversation);
  } catch {
    notice("This browser has no room left: the conversation is not being kept. Export it, or delete old ones.");
  }
  await listConversations();
}

/** Opens a conversation, or a new one. */
async function open(id) {
  const isBusy = id !== null && running.has(id);
  const found = isBusy ? running.get(id).conversation : id && (await store.get(id));
  current = found || newConversation();
  // What was on its way when the page was left will not come any more.
  if (!isBusy) {
    for (const message of Object.values(current.messages)) {
      if (message.state !== "writing") continue;
      Object.assign(message, { state: "lost", problem: { text: "The page was closed before the reply was complete." }, calls: [] });
    }
  }
  if (found) sessionStorage.setItem("ds4-open", current.id);
  else sessionStorage.removeItem("ds4-open");
  thread.clear();
  notice("");
  show();
  scroller.scrollTop = scroller.scrollHeight;
  closeDrawer();
  await listConversations();
}

// ---- scrolling: follow the text, unless the reader went up ----

let follows = true;

scroller.onscroll = () => {
  follows = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
  byId("to-end").hidden = follows;
};

function follow() {
  if (follows) scroller.scrollTop = scroller.scrollHeight;
}

byId("to-end").onclick = () => {
  follows = true;
  follow();
};

// ---- answers ----

async function answer(conversation, message) {
  const { fields, system } = settings.wishes();
  const controller = new AbortController();
  controller.conversation = conversation;
  running.set(conversation.id, controller);
  const before = path(conversation).slice(0, path(conversation).indexOf(message));
  follows = true;
  notice("");
  show();
  announce("The model is answering.");

  let progress = null;
  let isDrawing = false;
  let lastKept = performance.now();
  const draw = () => {
    isDrawing = false;
    if (current !== conversation) return;
    thread.update(conversation, message, actions);
    live.showProgress(progress);
    follow();
  };
  const tell = (now) => {
    progress = now;
    // As often as the screen is drawn, not as often as a token comes. A page in the background is not drawn.
    if (!isDrawing) {
      isDrawing = true;
      if (document.hidden) setTimeout(draw, 250);
      else requestAnimationFrame(draw);
    }
    if (performance.now() - lastKept > KEEP_EVERY) {
      lastKept = performance.now();
      store.put(conversation).catch(() => {});
    }
  };
  await reply([...system, ...before], message, fields, tell, controller.signal);
  running.delete(conversation.id);
  // Unless it was deleted meanwhile.
  if (await store.get(conversation.id)) await keep(conversation);
  if (current === conversation) {
    show();
    follow();
  }
  announce(message.problem ? message.problem.text : `The model answered: ${message.content.slice(0, 300)}`);
  if (message.problem?.status === 401) askForKey(() => actions.again(message));
}

/** Begins an answer below the end of the path. */
async function ask(conversation) {
  const message = add(conversation, { role: "assistant", state: "writing" });
  await keep(conversation);
  sessionStorage.setItem("ds4-open", conversation.id);
  await answer(conversation, message);
}

const actions = {
  changed: () => {
    store.put(current).catch(() => {});
    show();
  },
  edit: (message, content) => {
    if (running.has(current.id)) return;
    add(current, { role: "user", content }, message.parent);
    ask(current);
  },
  again: (message) => {
    if (running.has(current.id)) return;
    current.leaf = message.parent;
    ask(current);
  },
  goOn: (message) => {
    if (!running.has(current.id)) answer(current, message);
  },
  answer: (call, content) => {
    add(current, { role: "tool", call: call.id, content });
    if (openCalls(current).length) actions.changed();
    else ask(current);
  },
};

function send() {
  const content = composer.value;
  if (!content.trim() || running.has(current.id)) return;
  if (openCalls(current).length) {
    notice("The model waits for what its calls return.");
    return;
  }
  composer.value = "";
  fit();
  add(current, { role: "user", content });
  ask(current);
}

function stop() {
  running.get(current.id)?.abort();
}

// ---- the composer ----

function fit() {
  composer.style.height = "auto";
  composer.style.height = `${Math.min(composer.scrollHeight, innerHeight * 0.4)}px`;
}

composer.oninput = fit;
composer.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
};
byId("composer").onsubmit = (event) => {
  event.preventDefault();
  send();
};
byId("stop").onclick = stop;
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    stop();
    closeDrawer();
  }
});

async function attach(files) {
  for (const file of files) {
    if (file.size > LARGEST) {
      notice(`${file.name} is larger than a megabyte.`);
      continue;
    }
    const text = await file.text();
    if (text.includes("\0")) {
      notice(`${file.name} is no text.`);
      continue;
    }
    const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([run]) => run.length + 1)));
    composer.value += `${composer.value && "\n\n"}${file.name}:\n${fence}\n${text.trimEnd()}\n${fence}\n`;
  }
  fit();
  composer.focus();
}

byId("attach").onclick = () => byId("attach-file").click();
byId("attach-file").onchange = (event) => attach(event.target.files).then(() => (event.target.value = ""));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  attach(event.dataTransfer.files);
});

// ---- beside the conversation ----

byId("new-chat").onclick = () => open(null).then(() => composer.focus());
byId("search").oninput = listConversations;
byId("export").onclick = async () => download("ds4-conversations.json", "application/json", toFile(await store.all()));
byId("import").onclick = () => byId("import-file").click();
byId("import-file").onchange = async (event) => {
  try {
    for (const conversation of fromFile(await event.target.files[0].text())) await store.put(conversation);
    notice("");
  } catch (error) {
    notice(error.message);
  }
  event.target.value = "";
  await listConversations();
};

const narrow = matchMedia("(max-width: 60rem)");

function setPanel(id, toggle, isOpen) {
  byId(id).hidden = !isOpen;
  byId(toggle).setAttribute("aria-expanded", String(isOpen));
}

function closeDrawer() {
  if (narrow.matches) setPanel("sidebar", "toggle-sidebar", false);
}

function arrange() {
  setPanel("sidebar", "toggle-sidebar", !narrow.matches);
  setPanel("live", "toggle-live", !narrow.matches);
}

byId("toggle-sidebar").onclick = () => {
  setPanel("sidebar", "toggle-sidebar", byId("sidebar").hidden);
  if (!byId("sidebar").hidden) byId("new-chat").focus();
};
byId("toggle-live").onclick = () => setPanel("live", "toggle-live", byId("live").hidden);
narrow.onchange = arrange;

const THEMES = ["automatic", "light", "dark"];
function setTheme(name) {
  if (name === "automatic") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  localStorage.setItem("ds4-theme", name);
  byId("toggle-theme").setAttribute("aria-label", `Theme: ${name}`);
  byId("toggle-theme").title = `Theme: ${name}`;
}
byId("toggle-theme").onclick = () => {
  const now = document.documentElement.dataset.theme ?? "automatic";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
};

// ---- the key, and what the server says of itself ----

function askForKey(then) {
  const dialog = byId("key");
  const field = dialog.querySelector("input");
  field.value = "";
  dialog.onclose = () => {
    if (dialog.returnValue !== "save" || !field.value) return;
    key.set(field.value.trim());
    then();
  };
  if (!dialog.open) dialog.showModal();
}

async function greet() {
  try {
    const props = await read("/props");
    byId("model").textContent = props.model_name || props.model_id;
    live.showContext(props.n_ctx);
    settings.showDefaults(props.default_generation_settings);
    notice("");
    show();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) askForKey(greet);
    else {
      notice(error.message);
      setTimeout(greet, 3000);
    }
  }
}

async function begin() {
  byId("openai-url").textContent = `${location.origin}/v1`;
  byId("anthropic-url").textContent = location.origin;
  byId("examples").append(...EXAMPLES.map((text) => h("li", {}, button(text, () => {
    composer.value = text;
    send();
  }))));
  setTheme(localStorage.getItem("ds4-theme") ?? "automatic");
  arrange();
  settings.begin();
  const isKept = await store.open();
  store.onOthers(listConversations);
  await open(sessionStorage.getItem("ds4-open"));
  await greet();
  if (!isKept) notice("This browser keeps nothing for this page: conversations are lost with this tab.");
  live.watch();
  composer.focus();
}

begin();
