//! Events on their way from the worker to a caller, counted, so that nobody writes for a caller who does not read.

use super::job::JobEvent;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// With so many events that were not read, a job gets no more rows until some are. A token is one event or two,
/// and a caller who reads is never that far behind.
const MOST_UNREAD: usize = 512;

/// The worker's end.
#[derive(Clone)]
pub(super) struct Outbox {
    events: UnboundedSender<JobEvent>,
    unread: Arc<AtomicUsize>,
}

/// The caller's end.
pub(super) struct Letters {
    events: UnboundedReceiver<JobEvent>,
    unread: Arc<AtomicUsize>,
}

/// Both ends.
pub(super) fn outbox() -> (Outbox, Letters) {
    let ((sender, receiver), unread) = (unbounded_channel(), Arc::default());
    (Outbox { events: sender, unread: Arc::clone(&unread) }, Letters { events: receiver, unread })
}

impl Outbox {
    /// What does not wait: the end of a job comes through however much was not read. A caller who has gone does not
    /// want to know.
    pub(super) fn send(&self, event: JobEvent) {
        self.unread.fetch_add(1, SeqCst);
        let _ = self.events.send(event);
    }

    /// Whether the caller has gone.
    pub(super) fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether the caller has so much to read that the job should wait.
    pub(super) fn is_full(&self) -> bool {
        self.unread.load(SeqCst) >= MOST_UNREAD
    }
}

impl Letters {
    /// The next event, and whether the job waited for this one to be taken.
    pub(super) async fn next(&mut self) -> Option<(JobEvent, bool)> {
        let event = self.events.recv().await?;
        Some((event, self.took()))
    }

    /// As [`Letters::next`], outside of an async runtime.
    pub(super) fn blocking_next(&mut self) -> Option<(JobEvent, bool)> {
        let event = self.events.blocking_recv()?;
        Some((event, self.took()))
    }

    fn took(&self) -> bool {
        self.unread.fetch_sub(1, SeqCst) == MOST_UNREAD
    }
}
