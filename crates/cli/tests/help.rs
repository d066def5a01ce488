//! What `ds4` says of itself. A change of these texts is meant to be read by a person: after looking at
//! it, `INSTA_UPDATE=always cargo test -p cli --test help` accepts it.

mod common;

use common::ds4;

fn help(args: &[&str]) -> String {
    let said = ds4(args);
    assert_eq!((said.err.as_str(), said.status), ("", 0));
    said.out
}

#[test]
fn the_program() {
    insta::assert_snapshot!(help(&["--help"]));
}

#[test]
fn run() {
    insta::assert_snapshot!(help(&["run", "--help"]));
}

#[test]
fn run_in_short() {
    insta::assert_snapshot!(help(&["run", "-h"]));
}

#[test]
fn serve() {
    insta::assert_snapshot!(help(&["serve", "--help"]));
}

#[test]
fn store() {
    insta::assert_snapshot!(help(&["store", "--help"]));
}

#[test]
fn store_prune() {
    insta::assert_snapshot!(help(&["store", "prune", "--help"]));
}

#[test]
fn sessions() {
    insta::assert_snapshot!(help(&["sessions", "--help"]));
}

#[test]
fn logits() {
    insta::assert_snapshot!(help(&["logits", "--help"]));
}

#[test]
fn bench() {
    insta::assert_snapshot!(help(&["bench", "--help"]));
}

#[test]
fn nonsense_is_a_mistake_of_the_command_line() {
    let said = ds4(&["run", "--temperature", "1"]);
    assert_eq!((said.out.as_str(), said.status), ("", 2));
    assert!(said.err.contains("unexpected argument '--temperature'"), "{said:?}");
}
