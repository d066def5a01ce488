//! Where jobs wait, and what the worker sleeps on.

use super::job::{Priority, Refusal, SlotError};
use super::outbox::Outbox;
use super::slots::Command;
use crate::cache::Spelling;
use crate::cancel::Cancel;
use crate::generate::Request;
use crate::store::PageStore;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A job that was accepted and waits.
pub(super) struct Waiting {
    pub(super) id: u64,
    /// The prompt as the tokenizer spells it.
    pub(super) prompt: Arc<Spelling>,
    /// Whether another spelling of the same bytes will do.
    pub(super) any_spelling: bool,
    pub(super) request: Request,
    pub(super) priority: Priority,
    pub(super) deadline: Option<Instant>,
    pub(super) affinity: Option<u64>,
    pub(super) submitted: Instant,
    pub(super) events: Outbox,
    pub(super) cancel: Cancel,
    pub(super) fetch: Fetch,
    /// Tokens that memory knew when the page store was asked.
    pub(super) known: usize,
}

/// Whether the page store was asked for what the job needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    NotYet,
    Asked,
    Done,
}

impl Waiting {
    /// Whether nobody wants the reply any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.is_stopped() || self.events.is_closed()
    }

    /// How many tokens of the prompt the page store can bring, by its index; none once it was asked to, for then the
    /// cache has them. Other spellings of the same text are not looked for.
    pub(super) fn known_to(&self, store: &PageStore) -> usize {
        match self.fetch {
            Fetch::Done => 0,
            Fetch::NotYet | Fetch::Asked => {
                store.resume_from(self.prompt.tokens()).map_or(0, |(_, known)| known)
            }
        }
    }

    /// Of `cached` known tokens, how many the page store brought.
    pub(super) fn fetched(&self, cached: usize) -> usize {
        if self.fetch == Fetch::Done { cached.saturating_sub(self.known) } else { 0 }
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// Jobs that wait, bounded.
pub(super) struct Inbox {
    limit: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: Vec<Waiting>,
    commands: Vec<Command>,
    /// When the worker has to stop; no new jobs from then on.
    closing: Option<Instant>,
    next_id: u64,
    /// There is something that the worker has not looked at: a new job, or somebody wants it to look around.
    woken: bool,
}

impl Inbox {
    pub(super) fn new(limit: usize) -> Inbox {
        let state =
            State { waiting: Vec::new(), commands: Vec::new(), closing: None, next_id: 1, woken: false };
        Inbox { limit, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// A panic while the lock is held leaves plain data behind, so the data is used.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more job would be taken now.
    pub(super) fn check_room(&self, retry_after: Duration) -> Result<(), Refusal> {
        self.room(&self.lock(), retry_after)
    }

    fn room(&self, state: &State, retry_after: Duration) -> Result<(), Refusal> {
        let queued = state.waiting.len();
        if state.closing.is_some() {
            Err(Refusal::ShuttingDown)
        } else if queued >= self.limit {
            Err(Refusal::QueueFull { queued, limit: self.limit, retry_after })
        } else {
            Ok(())
        }
    }

    /// Takes a job, made once it has its number.
    pub(super) fn put(
        &self,
        retry_after: Duration,
        job: impl FnOnce(u64) -> Waiting,
    ) -> Result<u64, Refusal> {
        let mut state = self.lock();
        self.room(&state, retry_after)?;
        let id = state.next_id;
        state.next_id += 1;
        state.waiting.push(job(id));
        state.woken = true;
        drop(state);
        self.changed.notify_all();
        Ok(id)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Tokens of the prompts that wait.
    pub(super) fn tokens(&self) -> usize {
        self.lock().waiting.iter().map(|job| job.prompt.len()).sum()
    }

    /// Asks for something to be done with a place. If nobody will do it any more, the answer says so.
    pub(super) fn command(&self, command: Command) {
        let mut state = self.lock();
        if state.closing.is_some() {
            drop(state);
            let _ = command.answer.send(Err(SlotError::ShuttingDown));
            return;
        }
        state.commands.push(command);
        state.woken = true;
        drop(state);
        self.changed.notify_all();
    }

    /// What somebody wants to be done with places.
    pub(super) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut self.lock().commands)
    }

    /// Takes out the waiting jobs that `which` picks.
    pub(super) fn take_all(&self, which: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        self.lock().waiting.extract_if(.., |job| which(job)).collect()
    }

    /// Takes out the first job that `admit` agrees to, asked in the order in which they are `due`, and among equals in
    /// the order in which they came.
    pub(super) fn take(
        &self,
        due: impl Fn(&Waiting) -> Instant,
        mut admit: impl FnMut(&mut Waiting) -> bool,
    ) -> Option<Waiting> {
        let mut state = self.lock();
        let mut order: Vec<usize> = (0..state.waiting.len()).collect();
        order.sort_by_cached_key(|&i| (due(&state.waiting[i]), state.waiting[i].id));
        let chosen = order.into_iter().find(|&i| admit(&mut state.waiting[i]))?;
        Some(state.waiting.remove(chosen))
    }

    /// Takes note that the page store has answered for a job.
    pub(super) fn fetched(&self, id: u64) {
        for job in self.lock().waiting.iter_mut().filter(|job| job.id == id) {
            job.fetch = Fetch::Done;
        }
    }

    /// Whether the worker has been asked to stop, and when it has to.
    pub(super) fn closing(&self) -> Option<Instant> {
        self.lock().closing
    }

    /// No new jobs; the worker stops at `when` at the latest.
    pub(super) fn close(&self, when: Instant) {
        let mut state = self.lock();
        state.closing = Some(state.closing.map_or(when, |earlier| earlier.min(when)));
        state.woken = true;
        drop(state);
        self.changed.notify_all();
    }

    /// Makes the worker look around.
    pub(super) fn wake(&self) {
        self.lock().woken = true;
        self.changed.notify_all();
    }

    /// Sleeps until there is something to look at: a job that came, or a wake-up, since the last sleep ended; or the
    /// time of the earliest deadline, one of the jobs here or `deadline`.
    pub(super) fn sleep(&self, deadline: Option<Instant>) {
        let mut state = self.lock();
        while !state.woken {
            let waiting = state.waiting.iter().filter_map(|job| job.deadline);
            let until = waiting.chain(state.closing).chain(deadline).min();
            state = match until {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.woken = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Form;
    use crate::sampler::Sampling;
    use std::sync::mpsc;

    fn job(id: u64) -> Waiting {
        let request = Request {
            sampling: Sampling::default(),
            seed: 0,
            max_tokens: None,
            logprobs: None,
            form: Form::Plain { stop: Vec::new() },
            strict_markup: false,
            constraint: None,
            think_budget: None,
            min_tokens: 0,
            forced: Vec::new(),
        };
        Waiting {
            id,
            prompt: Arc::default(),
            any_spelling: true,
            request,
            priority: Priority::Normal,
            deadline: None,
            affinity: None,
            submitted: Instant::now(),
            events: crate::service::outbox::outbox().0,
            cancel: Cancel::default(),
            fetch: Fetch::NotYet,
            known: 0,
        }
    }

    /// The worker has looked and found nothing; then a job comes, and only then does the worker go to sleep.
    #[test]
    fn a_job_that_comes_just_before_the_worker_sleeps_wakes_it() {
        let inbox = Arc::new(Inbox::new(4));
        let first = || inbox.take(|job| job.submitted, |_| true);
        assert!(first().is_none());
        inbox.put(Duration::ZERO, job).unwrap();
        let (awake, waking) = mpsc::channel();
        let sleeper = inbox.clone();
        std::thread::spawn(move || {
            sleeper.sleep(None);
            awake.send(()).unwrap();
        });
        waking.recv_timeout(Duration::from_secs(10)).expect("the worker is awake");
        assert_eq!(first().map(|job| job.id), Some(1));
    }
}
