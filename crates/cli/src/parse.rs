//! `ds4 parse`: what the model generated to the message that it means.

use crate::{lines, tokenize};
use clap::ValueEnum;
use serde::Deserialize;
use std::io::{BufRead, Write};
use std::num::NonZeroUsize;
use text::reply::{Finish, Start};
use text::{Marker, Reply, ReplyOptions, ReplyParser};

/// Show the message in a generated text.
///
/// Reads the text from standard input and writes the message as JSON: reasoning, content, tool calls, why it
/// ended and what had to be repaired. Control tokens count by their spelling; an end-of-sentence token at the
/// end is not part of the text.
#[derive(clap::Args)]
pub struct Parse {
    /// What the prompt ended with: <think>, </think> or an opened block of tool calls
    #[arg(long, value_enum, value_name = "WHERE", default_value = "thinking")]
    start: StartArg,
    /// Why generation ended
    #[arg(long, value_enum, value_name = "WHY", default_value = "stop")]
    finish: FinishArg,
    /// The tools that were declared, separated by commas. Without any, tool markup is text
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tools: Vec<String>,
    /// Text that ends the content and is not part of it
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Whether misspelt tool markup around a declared tool is a call
    #[arg(long, value_enum, value_name = "SWITCH", default_value = "on")]
    dsml_recovery: Switch,
    /// Give the parser so many bytes at a time. Does not change the result
    #[arg(long, value_name = "N")]
    split: Option<NonZeroUsize>,
    /// Answer JSON objects, one a line: {"start": "chat", "tools_active": true, "declared_tools": […],
    /// "finish": "stop", "text": "…"} with messages
    #[arg(long, conflicts_with_all = ["start", "finish", "tools", "stop"])]
    lines: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum StartArg {
    Thinking,
    Chat,
    Block,
}

#[derive(Clone, Copy, ValueEnum)]
enum FinishArg {
    Stop,
    Length,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Deserialize)]
struct TextLine {
    #[serde(flatten)]
    options: ReplyOptions,
    finish: Finish,
    text: String,
}

impl Parse {
    /// Parses one text, or every line.
    pub fn run(&self, stdin: &mut dyn BufRead, out: &mut dyn Write) -> anyhow::Result<()> {
        if self.lines {
            return lines::answer(stdin, out, |TextLine { options, finish, text }| {
                Ok(self.parse(options, finish, &text))
            });
        }
        let reply = self.parse(self.options(), self.finish(), &tokenize::read_text(stdin)?);
        writeln!(out, "{}", serde_json::to_string_pretty(&reply)?)?;
        Ok(())
    }

    fn options(&self) -> ReplyOptions {
        ReplyOptions {
            start: match self.start {
                StartArg::Thinking => Start::Thinking,
                StartArg::Chat => Start::Chat,
                StartArg::Block => Start::Block,
            },
            tools_active: !self.tools.is_empty(),
            declared_tools: self.tools.clone(),
            stop: self.stop.clone(),
            ..ReplyOptions::default()
        }
    }

    fn finish(&self) -> Finish {
        match self.finish {
            FinishArg::Stop => Finish::Stop,
            FinishArg::Length => Finish::Length,
        }
    }

    fn parse(&self, mut options: ReplyOptions, finish: Finish, text: &str) -> Reply {
        options.recovery &= self.dsml_recovery == Switch::On;
        let bytes = text.strip_suffix(Marker::Eos.text()).unwrap_or(text).as_bytes();
        let mut parser = ReplyParser::new(options);
        for portion in bytes.chunks(self.split.map_or(bytes.len().max(1), NonZeroUsize::get)) {
            parser.push_text(portion);
        }
        let (_, reply) = parser.finish(finish);
        reply
    }
}
