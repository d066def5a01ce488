//! Processes that are killed at any instant while they write, evict and write catalogs, alone and two at a time in
//! one folder; and what the next one finds.
//!
//! The victim is this test program itself, told by an environment variable to be one.

use crate::setup::{Setup, prompt};
use engine::random::Random;
use engine::store::{PageStore, Place, StoreOptions};
use model::{PAGE, PageKey, SLACK, Timeline};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tells a process to be a victim, and in which folder.
const VICTIM: &str = "DS4_STORE_VICTIM";

/// How many processes are killed; `cargo xtask test` asks for a thousand.
const ROUNDS: &str = "DS4_KILL_ROUNDS";

const PATIENCE: Duration = Duration::from_secs(60);

/// Conversations that share their beginnings: of no page, of one, and of two.
fn conversations(on: &Setup) -> Vec<Timeline<cpu::Cpu>> {
    let lengths = [(1, 300), (1, PAGE + 200), (1, 2 * PAGE), (2, PAGE + 1), (3, 50), (4, PAGE + 500)];
    let prompt = |(first, len): (u32, usize)| [&[first][..], &prompt(len)].concat();
    lengths.iter().map(|&what| on.read(&prompt(what))).collect()
}

/// Room for about half of them, so that writing and evicting never end.
fn options(on: &Setup) -> StoreOptions {
    StoreOptions { limit: 5 * on.codec().page_len(0, true), ..StoreOptions::default() }
}

/// Not a test of its own: what a victim does until it is killed.
#[test]
fn victim() {
    let Ok(folder) = std::env::var(VICTIM) else { return };
    let on = Setup::new();
    let bytes = std::fs::read(Path::new(&folder).with_file_name("conversations")).unwrap();
    let mut rest = &bytes[..];
    let mut timelines = Vec::new();
    while let Some((len, later)) = rest.split_first_chunk::<8>() {
        let (bytes, later) = later.split_at(u64::from_le_bytes(*len) as usize);
        let config = &on.model.config;
        timelines.push(Timeline::from_bytes(&on.ops, config, on.kv, &on.model.fingerprint, bytes).unwrap());
        rest = later;
    }
    let store = PageStore::open(&Place::Folder(folder.into()), on.codec(), options(&on)).unwrap();
    let mut random = Random::new(std::process::id().into());
    println!("ready");
    loop {
        let timeline = &timelines[(random.unit() * timelines.len() as f64) as usize];
        store.save(timeline, PATIENCE);
    }
}

fn start(folder: &Path) -> Child {
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args(["killed::victim", "--exact", "--nocapture"]).env(VICTIM, folder);
    victim.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until a victim has begun.
fn wait(victim: &mut Child) {
    use std::io::{BufRead, BufReader};
    let out = BufReader::new(victim.stdout.take().unwrap());
    let ready = out.lines().map_while(Result::ok).any(|line| line.contains("ready"));
    assert!(ready, "the victim died by itself: {:?}", victim.wait());
}

#[test]
fn killed_writers_leave_no_wrong_state() {
    let rounds: usize = std::env::var(ROUNDS).map_or(40, |rounds| rounds.parse().expect("a number"));
    let on = Setup::new();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("store");
    let mut saved = Vec::new();
    let mut want: HashMap<PageKey, Vec<u8>> = HashMap::new();
    for timeline in conversations(&on) {
        let bytes = timeline.to_bytes(&on.model.fingerprint);
        saved.extend((bytes.len() as u64).to_le_bytes());
        saved.extend(&bytes);
        let mut key = on.codec().root();
        for page in timeline.pages() {
            key = key.child(page.tokens());
        }
        // The store keeps pages without their ends.
        let tail = timeline.tail(SLACK);
        let pages = timeline.pages().iter().map(|page| Arc::new(page.without_end())).collect();
        let stored = Timeline::from_tail(pages, &tail).to_bytes(&on.model.fingerprint);
        want.insert(key.child(tail.tokens()), stored);
    }
    std::fs::write(dir.path().join("conversations"), saved).unwrap();

    let mut random = Random::new(1);
    let (start_time, mut loaded, mut interrupted) = (Instant::now(), 0, 0);
    for round in 0..rounds {
        let mut victims: Vec<_> = (0..1 + round % 2).map(|_| start(&folder)).collect();
        victims.iter_mut().for_each(wait);
        std::thread::sleep(Duration::from_secs_f64(0.1 * random.unit()));
        for victim in &mut victims {
            victim.kill().unwrap(); // the signal that cannot be caught
            victim.wait().unwrap();
        }
        interrupted += temporary_files(&folder);

        let store = PageStore::open(&Place::Folder(folder.clone()), on.codec(), options(&on)).unwrap();
        for (key, want) in &want {
            // Not there, or evicted with its pages half-way; but if it is there, it is what was saved.
            let Some(timeline) = store.load(&on.ops, key) else { continue };
            loaded += 1;
            assert!(timeline.to_bytes(&on.model.fingerprint) == *want, "wrong state in round {round}");
        }
        let stats = store.stats();
        assert_eq!((stats.damaged, stats.foreign), (0, 0), "half an object in round {round}: {stats:?}");
    }
    println!(
        "{rounds} rounds in {:?}: {loaded} conversations loaded, all as they were saved; \
         {interrupted} files were being written when their writer was killed",
        start_time.elapsed()
    );
    assert!(loaded > 0, "the test is of no use if nothing is ever there: {loaded} loaded");
}

/// Removes files that were being written, which would otherwise stay for ten minutes, and counts them.
fn temporary_files(folder: &Path) -> usize {
    let files =
        std::fs::read_dir(folder).unwrap().flat_map(|d| std::fs::read_dir(d.unwrap().path()).unwrap());
    let files = files.map(|file| file.unwrap().path()).filter(|file| file.to_string_lossy().contains('#'));
    files.map(|file| std::fs::remove_file(file).unwrap()).count()
}
