//! An answer that is sent as it is written: server-sent events, with a clock of their own.
//!
//! [`Events`] is the body of the response. It polls the voices, lets the API's [`Codec`] write frames, and sends
//! everything that is ready in one piece. If nothing was sent for a while the codec says that we are alive, in
//! the form that its clients count: whatever phase the engine is in, the client never sees silence.

use crate::voice::{Told, Voice};
use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use bytes::Bytes;
use http_body::Frame;
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Frames on their way out.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// `data: {...}`
    pub fn data(&mut self, value: &impl Serialize) {
        self.bytes.extend_from_slice(b"data: ");
        serde_json::to_writer(&mut self.bytes, value).expect("our own types are JSON");
        self.bytes.extend_from_slice(b"\n\n");
    }

    /// `event: name` and `data: {...}`
    pub fn event(&mut self, name: &str, value: &impl Serialize) {
        self.bytes.extend_from_slice(b"event: ");
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'\n');
        self.data(value);
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What was written so far.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// How an API tells of replies.
pub trait Codec: Send + Unpin + 'static {
    /// Before anything else, as soon as the request is accepted.
    fn open(&mut self, out: &mut Frames);
    /// Something happened to a reply. `choice` counts the replies.
    fn tell(&mut self, choice: usize, told: Told, out: &mut Frames);
    /// Nothing has happened for a while.
    fn keep_alive(&mut self, out: &mut Frames);
    /// How long to wait before the first word at most, if that is less than between others.
    fn hesitation(&self) -> Duration {
        Duration::MAX
    }
    /// After all replies are complete; not after a failure.
    fn close(&mut self, out: &mut Frames);
}

/// The body of an answer that is sent as it is written.
struct Events<C> {
    voices: Vec<Option<Voice>>,
    codec: C,
    out: Frames,
    opened: bool,
    closed: bool,
    clock: Pin<Box<Sleep>>,
    patience: Duration,
}

/// Answers with events.
pub fn respond<C: Codec>(voices: Vec<Voice>, codec: C, keep_alive: Duration) -> Response<Body> {
    let hesitation = keep_alive.min(codec.hesitation());
    let events = Events {
        voices: voices.into_iter().map(Some).collect(),
        codec,
        out: Frames::default(),
        opened: false,
        closed: false,
        clock: Box::pin(tokio::time::sleep(hesitation)),
        patience: keep_alive,
    };
    let mut response = Response::new(Body::new(events));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (header::CONNECTION, "keep-alive"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl<C: Codec> Events<C> {
    /// Writes all that is ready.
    fn gather(&mut self, cx: &mut Context<'_>) {
        if !self.opened {
            self.opened = true;
            self.codec.open(&mut self.out);
        }
        for choice in 0..self.voices.len() {
            while let Some(voice) = &mut self.voices[choice] {
                match voice.poll_next(cx) {
                    Poll::Pending => break,
                    Poll::Ready(None) => self.voices[choice] = None,
                    Poll::Ready(Some(told)) => {
                        let failed = matches!(told, Told::Failed(_));
                        self.codec.tell(choice, told, &mut self.out);
                        if failed {
                            // One reply without an end spoils the answer: the others are cancelled.
                            self.voices.clear();
                            self.closed = true;
                            return;
                        }
                    }
                }
            }
        }
        if self.voices.iter().all(Option::is_none) {
            self.closed = true;
            self.codec.close(&mut self.out);
        }
    }
}

impl<C: Codec> http_body::Body for Events<C> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.closed {
            return Poll::Ready(None);
        }
        this.gather(cx);
        if this.out.bytes.is_empty() && !this.closed && this.clock.as_mut().poll(cx).is_ready() {
            this.codec.keep_alive(&mut this.out);
        }
        if this.out.bytes.is_empty() {
            if this.closed {
                return Poll::Ready(None);
            }
            return Poll::Pending;
        }
        this.clock.as_mut().reset(Instant::now() + this.patience);
        Poll::Ready(Some(Ok(Frame::data(this.out.take().into()))))
    }
}
