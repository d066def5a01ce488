//! The same file through llama.cpp: both read a prompt, and the logits after it are compared.
//!
//! llama.cpp is built outside the project by `cargo xtask peers`. Where it is absent the test says so and
//! passes: the goldens hold its numbers too, for files that are fixed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `llama-debug`, where `cargo xtask peers` puts it.
fn llama_debug() -> Option<PathBuf> {
    let cache = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/ds4/peers"));
    let dir = std::env::var_os("DS4_PEERS").map(PathBuf::from).or_else(cache)?;
    Some(dir.join("build/bin/llama-debug")).filter(|path| path.exists())
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ds4() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ds4"))
}

/// The 4-byte words of a file.
fn words<T>(path: &Path, read: impl Fn([u8; 4]) -> T) -> Vec<T> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes.as_chunks().0.iter().map(|&word| read(word)).collect()
}

/// Largest difference of the logits after `prompt`.
fn difference(llama: &Path, recipe: &str, prompt: &str) -> f32 {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    run(ds4().args(["synth", "tiny", "--seed", "5", "--recipe", recipe, "--out"]).arg(path("tiny.gguf")));
    run(Command::new(llama)
        .args([
            "-t",
            "2",
            "-c",
            "1024",
            "-ctk",
            "f32",
            "-ctv",
            "f32",
            "-fa",
            "off",
            "-p",
            prompt,
            "--save-logits",
        ])
        .arg("--logits-output-dir")
        .arg(path("out"))
        .arg("-m")
        .arg(path("tiny.gguf")));
    let ids = words(&path("out/llamacpp-tiny-tokens.bin"), u32::from_le_bytes);
    let theirs = words(&path("out/llamacpp-tiny.bin"), f32::from_le_bytes);
    std::fs::write(path("tokens.json"), format!("{ids:?}")).unwrap();
    run(ds4()
        .args(["logits", "--ops", "reference", "--kv", "f32", "--positions", "last", "-m"])
        .arg(path("tiny.gguf"))
        .arg("--tokens")
        .arg(path("tokens.json"))
        .arg("--out")
        .arg(path("logits.f32")));
    let ours = words(&path("logits.f32"), f32::from_le_bytes);
    assert_eq!(ours.len(), theirs.len(), "vocabulary");
    ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn llama_cpp_gives_the_same_logits_for_the_same_file() {
    let Some(llama) = llama_debug() else {
        eprintln!("skipped: no llama.cpp here; `cargo xtask peers` builds it");
        return;
    };
    let long = "one two three four five six seven ".repeat(20);
    for prompt in ["Hello there world", &long] {
        let worst = difference(&llama, "f32", prompt);
        println!("{} bytes of prompt: {worst:.1e}", prompt.len());
        assert!(worst < 1e-3, "f32 weights, {} bytes of prompt: {worst:e}", prompt.len());
    }
}
