//! A reply as it comes: what the engine says, in the words that every API's codec understands.
//!
//! A [`Voice`] is one reply. It gives calls their ids, puts the probabilities of tokens beside the text that
//! releases them, counts, and remembers the reply when it is finished.

use crate::app::{App, Shown};
use crate::ask::{Api, Keep};
use crate::error::{ApiError, Fault};
use crate::guard::RequestId;
use crate::ids;
use crate::metrics::{Outcome as Counted, Run};
use crate::places::Place;
use crate::speaker::Speech;
use crate::usage::{Timings, Usage};
use engine::logprobs::Logprob;
use engine::{Event, Finish};
use engine::{JobEvent, Miss};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use text::chat::replay::SampledTurn;
use text::reply::{FinishReason, Start};
use text::{Event as Said, Marker, Sampled};
use tokio::sync::oneshot;
use tokio::time::Sleep;

/// How a reply is told.
#[derive(Clone, Debug)]
pub struct Manner {
    /// By which API.
    pub api: Api,
    /// How the reply starts.
    pub start: Start,
    /// What the ids of calls begin with.
    pub call_prefix: &'static str,
    /// How many tokens of the prompt the reply begins with.
    pub forced: usize,
    /// How to remember it; `None` for what is no conversation.
    pub keep: Option<Keep>,
}

/// Something that a codec has to tell.
#[derive(Debug)]
pub enum Told {
    /// The reply has left the queue.
    Started {
        /// Tokens of the prompt that were in the cache.
        cached: usize,
    },
    /// So much of the prompt is read.
    Progress {
        /// Tokens read, those of the cache included.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// More reasoning.
    Reasoning(String, Vec<Logprob>),
    /// More content.
    Content(String, Vec<Logprob>),
    /// A call begins.
    CallStart {
        /// Counts calls that began.
        index: usize,
        /// Its id.
        id: String,
        /// The tool.
        name: String,
    },
    /// More of the arguments.
    Arguments {
        /// The call.
        index: usize,
        /// JSON text.
        delta: String,
    },
    /// A call is complete.
    CallEnd {
        /// The call.
        index: usize,
    },
    /// A call that began is none after all.
    CallDropped {
        /// The call.
        index: usize,
    },
    /// The reply is complete.
    Finished(Box<Outcome>),
    /// There will be no reply.
    Failed(ApiError),
}

/// Why a reply ended, as far as clients care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model was done.
    Stop,
    /// A stop string came.
    StopString,
    /// The client has calls to carry out.
    ToolCalls,
    /// As many tokens as were asked for.
    MaxTokens,
    /// No room for more.
    ContextFull,
}

/// A complete reply.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended.
    pub end: End,
    /// What it says.
    pub message: text::Reply,
    /// The ids of its calls, in their order.
    pub call_ids: Vec<String>,
    /// What it cost.
    pub usage: Usage,
    /// How long it took.
    pub timings: Timings,
    /// Its tokens.
    pub tokens: Vec<u32>,
}

/// One reply at work.
pub struct Voice {
    app: App,
    speech: Box<dyn Speech>,
    manner: Manner,
    prompt_tokens: usize,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Duration>,
    /// When waiting for a turn is no longer worth it.
    queue_limit: Pin<Box<Sleep>>,
    /// Probabilities of tokens whose text has not come yet.
    pending: Vec<Logprob>,
    /// Ids by the index of calls that began.
    ids: Vec<(usize, String)>,
    ended: bool,
    run: Run,
    miss: Option<Miss>,
    _place: Arc<Place>,
    /// The prompt is shown as long as this is there.
    shown: Option<Shown>,
    /// Comes when the reply is taken back.
    stopped: Option<oneshot::Receiver<()>>,
}

impl Voice {
    /// A reply that the engine has accepted.
    ///
    /// - `place`: what is free again when all replies of the request have ended
    pub fn new(
        app: App,
        speech: Box<dyn Speech>,
        manner: Manner,
        request: &RequestId,
        place: Arc<Place>,
    ) -> Voice {
        let run = app.metrics.begin(manner.api);
        if let Some(trace) = &app.trace {
            trace.event(
                speech.id(),
                "accepted",
                &serde_json::json!({
                    "request": request.0, "api": manner.api.name(), "prompt_tokens": speech.prompt_tokens(),
                }),
            );
        }
        Voice {
            queue_limit: Box::pin(tokio::time::sleep(app.options.max_queue_time)),
            prompt_tokens: speech.prompt_tokens(),
            app,
            speech,
            manner,
            submitted: Instant::now(),
            started: None,
            first_token: None,
            pending: Vec::new(),
            ids: Vec::new(),
            ended: false,
            run,
            miss: None,
            _place: place,
            shown: None,
            stopped: None,
        }
    }

