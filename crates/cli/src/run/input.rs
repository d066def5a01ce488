//! Where a chat's lines come from: a terminal with an editor, or a pipe.

use super::command::COMMANDS;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, Config, Context, Editor, Event, EventHandler, Helper, KeyCode, KeyEvent, Modifiers};
use std::io::{self, BufRead};

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A message or a command, maybe of several lines.
    Text(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, or the end of the pipe.
    End,
}

/// Where lines come from.
pub enum Input {
    /// Somebody types, with an editor.
    Terminal(Box<Editor<Assist, MemHistory>>),
    /// Somebody has written it already.
    Pipe(io::Stdin),
}

impl Input {
    /// An editor on the terminal. What is typed is not kept when the program ends.
    ///
    /// # Errors
    ///
    /// If the terminal cannot be used.
    pub fn terminal() -> anyhow::Result<Input> {
        let config = Config::builder().bracketed_paste(true).build();
        let mut editor = Editor::with_history(config, MemHistory::new())?;
        editor.set_helper(Some(Assist));
        let alt_enter = KeyEvent(KeyCode::Enter, Modifiers::ALT);
        editor.bind_sequence(Event::from(alt_enter), EventHandler::Simple(Cmd::Newline));
        Ok(Input::Terminal(Box::new(editor)))
    }

    /// The next message or command.
    ///
    /// # Errors
    ///
    /// If reading fails.
    pub fn read(&mut self, prompt: &str) -> anyhow::Result<Typed> {
        match self {
            Input::Terminal(editor) => match editor.readline(prompt) {
                Ok(text) => {
                    editor.add_history_entry(text.as_str())?;
                    Ok(Typed::Text(unwrap(&text)))
                }
                Err(ReadlineError::Interrupted) => Ok(Typed::Interrupt),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(error) => Err(error.into()),
            },
            Input::Pipe(stdin) => {
                let mut text = String::new();
                loop {
                    if stdin.lock().read_line(&mut text)? == 0 {
                        let rest = unwrap(text.trim_end_matches('\n'));
                        return Ok(if rest.is_empty() { Typed::End } else { Typed::Text(rest) });
                    }
                    if is_complete(text.trim_end_matches('\n')) {
                        return Ok(Typed::Text(unwrap(text.trim_end_matches('\n'))));
                    }
                }
            }
        }
    }
}

/// Whether nothing more has to be typed: a line that ends with a backslash goes on, and so does a text that
/// begins with three quotes until three quotes end it.
fn is_complete(text: &str) -> bool {
    match text.strip_prefix(QUOTES) {
        Some(rest) => rest.trim_end().ends_with(QUOTES),
        None => !text.ends_with('\\'),
    }
}

const QUOTES: &str = "\"\"\"";

/// The text without the signs that made it go on over several lines.
fn unwrap(text: &str) -> String {
    match text.strip_prefix(QUOTES) {
        Some(rest) => {
            let rest = rest.trim_end();
            rest.strip_suffix(QUOTES).unwrap_or(rest).trim_matches('\n').to_owned()
        }
        None => text.replace("\\\n", "\n"),
    }
}

/// Helps who is typing: commands are completed, and Enter goes on where a text is not complete.
pub struct Assist;

impl Validator for Assist {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_complete(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Completer for Assist {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let names = COMMANDS.iter().map(|(name, ..)| (*name).to_owned());
        let typed = &line[..at];
        Ok((0, names.filter(|name| typed.starts_with('/') && name.starts_with(typed)).collect()))
    }
}

impl Hinter for Assist {
    type Hint = String;
}
impl Highlighter for Assist {}
impl Helper for Assist {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_may_go_on_over_several_lines() {
        let check = |text: &str, complete, unwrapped: &str| {
            assert_eq!((is_complete(text), &*unwrap(text)), (complete, unwrapped), "{text:?}");
        };
        check("one", true, "one");
        check("one\\", false, "one\\");
        check("one\\\ntwo", true, "one\ntwo");
        check("\"\"\"\none\n\ntwo", false, "one\n\ntwo");
        check("\"\"\"\none\n\ntwo\n\"\"\"", true, "one\n\ntwo");
        check("\"\"\"one\"\"\"", true, "one");
    }
}
