//! `--drafts`: how many tokens the model's MTP block guesses ahead.

use anyhow::ensure;
use engine::{Drafts, LoadedModel};
use model::Ops;
use std::str::FromStr;

/// How many tokens to guess.
#[derive(clap::Args, Clone, Copy)]
pub struct DraftsArg {
    /// Tokens to guess ahead with the model's MTP block, if its file has one: they are read along with the next token, and
    /// where they are right that saves steps. 0 to 3, or auto: as many as turn out to be quickest. Replies are the same
    /// with any number. Default: auto
    #[arg(long, value_name = "N", value_parser = Drafts::from_str)]
    drafts: Option<Drafts>,
}

impl DraftsArg {
    /// Whether it was.
    pub fn is_given(self) -> bool {
        self.drafts.is_some()
    }

    /// What was asked for, if the model can do it.
    pub fn of<B: Ops>(self, loaded: &LoadedModel<B>) -> anyhow::Result<Drafts> {
        let drafts = self.drafts.unwrap_or_default();
        let needs_block = matches!(drafts, Drafts::Fixed(1..));
        ensure!(
            !needs_block || loaded.model.mtp.is_some(),
            "--drafts: this model has no MTP block that could guess tokens; leave the option out, or give 0"
        );
        Ok(drafts)
    }
}
