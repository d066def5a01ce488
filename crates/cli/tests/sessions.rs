//! `ds4 run --session`, `ds4 sessions` and `ds4 store` as processes, with the built-in model.

mod common;

use common::{Said, command};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// A user's home, where nobody has done anything yet.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn ds4(&self, args: &[&str]) -> Said {
        command(args).env("DS4_HOME", self.0.path()).output().unwrap().into()
    }

    fn start(&self, args: &[&str]) -> Child {
        command(args).env("DS4_HOME", self.0.path()).stdin(Stdio::piped()).spawn().unwrap()
    }

    /// Says something in session `work`, and returns the answer, all tokens of the prompt, and those that were known.
    fn say(&self, prompt: &str, more: &[&str]) -> (String, u64, u64) {
        let args = ["run", "--session", "work", "--temp", "0", "--stats", "json", prompt];
        let said = self.ds4(&[&args[..], more].concat());
        assert_eq!(said.status, 0, "{said:?}");
        let stats: Value = serde_json::from_str(said.err.lines().last().unwrap()).unwrap();
        let count = |name: &str| stats[name].as_u64().unwrap();
        (said.out, count("prompt_tokens"), count("cached_tokens"))
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn fails(&self, args: &[&str], want: &str) {
        let said = self.ds4(args);
        assert_eq!((said.status, &*said.out), (1, ""), "{args:?}: {said:?}");
        let error = said.err.lines().last().unwrap();
        assert!(error.starts_with("error: ") && error.contains(want), "{args:?}: {said:?}");
    }

    fn json(&self, args: &[&str]) -> Value {
        let said = self.ds4(args);
        assert_eq!(said.status, 0, "{said:?}");
        serde_json::from_str(&said.out).unwrap()
    }

    /// The pages and tails of the store.
    fn files(&self) -> Vec<PathBuf> {
        let drawers = std::fs::read_dir(self.store()).unwrap().map(|drawer| drawer.unwrap().path());
        let files = drawers.flat_map(|drawer| std::fs::read_dir(drawer).unwrap());
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some());
        files.sort();
        files
    }
}

const LONG: &str = "The quick brown fox jumps over the lazy dog. ";

/// A conversation of several commands is the one that a single chat would have been, and what was read by one
/// command is not read by the next.
#[test]
fn a_session_goes_on_from_one_command_to_the_next() {
    let home = Home::new();
    let first = format!("{} What is 12 + 30?", LONG.repeat(120));
    let (one, prompt, cached) = home.say(&first, &["--system", "You are kind."]);
    assert_eq!(cached, 0);
    assert!(prompt > 1024, "more than a page: {prompt}");
    let (two, all, cached) = home.say("And 5 + 6?", &[]);
    assert!(cached >= prompt && all - cached < 30, "{cached} of {all} tokens, {prompt} before");
    // Without what was read it says the same, and reads everything.
    std::fs::remove_dir_all(home.store()).unwrap();
    let (three, longer, cached) = home.say("Thank you.", &[]);
    assert_eq!(cached, 0);
    assert!(longer > all);

    let script = format!("{first}\nAnd 5 + 6?\nThank you.\n");
    let args = ["run", "--chat", "--temp", "0", "--system", "You are kind."];
    assert_eq!([one, two, three].concat(), common::ds4_reading(&script, &args).out);
}

/// Where reasoning is left out later, the next turn starts at the question before it.
#[test]
fn a_session_that_thinks_goes_on_at_its_last_question() {
    let home = Home::new();
    let (_, prompt, _) = home.say(&format!("{} Is 91 prime?", LONG.repeat(20)), &["--think", "-n", "300"]);
    let (_, all, cached) = home.say("And 92?", &["-n", "4"]);
    assert!(cached > prompt - 16 && cached < all, "{cached} of {all} tokens, {prompt} before");
}

#[cfg(unix)]
#[test]
fn a_session_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    home.say("Hello", &["-n", "3"]);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let sessions = home.0.path().join("sessions");
    assert_eq!((mode(&sessions), mode(&sessions.join("work.json"))), (0o700, 0o600));
    assert_eq!(mode(&home.store()), 0o700);
    assert!(!home.files().is_empty() && home.files().iter().all(|file| mode(file) == 0o600));
}

