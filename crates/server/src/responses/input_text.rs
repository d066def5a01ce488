//! The text of a tool that takes plain text, out of the JSON that the model calls it with.

/// Reads `{"input": "…"}` as it comes and gives back what the string says.
#[derive(Debug, Default)]
pub(crate) struct InputText {
    state: State,
    /// An escape that has not ended.
    escape: String,
    /// The first half of a character that is escaped as two.
    high: Option<u16>,
}

#[derive(Debug, Default, PartialEq)]
enum State {
    /// Before the string. Its member's name is skipped over: the second opening quote after the colon counts.
    #[default]
    Before,
    AfterColon,
    InName,
    Inside,
    After,
}

impl InputText {
    /// Takes more of the JSON.
    pub fn push(&mut self, json: &str) -> String {
        let mut out = String::new();
        for c in json.chars() {
            self.take(c, &mut out);
        }
        out
    }

    fn take(&mut self, c: char, out: &mut String) {
        match self.state {
            State::Before if c == '"' => self.state = State::InName,
            State::InName if c == '"' => self.state = State::AfterColon,
            State::AfterColon if c == '"' => self.state = State::Inside,
            State::Inside if !self.escape.is_empty() => self.unescape(c, out),
            State::Inside if c == '\\' => self.escape.push(c),
            State::Inside if c == '"' => self.state = State::After,
            State::Inside => out.push(c),
            _ => {}
        }
    }

    fn unescape(&mut self, c: char, out: &mut String) {
        self.escape.push(c);
        let plain = match (self.escape.len(), c) {
            (2, 'n') => '\n',
            (2, 't') => '\t',
            (2, 'r') => '\r',
            (2, 'b') => '\u{8}',
            (2, 'f') => '\u{c}',
            (2, 'u') => return,
            (2, other) => other,
            (3..6, _) => return,
            _ => {
                let unit =
                    u16::from_str_radix(self.escape.get(2..6).unwrap_or_default(), 16).unwrap_or(0xfffd);
                self.escape.clear();
                return self.unit(unit, out);
            }
        };
        self.escape.clear();
        out.push(plain);
    }

    fn unit(&mut self, unit: u16, out: &mut String) {
        match (self.high.take(), unit) {
            (None, 0xd800..0xdc00) => self.high = Some(unit),
            (Some(high), low) => out.extend(char::decode_utf16([high, low]).map(|c| c.unwrap_or('\u{fffd}'))),
            (None, unit) => out.push(char::from_u32(u32::from(unit)).unwrap_or('\u{fffd}')),
        }
    }
}

/// The text of complete arguments; the arguments themselves if they have none.
pub(crate) fn input_text(arguments: &str) -> String {
    match serde_json::from_str::<serde_json::Value>(arguments) {
        Ok(value) => match value["input"].as_str() {
            Some(text) => text.to_owned(),
            None => arguments.to_owned(),
        },
        Err(_) => arguments.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_portions_give_the_text() {
        let text = "a\n\"b\" \\ \u{8} é 🦀 \u{1}";
        let json = serde_json::json!({ "input": text }).to_string();
        let spaced = format!("{{\"input\": {}", &json[json.find(':').unwrap() + 1..]);
        for json in [json, spaced] {
            for cut in (0..json.len()).filter(|&at| json.is_char_boundary(at)) {
                let mut reader = InputText::default();
                let mut got = reader.push(&json[..cut]);
                got.push_str(&reader.push(&json[cut..]));
                assert_eq!(got, text, "cut at {cut}");
            }
            assert_eq!(input_text(&json), text);
        }
        let mut reader = InputText::default();
        assert_eq!(reader.push(r#"{"input": "\ud83e\udd80"}"#), "🦀");
    }
}
