//! What all handlers share.

use crate::error::{ApiError, Fault};
use crate::guard::{Client, Keys};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::places::{Place, Places};
use crate::responses::store::ResponseStore;
use crate::speaker::{Speaker, draining};
use crate::trace::Trace;
use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The server's state; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// What is behind an [`App`].
pub struct Shared {
    /// What the operator decided.
    pub options: Options,
    /// Who may ask.
    pub keys: Keys,
    /// Counters.
    pub metrics: Metrics,
    /// Seconds of the Unix epoch when the server began.
    pub started: u64,
    /// Where to record what happens.
    pub trace: Option<Trace>,
    speaker: OnceLock<Arc<dyn Speaker>>,
    load_error: OnceLock<String>,
    draining: AtomicBool,
    memory: Mutex<Memory>,
    places: Places,
    responses: Mutex<ResponseStore>,
}

impl Deref for App {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// A server whose model is still being loaded.
    ///
    /// # Errors
    ///
    /// If the trace cannot be written.
    pub fn loading(options: Options) -> io::Result<App> {
        let trace = options.trace.as_deref().map(Trace::create).transpose()?;
        Ok(App(Arc::new(Shared {
            keys: Keys::new(&options.keys),
            metrics: Metrics::default(),
            started: unix_time(),
            trace,
            speaker: OnceLock::new(),
            load_error: OnceLock::new(),
            draining: AtomicBool::new(false),
            memory: Mutex::default(),
            places: Places::new(options.key_limit),
            responses: Mutex::new(ResponseStore::new(options.response_store)),
            options,
        })))
    }

    /// A server that can answer.
    ///
    /// # Errors
    ///
    /// If the trace cannot be written.
    pub fn new(speaker: Arc<dyn Speaker>, options: Options) -> io::Result<App> {
        let app = App::loading(options)?;
        app.ready(speaker);
        Ok(app)
    }

    /// The model is there.
    pub fn ready(&self, speaker: Arc<dyn Speaker>) {
        assert!(self.speaker.set(speaker).is_ok(), "a model is loaded once");
    }

    /// There will be no model.
    pub fn failed(&self, why: String) {
        let _ = self.load_error.set(why);
    }
}

impl Shared {
    /// Who answers.
    ///
    /// # Errors
    ///
    /// If the model is still being loaded, or the server goes away.
    pub fn speaker(&self) -> Result<&Arc<dyn Speaker>, ApiError> {
        if self.is_draining() {
            return Err(draining());
        }
        self.loaded()
    }

    /// The same, for what can be answered until the end.
    ///
    /// # Errors
    ///
    /// If the model is still being loaded.
    pub fn loaded(&self) -> Result<&Arc<dyn Speaker>, ApiError> {
        self.speaker.get().ok_or_else(|| match self.load_error.get() {
            Some(why) => ApiError::new(Fault::Unavailable, format!("the model could not be loaded: {why}")),
            None => ApiError::new(Fault::Unavailable, "Loading model").retry_after(Duration::from_secs(2)),
        })
    }

    /// Takes no more work.
    pub fn drain(&self, grace: Duration) {
        self.draining.store(true, Ordering::Release);
        if let Some(speaker) = self.speaker.get() {
            speaker.shutdown(grace);
        }
    }

    /// Whether the server goes away.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// A place among the requests of this client, until it is dropped.
    ///
    /// # Errors
    ///
    /// If the client has as many as it may.
    pub fn place(&self, client: &Client) -> Result<Place, ApiError> {
        self.places.take(&client.scope)
    }

    /// What was said earlier.
    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stored responses.
    pub fn responses(&self) -> MutexGuard<'_, ResponseStore> {
        self.responses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Identifies the weights and the program, for clients that compare seeds.
    pub fn fingerprint(&self) -> String {
        let Ok(speaker) = self.loaded() else { return String::new() };
        let bytes = &speaker.info().fingerprint[..6];
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("fp_{}_{hex}", env!("CARGO_PKG_VERSION"))
    }

    /// The name to answer with to a request for `asked`.
    pub fn answer_name(&self, asked: &str) -> String {
        if self.options.echo_model && !asked.is_empty() {
            asked.to_owned()
        } else {
            self.options.model_name.clone()
        }
    }
}

/// Seconds of the Unix epoch.
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Time since a moment, in milliseconds.
pub fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
