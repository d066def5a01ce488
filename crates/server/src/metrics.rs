//! Counters, and how Prometheus reads them.
//!
//! Our own few lines instead of the `metrics` crates: those keep one registry for the whole process, so two
//! servers in one test would share their numbers, and half of what is shown comes from the engine's own status
//! anyway. Recording is an atomic addition.

mod histogram;
mod text;

use crate::ask::Api;
use crate::usage::{Timings, Usage};
use crate::voice::End;
use ::text::reply::Repair;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use histogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counters; cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Counters>);

/// How a request ended, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a reply.
    Ok,
    /// The client's mistake.
    ClientError,
    /// Ours.
    ServerError,
    /// The client went away.
    Cancelled,
    /// Too much to do, or too late.
    Rejected,
}

impl Outcome {
    const ALL: [(Outcome, &'static str); 5] = [
        (Outcome::Ok, "ok"),
        (Outcome::ClientError, "client_error"),
        (Outcome::ServerError, "server_error"),
        (Outcome::Cancelled, "cancelled"),
        (Outcome::Rejected, "rejected"),
    ];
}

#[derive(Default)]
struct Counters {
    requests: [[AtomicU64; 5]; 4],
    finished: [AtomicU64; 3],
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    constraints: Histogram,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    tool_calls: [AtomicU64; 4],
    running: AtomicU64,
}

/// Results of tool calls, as they are counted.
const CALLS: [&str; 4] = ["ok", "recovered", "malformed", "truncated"];

/// Why replies ended, in vLLM's words.
const FINISHED: [&str; 3] = ["stop", "length", "abort"];

fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Metrics {
    /// A reply begins.
    pub fn begin(&self, api: Api) -> Run {
        add(&self.0.running, 1);
        Run { metrics: self.clone(), api, begun: Instant::now(), last_token: None, ended: false }
    }

    /// A request that did not come to a reply.
    pub fn refused(&self, api: Api, status: axum::http::StatusCode) {
        let outcome = match status.as_u16() {
            429 | 503 | 504 | 529 => Outcome::Rejected,
            400..500 => Outcome::ClientError,
            _ => Outcome::ServerError,
        };
        self.count(api, outcome);
    }

    /// A constraint was made ready.
    pub fn constraint_built(&self, time: Duration) {
        self.0.constraints.record(time);
    }

    fn count(&self, api: Api, outcome: Outcome) {
        add(&self.0.requests[api as usize][outcome as usize], 1);
    }
}

/// One reply, for counting. Dropped before its end it counts as cancelled.
pub struct Run {
    metrics: Metrics,
    api: Api,
    begun: Instant,
    last_token: Option<Instant>,
    ended: bool,
}

impl Run {
    /// It left the queue.
    pub fn started(&self, queued: Duration) {
        self.metrics.0.queue.record(queued);
    }

    /// Its first text came.
    pub fn first_token(&mut self, time: Duration) {
        self.metrics.0.first_token.record(time);
        self.last_token = Some(Instant::now());
    }

    /// More text came.
    pub fn token(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last_token.replace(now) {
            self.metrics.0.between_tokens.record(now - last);
        }
    }

    /// It is complete.
    pub fn finish(&mut self, end: End, usage: &Usage, timings: &Timings, message: &::text::Reply) {
        let counters = &self.metrics.0;
        counters.prefill.record(Duration::from_secs_f64(timings.prompt_ms / 1e3));
        counters.decode.record(Duration::from_secs_f64(timings.predicted_ms / 1e3));
        counters.whole.record(self.begun.elapsed());
        add(&counters.prompt_tokens, usage.prompt);
        add(&counters.cached_tokens, usage.cached);
        let length = matches!(end, End::MaxTokens | End::ContextFull);
        add(&counters.finished[usize::from(length)], 1);
        let has = |repairs: &[Repair]| repairs.iter().any(|repair| message.recovered.contains(repair));
        if has(&[Repair::MalformedBlock, Repair::MalformedInvoke]) {
            add(&counters.tool_calls[2], 1);
        }
        if has(&[Repair::TruncatedCall, Repair::TruncatedBlock]) {
            add(&counters.tool_calls[3], 1);
        }
        add(&counters.tool_calls[usize::from(!message.recovered.is_empty())], message.tool_calls.len());
        self.end(Outcome::Ok);
    }

    /// It ended like this.
    pub fn end(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if outcome != Outcome::Ok {
            add(&self.metrics.0.finished[2], 1);
        }
        self.metrics.count(self.api, outcome);
        self.metrics.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled);
    }
}

/// `GET /metrics`
pub async fn metrics(State(app): State<crate::App>, headers: HeaderMap) -> Response {
    let open_metrics = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let text = text::write(&app, open_metrics);
    let kind = if open_metrics {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
