//! An answer in one piece that takes long. Some clients give up if no head comes for five minutes, so one may be
//! sent early: JSON allows spaces before a value. The price is that what fails later fails with status 200, so this
//! is done only if the operator wants it.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Waits for an answer for a while, and then begins one that goes on with spaces until the other is there.
pub(crate) async fn answer(
    answering: impl Future<Output = Response> + Send + 'static,
    pace: Duration,
) -> Response {
    let mut answering: Pin<Box<dyn Future<Output = Response> + Send>> = Box::pin(answering);
    if let Ok(response) = tokio::time::timeout(pace, &mut answering).await {
        return response;
    }
    let waiting =
        Waiting { state: State::Answering(answering), clock: Box::pin(tokio::time::sleep(pace)), pace };
    let mut response = Response::new(Body::new(waiting));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body that begins before it is known.
struct Waiting {
    state: State,
    clock: Pin<Box<Sleep>>,
    pace: Duration,
}

enum State {
    Answering(Pin<Box<dyn Future<Output = Response> + Send>>),
    Answered(Body),
}

impl http_body::Body for Waiting {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let State::Answering(answering) = &mut this.state {
            match answering.as_mut().poll(cx) {
                Poll::Ready(response) => this.state = State::Answered(response.into_body()),
                Poll::Pending => {
                    std::task::ready!(this.clock.as_mut().poll(cx));
                    this.clock.as_mut().reset(Instant::now() + this.pace);
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))));
                }
            }
        }
        match &mut this.state {
            State::Answered(body) => Pin::new(body).poll_frame(cx),
            State::Answering(_) => unreachable!("it was answered just now"),
        }
    }
}
