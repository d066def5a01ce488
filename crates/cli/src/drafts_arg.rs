//! `--drafts` and `--mtp-file`: whether a model guesses tokens ahead, and with what.

use crate::model_arg::ModelArg;
use anyhow::{Context, ensure};
use engine::{Drafts, LoadedModel};
use gguf::Gguf;
use model::Ops;
use std::path::PathBuf;
use std::str::FromStr;

/// How many tokens to guess.
#[derive(clap::Args)]
pub struct DraftsArg {
    /// Tokens to guess ahead with the model's MTP block, if it has one: they are read along with the next token, and
    /// where they are right that saves steps. 0 to 3, or auto: as many as turn out to be quickest. Replies are the same
    /// with any number (on a GPU, as far as rounding goes). Default: auto
    #[arg(long, value_name = "N", value_parser = Drafts::from_str)]
    drafts: Option<Drafts>,
    #[command(flatten)]
    pub file: MtpFileArg,
}

/// Where the MTP block comes from.
#[derive(clap::Args)]
pub struct MtpFileArg {
    /// The file with the model's MTP block, if it is in a file of its own
    #[arg(long, value_name = "FILE")]
    mtp_file: Option<PathBuf>,
}

impl DraftsArg {
    /// Whether anything was asked for.
    pub fn is_given(&self) -> bool {
        self.drafts.is_some() || self.file.mtp_file.is_some()
    }

    /// How many were asked for, if the model can do it.
    pub fn of<B: Ops>(&self, loaded: &LoadedModel<B>) -> anyhow::Result<Drafts> {
        let drafts = self.drafts.unwrap_or_default();
        let needs_block = matches!(drafts, Drafts::Fixed(1..));
        ensure!(
            !needs_block || loaded.model.mtp.is_some(),
            "--drafts: this model has no MTP block that could guess tokens; name the file that has it (--mtp-file), or \
             leave the option out"
        );
        Ok(drafts)
    }
}

impl MtpFileArg {
    /// Opens the model, with the block.
    pub fn open(&self, model: &ModelArg) -> anyhow::Result<Gguf> {
        self.join(model.open()?)
    }

    /// The model with the block.
    pub fn join(&self, model: Gguf) -> anyhow::Result<Gguf> {
        let Some(path) = &self.mtp_file else { return Ok(model) };
        let file = Gguf::open(path).context("opening the MTP file")?;
        model::join_mtp(model, file).with_context(|| format!("taking the MTP block from {}", path.display()))
    }
}
