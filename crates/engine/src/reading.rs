//! From tokens to a message: what the chat protocol makes of them, or plain text.

use crate::generate::Part;
use crate::sampler::Freedom;
use text::reply::{Finish, FinishReason, SamplingState};
use text::{Event, Reply, ReplyOptions, ReplyParser, StopStrings, Tokenizer, Utf8Stream};

/// How to read what the model writes.
#[derive(Clone, Debug)]
pub enum Form {
    /// As a reply in the chat protocol.
    Chat(ReplyOptions),
    /// As content, whatever it is.
    Plain {
        /// Text that ends the content and is not part of it.
        stop: Vec<String>,
    },
}

/// Reads one reply.
#[expect(clippy::large_enum_variant, reason = "there is one for each reply")]
pub(crate) enum Reader {
    Chat(ReplyParser),
    Plain(PlainReader),
}

impl Reader {
    pub(crate) fn new(form: Form) -> Reader {
        match form {
            Form::Chat(options) => Reader::Chat(ReplyParser::new(options)),
            Form::Plain { stop } => Reader::Plain(PlainReader::new(&stop)),
        }
    }

    /// How the next token is to be chosen.
    pub(crate) fn freedom(&self) -> Freedom {
        match self {
            Reader::Chat(parser) if parser.sampling_state().is_greedy() => Freedom::Strict,
            _ => Freedom::Free,
        }
    }

    /// Whether what comes next is reasoning.
    pub(crate) fn is_reasoning(&self) -> bool {
        matches!(self, Reader::Chat(parser) if parser.is_reasoning())
    }

    /// What the next token is a part of.
    pub(crate) fn part(&self) -> Part {
        match self {
            Reader::Chat(parser) if parser.is_reasoning() => Part::Reasoning,
            Reader::Chat(parser) if parser.sampling_state() != SamplingState::Outside => Part::Call,
            _ => Part::Content,
        }
    }

    /// Takes a token and says what it adds.
    pub(crate) fn push(&mut self, token: u32, tokenizer: &Tokenizer) -> Vec<Event> {
        let known = "model and tokenizer have one vocabulary";
        match self {
            Reader::Chat(parser) => parser.push_token(token, tokenizer).expect(known),
            Reader::Plain(reader) => reader.push(tokenizer.token_bytes(token).expect(known)),
        }
    }

    /// Whether the reply is complete: its calls are closed, or a stop string came.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Reader::Chat(parser) => parser.is_done(),
            Reader::Plain(reader) => reader.reply.stop_string.is_some(),
        }
    }

    /// Ends the reply: the last events, and the whole of it.
    pub(crate) fn finish(self, finish: Finish) -> (Vec<Event>, Reply) {
        match self {
            Reader::Chat(parser) => parser.finish(finish),
            Reader::Plain(reader) => reader.finish(finish),
        }
    }
}

/// Reads a reply as content and nothing else.
pub(crate) struct PlainReader {
    utf8: Utf8Stream,
    stops: StopStrings,
    reply: Reply,
}

impl PlainReader {
    fn new(stop: &[String]) -> Self {
        PlainReader { utf8: Utf8Stream::default(), stops: StopStrings::new(stop), reply: Reply::default() }
    }

    fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let text = self.utf8.push(bytes);
        self.read(text.chars())
    }

    fn read(&mut self, chars: impl Iterator<Item = char>) -> Vec<Event> {
        let mut content = String::new();
        for c in chars {
            self.reply.stop_string = self.stops.push(c, &mut content);
            if self.reply.stop_string.is_some() {
                break;
            }
        }
        self.say(content)
    }

    fn say(&mut self, content: String) -> Vec<Event> {
        if content.is_empty() {
            return Vec::new();
        }
        self.reply.content.push_str(&content);
        vec![Event::Content(content)]
    }

    fn finish(mut self, finish: Finish) -> (Vec<Event>, Reply) {
        let mut events = Vec::new();
        if self.reply.stop_string.is_none() {
            let cut = self.utf8.finish();
            events = self.read(cut.into_iter());
        }
        if self.reply.stop_string.is_none() {
            let mut held = String::new();
            self.stops.flush(&mut held);
            events.extend(self.say(held));
        }
        let length = finish == Finish::Length && self.reply.stop_string.is_none();
        self.reply.finish_reason = if length { FinishReason::Length } else { FinishReason::Stop };
        (events, self.reply)
    }
}
