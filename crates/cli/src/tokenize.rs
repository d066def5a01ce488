//! `ds4 tokenize`: text to token ids and back.

use crate::lines;
use crate::model_arg::ModelArg;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use text::Tokenizer;

/// Show the tokens of a text.
///
/// Each line has a token's id and its text in quotes; bytes that are only a part of a character are shown as
/// \xNN. The text is data: no spelling in it becomes a control token, unless --special says so.
#[derive(clap::Args)]
pub struct Tokenize {
    /// The text. Default: standard input, to its last byte
    text: Option<String>,
    #[command(flatten)]
    model: ModelArg,
    /// Recognise control tokens that the text spells
    #[arg(long)]
    special: bool,
    /// The other way: ids, separated by blanks or commas, to text
    #[arg(long, conflicts_with = "special")]
    decode: bool,
    /// Answer JSON objects, one a line: {"text": "…", "special": false} with {"ids": […]}, or, with --decode,
    /// {"ids": […]} with {"text": "…"}
    #[arg(long, conflicts_with_all = ["text", "special"])]
    lines: bool,
}

#[derive(Deserialize)]
struct TextLine {
    text: String,
    #[serde(default)]
    special: bool,
}

#[derive(Serialize, Deserialize)]
struct Ids {
    ids: Vec<u32>,
}

#[derive(Serialize)]
struct Text {
    text: String,
}

impl Tokenize {
    /// Encodes or decodes.
    pub fn run(&self, stdin: &mut dyn BufRead, out: &mut dyn Write) -> anyhow::Result<()> {
        let tokenizer = open(&self.model)?;
        if self.lines && self.decode {
            return lines::answer(stdin, out, |Ids { ids }| Ok(Text { text: tokenizer.decode(&ids)? }));
        }
        if self.lines {
            return lines::answer(stdin, out, |TextLine { text, special }| {
                Ok(Ids { ids: encode(&tokenizer, &text, special) })
            });
        }
        let text = match &self.text {
            Some(text) => text.clone(),
            None => read_text(stdin)?,
        };
        if self.decode {
            write!(out, "{}", tokenizer.decode(&read_ids(&text)?)?)?;
            return Ok(());
        }
        for id in encode(&tokenizer, &text, self.special) {
            writeln!(out, "{id}\t{}", quoted(tokenizer.token_bytes(id)?))?;
        }
        Ok(())
    }
}

/// The tokenizer of a model; its weights are not read.
pub fn open(model: &ModelArg) -> anyhow::Result<Tokenizer> {
    let gguf = model.open()?;
    let vocab = engine::vocabulary(gguf.metadata()).context("reading the tokenizer")?;
    Tokenizer::new(vocab).context("reading the tokenizer")
}

/// All of standard input.
pub fn read_text(stdin: &mut dyn BufRead) -> anyhow::Result<String> {
    let mut text = String::new();
    stdin.read_to_string(&mut text).context("reading standard input")?;
    Ok(text)
}

fn encode(tokenizer: &Tokenizer, text: &str, special: bool) -> Vec<u32> {
    if special { tokenizer.encode_trusted(text) } else { tokenizer.encode(text) }
}

/// Ids as people write lists of numbers, with or without brackets.
fn read_ids(text: &str) -> anyhow::Result<Vec<u32>> {
    let text = text.trim().trim_start_matches('[').trim_end_matches(']');
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    words.map(|word| word.parse().with_context(|| format!("{word:?} is not a token id"))).collect()
}

/// Text in quotes, on one line.
fn quoted(bytes: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        quoted.extend(chunk.valid().chars().flat_map(char::escape_debug));
        quoted.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_people_write_them() {
        for text in ["1 2\n3", "[1, 2, 3]", "1,2,3\n"] {
            assert_eq!(read_ids(text).unwrap(), [1, 2, 3]);
        }
        assert_eq!(read_ids(" \n").unwrap(), [0; 0]);
        assert!(read_ids("1 x").unwrap_err().to_string().contains("\"x\" is not a token id"));
    }

    #[test]
    fn a_token_is_shown_on_one_line() {
        assert_eq!(quoted("a\"é\n世".as_bytes()), r#""a\"é\n世""#);
        assert_eq!(quoted(b"\xe4\xb8 x"), r#""\xe4\xb8 x""#);
    }
}
