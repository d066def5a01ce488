//! The app with an engine that speaks from a script.
#![allow(dead_code)] // not every test binary uses all of it

pub mod clients;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use engine::generate::Stats;
use engine::logprobs::Logprob;
use engine::{
    CacheSource, Event, Finish, Form, Job, JobError, JobEvent, JobPrompt, ModelInfo, PageKey, Refusal, Reply,
    SlotAction, SlotDone, SlotError, Status, Synced,
};
use forge::synth::byte_vocab;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use server::{App, Options, Speaker, Speech};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use text::chat::Profile;
use text::{Marker, ReplyOptions, ReplyParser, StopStrings, Tokenizer};
use tokio::sync::mpsc;
use tower::ServiceExt;

/// A reply that the engine will give.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it says; spelled markers are control tokens.
    pub text: String,
    /// How it ends if nothing in it ends it.
    pub finish: Finish,
    /// Before it leaves the queue.
    pub queued: Duration,
    /// Between the start and the first token.
    pub prefill: Duration,
    /// Between two tokens.
    pub pace: Duration,
    /// After so many tokens it fails.
    pub fails_after: Option<usize>,
    /// Where its text is cut, in bytes: it then comes in two pieces, whatever the tokens are.
    pub cut: Option<usize>,
}

impl Line {
    pub fn new(text: &str) -> Line {
        Line {
            text: text.to_owned(),
            finish: Finish::Eos,
            queued: Duration::ZERO,
            prefill: Duration::ZERO,
            pace: Duration::ZERO,
            fails_after: None,
            cut: None,
        }
    }

    pub fn cut(text: &str) -> Line {
        Line { finish: Finish::MaxTokens, ..Line::new(text) }
    }
}

/// What a thinking model says when it calls `get_weather` for Bern.
pub const CALL: &str = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get_weather\">\n\
    <｜DSML｜parameter name=\"city\" string=\"true\">Bern</｜DSML｜parameter>\n\
    <｜DSML｜parameter name=\"days\" string=\"false\">[1,2]</｜DSML｜parameter>\n\
    </｜DSML｜invoke>\n</｜DSML｜tool_calls>";

/// An engine that speaks from a script.
pub struct Script {
    tokenizer: Arc<Tokenizer>,
    constraints: engine::Constraints,
    info: ModelInfo,
    lines: Mutex<VecDeque<Line>>,
    /// Every job it was given.
    pub jobs: Mutex<Vec<Job>>,
    /// Why the next job is refused.
    pub refusal: Mutex<Option<Refusal>>,
    /// Replies that ended because nobody listened any more.
    pub dropped: Arc<AtomicUsize>,
    /// Tokens said.
    pub said: Arc<AtomicUsize>,
    /// Tokens of a prompt that are in the cache.
    pub cached: Mutex<usize>,
    /// Of these, what its page store brought.
    pub source: Mutex<CacheSource>,
    /// What its page store says.
    pub store: Mutex<Option<engine::store::StoreStats>>,
    /// What it says about itself besides.
    pub status: Mutex<Status>,
    /// What was done with slots.
    pub actions: Mutex<Vec<(usize, SlotAction)>>,
}

impl Script {
    pub fn new(lines: impl IntoIterator<Item = Line>) -> Arc<Script> {
        let tokenizer = Arc::new(Tokenizer::new(byte_vocab(1024)).unwrap());
        Arc::new(Script {
            constraints: engine::Constraints::new(tokenizer.clone()),
            tokenizer,
            info: ModelInfo {
                name: "a script".to_owned(),
                fingerprint: [7; 32],
                vocab: 1024,
                context: 20_000,
                trained_context: 1 << 20,
                kv_tokens: 64 << 10,
                quant: "q8_0/f32".to_owned(),
                bytes: 12_345,
                parameters: 6_789,
                profile: Profile::V4,
                kv: model::KvFormat::F16,
                memory: 1 << 30,
                warnings: Vec::new(),
            },
            lines: Mutex::new(lines.into_iter().collect()),
            jobs: Mutex::default(),
            refusal: Mutex::default(),
            dropped: Arc::default(),
            said: Arc::default(),
            cached: Mutex::new(0),
            source: Mutex::default(),
            store: Mutex::default(),
            status: Mutex::default(),
            actions: Mutex::default(),
        })
    }

