//! How a reply looks while it is written.
//!
//! The answer goes to the command's output. Reasoning, dimmed, and the progress of reading a long prompt go
//! to standard error, so that output that is piped is the answer alone.

use anstyle::{Effects, Style};
use engine::{Cancel, Event};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// A prompt that is read faster than this needs no progress bar.
const PATIENCE: Duration = Duration::from_millis(500);

const REASONING: Style = Style::new().effects(Effects::DIMMED);

/// Shows one reply.
pub struct Display<'a> {
    out: &'a mut dyn Write,
    cancel: &'a Cancel,
    /// Whether a person sees `out` directly: then nothing in the text may steer the terminal.
    to_terminal: bool,
    start: Instant,
    bar: Option<ProgressBar>,
    /// The last text shown, if any.
    last: Option<Shown>,
    failed: io::Result<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Reasoning { ends_line: bool },
    Content { ends_line: bool },
}

impl<'a> Display<'a> {
    /// Shows a reply on `out`. If that fails, `cancel` stops the reply: nobody reads it.
    pub fn new(out: &'a mut dyn Write, cancel: &'a Cancel) -> Self {
        let to_terminal = io::stdout().is_terminal();
        Display { out, cancel, to_terminal, start: Instant::now(), bar: None, last: None, failed: Ok(()) }
    }

    /// Shows what happens next.
    pub fn show(&mut self, event: Event) {
        let shown = match event {
            Event::Prefill { done, total } => {
                self.prefill(done, total);
                Ok(())
            }
            Event::Message(text::Event::Reasoning(text)) => self.reasoning(&text),
            Event::Message(text::Event::Content(text)) => self.content(&text),
            _ => Ok(()),
        };
        if let Err(error) = shown
            && self.failed.is_ok()
        {
            self.failed = Err(error);
            self.cancel.stop();
        }
    }

    /// Ends the last line.
    ///
    /// # Errors
    ///
    /// If any of the reply could not be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.bar.take().inspect(ProgressBar::finish_and_clear);
        self.failed?;
        match self.last {
            Some(Shown::Content { ends_line: false }) => writeln!(self.out),
            Some(Shown::Reasoning { ends_line: false }) => writeln!(io::stderr()),
            _ => Ok(()),
        }
    }

    fn prefill(&mut self, done: usize, total: usize) {
        if done == total {
            self.bar.take().inspect(ProgressBar::finish_and_clear);
        } else if self.bar.is_some() || self.start.elapsed() > PATIENCE {
            let bar = self.bar.get_or_insert_with(|| progress_bar(total as u64, self.start.elapsed()));
            bar.set_position(done as u64);
        }
    }

    fn reasoning(&mut self, text: &str) -> io::Result<()> {
        let text = if self.last.is_none() { text.trim_start_matches('\n') } else { text };
        if text.is_empty() {
            return Ok(());
        }
        let mut err = anstream::stderr().lock();
        write!(err, "{REASONING}{}{REASONING:#}", printable(text, true))?;
        self.last = Some(Shown::Reasoning { ends_line: text.ends_with('\n') });
        err.flush()
    }

    fn content(&mut self, text: &str) -> io::Result<()> {
        let begins = !matches!(self.last, Some(Shown::Content { .. }));
        let text = if begins { text.trim_start_matches('\n') } else { text };
        if text.is_empty() {
            return Ok(());
        }
        if let Some(Shown::Reasoning { ends_line }) = self.last {
            io::stderr().write_all(if ends_line { b"\n" } else { b"\n\n" })?;
        }
        self.out.write_all(printable(text, self.to_terminal).as_bytes())?;
        self.last = Some(Shown::Content { ends_line: text.ends_with('\n') });
        self.out.flush()
    }
}

fn progress_bar(total: u64, elapsed: Duration) -> ProgressBar {
    let template = "reading {pos} of {len} tokens {wide_bar} {eta} left";
    let style = ProgressStyle::with_template(template).expect("a template of ours");
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.with_style(style).with_elapsed(elapsed)
}

/// Text that a terminal shows and does not obey: control characters are made visible.
pub fn printable(text: &str, to_terminal: bool) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !to_terminal || !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let visible = |c: char| match c {
        '\0'..='\x1f' if steers(c) => char::from_u32(0x2400 + c as u32).expect("a control picture"),
        _ if steers(c) => char::REPLACEMENT_CHARACTER,
        _ => c,
    };
    Cow::Owned(text.chars().map(visible).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(events: &[text::Event]) -> String {
        let mut out = Vec::new();
        let cancel = Cancel::new();
        let mut display = Display::new(&mut out, &cancel);
        events.iter().for_each(|event| display.show(Event::Message(event.clone())));
        display.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_output_is_the_answer_with_its_last_line_ended() {
        let reasoning = |text: &str| text::Event::Reasoning(text.into());
        let content = |text: &str| text::Event::Content(text.into());
        assert_eq!(shown(&[]), "");
        assert_eq!(shown(&[content("a"), content("b")]), "ab\n");
        assert_eq!(shown(&[reasoning("why"), content("\n\n"), content("a\n")]), "a\n");
        assert_eq!(shown(&[content("a\n\n"), content("\nb")]), "a\n\n\nb\n");
    }

    #[test]
    fn a_terminal_is_not_steered_by_the_text() {
        assert_eq!(printable("a\tb\n\x1b[2J\u{9b}1m\r", true), "a\tb\n␛[2J\u{fffd}1m␍");
        assert_eq!(printable("\x1b[2J", false), "\x1b[2J");
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reply_that_nobody_reads_is_stopped() {
        let cancel = Cancel::new();
        let mut closed = Closed;
        let mut display = Display::new(&mut closed, &cancel);
        display.show(Event::Message(text::Event::Content("a".into())));
        assert!(cancel.is_stopped());
        assert_eq!(display.finish().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
