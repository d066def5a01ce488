//! What goes into the engine and what comes out: jobs, tickets, events, refusals.

use crate::cancel::Cancel;
use crate::constraint::ConstraintError;
use crate::generate::StepError;
use crate::generate::{Event, Reply, Request};
use crate::miss::Miss;
use crate::sampler::{BadLogit, SamplingError};
use model::PageKey;
use model::ops::DeviceError;
use std::sync::Weak;
use std::time::{Duration, Instant};
use text::{MissingMarker, Prompt};

use super::inbox::Inbox;
use super::outbox::Letters;

/// A prompt and how to reply to it.
#[derive(Clone, Debug)]
pub struct Job {
    /// What to reply to.
    pub prompt: JobPrompt,
    /// What the reply should be like.
    pub request: Request,
    /// Who goes first.
    pub priority: Priority,
    /// When the answer is of no use any more.
    pub deadline: Option<Instant>,
    /// What the caller calls the conversation, as a number. It breaks ties when a place is chosen, and keeps the longest
    /// conversation of that name in memory while others of that name are worked on. What was read before is found by what
    /// is said.
    pub affinity: Option<u64>,
}

/// What to reply to.
#[derive(Clone, Debug)]
pub enum JobPrompt {
    /// A rendered conversation. What was read before is recognised by its bytes: where the model itself spelled
    /// a text with other tokens than the tokenizer would, its spelling stays.
    Rendered(Prompt),
    /// These tokens and no others.
    Tokens(Vec<u32>),
}

/// Who goes first, when not everybody can. Nobody is kept waiting for ever: who is less important and has waited for ten
/// minutes longer goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Nobody waits for it.
    Background,
    /// As usual.
    #[default]
    Normal,
    /// Somebody is watching.
    Interactive,
}

/// The caller's end of a job. Dropping it cancels the job, in whatever phase it is, within one step. A job whose
/// events are not read waits once there are some hundreds of them, and goes on when they are.
pub struct Ticket {
    /// The job's number.
    pub id: u64,
    /// Tokens of its prompt, as the tokenizer spells it.
    pub prompt_tokens: usize,
    pub(super) events: Letters,
    pub(super) cancel: Cancel,
    pub(super) inbox: Weak<Inbox>,
}

impl Ticket {
    /// What happened next; `None` after [`JobEvent::Done`] or [`JobEvent::Failed`].
    pub async fn next(&mut self) -> Option<JobEvent> {
        let next = self.events.next().await;
        self.taken(next)
    }

    /// As [`Ticket::next`], for callers outside of an async runtime.
    ///
    /// # Panics
    ///
    /// If called inside of one.
    pub fn blocking_next(&mut self) -> Option<JobEvent> {
        let next = self.events.blocking_next();
        self.taken(next)
    }

    fn taken(&self, next: Option<(JobEvent, bool)>) -> Option<JobEvent> {
        let (event, waited) = next?;
        if waited {
            self.wake();
        }
        Some(event)
    }

    /// Waits for the end of the job.
    ///
    /// # Errors
    ///
    /// As [`JobEvent::Failed`] has it.
    ///
    /// # Panics
    ///
    /// If called inside of an async runtime.
    pub fn wait(mut self) -> Result<Reply, JobError> {
        loop {
            match self.blocking_next() {
                Some(JobEvent::Done(reply)) => return Ok(*reply),
                Some(JobEvent::Failed(error)) => return Err(error),
                Some(_) => {}
                None => return Err(JobError::Gone),
            }
        }
    }

    /// Ends the reply where it is: [`JobEvent::Done`] with [`crate::Finish::Cancelled`] follows.
    pub fn cancel(&self) {
        self.cancel.stop();
        self.wake();
    }

