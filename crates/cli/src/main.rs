//! The binary `ds4`.
//!
//! Each subcommand is a struct whose doc comments are its help text, in a file of its own; `run` does the
//! work. What a command answers goes to standard output, and nothing else does: progress, warnings and
//! statistics go to standard error, so that output can be piped.
//!
//! Exit status: 0 if it worked, 1 if not, 2 if the command line made no sense. A reader that closes the
//! pipe early (`ds4 ... | head`) has what it wanted, so that is no failure.

mod backend;
mod bench;
mod drafts_arg;
mod folders;
mod inspect;
mod kv_rounding;
mod lines;
mod logits;
mod model_arg;
mod parse;
mod private;
mod render;
mod run;
mod serve;
mod sessions;
mod store;
mod synth;
mod tokenize;
mod units;

use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::process::ExitCode;

/// Run DeepSeek V4 models on hardware you own.
#[derive(Parser)]
#[command(name = "ds4", version, max_term_width = 100, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    Sessions(sessions::Sessions),
    Serve(serve::Serve),
    Store(store::Store),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
    Synth(synth::Synth),
    Logits(logits::Logits),
    KvRounding(kv_rounding::KvRounding),
    Tokenize(tokenize::Tokenize),
    Render(render::Render),
    Parse(parse::Parse),
}

impl Command {
    fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        match self {
            Command::Run(command) => command.run(out),
            Command::Sessions(command) => command.run(out),
            Command::Serve(command) => command.run(out),
            Command::Store(command) => command.run(out),
            Command::Inspect(command) => command.run(out),
            Command::Bench(command) => command.run(out),
            Command::Synth(command) => command.run(out),
            Command::Logits(command) => command.run(out),
            Command::KvRounding(command) => command.run(out),
            Command::Tokenize(command) => command.run(&mut io::stdin().lock(), out),
            Command::Render(command) => command.run(&mut io::stdin().lock(), out),
            Command::Parse(command) => command.run(&mut io::stdin().lock(), out),
        }
    }
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let mut out = io::stdout().lock();
    match command.run(&mut out).and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", story(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whether someone stopped reading our output.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.root_cause().downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// An error and its causes on one line. Some errors quote their cause; it is not said twice.
fn story(error: &anyhow::Error) -> String {
    let mut story = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !story.ends_with(&cause) {
            story += ": ";
            story += &cause;
        }
    }
    story
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_that_was_quoted_is_not_repeated() {
        let error: Result<(), _> = Err(anyhow::anyhow!("no such file"));
        let error = error.context("a.gguf: no such file").context("opening the model").unwrap_err();
        assert_eq!(story(&error), "opening the model: a.gguf: no such file");
    }
}
