// How to ask: sampling, thinking, the system prompt, tools. Kept in this browser, for all conversations; an empty field
// leaves the choice to the server.

import { byId } from "./dom.js";

const PLACE = "ds4-settings";
const NUMBERS = ["temperature", "top_p", "min_p", "seed", "max_tokens", "thinking_budget"];
const TEXTS = ["system", "stop", "tools"];

let current = {};
try {
  current = JSON.parse(localStorage.getItem(PLACE)) ?? {};
} catch {
  // Damaged settings are no settings.
}

function keep() {
  localStorage.setItem(PLACE, JSON.stringify(current));
}

/** The settings as fields of a request, and the messages that come before the conversation. */
export function wishes() {
  const fields = {};
  for (const name of NUMBERS) if (current[name] !== undefined) fields[name] = current[name];
  const stop = (current.stop ?? "").split("\n").filter(Boolean);
  if (stop.length) fields.stop = stop;
  if (current.tools) fields.tools = JSON.parse(current.tools);
  if (current.thinking === "off") fields.thinking = { type: "disabled" };
  if (current.thinking === "on" || current.thinking === "max") fields.thinking = { type: "enabled" };
  if (current.thinking === "max") fields.reasoning_effort = "max";
  return { fields, system: current.system ? [{ role: "system", content: current.system }] : [] };
}

/** Puts the controls to work. */
export function begin() {
  const dialog = byId("settings");
  const form = dialog.querySelector("form");
  const error = byId("settings-error");

  const thinking = byId("thinking");
  thinking.value = current.thinking ?? "";
  thinking.onchange = () => {
    current.thinking = thinking.value;
    keep();
  };

  const fill = (values) => {
    for (const name of [...NUMBERS, ...TEXTS]) form.elements[name].value = values[name] ?? "";
  };
  byId("open-settings").onclick = () => {
    error.textContent = "";
    fill(current);
    dialog.showModal();
  };
  byId("settings-reset").onclick = () => fill({});
  byId("settings-save").onclick = (event) => {
    if (!form.reportValidity()) return event.preventDefault();
    const values = { thinking: current.thinking };
    for (const name of NUMBERS) if (form.elements[name].value !== "") values[name] = form.elements[name].valueAsNumber;
    for (const name of TEXTS) if (form.elements[name].value.trim()) values[name] = form.elements[name].value;
    const problem = values.tools && problemOfTools(values.tools);
    if (problem) {
      error.textContent = problem;
      form.elements.tools.focus();
      return event.preventDefault();
    }
    current = values;
    keep();
  };
}

/** Shows what the server does where a field is empty. */
export function showDefaults(defaults) {
  const form = byId("settings").querySelector("form");
  for (const name of ["temperature", "top_p", "min_p"]) form.elements[name].placeholder = defaults[name] ?? "";
  byId("thinking").options[0].textContent = defaults.thinking ? "Thinking: usual (on)" : "Thinking: usual (off)";
}

function problemOfTools(text) {
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    return `The tools are no JSON: ${error.message}`;
  }
  if (!Array.isArray(tools)) return "The tools must be a list: [ … ].";
  const nameless = tools.findIndex((tool) => !(tool?.function?.name ?? tool?.name));
  return nameless < 0 ? null : `Tool ${nameless + 1} has no name.`;
}
