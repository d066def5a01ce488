//! Metrics in Prometheus' text format: under our own names, and under those that routers and dashboards of other
//! engines read.

use super::histogram::{BOUNDS, Histogram};
use super::{CALLS, Counters, FINISHED, Outcome, get};
use crate::App;
use crate::ask::Api;
use crate::props::commit;
use engine::Status;
use engine::store::StoreStats;
use std::fmt::{Display, Write as _};
use std::time::UNIX_EPOCH;

/// Everything, as text.
pub(super) fn write(app: &App, open_metrics: bool) -> String {
    let mut page = Page { text: String::with_capacity(16 << 10), open_metrics };
    let counters = &*app.metrics.0;
    let status = app.loaded().map(|speaker| speaker.status()).unwrap_or_default();
    native(&mut page, app, counters, &status);
    vllm(&mut page, app, counters, &status);
    if app.options.llamacpp_metrics {
        llamacpp(&mut page, counters, &status);
    }
    if open_metrics {
        page.text.push_str("# EOF\n");
    }
    page.text
}

struct Page {
    text: String,
    open_metrics: bool,
}

impl Page {
    /// A family's head. The name of a counter has its `_total` here; OpenMetrics wants it without.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let name = if self.open_metrics { name.strip_suffix("_total").unwrap_or(name) } else { name };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.text, "{name} {value}"),
            labels => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, labels: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, labels, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.one(name, "gauge", help, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.one(name, "counter", help, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, labels: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let comma = if labels.is_empty() { "" } else { "," };
        let counts = histogram.cumulative();
        for (bound, count) in BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]).zip(counts) {
            self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), count);
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum());
        self.sample(&format!("{name}_count"), labels, counts[BOUNDS.len()]);
    }
}

