//! `--session`: a conversation that is kept from one command to the next.
//!
//! Messages lie in the session's record, saved after each reply; what the model has read of them lies in the page
//! store, and is only ever a saving: whatever is missing there is read again.

use super::dialogue::Dialogue;
use crate::sessions::{Held, ModelMark, Name, Record, Shelf, now};
use crate::units::ago;
use anyhow::{anyhow, bail};
use model::{KvFormat, Ops};
use std::str::FromStr;
use std::time::SystemTime;
use text::chat::Tool;

/// A session, while this process has it.
pub struct Kept {
    held: Held,
    record: Record,
    is_new: bool,
}

impl Kept {
    /// Takes up a session, or begins one.
    ///
    /// - `take_over`: whether a session of another model is gone on with
    ///
    /// # Errors
    ///
    /// If it cannot be read, or was made with another model.
    pub fn open(held: Held, model: ModelMark, take_over: bool) -> anyhow::Result<Kept> {
        let Some(mut record) = held.read()? else {
            let record = Record::new(model, KvFormat::F16); // until the format is known
            return Ok(Kept { held, record, is_new: true });
        };
        if record.model.fingerprint == model.fingerprint {
            record.model = model; // its file may have moved
            return Ok(Kept { held, record, is_new: false });
        }
        if !take_over {
            bail!(
                "session {} was made with another model, {:?} ({}), and this is {:?}. Run that one, or add \
                 --take-over: then this model reads the conversation anew and goes on with it",
                held.name,
                record.model.name,
                record.model.how_to_run(),
                model.name
            );
        }
        let fresh = Record::new(model, KvFormat::F16);
        (record.model, record.kv) = (fresh.model, String::new());
        record.turns.iter_mut().for_each(super::turn::Turn::forget_spelling);
        Ok(Kept { held, record, is_new: false })
    }

    /// Begins a session of this name.
    ///
    /// # Errors
    ///
    /// If there is one already.
    pub fn begin(name: &Name, model: ModelMark) -> anyhow::Result<Kept> {
        let held = Shelf::open()?.take(name)?;
        if held.read()?.is_some() {
            bail!("there is a session {name} already; `ds4 run --session {name}` goes on with it");
        }
        Ok(Kept { held, record: Record::new(model, KvFormat::F16), is_new: true })
    }

    /// What it is called.
    pub fn name(&self) -> &Name {
        &self.held.name
    }

    /// The KV format that it was kept in, if it was.
    ///
    /// # Errors
    ///
    /// If the record names none that there is.
    pub fn kv(&self) -> anyhow::Result<Option<KvFormat>> {
        if self.is_new || self.record.kv.is_empty() {
            return Ok(None);
        }
        let known = KvFormat::from_str(&self.record.kv);
        known.map(Some).map_err(|error| anyhow!("session {}: {error}", self.held.name))
    }

    /// The tools that it was kept with.
    pub fn tools(&self) -> Vec<Tool> {
        self.record.tools.iter().map(|function| Tool { function: function.clone() }).collect()
    }

    /// Puts what was said before into a conversation that is about to begin.
    ///
    /// - `system`, `think`: whether they are to stay as they are in the conversation
    pub fn restore<B: Ops + 'static>(&self, dialogue: &mut Dialogue<B>, system: bool, think: bool) {
        if self.is_new {
            return;
        }
        if !system {
            dialogue.set_system(self.record.system.clone());
        }
        if !think {
            dialogue.set_think(self.record.think);
        }
        dialogue.set_turns(self.record.turns.clone());
    }

    /// What people are told when it is taken up.
    pub fn greeting(&self) -> String {
        let name = &self.held.name;
        if self.is_new {
            return format!("session {name}: new");
        }
        let (count, when) = (self.record.turns.len(), ago(self.record.updated, SystemTime::now()));
        format!("session {name}: {count} messages, {when}")
    }

    /// Saves what was said.
    ///
    /// # Errors
    ///
    /// If that fails; then it is kept as it was.
    pub fn save<B: Ops + 'static>(&mut self, dialogue: &Dialogue<B>) -> anyhow::Result<()> {
        self.record.kv = dialogue.session().kv_format().name().to_owned();
        self.record.updated = now();
        self.record.think = dialogue.think();
        self.record.system = dialogue.system().to_owned();
        self.record.tools = dialogue.tools().iter().map(|tool| tool.function.clone()).collect();
        self.record.turns = dialogue.turns().to_vec();
        self.held.write(&self.record)
    }
}