    /// The prompt of the job of this number, as text.
    pub fn prompt(&self, nth: usize) -> String {
        match &self.jobs.lock().unwrap()[nth].prompt {
            JobPrompt::Rendered(prompt) => prompt.to_string(),
            JobPrompt::Tokens(tokens) => self.tokenizer.decode(tokens).unwrap(),
        }
    }

    /// The tokens of the prompt of the job of this number.
    pub fn prompt_tokens(&self, nth: usize) -> Vec<u32> {
        match &self.jobs.lock().unwrap()[nth].prompt {
            JobPrompt::Rendered(prompt) => self.tokenizer.encode_prompt(prompt).unwrap(),
            JobPrompt::Tokens(tokens) => tokens.clone(),
        }
    }

    /// The key of the conversation in a slot.
    pub fn key(slot: usize) -> PageKey {
        PageKey::root(&[7; 32], model::KvFormat::F16).child(&[slot as u32])
    }

    pub fn vocabulary(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

impl Speaker for Script {
    fn submit(&self, job: Job) -> Result<Box<dyn Speech>, Refusal> {
        if let Some(refusal) = self.refusal.lock().unwrap().take() {
            return Err(refusal);
        }
        let prompt = match &job.prompt {
            JobPrompt::Rendered(prompt) => self.tokenizer.encode_prompt(prompt).unwrap().len(),
            JobPrompt::Tokens(tokens) => tokens.len(),
        };
        if prompt > self.info.context {
            return Err(Refusal::Context { prompt, limit: self.info.context });
        }
        let mut lines = self.lines.lock().unwrap();
        let line = if lines.len() > 1 { lines.pop_front().unwrap() } else { lines[0].clone() };
        let cached = (*self.cached.lock().unwrap()).min(prompt);
        let (sender, receiver) = mpsc::unbounded_channel();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let part = Part {
            line,
            job: job.clone(),
            prompt,
            cached,
            source: *self.source.lock().unwrap(),
            tokenizer: self.tokenizer.clone(),
            events: sender,
            dropped: self.dropped.clone(),
            said: self.said.clone(),
            stopped,
        };
        tokio::runtime::Handle::current().spawn(part.play());
        let mut jobs = self.jobs.lock().unwrap();
        jobs.push(job);
        Ok(Box::new(Played { id: jobs.len() as u64, prompt, receiver, stop }))
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    fn constraints(&self) -> &engine::Constraints {
        &self.constraints
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn status(&self) -> Status {
        let store = *self.store.lock().unwrap();
        Status { active_limit: 4, queue_limit: 8, store, ..self.status.lock().unwrap().clone() }
    }

    fn slot(&self, slot: usize, action: SlotAction) -> Result<SlotDone, SlotError> {
        if slot >= 4 {
            return Err(SlotError::NoSuchSlot { slot, last: 3 });
        }
        if slot == 3 {
            return Err(SlotError::Busy(slot));
        }
        self.actions.lock().unwrap().push((slot, action));
        let key = match action {
            SlotAction::Restore(key) => key,
            _ => Script::key(slot),
        };
        Ok(SlotDone { key, tokens: 100 + slot })
    }

    fn shutdown(&self, _: Duration) {}
}

struct Played {
    id: u64,
    prompt: usize,
    receiver: mpsc::UnboundedReceiver<JobEvent>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Speech for Played {
    fn id(&self) -> u64 {
        self.id
    }

    fn prompt_tokens(&self) -> usize {
        self.prompt
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<JobEvent>> {
        self.receiver.poll_recv(cx)
    }

    fn cancel(&self) {
        let _ = self.stop.send(true);
    }
}

/// A reply being said.
struct Part {
    line: Line,
    job: Job,
    prompt: usize,
    cached: usize,
    source: CacheSource,
    tokenizer: Arc<Tokenizer>,
    events: mpsc::UnboundedSender<JobEvent>,
    dropped: Arc<AtomicUsize>,
    said: Arc<AtomicUsize>,
    stopped: tokio::sync::watch::Receiver<bool>,
}

enum Reader {
    Chat(Box<ReplyParser>),
    Plain(Box<(StopStrings, text::Reply, text::Utf8Stream)>),
}

impl Part {
    async fn play(self) {
        let dropped = self.dropped.clone();
        let events = self.events.clone();
        tokio::select! {
            () = self.perform() => {}
            () = events.closed() => { dropped.fetch_add(1, Ordering::SeqCst); }
        }
    }

    fn send(&self, event: JobEvent) {
        let _ = self.events.send(event);
    }

    async fn perform(self) {
        wait(self.line.queued).await;
        self.send(JobEvent::Started { cached: self.cached, miss: None });
        self.send(JobEvent::Event(Event::Prefill { done: self.cached, total: self.prompt }));
        wait(self.line.prefill).await;
        self.send(JobEvent::Event(Event::Prefill { done: self.prompt, total: self.prompt }));

        let mut reader = match &self.job.request.form {
            Form::Chat(options) => {
                Reader::Chat(Box::new(ReplyParser::new(ReplyOptions { ..options.clone() })))
            }
            Form::Plain { stop } => Reader::Plain(Box::new((
                StopStrings::new(stop),
                text::Reply::default(),
                text::Utf8Stream::default(),
            ))),
        };
        let mut tokens = Vec::new();
        let mut finish = self.line.finish.clone();
        let most = self.job.request.max_tokens.unwrap_or(usize::MAX);
        if let Some(cut) = self.line.cut {
            let (first, second) = self.line.text.as_bytes().split_at(cut);
            for piece in [first, second] {
                let (events, done) = reader.push_bytes(piece);
                events.into_iter().for_each(|event| self.send(JobEvent::Event(Event::Message(event))));
                if done {
                    finish = Finish::Complete;
                    break;
                }
                wait(Duration::from_millis(1)).await;
            }
        }
        for token in self.tokenizer.encode_trusted(&self.line.text) {
            if self.line.cut.is_some() {
                tokens.push(token);
                continue;
            }
            if tokens.len() >= most {
                finish = Finish::MaxTokens;
                break;
            }
            if self.line.fails_after.is_some_and(|most| tokens.len() >= most) {
                return self.send(JobEvent::Failed(JobError::Internal("the script says so".to_owned())));
            }
            if *self.stopped.borrow() {
                finish = Finish::Cancelled;
                break;
            }
            wait(self.line.pace).await;
            tokens.push(token);
            self.said.fetch_add(1, Ordering::SeqCst);
            if let Some(top) = self.job.request.logprobs {
                let top = (0..top as u32).map(|other| (token + other, -1.0 - other as f32)).collect();
                self.send(JobEvent::Event(Event::Token(Logprob { token, logprob: -1.0, top })));
            }
            let (events, done) = reader.push(token, &self.tokenizer);
            events.into_iter().for_each(|event| self.send(JobEvent::Event(Event::Message(event))));
            if done {
                finish = Finish::Complete;
                break;
            }
        }
        let cut = !matches!(finish, Finish::Eos | Finish::Complete | Finish::NextTurn(_));
        let (events, message) = reader.finish(cut);
        events.into_iter().for_each(|event| self.send(JobEvent::Event(Event::Message(event))));
        let prompt =
            Synced { cached: self.cached, computed: self.prompt - self.cached, elapsed: Duration::ZERO };
        let stats = Stats { prompt, source: self.source, ..Stats::default() };
        self.send(JobEvent::Done(Box::new(Reply { message, tokens, finish, stats })));
    }
}

async fn wait(time: Duration) {
    if time > Duration::ZERO {
        tokio::time::sleep(time).await;
    }
}

impl Reader {
    fn push(&mut self, token: u32, tokenizer: &Tokenizer) -> (Vec<text::Event>, bool) {
        match self {
            Reader::Chat(parser) => (parser.push_token(token, tokenizer).unwrap(), parser.is_done()),
            Reader::Plain(_) => self.push_bytes(tokenizer.token_bytes(token).unwrap()),
        }
    }

    /// The same with bytes; spelled markers are control tokens.
    fn push_bytes(&mut self, bytes: &[u8]) -> (Vec<text::Event>, bool) {
        match self {
            Reader::Chat(parser) => (parser.push_text(bytes), parser.is_done()),
            Reader::Plain(plain) => {
                let (stops, reply, utf8) = &mut **plain;
                let mut out = String::new();
                for c in utf8.push(bytes).chars() {
                    reply.stop_string = stops.push(c, &mut out);
                    if reply.stop_string.is_some() {
                        break;
                    }
                }
                reply.content.push_str(&out);
                (
                    if out.is_empty() { vec![] } else { vec![text::Event::Content(out)] },
                    reply.stop_string.is_some(),
                )
            }
        }
    }

    fn finish(self, cut: bool) -> (Vec<text::Event>, text::Reply) {
        match self {
            Reader::Chat(parser) => {
                parser.finish(if cut { text::reply::Finish::Length } else { text::reply::Finish::Stop })
            }
            Reader::Plain(plain) => (Vec::new(), plain.1),
        }
    }
}

/// The app with this script.
pub fn app(script: &Arc<Script>, options: Options) -> axum::Router {
    server::router(App::new(script.clone(), options).unwrap())
}

/// An app that says one thing whatever it is asked.
pub fn saying(text: &str) -> axum::Router {
    app(&Script::new([Line::new(text)]), Options::default())
}

/// A request with a JSON body.
pub fn post(path: &str, body: &Value) -> Request<Body> {
    let builder =
        Request::builder().method(Method::POST).uri(path).header("content-type", "application/json");
    builder.body(Body::from(body.to_string())).unwrap()
}

pub fn get(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(Body::empty()).unwrap()
}

/// Sends a request.
pub async fn send(app: &axum::Router, request: Request<Body>) -> Response<Body> {
    app.clone().oneshot(request).await.unwrap()
}

pub async fn body(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Status and JSON of the answer.
pub async fn ask(app: &axum::Router, path: &str, request: &Value) -> (StatusCode, Value) {
    let response = send(app, post(path, request)).await;
    let status = response.status();
    let text = body(response).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
}

/// The events of a streamed answer, as text.
pub async fn stream(app: &axum::Router, path: &str, request: &Value) -> String {
    let mut request = request.clone();
    request["stream"] = json!(true);
    let response = send(app, post(path, &request)).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    body(response).await
}

/// The JSON of each event's data.
pub fn events(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// The text with everything replaced that is another one each time: times by 0, ids by their number.
pub fn steady(text: &str) -> String {
    let mut out = String::new();
    let mut ids = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let prefixes = [
            "chatcmpl-",
            "cmpl-",
            "call_",
            "toolu_",
            "resp_",
            "msg_",
            "rs_",
            "fc_",
            "ctc_",
            "sh_",
            "apc_",
            "req_",
        ];
        let id = prefixes.into_iter().find(|prefix| {
            rest.starts_with(prefix)
                && rest[prefix.len()..].bytes().take_while(u8::is_ascii_hexdigit).count() == 32
        });
        if let Some(prefix) = id {
            let (id, after) = rest.split_at(prefix.len() + 32);
            let number = ids.iter().position(|known| *known == id).unwrap_or_else(|| {
                ids.push(id);
                ids.len() - 1
            });
            out.push_str(&format!("{prefix}{number}"));
            rest = after;
            continue;
        }
        let number = [
            "\"created\":",
            "\"created_at\":",
            "\"completed_at\":",
            "\"prompt_ms\":",
            "\"predicted_ms\":",
            "\"queue_ms\":",
            "\"ttft_ms\":",
            "\"time_ms\":",
        ]
        .into_iter()
        .find(|name| rest.starts_with(name));
        if let Some(name) = number {
            out.push_str(name);
            rest = &rest[name.len()..];
            let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || b".e-".contains(b)).count();
            out.push_str(if digits > 0 { "0" } else { "" });
            rest = &rest[digits..];
            continue;
        }
        let next = rest.chars().next().unwrap();
        out.push(next);
        rest = &rest[next.len_utf8()..];
    }
    out
}

/// The tools that [`CALL`] needs, for chat completions.
pub fn weather() -> Value {
    json!([{ "type": "function", "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": { "type": "object", "properties": {
            "city": { "type": "string" }, "days": { "type": "array", "items": { "type": "integer" } },
        } },
    } }])
}

/// Whether a token is a marker.
pub fn is_marker(tokenizer: &Tokenizer, token: u32, marker: Marker) -> bool {
    tokenizer.marker(token) == Some(marker)
}
