//! A grammar that is followed: the tokens it has taken, and which may come next.
//!
//! What may come next is computed on a thread of its own, while the model computes the logits it is for. That is
//! mostly a matter of microseconds, but a hostile grammar may make it take as long as it likes: then the one
//! who waits, and has other replies to see to, gives up on this one.

use super::grammar::short;
use llguidance::toktrie::SimpleVob;
use llguidance::{CancellationHandle, Matcher};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long to wait for one step.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Follower {
    matcher: Arc<Mutex<Matcher>>,
    /// Asks for the tokens that may come next.
    ask: SyncSender<()>,
    answers: Receiver<Result<SimpleVob, String>>,
    /// The last answer, until a token is taken.
    allowed: Option<SimpleVob>,
    cancel: CancellationHandle,
}

impl Follower {
    /// Follows a grammar of which `done` has been said already.
    ///
    /// # Errors
    ///
    /// In words, as in all methods: the step was too much for the grammar engine.
    pub(super) fn new(matcher: Matcher, done: &[u32]) -> Result<Self, String> {
        let mut matcher = matcher.into_cancellable();
        let cancel = matcher.cancellation_handle().expect("it was made cancellable");
        matcher.consume_tokens(done).map_err(|error| short(&error.to_string()))?;
        let matcher = Arc::new(Mutex::new(matcher));
        let (ask, asked) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        let theirs = matcher.clone();
        let work = move || {
            while asked.recv().is_ok() {
                let mut matcher = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                let allowed = matcher.compute_mask_or_eos().map_err(|error| short(&error.to_string()));
                if answer.send(allowed).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("constraint".into()).spawn(work);
        thread.map_err(|error| format!("no thread to compute it: {error}"))?;
        let follower = Follower { matcher, ask, answers, allowed: None, cancel };
        follower.ask();
        Ok(follower)
    }

    fn ask(&self) {
        self.ask.send(()).expect("the thread waits as long as we are here");
    }

    /// The tokens that may come next: those the grammar allows, or the end of the turn.
    pub(super) fn allowed(&mut self) -> Result<&SimpleVob, String> {
        if self.allowed.is_none() {
            let answer = self.answers.recv_timeout(PATIENCE).map_err(|error| match error {
                RecvTimeoutError::Timeout => format!("a step took more than {PATIENCE:?}"),
                RecvTimeoutError::Disconnected => "the grammar engine gave up".to_owned(),
            })?;
            self.allowed = Some(answer?);
        }
        Ok(self.allowed.as_ref().expect("it was just put there"))
    }

    /// Takes a token that was allowed. Returns whether nothing may follow it.
    pub(super) fn take(&mut self, token: u32) -> Result<bool, String> {
        self.allowed()?;
        self.allowed = None;
        let stopped = {
            let mut matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
            matcher.consume_token(token).map_err(|error| short(&error.to_string()))?;
            matcher.is_stopped()
        };
        if !stopped {
            self.ask();
        }
        Ok(stopped)
    }
}

impl Drop for Follower {
    /// The thread ends with the step it is at.
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
