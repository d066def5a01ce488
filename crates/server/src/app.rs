//! What all handlers share.

use crate::error::{ApiError, Fault};
use crate::guard::{Client, Keys};
use crate::memory::{Journal, Memory};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::places::{Place, Places};
use crate::responses::flight::Flights;
use crate::responses::store::ResponseStore;
use crate::slots::Checkpoints;
use crate::speaker::{Speaker, draining};
use crate::trace::Trace;
use engine::Loading;
use std::collections::HashMap;
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
    backend: OnceLock<String>,
    /// How far the loading of the model is.
    loading: Mutex<Loading>,
    begun: Instant,
    /// Names that clients gave saved conversations.
    pub(crate) checkpoints: Mutex<Checkpoints>,
    /// Prompts of the jobs at work, if they are to be shown.
    prompts: Mutex<HashMap<u64, String>>,
    draining: AtomicBool,
    memory: Mutex<Memory>,
    places: Places,
    responses: Mutex<ResponseStore>,
    flights: Mutex<Flights>,
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
            backend: OnceLock::new(),
            loading: Mutex::default(),
            begun: Instant::now(),
            checkpoints: Mutex::default(),
            prompts: Mutex::default(),
            draining: AtomicBool::new(false),
            memory: Mutex::default(),
            places: Places::new(options.key_limit),
            flights: Mutex::default(),
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

    /// The model is there. What is remembered of earlier replies is read first.
    pub fn ready(&self, speaker: Arc<dyn Speaker>) {
        if let Some(folder) = &self.options.replies {
            let journal = Journal::open(folder, &speaker.info().fingerprint, speaker.tokenizer());
            match journal {
                Ok((journal, known)) => self.memory().remember(known, journal),
                Err(error) => eprintln!(
                    "warning: replies are not remembered beyond a restart: {}: {error}",
                    folder.display()
                ),
            }
        }
        assert!(self.speaker.set(speaker).is_ok(), "a model is loaded once");
    }

    /// So far is the loading of the model.
    pub fn progress(&self, loading: Loading) {
        *self.loading.lock().unwrap_or_else(PoisonError::into_inner) = loading;
    }

    /// On what the model is computed, for people.
    pub fn computes_on(&self, backend: String) {
        let _ = self.backend.set(backend);
    }

    /// Shows a prompt in `/slots`, until the result is dropped.
    pub fn show(&self, job: u64, prompt: String) -> Shown {
        self.prompts.lock().unwrap_or_else(PoisonError::into_inner).insert(job, prompt);
        Shown { app: self.clone(), job }
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
            None => ApiError::new(Fault::Unavailable, "Loading model").retry_after(self.load_rest()),
        })
    }

    /// Whether the model is on its way.
    pub fn is_loading(&self) -> bool {
        self.speaker.get().is_none() && self.load_error.get().is_none()
    }

    /// How far the loading of the model is.
    pub fn load_progress(&self) -> Loading {
        *self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long loading will take, by how long it has taken so far; two seconds as long as that says nothing.
    fn load_rest(&self) -> Duration {
        let part = f64::from(self.load_progress().part());
        if part < 0.05 {
            return Duration::from_secs(2);
        }
        let rest = self.begun.elapsed().as_secs_f64() * (1.0 - part) / part;
        Duration::from_secs_f64(rest.clamp(1.0, 60.0))
    }

    /// On what the model is computed, if that is known.
    pub fn backend(&self) -> &str {
        self.backend.get().map_or("unknown", String::as_str)
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
        // One of the client's own requests has to end first.
        let wait = |count| {
            let status = self.loaded().map(|speaker| speaker.status()).unwrap_or_default();
            status.first_end(count)
        };
        self.places.take(&client.scope, wait)
    }

    /// The prompt of a job, if it is shown.
    pub fn prompt_of(&self, job: u64) -> Option<String> {
        self.prompts.lock().unwrap_or_else(PoisonError::into_inner).get(&job).cloned()
    }

    /// What was said earlier.
    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stored responses.
    pub fn responses(&self) -> MutexGuard<'_, ResponseStore> {
        self.responses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Responses that are being written.
    pub fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Identifies the program, the formats of the weights and the weights, for clients that compare seeds.
    pub fn fingerprint(&self) -> String {
        let Ok(speaker) = self.loaded() else { return String::new() };
        let info = speaker.info();
        let hex = info.fingerprint[..6].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let build = self.options.commit.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
        format!("fp_{build}_{}_{hex}", info.quant.replace('/', "-"))
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

/// A prompt that is shown.
pub struct Shown {
    app: App,
    job: u64,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.app.prompts.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.job);
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