    /// The worker may be asleep, or the job be waiting behind others.
    fn wake(&self) {
        if let Some(inbox) = self.inbox.upgrade() {
            inbox.wake();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Something that happens to a job.
#[derive(Debug)]
pub enum JobEvent {
    /// It has left the queue.
    Started {
        /// Tokens of the prompt that need not be read.
        cached: usize,
        /// Why not more; `None` if nothing but the last token is left to read.
        miss: Option<Miss>,
    },
    /// The prompt is being read, or the reply written.
    Event(Event),
    /// The reply is finished. Nothing follows.
    Done(Box<Reply>),
    /// There will be no reply. Nothing follows.
    Failed(JobError),
}

/// Why an accepted job has no reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// Its time was over before it said anything.
    #[error("the time for the reply was over before it began")]
    Deadline,
    /// The model gave no usable logits.
    #[error(transparent)]
    BadLogit(#[from] BadLogit),
    /// The reply cannot be held to its constraint.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Our fault.
    #[error("an internal error: {0}")]
    Internal(String),
    /// The engine was shut down before the job began.
    #[error("the engine was shut down")]
    ShutDown,
    /// The engine's thread is gone.
    #[error("the engine has stopped")]
    Gone,
}

impl From<StepError> for JobError {
    fn from(error: StepError) -> Self {
        match error {
            StepError::BadLogit(error) => error.into(),
            StepError::Constraint(error) => error.into(),
        }
    }
}

/// What can be done with the last conversation of a place; see [`super::Engine::slot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotAction {
    /// All of it goes to the page store, and is there when the call returns.
    Save,
    /// The conversation that ends with this key comes from the page store, to be gone on with.
    Restore(PageKey),
    /// What nobody else needs of it is forgotten. What the page store has of it stays there.
    Erase,
}

/// A conversation that something was done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotDone {
    /// The key of its end, by which it can be brought back.
    pub key: PageKey,
    /// Its tokens.
    pub tokens: usize,
}

/// Why nothing could be done with a place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// There are fewer places.
    #[error("there is no slot {slot}; they count from 0 to {last}")]
    NoSuchSlot {
        /// The place asked for.
        slot: usize,
        /// The last one.
        last: usize,
    },
    /// No conversation was there yet.
    #[error("slot {0} is empty")]
    Empty(usize),
    /// Somebody is being answered there.
    #[error("slot {0} is being worked on")]
    Busy(usize),
    /// There is nothing to save to or to bring back from.
    #[error("the server has no page store; --store gives it one")]
    NoStore,
    /// The conversation was evicted, and the page store does not have all of it.
    #[error("the conversation of slot {0} is not in memory any more")]
    Forgotten(usize),
    /// The page store does not have a conversation that ends like this.
    #[error("the page store has no conversation {0}")]
    Unknown(PageKey),
    /// It could not be written in time, or at all.
    #[error("the page store did not take the conversation; the server's metrics say more (ds4_disk_kv_...)")]
    NotSaved,
    /// It does not fit into the memory for cached rows.
    #[error("there is no memory for the conversation")]
    NoMemory,
    /// The engine goes away, or has.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// Why a job was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too many others wait already.
    #[error(
        "{queued} requests are waiting, and {limit} may: try again in {} seconds",
        retry_after.as_secs()
    )]
    QueueFull {
        /// Jobs that wait.
        queued: usize,
        /// How many may.
        limit: usize,
        /// When one of them will probably have begun.
        retry_after: Duration,
    },
    /// The prompt does not fit into the context.
    #[error("the prompt has {prompt} tokens, but the context ends at {limit}")]
    Context {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        limit: usize,
    },
    /// The prompt's cached rows do not fit into the memory set aside for them.
    #[error(
        "the request needs {need} bytes of memory for the cached rows of {prompt} tokens and of its reply, and {free} \
         can be had: ask for less, or give more with --kv-memory"
    )]
    Memory {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens for which there is memory.
        limit: usize,
        /// Bytes that are needed.
        need: u64,
        /// Bytes that there are, if everything else is forgotten.
        free: u64,
    },
    /// No new jobs.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The job makes no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// What makes no sense in a job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// There is nothing to reply to.
    #[error("the prompt is empty")]
    Empty,
    /// Not a token of this model.
    #[error("prompt: token {token} is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        token: u32,
        /// Tokens of the vocabulary.
        vocab: usize,
    },
    /// The prompt is in words that the vocabulary lacks.
    #[error(transparent)]
    Marker(#[from] MissingMarker),
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}