fn native(page: &mut Page, app: &App, counters: &Counters, status: &Status) {
    let info = app.loaded().ok().map(|speaker| speaker.info());
    page.family("ds4_requests_total", "counter", "Replies asked for, by API and how they ended.");
    for api in Api::ALL {
        for (outcome, name) in Outcome::ALL {
            let labels = format!("api=\"{}\",status=\"{name}\"", api.name());
            page.sample(
                "ds4_requests_total",
                &labels,
                get(&counters.requests[api as usize][outcome as usize]),
            );
        }
    }
    page.gauge("ds4_requests_running", "Replies being read for or written.", status.active.len());
    page.gauge("ds4_requests_waiting", "Requests in the queue.", status.queued);
    page.gauge("ds4_requests_open", "Replies that a client waits for.", get(&counters.running));
    for (name, help, histogram) in [
        ("ds4_queue_seconds", "Time in the queue.", &counters.queue),
        ("ds4_prefill_seconds", "Time to read a prompt.", &counters.prefill),
        ("ds4_ttft_seconds", "Time from a request to its first text.", &counters.first_token),
        ("ds4_itl_seconds", "Time between two pieces of text.", &counters.between_tokens),
        ("ds4_constraint_compile_seconds", "Time to make a constraint ready.", &counters.constraints),
        ("ds4_e2e_seconds", "Time from a request to the end of the reply.", &counters.whole),
    ] {
        page.histogram(name, help, "", histogram);
    }
    let totals = &status.totals;
    page.family("ds4_prompt_tokens_total", "counter", "Tokens of prompts, by where their state came from.");
    page.sample("ds4_prompt_tokens_total", "source=\"computed\"", totals.computed_tokens);
    let from_memory = totals.cached_tokens - totals.fetched_tokens;
    page.sample("ds4_prompt_tokens_total", "source=\"memory\"", from_memory);
    let store = if status.store.as_ref().is_some_and(|store| store.is_remote) { "remote" } else { "disk" };
    for source in ["disk", "remote"] {
        let tokens = if source == store { totals.fetched_tokens } else { 0 };
        page.sample("ds4_prompt_tokens_total", &format!("source=\"{source}\""), tokens);
    }
    page.family("ds4_generated_tokens_total", "counter", "Tokens written so far, by what they are.");
    for (phase, tokens) in [
        ("reasoning", totals.reasoning_tokens),
        ("text", totals.written_tokens - totals.reasoning_tokens - totals.call_tokens),
        ("tool", totals.call_tokens),
    ] {
        page.sample("ds4_generated_tokens_total", &format!("phase=\"{phase}\""), tokens);
    }
    page.family("ds4_prefix_cache_queries_tokens_total", "counter", "Tokens looked up in the prefix cache.");
    page.sample("ds4_prefix_cache_queries_tokens_total", "tier=\"memory\"", totals.prompt_tokens);
    if status.store.is_some() {
        // The store is asked for what memory does not have.
        let asked = totals.prompt_tokens - from_memory;
        page.sample("ds4_prefix_cache_queries_tokens_total", &format!("tier=\"{store}\""), asked);
    }
    page.family("ds4_prefix_cache_hit_tokens_total", "counter", "Tokens found in the prefix cache.");
    page.sample("ds4_prefix_cache_hit_tokens_total", "tier=\"memory\"", from_memory);
    let tier = format!("tier=\"{store}\"");
    page.sample("ds4_prefix_cache_hit_tokens_total", &tier, totals.fetched_tokens);
    page.family(
        "ds4_prefix_miss_total",
        "counter",
        "Requests that had to read some of their prompt, by the reason.",
    );
    for (reason, count) in totals.misses_by_reason() {
        // The names that dashboards look for, where there is one.
        let reason = match reason {
            "new" => "cold",
            "differs" => "diverged",
            other => other,
        };
        page.sample("ds4_prefix_miss_total", &format!("reason=\"{reason}\""), count);
    }
    page.counter("ds4_prefix_hits_total", "Requests of which the whole prompt was known.", totals.hits);
    page.counter("ds4_steps_total", "Forward passes.", totals.steps);
    let last_step = status.last_step.and_then(|when| when.duration_since(UNIX_EPOCH).ok());
    page.gauge(
        "ds4_engine_last_step_timestamp_seconds",
        "When the last forward pass ended, in seconds of the Unix epoch; 0 if there was none.",
        last_step.map_or(0.0, |since| since.as_secs_f64()),
    );
    page.counter(
        "ds4_whole_logits_total",
        "Forward passes of which all logits came from the device, though the largest ones might have done.",
        totals.whole_logits,
    );
    page.counter("ds4_device_errors_total", "Forward passes that failed.", totals.failed_steps);
    let cache = &status.cache;
    page.gauge("ds4_kv_slots", "Conversations that can be worked on at once.", status.active_limit);
    page.gauge("ds4_kv_tokens_used", "Tokens of the conversations being worked on.", tokens_used(status));
    page.gauge(
        "ds4_kv_tokens_capacity",
        "Tokens for whose cached rows there is room.",
        info.map_or(0, |info| info.kv_tokens),
    );
    page.gauge("ds4_kv_usage_ratio", "Share of the memory for cached rows that is in use.", usage(status));
    page.gauge("ds4_kv_pages", "Pages in the prefix cache.", cache.pages);
    page.counter("ds4_kv_evictions_total", "Pages and tails evicted from the prefix cache.", cache.evicted);
    page.family(
        "ds4_memory_bytes",
        "gauge",
        "Memory: weights (the size of the model's files), cached rows and what they are made of, arrays kept for reuse.",
    );
    for (kind, bytes) in [
        ("weights", info.map_or(0, |info| info.bytes)),
        ("kv", cache.bytes),
        ("kv_pages", cache.page_bytes),
        ("kv_tails", cache.tail_bytes),
        ("kv_active", cache.bytes.saturating_sub(cache.page_bytes + cache.tail_bytes)),
        ("kv_in_use", cache.in_use),
        ("kv_limit", cache.limit),
        ("free", cache.limit.saturating_sub(cache.bytes)),
        ("scratch", status.scratch),
    ] {
        page.sample("ds4_memory_bytes", &format!("kind=\"{kind}\""), bytes);
    }
    if let Some(store) = &status.store {
        disk(page, store);
    }
    page.family("ds4_tool_calls_total", "counter", "Tool calls in replies, by result.");
    for (result, counter) in CALLS.iter().zip(&counters.tool_calls) {
        page.sample("ds4_tool_calls_total", &format!("result=\"{result}\""), get(counter));
    }
    page.gauge(
        "ds4_prefill_tokens_per_second",
        "Tokens of prompts read in a second, lately.",
        status.prefill_rate,
    );
    page.gauge("ds4_decode_tokens_per_second", "Tokens written in a second, lately.", status.decode_rate);
    page.counter("ds4_spec_draft_tokens_total", "Tokens drafted.", totals.drafted_tokens);
    page.counter("ds4_spec_accepted_tokens_total", "Tokens drafted that were right.", totals.accepted_tokens);
    let labels = format!(
        "version=\"{}\",commit=\"{}\",backend=\"{}\",model=\"{}\",quant=\"{}\"",
        env!("CARGO_PKG_VERSION"),
        escape(commit(app)),
        escape(app.backend()),
        escape(&app.options.model_name),
        escape(info.map_or("unknown", |info| &info.quant)),
    );
    page.one("ds4_build_info", "gauge", "What is running.", &labels, 1);
}

