//! What answers requests: the engine, or in tests a script.

use crate::error::{ApiError, Fault};
use engine::{
    Constraints, Engine, Invalid, Job, JobError, JobEvent, ModelInfo, Refusal, SlotAction, SlotDone,
    SlotError, Status, Ticket,
};
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use text::Tokenizer;

/// A model in service, as the server needs it.
pub trait Speaker: Send + Sync + 'static {
    /// Takes a job, or says at once why not. Never blocks.
    ///
    /// # Errors
    ///
    /// If there is no room, or the job makes no sense.
    fn submit(&self, job: Job) -> Result<Box<dyn Speech>, Refusal>;
    /// Text to tokens and back.
    fn tokenizer(&self) -> &Arc<Tokenizer>;
    /// What replies can be held to.
    fn constraints(&self) -> &Constraints;
    /// What is served.
    fn info(&self) -> &ModelInfo;
    /// How it is doing.
    fn status(&self) -> Status;
    /// Does something with the last conversation of a slot. May take a while.
    ///
    /// # Errors
    ///
    /// If there is none, or no page store.
    fn slot(&self, slot: usize, action: SlotAction) -> Result<SlotDone, SlotError>;
    /// Takes no more jobs; running ones are ended after `grace`. Returns when they have.
    fn shutdown(&self, grace: Duration);
}

/// A job at work. Dropping it ends the work.
pub trait Speech: Send + 'static {
    /// The job's number.
    fn id(&self) -> u64;
    /// Tokens of its prompt.
    fn prompt_tokens(&self) -> usize;
    /// What happens next; `None` after the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<JobEvent>>;
    /// Ends the reply where it is; the end is still told.
    fn cancel(&self);
}

impl Speaker for Engine {
    fn submit(&self, job: Job) -> Result<Box<dyn Speech>, Refusal> {
        Ok(Box::new(Engine::submit(self, job)?))
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        Engine::tokenizer(self)
    }

    fn constraints(&self) -> &Constraints {
        Engine::constraints(self)
    }

    fn info(&self) -> &ModelInfo {
        Engine::info(self)
    }

    fn status(&self) -> Status {
        Engine::status(self)
    }

    fn slot(&self, slot: usize, action: SlotAction) -> Result<SlotDone, SlotError> {
        Engine::slot(self, slot, action)
    }

    fn shutdown(&self, grace: Duration) {
        Engine::shutdown(self, grace);
    }
}

impl Speech for Ticket {
    fn id(&self) -> u64 {
        self.id
    }

    fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<JobEvent>> {
        // Receiving from a channel loses nothing when it is given up and begun anew.
        std::pin::pin!(self.next()).poll(cx)
    }

    fn cancel(&self) {
        Ticket::cancel(self);
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let message = refusal.to_string();
        match refusal {
            Refusal::QueueFull { retry_after, .. } => {
                let seconds = retry_after.as_secs().max(1);
                // Some agents look for these words.
                let message = format!("{message}; please try again in {seconds}s");
                ApiError::new(Fault::Busy, message).retry_after(retry_after)
            }
            Refusal::Context { prompt, limit } => ApiError::context(prompt, limit),
            // It will not fit later either; agents know what to do about a prompt that is too long.
            Refusal::Memory { prompt, limit, .. } => ApiError::context(prompt, limit),
            Refusal::ShuttingDown => draining(),
            Refusal::Invalid(Invalid::Sampling(_)) => ApiError::new(Fault::Invalid, message),
            Refusal::Invalid(_) => ApiError::new(Fault::Invalid, message).at("messages"),
            _ => ApiError::new(Fault::Invalid, message),
        }
    }
}

impl From<SlotError> for ApiError {
    fn from(error: SlotError) -> ApiError {
        let fault = match &error {
            SlotError::ShuttingDown => return draining(),
            SlotError::Busy(_) | SlotError::NotSaved => Fault::Unavailable,
            SlotError::NoSuchSlot { .. }
            | SlotError::Empty(_)
            | SlotError::Forgotten(_)
            | SlotError::Unknown(_) => Fault::Thing,
            SlotError::NoStore => Fault::Unsupported,
            _ => Fault::Invalid,
        };
        let said = ApiError::new(fault, error.to_string());
        match fault {
            Fault::Unavailable => said.retry_after(Duration::from_secs(5)),
            _ => said,
        }
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> ApiError {
        match error {
            JobError::Deadline => ApiError::new(Fault::Timeout, error.to_string()),
            JobError::ShutDown => draining(),
            JobError::Constraint(_) => ApiError::new(Fault::Schema, error.to_string()),
            _ => ApiError::new(Fault::Internal, format!("the engine failed: {error}")),
        }
    }
}

/// The server is going away.
pub fn draining() -> ApiError {
    ApiError::new(Fault::Unavailable, "the server is shutting down").retry_after(Duration::from_secs(5))
}