/// Whoever comes second is told so, and the one who is there is not disturbed; a process that was killed holds
/// nothing.
#[test]
fn one_process_at_a_time_talks_in_a_session() {
    let home = Home::new();
    let mut chat = home.start(&["run", "--session", "work", "--chat", "--temp", "0"]);
    let mut out = BufReader::new(chat.stdout.take().unwrap());
    let mut answer = String::new();
    chat.stdin.as_mut().unwrap().write_all(b"What is 12 + 30?\n").unwrap();
    out.read_line(&mut answer).unwrap();
    // Each reply is saved when it is finished: a chat that is killed has lost nothing of it.
    let saved = || home.json(&["sessions", "ls", "--json"])[0]["messages"].as_u64();
    while saved() != Some(2) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let busy = "session work is open in another ds4: end that one, or use another name";
    home.fails(&["run", "--session", "work", "Hello"], busy);
    home.fails(&["sessions", "rm", "work"], busy);
    assert_eq!(home.ds4(&["run", "--session", "play", "-n", "3", "Hello"]).status, 0);

    chat.kill().unwrap();
    chat.wait().unwrap();
    let shown = home.ds4(&["sessions", "show", "work"]);
    assert!(
        shown.out.contains("## User\n\nWhat is 12 + 30?") && shown.out.contains(answer.trim()),
        "{shown:?}"
    );
    home.say("Thank you.", &["-n", "3"]);
    assert_eq!(saved_messages(&home), 4);
}

fn saved_messages(home: &Home) -> u64 {
    let all = home.json(&["sessions", "ls", "--json"]);
    let work = all.as_array().unwrap().iter().find(|session| session["name"] == "work").unwrap();
    work["messages"].as_u64().unwrap()
}

#[test]
fn a_session_of_another_model_says_what_to_do() {
    let home = Home::new();
    home.say("Hello", &["-n", "3"]);
    let mini = common::golden("mini-bf16.gguf");
    let other = ["run", "--session", "work", "-m", &mini, "-n", "3", "Hello"];
    home.fails(&other, "session work was made with another model, ");
    home.fails(&other, "(the built-in model, without -m)");
    home.fails(&other, "add --take-over");
    let taken = home.ds4(&[&other[..], &["--take-over"]].concat());
    assert_eq!(taken.status, 0, "{taken:?}");
    assert_eq!(saved_messages(&home), 4);
    home.fails(
        &["run", "--session", "work", "Hello"],
        &format!("-m {}", Path::new(&mini).canonicalize().unwrap().display()),
    );
}

/// The KV format stays what it was; another one is read anew, and said so.
#[test]
fn a_session_in_another_kv_format_is_read_again() {
    let home = Home::new();
    let (_, prompt, _) = home.say(LONG, &["-n", "3", "--kv", "f32"]);
    let (_, _, cached) = home.say("Go on.", &["-n", "3"]);
    assert!(cached >= prompt, "{cached} of {prompt}");
    let said = home.ds4(&["run", "--session", "work", "-n", "3", "--kv", "f16", "More."]);
    let want = "warning: the session was kept in KV format f32; in f16 the model reads it again";
    assert!(said.err.contains(want), "{said:?}");
    assert!(!said.err.contains("of them known"), "{said:?}");
}

#[test]
fn a_chat_becomes_a_session() {
    let home = Home::new();
    let mut chat = home.start(&["run", "--chat", "-n", "3"]);
    chat.stdin
        .take()
        .unwrap()
        .write_all(b"Hello\n/session\n/session work\n/session\nThere?\n/session ../x\n")
        .unwrap();
    let said: Said = chat.wait_with_output().unwrap().into();
    for line in ["not a session; /session NAME", "session work: 2 messages", "a session's name has up to 64"]
    {
        assert!(said.err.contains(line), "{line}: {said:?}");
    }
    assert_eq!(saved_messages(&home), 4);
    let mut chat = home.start(&["run", "--chat", "--session", "work"]);
    chat.stdin.take().unwrap().write_all(b"/clear\n").unwrap();
    let said: Said = chat.wait_with_output().unwrap().into();
    assert!(said.err.contains("session work: 4 messages, just now"), "{said:?}");
    assert_eq!(saved_messages(&home), 0);
}

