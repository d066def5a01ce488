//! `ds4 render`: a conversation to the prompt that the model reads.

use crate::model_arg::ModelArg;
use crate::{lines, tokenize};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::str::FromStr;
use text::chat::request::{ChatRequest, Conversation, RequestDefaults};
use text::chat::{Message, Profile, RenderOptions, render};
use text::{Prompt, Tokenizer};

/// Show the exact prompt of a chat request.
///
/// Reads a request in the form of OpenAI's Chat Completions from standard input and writes the prompt, with
/// control tokens spelled out and nothing added at its end.
#[derive(clap::Args)]
pub struct Render {
    #[command(flatten)]
    model: ModelArg,
    /// Write the ids of the prompt's tokens, a JSON array, instead of text. Only this needs a model
    #[arg(long)]
    ids: bool,
    /// Whose words prompts are written in: v4 or v4-0731. Default: what the request's member "profile" says,
    /// else v4
    #[arg(long, value_name = "NAME", value_parser = Profile::from_str)]
    profile: Option<Profile>,
    /// Answer JSON objects, one a line: messages as the renderer takes them, {"messages": […], "context": […],
    /// "options": {"thinking_mode": "chat", …}, "profile": "v4"}, with {"prompt": "…"}; with --ids also
    /// {"ids": […]}
    #[arg(long)]
    lines: bool,
}

#[derive(Deserialize)]
struct MessagesLine {
    messages: Vec<Message>,
    context: Option<Vec<Message>>,
    options: RenderOptions,
    profile: Option<Profile>,
}

#[derive(Serialize)]
struct PromptLine {
    prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<u32>>,
}

impl Render {
    /// Renders one request, or every line.
    pub fn run(&self, stdin: &mut dyn BufRead, out: &mut dyn Write) -> anyhow::Result<()> {
        let tokenizer = if self.ids { Some(tokenize::open(&self.model)?) } else { None };
        if self.lines {
            return lines::answer(stdin, out, |line| self.line(line, tokenizer.as_ref()));
        }
        let prompt = self.request(&tokenize::read_text(stdin)?)?;
        match tokenizer {
            Some(tokenizer) => {
                writeln!(out, "{}", serde_json::to_string(&tokenizer.encode_prompt(&prompt)?)?)?
            }
            None => write!(out, "{prompt}")?,
        }
        Ok(())
    }

    fn request(&self, json: &str) -> anyhow::Result<Prompt> {
        #[derive(Deserialize)]
        struct Extra {
            profile: Option<Profile>,
        }
        let reading = "reading the request";
        let extra: Extra = serde_json::from_str(json).context(reading)?;
        let request: ChatRequest = serde_json::from_str(json).context(reading)?;
        let profile = self.profile.or(extra.profile).unwrap_or_default();
        let defaults = RequestDefaults { profile, ..RequestDefaults::default() };
        Ok(Conversation::new(request, &defaults)?.prompt()?)
    }

    fn line(&self, line: MessagesLine, tokenizer: Option<&Tokenizer>) -> anyhow::Result<PromptLine> {
        let MessagesLine { messages, context, mut options, profile } = line;
        options.profile = self.profile.or(profile).unwrap_or_default();
        let prompt = render(&messages, &context.unwrap_or_default(), &options)?;
        let ids = tokenizer.map(|tokenizer| tokenizer.encode_prompt(&prompt)).transpose()?;
        Ok(PromptLine { prompt: prompt.to_string(), ids })
    }
}
