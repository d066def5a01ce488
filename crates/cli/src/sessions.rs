//! `ds4 sessions`: what `ds4 run --session` has kept.

mod name;
mod record;
mod shelf;
mod transcript;

pub use name::Name;
pub use record::{ModelMark, Record, now};
pub use shelf::{Held, Shelf};

use crate::private;
use crate::units::{ago, size};
use anyhow::Context;
use clap::ValueEnum;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::SystemTime;

/// List, show, export or remove the conversations of `ds4 run --session`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Sessions {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(clap::Subcommand)]
enum Chore {
    Ls(Ls),
    Show(Show),
    Export(Export),
    Rm(Rm),
}

/// List all sessions, those used last first.
#[derive(clap::Args)]
struct Ls {
    /// Answer with JSON
    #[arg(long)]
    json: bool,
}

/// Show what was said in a session, and about it.
#[derive(clap::Args)]
struct Show {
    /// Its name
    name: Name,
}

/// Write a session for other programs.
#[derive(clap::Args)]
struct Export {
    /// Its name
    name: Name,
    /// As what
    #[arg(long, value_enum, default_value = "markdown")]
    format: Format,
    /// Where to; only its owner will be able to read it. Default: standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text with headings, to be read.
    #[value(alias = "md")]
    Markdown,
    /// A request of the OpenAI API: messages and tools, to go on elsewhere, or with `ds4 render`.
    Json,
}

/// Remove sessions. What the model has read of them stays in the page store until that needs the room, or `ds4 store
/// prune` is told to.
#[derive(clap::Args)]
struct Rm {
    /// Their names
    #[arg(required = true)]
    names: Vec<Name>,
}

const EXAMPLES: &str = "\
Examples:
  ds4 run --session work \"What should I read first?\"
  ds4 sessions ls
  ds4 sessions export work > work.md
  ds4 sessions export work --format json | ds4 render";

impl Sessions {
    /// Does what was asked for.
    ///
    /// # Errors
    ///
    /// If a session is not there, in use, or damaged.
    pub fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let shelf = Shelf::open()?;
        match &self.chore {
            Chore::Ls(ls) => ls.run(&shelf, out),
            Chore::Show(show) => {
                let record = shelf.read(&show.name)?;
                let text = transcript::about(&show.name, &record) + &transcript::markdown(&record);
                Ok(out.write_all(crate::run::printable(&text, std::io::stdout().is_terminal()).as_bytes())?)
            }
            Chore::Export(export) => export.run(&shelf, out),
            Chore::Rm(rm) => rm.run(&shelf),
        }
    }
}

impl Ls {
    fn run(&self, shelf: &Shelf, out: &mut dyn Write) -> anyhow::Result<()> {
        let all = shelf.names()?.into_iter().map(|name| {
            let bytes = shelf.path(&name).metadata().map_or(0, |data| data.len());
            let record = shelf.read(&name);
            (name, bytes, record)
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(_, _, record)| {
            std::cmp::Reverse(record.as_ref().map_or(0, |record| record.updated))
        });
        if self.json {
            let all = all.iter().map(|(name, bytes, record)| match record {
                Ok(record) => json!({
                    "name": name.to_string(),
                    "messages": record.turns.len(),
                    "model": record.model.name,
                    "fingerprint": record.model.fingerprint,
                    "kv": record.kv,
                    "created_unix_ms": record.created,
                    "updated_unix_ms": record.updated,
                    "bytes": bytes,
                }),
                Err(error) => {
                    json!({ "name": name.to_string(), "error": crate::story(error), "bytes": bytes })
                }
            });
            let all: Vec<_> = all.collect();
            serde_json::to_writer_pretty(&mut *out, &all)?;
            return Ok(writeln!(out)?);
        }
        let width = all.iter().map(|(name, ..)| name.to_string().len()).max().unwrap_or(0).max("name".len());
        if all.is_empty() {
            return Ok(writeln!(out, "no sessions; `ds4 run --session NAME` begins one")?);
        }
        writeln!(out, "{:<width$}  {:>8}  {:>10}  {:<12}  model", "name", "messages", "size", "last used")?;
        for (name, bytes, record) in all {
            match record {
                Ok(record) => {
                    let (used, bytes) = (ago(record.updated, SystemTime::now()), size(bytes));
                    let (count, model) = (record.turns.len(), record.model.name);
                    writeln!(out, "{name:<width$}  {count:>8}  {bytes:>10}  {used:<12}  {model}")?;
                }
                Err(error) => writeln!(out, "{name:<width$}  cannot be read: {}", crate::story(&error))?,
            }
        }
        Ok(())
    }
}

impl Export {
    fn run(&self, shelf: &Shelf, out: &mut dyn Write) -> anyhow::Result<()> {
        let record = shelf.read(&self.name)?;
        let text = match self.format {
            Format::Markdown => transcript::markdown(&record),
            Format::Json => serde_json::to_string_pretty(&transcript::request(&record))? + "\n",
        };
        match &self.output {
            None => Ok(out.write_all(text.as_bytes())?),
            Some(path) => private::write(path, |file| Ok(file.write_all(text.as_bytes())?))
                .with_context(|| format!("writing {}", path.display())),
        }
    }
}

impl Rm {
    fn run(&self, shelf: &Shelf) -> anyhow::Result<()> {
        for name in &self.names {
            anyhow::ensure!(
                shelf.path(name).exists(),
                "there is no session {name}; `ds4 sessions ls` lists them"
            );
            shelf.take(name)?.remove()?;
        }
        Ok(())
    }
}