/// A call waits for its result in the session, and the next command brings it.
#[test]
fn a_call_gets_its_result_with_the_next_command() {
    let home = Home::new();
    let file = home.0.path().join("tools.json");
    let parameters =
        r#"{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}"#;
    let tool = format!(
        r#"[{{"type": "function", "function": {{"name": "get_weather", "description": "Get the weather of a city",
            "parameters": {parameters}}}}}]"#
    );
    std::fs::write(&file, tool).unwrap();
    let (call, ..) = home.say("What is the weather in Bern?", &["--tools", file.to_str().unwrap()]);
    assert_eq!(call, "{\"name\":\"get_weather\",\"arguments\":{\"city\":\"Bern\"}}\n");
    let (answer, ..) = home.say("{\"temp\": 21, \"sky\": \"sunny\"}", &[]);
    assert!(answer.contains("21"), "{answer}");
    let exported = home.json(&["sessions", "export", "work", "--format", "json"]);
    let roles: Vec<_> = exported["messages"].as_array().unwrap().iter().map(|m| m["role"].clone()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant"]);
    assert_eq!(exported["messages"][2]["tool_call_id"], exported["messages"][1]["tool_calls"][0]["id"]);
    assert_eq!(exported["tools"][0]["function"]["name"], "get_weather");
}

#[test]
fn sessions_are_listed_exported_and_removed() {
    let home = Home::new();
    assert!(home.ds4(&["sessions", "ls"]).out.contains("no sessions"));
    home.say("Hello", &["-n", "3"]);
    std::fs::write(home.0.path().join("sessions/broken.json"), "{\"ds4_session\": 9}").unwrap();
    let listed = home.ds4(&["sessions", "ls"]);
    assert!(
        listed.out.contains("work             2") || listed.out.contains("work           2"),
        "{listed:?}"
    );
    assert!(listed.out.contains("broken  cannot be read: ") && listed.out.contains("form 9"), "{listed:?}");
    home.fails(
        &["run", "--session", "broken", "Hello"],
        "a session in form 9, and this program reads form 1",
    );
    let file = home.0.path().join("work.md");
    assert_eq!(home.ds4(&["sessions", "export", "work", "-o", file.to_str().unwrap()]).status, 0);
    assert!(std::fs::read_to_string(file).unwrap().starts_with("## User\n\nHello\n\n## Assistant\n\n"));
    assert_eq!(home.ds4(&["sessions", "rm", "work", "broken"]).status, 0);
    home.fails(&["sessions", "rm", "work"], "there is no session work");
    home.fails(&["sessions", "show", "work"], "there is no session work");
    assert_eq!(std::fs::read_dir(home.0.path().join("sessions")).unwrap().count(), 0, "no lock stays behind");
    let wrong = home.ds4(&["run", "--session", "../work", "Hello"]);
    assert_eq!(wrong.status, 2, "{wrong:?}");
}