/// The page store.
fn disk(page: &mut Page, store: &StoreStats) {
    page.gauge("ds4_disk_kv_bytes", "Bytes of pages and tails in the page store.", store.bytes);
    page.gauge("ds4_disk_kv_limit_bytes", "Bytes that the page store may have.", store.limit);
    page.gauge("ds4_disk_kv_waiting_bytes", "Bytes that wait to be written.", store.waiting);
    page.gauge("ds4_disk_kv_entries", "Pages and tails in the page store.", store.pages + store.tails);
    page.counter("ds4_disk_kv_written_bytes_total", "Bytes written.", store.written_bytes);
    page.counter("ds4_disk_kv_read_bytes_total", "Bytes read.", store.loaded_bytes);
    page.counter("ds4_disk_kv_dropped_total", "Things not written since too much waited.", store.dropped);
    page.counter("ds4_disk_kv_failed_writes_total", "Writes that failed.", store.failed);
    page.family("ds4_disk_kv_evictions_total", "counter", "Things removed from the page store, by reason.");
    for (reason, count) in [("limit", store.evicted), ("damaged", store.damaged), ("foreign", store.foreign)]
    {
        page.sample("ds4_disk_kv_evictions_total", &format!("reason=\"{reason}\""), count);
    }
}

/// vLLM's names, which schedulers and the Gateway API's endpoint picker key on.
fn vllm(page: &mut Page, app: &App, counters: &Counters, status: &Status) {
    let labels = format!("model_name=\"{}\",engine=\"0\"", escape(&app.options.model_name));
    let totals = &status.totals;
    let mut one = |name: &str, kind: &str, help: &str, value: f64| page.one(name, kind, help, &labels, value);
    one("vllm:num_requests_running", "gauge", "Requests being worked on.", status.active.len() as f64);
    one("vllm:num_requests_waiting", "gauge", "Requests in the queue.", status.queued as f64);
    one("vllm:kv_cache_usage_perc", "gauge", "Share of the cache in use, 0 to 1.", usage(status));
    one("vllm:prefix_cache_queries_total", "counter", "Tokens looked up.", totals.prompt_tokens as f64);
    one("vllm:prefix_cache_hits_total", "counter", "Tokens found.", totals.cached_tokens as f64);
    one("vllm:prompt_tokens_total", "counter", "Tokens of prompts.", totals.prompt_tokens as f64);
    one("vllm:generation_tokens_total", "counter", "Tokens written.", totals.written_tokens as f64);
    let (drafted, accepted) = (totals.drafted_tokens as f64, totals.accepted_tokens as f64);
    one("vllm:spec_decode_num_draft_tokens_total", "counter", "Tokens drafted.", drafted);
    one("vllm:spec_decode_num_accepted_tokens_total", "counter", "Tokens drafted that were right.", accepted);
    // Prefixes are found at any token; a page is what is kept.
    let blocks = app.loaded().map_or(0, |speaker| speaker.info().kv_tokens / engine::PAGE);
    let config = format!("{labels},block_size=\"{}\",num_gpu_blocks=\"{blocks}\"", engine::PAGE);
    page.one("vllm:cache_config_info", "gauge", "How the cache is laid out.", &config, 1);
    page.family("vllm:request_success_total", "counter", "Replies, by why they ended.");
    for (reason, counter) in FINISHED.iter().zip(&counters.finished) {
        page.sample(
            "vllm:request_success_total",
            &format!("{labels},finished_reason=\"{reason}\""),
            get(counter),
        );
    }
    for (name, help, histogram) in [
        ("vllm:time_to_first_token_seconds", "Time to the first text.", &counters.first_token),
        ("vllm:inter_token_latency_seconds", "Time between two pieces of text.", &counters.between_tokens),
        ("vllm:e2e_request_latency_seconds", "Time to the end of the reply.", &counters.whole),
        ("vllm:request_queue_time_seconds", "Time in the queue.", &counters.queue),
        ("vllm:request_prefill_time_seconds", "Time to read the prompt.", &counters.prefill),
        ("vllm:request_decode_time_seconds", "Time to write the reply.", &counters.decode),
    ] {
        page.histogram(name, help, &labels, histogram);
    }
}

fn llamacpp(page: &mut Page, counters: &Counters, status: &Status) {
    let totals = &status.totals;
    page.counter("llamacpp:prompt_tokens_total", "Tokens of prompts read.", totals.computed_tokens);
    page.counter("llamacpp:tokens_predicted_total", "Tokens written.", totals.written_tokens);
    page.gauge("llamacpp:prompt_tokens_seconds", "Tokens of prompts read in a second.", status.prefill_rate);
    page.gauge("llamacpp:predicted_tokens_seconds", "Tokens written in a second.", status.decode_rate);
    page.gauge("llamacpp:requests_processing", "Requests being worked on.", status.active.len());
    page.gauge("llamacpp:requests_deferred", "Requests in the queue.", status.queued);
    page.counter("llamacpp:n_decode_total", "Forward passes.", totals.steps);
    let per_step = totals.written_tokens as f64 / totals.steps.max(1) as f64;
    page.gauge("llamacpp:n_busy_slots_per_decode", "Sessions in a forward pass.", per_step);
    let _ = counters;
}

fn tokens_used(status: &Status) -> usize {
    status.active.iter().map(|job| job.tokens).sum()
}

fn usage(status: &Status) -> f64 {
    match status.cache.limit {
        0 => 0.0,
        limit => (status.cache.in_use as f64 / limit as f64).clamp(0.0, 1.0),
    }
}

/// A label's value.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
