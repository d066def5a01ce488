//! What is kept of a session: its messages, and which model they are for. What the model has read is in the page
//! store, and can be read again.

use crate::run::options::Think;
use crate::run::turn::Turn;
use anyhow::{Context, ensure};
use gguf::Gguf;
use model::KvFormat;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The form that this program reads and writes.
const VERSION: u32 = 1;

/// A session as it lies on disk, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this form.
    ds4_session: u32,
    /// The model that it talks to.
    pub model: ModelMark,
    /// The KV format, by its name: what was read is kept for this one.
    pub kv: String,
    /// When it began, in milliseconds since 1970.
    pub created: u64,
    /// When something was last said, in milliseconds since 1970.
    pub updated: u64,
    /// Whether the model thinks.
    pub think: Think,
    /// The system prompt; empty if there is none.
    pub system: String,
    /// The tools that the model may call.
    #[serde(default)]
    pub tools: Vec<Map<String, Value>>,
    /// The messages.
    pub turns: Vec<Turn>,
}

/// Which model a session was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelMark {
    /// What it calls itself.
    pub name: String,
    /// [`model::Model::fingerprint`], as hexadecimal digits.
    pub fingerprint: String,
    /// Its file, unless it is built in.
    pub file: Option<PathBuf>,
}

impl ModelMark {
    /// The mark of a model that was opened.
    pub fn of(gguf: &Gguf) -> ModelMark {
        let file = gguf.files().next().filter(|path| path.is_file());
        let file = file.map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        let name = gguf.metadata().opt_str("general.name").ok().flatten().unwrap_or("a model without a name");
        let fingerprint = crate::store::hex(&model::load::fingerprint(gguf));
        ModelMark { name: name.to_owned(), fingerprint, file }
    }

    /// How to run it again.
    pub fn how_to_run(&self) -> String {
        match &self.file {
            Some(file) => format!("-m {}", file.display()),
            None => "the built-in model, without -m".into(),
        }
    }
}

impl Record {
    /// A session that has not begun.
    pub fn new(model: ModelMark, kv: KvFormat) -> Record {
        let now = now();
        Record {
            ds4_session: VERSION,
            model,
            kv: kv.name().to_owned(),
            created: now,
            updated: now,
            think: Think::Off,
            system: String::new(),
            tools: Vec::new(),
            turns: Vec::new(),
        }
    }

    /// Reads a session.
    ///
    /// # Errors
    ///
    /// If the file is anything else.
    pub fn read(path: &Path) -> anyhow::Result<Record> {
        #[derive(Deserialize)]
        struct Version {
            ds4_session: u32,
        }
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let read = || -> anyhow::Result<Record> {
            let Version { ds4_session: version } =
                serde_json::from_slice(&bytes).context("not a session of ds4")?;
            ensure!(version == VERSION, "a session in form {version}, and this program reads form {VERSION}");
            serde_json::from_slice(&bytes).context("a damaged session")
        };
        read().with_context(|| path.display().to_string())
    }

    /// Writes the session to disk.
    ///
    /// # Errors
    ///
    /// If that fails; then the file is as it was.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let write = |file: &mut dyn Write| Ok(serde_json::to_writer(file, self)?);
        crate::private::write(path, write)
            .with_context(|| format!("saving the session to {}", path.display()))
    }
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