/// The life of a store, from outside: looked at, damaged, checked, and emptied.
#[test]
fn a_store_is_looked_after() {
    let home = Home::new();
    home.fails(&["store", "ls"], "there is no page store at ");
    home.say(&LONG.repeat(70), &["-n", "3"]);
    assert_eq!(home.ds4(&["run", "--session", "play", "-n", "3", "Hello"]).status, 0);
    let place = home.store();
    let place = place.to_str().unwrap();

    let stat = home.json(&["store", "stat", "--json"]);
    let model = &stat["models"][0];
    assert_eq!(
        (&model["pages"], &model["tails"], &model["places"]),
        (&1.into(), &3.into(), &2.into()),
        "{stat}"
    );
    assert_eq!((&stat["store"], &model["kv"]), (&place.into(), &"f8".into()));
    let shown = home.ds4(&["store", "stat", place]);
    assert!(shown.out.contains("pocket") && shown.out.contains("just now"), "{shown:?}");
    let listed = home.json(&["store", "ls", "--json"]);
    let tokens = |all: &Value| {
        let places = all[0]["places"].as_array().unwrap().iter();
        places.map(|place| place["tokens"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(tokens(&listed).len(), 2);
    assert!(tokens(&home.json(&["store", "ls", "--json", "--all"])).contains(&1024));
    let sound = home.ds4(&["store", "verify"]);
    assert_eq!(sound.status, 0, "{sound:?}");
    assert!(sound.out.starts_with("4 files, "), "{sound:?}");

    // A page is damaged: what is behind it cannot be reached, and that is found and mended.
    let page = home.files().into_iter().find(|file| file.extension().unwrap() == "page").unwrap();
    let mut bytes = std::fs::read(&page).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&page, bytes).unwrap();
    let bad = home.ds4(&["store", "verify"]);
    assert_eq!(bad.status, 1, "{bad:?}");
    assert!(bad.out.contains("damaged: ") && bad.out.contains("the checksum does not match"), "{bad:?}");
    assert_eq!(bad.out.matches("unreachable: ").count(), 2, "{bad:?}");
    assert!(bad.err.contains("3 of 4 files cannot be used"), "{bad:?}");
    let would = home.ds4(&["store", "prune", "--damaged", "--dry-run"]);
    assert!(would.out.contains("3 files, ") && would.out.contains("would be removed"), "{would:?}");
    assert_eq!(home.files().len(), 4);
    assert_eq!(home.json(&["store", "prune", "--damaged", "--json"])["removed"], 3);
    assert_eq!(home.ds4(&["store", "verify"]).status, 0);

    home.fails(
        &["store", "prune", "--all", "--model", "gpt"],
        "nothing in the page store is of model \"gpt\"",
    );
    assert!(
        home.ds4(&["store", "prune", "--unused-for", "1d", "--max-size", "1G"]).out.starts_with("0 files, ")
    );
    assert!(
        home.ds4(&["store", "prune", "--max-size", "0", "--model", "pocket"]).out.starts_with("1 files, ")
    );
    assert_eq!(home.files().len(), 0);
    assert_eq!(home.ds4(&["store", "prune"]).status, 2, "something has to be said");

    let elsewhere = home.0.path().join("sessions");
    home.fails(&["store", "prune", "--all", elsewhere.to_str().unwrap()], "is not a page store");
}

/// While somebody writes, what was just written is not called damaged; and what is removed is written again when it
/// is needed.
#[test]
fn a_store_is_looked_after_while_it_is_used() {
    let home = Home::new();
    let mut chat = home.start(&["run", "--chat", "--session", "work", "--temp", "0", "-n", "3"]);
    let mut stdin = chat.stdin.take().unwrap();
    let mut out = BufReader::new(chat.stdout.take().unwrap()).lines();
    for round in 0..3 {
        writeln!(stdin, "{round} {}", LONG.repeat(40)).unwrap();
        out.next().unwrap().unwrap();
        let mut before = Vec::new();
        for patience in (0..100).rev() {
            if !before.is_empty() && before == home.files() {
                break;
            }
            assert!(patience > 0, "nothing was written after {round}");
            before = home.files();
            let checked = home.ds4(&["store", "verify"]);
            assert_eq!(checked.status, 0, "{checked:?}");
            std::thread::sleep(std::time::Duration::from_millis(200)); // until it has written all
        }
        if round == 1 {
            let removed = home.ds4(&["store", "prune", "--all"]);
            assert_eq!((removed.status, home.files().len()), (0, 0), "{removed:?}");
        }
    }
    drop(stdin);
    assert!(chat.wait().unwrap().success());
    let (_, all, cached) = home.say("Go on.", &["-n", "3"]);
    assert!(cached > 2048 && all - cached < 30, "{cached} of {all} tokens");
}
