//! `--trace FILE`: what came, what was decided, what was said, a line of JSON each.
//!
//! The file holds prompts, so it is for its owner's eyes only (mode 0600).

use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where to record.
pub struct Trace {
    file: Mutex<File>,
}

impl Trace {
    /// Opens a file to add lines to.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or kept from others.
    pub fn create(path: &Path) -> io::Result<Trace> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path)?;
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Trace { file: Mutex::new(file) })
    }

    /// A request as it came.
    ///
    /// - `parent`: the trace that the caller is in, if it said so
    pub fn request(&self, request_id: &str, parent: Option<&str>, path: &str, body: &Value) {
        self.line(&json!({
            "at": now(), "what": "request", "request": request_id, "traceparent": parent, "path": path, "body": body,
        }));
    }

    /// A prompt as it was rendered.
    pub fn prompt(&self, request_id: &str, prompt: &str) {
        self.line(&json!({ "at": now(), "what": "prompt", "request": request_id, "prompt": prompt }));
    }

    /// What of a request was understood in another way than it was said.
    pub fn warnings(&self, request_id: &str, warnings: &[String]) {
        self.line(&json!({ "at": now(), "what": "warnings", "request": request_id, "warnings": warnings }));
    }

    /// Something about a job.
    pub fn event(&self, job: u64, what: &str, details: &Value) {
        self.line(&json!({ "at": now(), "what": what, "job": job, "details": details }));
    }

    /// Something that the model said.
    pub fn said(&self, job: u64, said: &text::Event) {
        self.line(&json!({ "at": now(), "what": "said", "job": job, "event": format!("{said:?}") }));
    }

    /// A record that cannot be written is lost; the answer is not.
    fn line(&self, line: &Value) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
