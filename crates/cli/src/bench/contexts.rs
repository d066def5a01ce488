//! `--contexts`: contexts that were read once, kept in a folder. Reading a long one takes minutes, and it is
//! the same every time.

use super::workload::Runner;
use anyhow::{Context, Result};
use model::{Ops, Timeline};
use std::path::{Path, PathBuf};

/// A folder of contexts.
pub struct Contexts<'a> {
    folder: &'a Path,
}

impl<'a> Contexts<'a> {
    /// Those in a folder, which need not be there yet.
    pub fn new(folder: &'a Path) -> Self {
        Contexts { folder }
    }

    /// The context of this model, in this format, of this length; `None` if it was not kept.
    pub fn load<B: Ops>(&self, runner: &Runner<'_, B>, depth: usize) -> Option<Timeline<B>> {
        let path = self.path(runner, depth);
        let bytes = std::fs::read(&path).ok()?;
        let (config, fingerprint) = (&runner.model.config, &runner.model.fingerprint);
        match Timeline::from_bytes(runner.ops, config, runner.kv, fingerprint, &bytes) {
            Ok(timeline) if timeline.len() == depth => Some(timeline),
            Ok(_) => None,
            Err(error) => {
                eprintln!("warning: {} is read again: {error}", path.display());
                None
            }
        }
    }

    /// Keeps a context.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save<B: Ops>(&self, runner: &Runner<'_, B>, timeline: &Timeline<B>) -> Result<()> {
        let path = self.path(runner, timeline.len());
        let write = || {
            std::fs::create_dir_all(self.folder)?;
            // Not under its name until it is whole.
            let part = path.with_extension("part");
            std::fs::write(&part, timeline.to_bytes(&runner.model.fingerprint))?;
            std::fs::rename(&part, &path)
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    fn path<B: Ops>(&self, runner: &Runner<'_, B>, depth: usize) -> PathBuf {
        let model: String = runner.model.fingerprint[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(format!("{model}-{}-{depth}.context", runner.kv.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpu::Reference;
    use engine::Cancel;
    use forge::synth::{Recipe, Synthetic};
    use gguf::Gguf;
    use model::KvFormat;

    #[test]
    fn a_context_is_kept_and_a_damaged_one_is_not_taken() {
        let gguf = Gguf::from_vec(Synthetic::tiny(Recipe::Q8, 1).to_vec().unwrap()).unwrap();
        let model = model::load(&Reference, &gguf).unwrap();
        let cancel = Cancel::new();
        let runner = Runner { ops: &Reference, model: &model, kv: KvFormat::F16, chunk: 64, cancel: &cancel };
        let folder = tempfile::tempdir().unwrap();
        let contexts = Contexts::new(folder.path());
        let mut timeline = runner.start();
        runner.fill(&mut timeline, 40, &mut |_| ()).unwrap();
        contexts.save(&runner, &timeline).unwrap();
        assert_eq!(contexts.load(&runner, 40).unwrap().tokens(), timeline.tokens());
        assert!(contexts.load(&runner, 41).is_none());

        let path = contexts.path(&runner, 40);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(contexts.load(&runner, 40).is_none());
    }
}