    /// Ends the reply when this comes.
    pub fn until(&mut self, stopped: oneshot::Receiver<()>) {
        self.stopped = Some(stopped);
    }

    /// Shows the prompt in `/slots` as long as the reply is at work.
    pub fn show(&mut self, prompt: String) {
        self.shown = Some(self.app.show(self.speech.id(), prompt));
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// What happens next; `None` after the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Told>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(stopped) = &mut self.stopped
                && let Poll::Ready(came) = Pin::new(stopped).poll(cx)
            {
                self.stopped = None;
                if came.is_ok() {
                    let message = "the response was cancelled";
                    return Poll::Ready(Some(self.fail(ApiError::new(Fault::Cancelled, message))));
                }
            }
            let event = match self.speech.poll_next(cx) {
                Poll::Ready(event) => event,
                Poll::Pending if self.started.is_some() => return Poll::Pending,
                Poll::Pending => {
                    ready!(self.queue_limit.as_mut().poll(cx));
                    let waited = self.app.options.max_queue_time.as_secs();
                    let message = format!("the request waited {waited} seconds for its turn");
                    return Poll::Ready(Some(self.fail(ApiError::new(Fault::Timeout, message))));
                }
            };
            let told = match event {
                None => Some(self.fail(ApiError::new(Fault::Internal, "the engine broke off"))),
                Some(event) => self.tell(event),
            };
            if let Some(told) = told {
                return Poll::Ready(Some(told));
            }
        }
    }

    /// What comes next.
    pub async fn next(&mut self) -> Option<Told> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits for the complete reply. `on` hears of what comes before.
    ///
    /// # Errors
    ///
    /// If there will be none.
    pub async fn finish(mut self, mut on: impl FnMut(Told)) -> Result<Outcome, ApiError> {
        loop {
            match self.next().await {
                Some(Told::Finished(outcome)) => return Ok(*outcome),
                Some(Told::Failed(error)) => return Err(error),
                Some(told) => on(told),
                None => return Err(ApiError::new(Fault::Internal, "the reply had no end")),
            }
        }
    }

    fn fail(&mut self, error: ApiError) -> Told {
        self.ended = true;
        self.run.end(match error.fault {
            Fault::Cancelled => Counted::Cancelled,
            fault if fault.status().is_server_error() => Counted::ServerError,
            _ => Counted::Rejected,
        });
        if let Some(trace) = &self.app.trace {
            trace.event(self.speech.id(), "failed", &serde_json::json!({ "error": error.openai() }));
        }
        Told::Failed(error)
    }

    /// What to tell of an event, if anything.
    fn tell(&mut self, event: JobEvent) -> Option<Told> {
        match event {
            JobEvent::Started { cached, miss } => {
                self.started = Some(Instant::now());
                self.miss = miss;
                self.run.started(self.submitted.elapsed());
                if let Some(trace) = &self.app.trace {
                    trace.event(
                        self.speech.id(),
                        "started",
                        &serde_json::json!({
                            "cached": cached, "miss": miss.map(|miss| format!("{miss:?}")),
                        }),
                    );
                }
                Some(Told::Started { cached })
            }
            JobEvent::Event(Event::Prefill { done, total }) => Some(Told::Progress { done, total }),
            JobEvent::Event(Event::Token(logprob)) => {
                // In a chat control tokens are not text; in a completion they are.
                let tokenizer = self.app.loaded().ok().map(|speaker| speaker.tokenizer());
                let is_marker = tokenizer.is_some_and(|tokenizer| tokenizer.marker(logprob.token).is_some());
                if self.manner.api == Api::Completions || !is_marker {
                    self.pending.push(logprob);
                }
                None
            }
            JobEvent::Event(Event::Message(said)) => self.say(said),
            JobEvent::Done(reply) => Some(self.done(*reply)),
            JobEvent::Failed(error) => Some(self.fail(error.into())),
        }
    }

    fn say(&mut self, said: Said) -> Option<Told> {
        if self.first_token.is_none() {
            let time = self.submitted.elapsed();
            self.first_token = Some(time);
            self.run.first_token(time);
        } else {
            self.run.token();
        }
        if let Some(trace) = &self.app.trace {
            trace.said(self.speech.id(), &said);
        }
        Some(match said {
            Said::Reasoning(text) => Told::Reasoning(text, std::mem::take(&mut self.pending)),
            Said::Content(text) => Told::Content(text, std::mem::take(&mut self.pending)),
            Said::CallStart { index, name } => {
                self.pending.clear();
                let id = ids::fresh(self.manner.call_prefix);
                self.ids.push((index, id.clone()));
                Told::CallStart { index, id, name }
            }
            Said::Arguments { index, delta } => {
                self.pending.clear();
                Told::Arguments { index, delta }
            }
            // Markup after a call is no text either.
            Said::CallEnd { index } => {
                self.pending.clear();
                Told::CallEnd { index }
            }
            Said::CallDropped { index } => {
                self.pending.clear();
                Told::CallDropped { index }
            }
        })
    }

    fn done(&mut self, reply: engine::Reply) -> Told {
        self.ended = true;
        let message = &reply.message;
        let calls = !message.tool_calls.is_empty();
        let end = match &reply.finish {
            Finish::Eos | Finish::NextTurn(_) | Finish::Complete => match message.finish_reason {
                FinishReason::ToolCalls if calls => End::ToolCalls,
                _ if message.stop_string.is_some() => End::StopString,
                _ => End::Stop,
            },
            Finish::MaxTokens => End::MaxTokens,
            Finish::ContextFull | Finish::MemoryFull => End::ContextFull,
            // The caller is gone, or the server is going: nobody else ends a reply.
            Finish::Cancelled | Finish::Deadline => {
                self.ended = false;
                return self.fail(crate::speaker::draining());
            }
        };
        let tokenizer = self.app.loaded().expect("it has answered").tokenizer().clone();
        let usage = Usage::new(self.prompt_tokens, self.manner.forced, &reply, self.manner.start, &tokenizer);
        let timings = Timings::new(&reply, &usage, self.first_token, self.miss);
        let call_ids: Vec<String> = message.tool_calls.iter().map(|call| self.id_of(call.index)).collect();
        self.remember(&reply, &call_ids, &tokenizer);
        self.run.finish(end, &usage, &timings, &reply.message);
        if let Some(trace) = &self.app.trace {
            trace.event(
                self.speech.id(),
                "finished",
                &serde_json::json!({
                    "end": format!("{end:?}"), "usage": usage.chat(), "timings": timings,
                    "recovered": reply.message.recovered,
                }),
            );
        }
        let tokens = reply.tokens;
        Told::Finished(Box::new(Outcome { end, message: reply.message, call_ids, usage, timings, tokens }))
    }

    fn id_of(&self, index: usize) -> String {
        let known = self.ids.iter().find(|(at, _)| *at == index);
        known.map(|(_, id)| id.clone()).expect("a complete call has begun")
    }

    /// Keeps what was sampled, as far as it says what the client was told.
    fn remember(&self, reply: &engine::Reply, call_ids: &[String], tokenizer: &text::Tokenizer) {
        let Some(keep) = &self.manner.keep else { return };
        let said = &reply.message;
        let closed =
            || tokenizer.marker_id(Marker::ThinkClose).is_some_and(|close| reply.tokens.contains(&close));
        let whole = keep.whole_turn
            && said.stop_string.is_none()
            && (!keep.reasons || closed())
            && (reply.finish == Finish::Complete || said.tool_calls.is_empty());
        let turn = whole.then(|| tokenizer.decode(&reply.tokens).ok()).flatten().map(|text| SampledTurn {
            reasons: keep.reasons,
            tokens: Sampled { ids: reply.tokens.clone(), text },
        });
        if turn.is_none() && end_is_cut(&reply.finish) {
            return;
        }
        self.app.memory().keep(keep.scope.clone(), &keep.trail, said, call_ids, turn);
    }
}

fn end_is_cut(finish: &Finish) -> bool {
    !matches!(finish, Finish::Eos | Finish::NextTurn(_) | Finish::Complete)
}
