// The panel beside the conversation: what the server is doing, and what the last answer cost.

import { read } from "./api.js";
import { byId } from "./dom.js";

/** Why not more of a prompt was known, in the words of `timings.cache_miss`. */
const MISSES = {
  new: "nothing read before begins like it",
  beyond: "all that was read before is known",
  differs: "it goes on differently from what was read before",
  no_checkpoint: "no state was kept where it departs",
  evicted: "what was read was forgotten to make room",
  too_short: "it is too short to be kept",
  incompatible: "the same text was read in other tokens",
};

let context = 0;

const set = (name, text) => (byId(`live-${name}`).textContent = text);
const count = (number) => number.toLocaleString("en");
const rate = (number) => `${number < 100 ? number.toFixed(1) : count(Math.round(number))} tokens/s`;
const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** How many tokens a conversation may have. */
export function showContext(limit) {
  context = limit;
}

/** An answer on its way. */
export function showProgress(progress) {
  if (progress.phase === "waiting") set("state", "waiting");
  if (progress.phase === "reading") {
    const { done, total } = progress;
    set("state", `reading, ${count(done)} of ${count(total)}`);
    set("cache", `${count(progress.known)} of ${count(total)} tokens`);
  }
  if (progress.phase === "writing") {
    set("state", "writing");
    const now = performance.now();
    set("first", seconds(progress.first - progress.begun));
    // About a token comes with each piece; the server's own count follows at the end.
    if (progress.pieces > 4) set("decode", rate(((progress.pieces - 1) * 1000) / (now - progress.first)));
  }
  if (progress.phase === "idle") set("state", "idle");
}

/** What an answer cost; nothing, if none is shown. */
export function showCost(message) {
  const { usage, timings } = message ?? {};
  const bar = byId("live-context-bar");
  if (!usage || !timings) {
    for (const name of ["decode", "prefill", "first", "context", "cache", "miss"]) set(name, "–");
    bar.value = 0;
    return;
  }
  set("decode", timings.predicted_per_second ? rate(timings.predicted_per_second) : "–");
  set("prefill", timings.prompt_per_second ? rate(timings.prompt_per_second) : "–");
  set("first", seconds(timings.ttft_ms));
  set("context", context ? `${count(usage.total_tokens)} of ${count(context)}` : count(usage.total_tokens));
  bar.value = context ? usage.total_tokens / context : 0;
  set("cache", `${count(usage.prompt_cache_hit_tokens)} of ${count(usage.prompt_tokens)} tokens`);
  set("miss", MISSES[timings.cache_miss] ?? "–");
}

/** One line under an answer. */
export function costLine({ usage, timings }) {
  if (!usage || !timings) return "";
  const parts = [`${count(usage.completion_tokens)} tokens`];
  if (timings.predicted_per_second) parts.push(rate(timings.predicted_per_second));
  parts.push(`first after ${seconds(timings.ttft_ms)}`);
  if (usage.prompt_cache_hit_tokens) parts.push(`${count(usage.prompt_cache_hit_tokens)} of ${count(usage.prompt_tokens)} read before`);
  return parts.join(" · ");
}

/** Looks at the server's queue every two seconds, while somebody can see it. */
export function watch() {
  const look = async () => {
    if (document.hidden || byId("live").hidden) return;
    try {
      const props = await read("/props");
      set("sessions", `${count(props.active_slots)} of ${count(props.total_slots)} at work`);
      set("queue", `${count(props.queued)} of at most ${count(props.queue_limit)}`);
    } catch {
      set("sessions", "the server does not answer");
      set("queue", "–");
    }
  };
  look();
  setInterval(look, 2000);
}
