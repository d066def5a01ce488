//! What can be typed in a chat besides messages.

use super::options::Think;
use crate::sessions::Name;
use std::path::PathBuf;

/// A line that begins with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Think(Think),
    /// `None` asks which system prompt there is.
    System(Option<String>),
    Read(PathBuf),
    Save(PathBuf),
    Load(PathBuf),
    /// `None` asks which session this is.
    Session(Option<Name>),
    Clear,
    Stats,
    Quit,
}

/// Name, argument and meaning of each command, in the order in which help lists them.
pub const COMMANDS: [(&str, &str, &str); 12] = [
    ("/help", "", "show this list"),
    ("/think", "", "let the model reason before it answers"),
    ("/nothink", "", "let the model answer at once"),
    ("/think-max", "", "let the model reason at length"),
    ("/system", "[TEXT]", "set the system prompt, or show it; TEXT \"\" removes it"),
    ("/read", "FILE", "put the text of a file before the next message"),
    ("/save", "FILE", "save the conversation, with what the model has read"),
    ("/load", "FILE", "go on with a saved conversation"),
    ("/session", "[NAME]", "keep the conversation as a session from now on, or show which one it is"),
    ("/clear", "", "forget the conversation; the system prompt stays"),
    ("/stats", "", "show the size of the conversation and the speed of the last reply"),
    ("/quit", "", "leave; Ctrl-D does the same"),
];

impl Command {
    /// Reads a line. `None` if it is a message for the model.
    pub fn parse(line: &str) -> Option<Result<Command, String>> {
        let line = line.trim_end();
        if !line.starts_with('/') {
            return None;
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let file = |command: fn(PathBuf) -> Command| match rest {
            "" => Err(format!("{name} needs the name of a file")),
            path => Ok(command(path.into())),
        };
        let alone = |command| match rest {
            "" => Ok(command),
            _ => Err(format!("{name} takes nothing after it")),
        };
        Some(match name {
            "/help" | "/?" => alone(Command::Help),
            "/think" => alone(Command::Think(Think::On)),
            "/nothink" => alone(Command::Think(Think::Off)),
            "/think-max" => alone(Command::Think(Think::Max)),
            "/system" if rest.is_empty() => Ok(Command::System(None)),
            "/system" if rest == "\"\"" => Ok(Command::System(Some(String::new()))),
            "/system" => Ok(Command::System(Some(rest.to_owned()))),
            "/read" => file(Command::Read),
            "/save" => file(Command::Save),
            "/load" => file(Command::Load),
            "/session" if rest.is_empty() => Ok(Command::Session(None)),
            "/session" => rest.parse().map(|name| Command::Session(Some(name))),
            "/clear" => alone(Command::Clear),
            "/stats" => alone(Command::Stats),
            "/quit" | "/exit" => alone(Command::Quit),
            _ => Err(format!(
                "there is no {name}; /help lists what there is, and a space before the slash sends it"
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_begins_a_command() {
        let check = |line: &str, want| assert_eq!(Command::parse(line), want, "{line:?}");
        check("hello /help", None);
        check(" /help", None);
        check("/help", Some(Ok(Command::Help)));
        check("/think-max ", Some(Ok(Command::Think(Think::Max))));
        check("/system You are\n  brief.", Some(Ok(Command::System(Some("You are\n  brief.".into())))));
        check("/system", Some(Ok(Command::System(None))));
        check("/system \"\"", Some(Ok(Command::System(Some(String::new())))));
        check("/save my chat.ds4", Some(Ok(Command::Save("my chat.ds4".into()))));
        check("/load", Some(Err("/load needs the name of a file".into())));
        check("/session work", Some(Ok(Command::Session(Some("work".parse().unwrap())))));
        check("/session", Some(Ok(Command::Session(None))));
        assert!(Command::parse("/session ../work").unwrap().is_err());
        check("/clear all", Some(Err("/clear takes nothing after it".into())));
        assert!(Command::parse("/etc/passwd").unwrap().is_err());
    }

    #[test]
    fn every_command_in_the_help_is_one() {
        for (name, argument, _) in COMMANDS {
            let argument = if argument.is_empty() { "" } else { " x" };
            assert!(Command::parse(&format!("{name}{argument}")).unwrap().is_ok(), "{name}");
        }
    }
}
