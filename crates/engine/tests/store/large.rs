//! A store of many pages: how long it takes to open, and how much memory.

use super::setup::{Setup, prompt};
use engine::store::offline::Offline;
use engine::store::{PageStore, Place, Saved};
use model::PAGE;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many pages there are; for `docs/page-store.md` it was 10,000.
const PAGES: &str = "DS4_STORE_PAGES";

/// Pages of one conversation.
const DEPTH: usize = 50;

/// Memory of this process in MB, where the system says so.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1e3
}

#[test]
fn a_large_store_is_soon_open() {
    let pages: usize = std::env::var(PAGES).map_or(200, |pages| pages.parse().expect("a number"));
    let on = Setup::new();
    let dir = tempfile::tempdir().unwrap();
    let place = Place::Folder(dir.path().join("store"));
    let page = Arc::new(on.read(&prompt(PAGE)).pages()[0].without_end());
    let start = Instant::now();
    {
        let store = on.open(&place);
        let patience = Duration::from_secs(600);
        for conversation in 0..pages.div_ceil(DEPTH) {
            // Nobody looks into them here, so one page will do; the first differs by what it follows.
            let first = Arc::new(
                on.read(&[&[conversation as u32 + 3], &prompt(PAGE - 1)[..]].concat()).pages()[0]
                    .without_end(),
            );
            let mut key = store.root();
            for index in 0..DEPTH.min(pages - conversation * DEPTH) {
                let page = if index == 0 { &first } else { &page };
                while store.save_page(&key, index, page) == Saved::Dropped {
                    assert!(store.settle(patience));
                }
                key = key.child(page.tokens());
            }
        }
        assert!(store.settle(patience));
    }
    println!("{pages} pages written in {:?}", start.elapsed());
    let catalog = |place: &Place| {
        let Place::Folder(folder) = place else { panic!("a folder") };
        std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path().join("catalog")
    };
    let open = |how: &str| {
        let (before, start) = (memory(), Instant::now());
        let store: PageStore = on.open(&place);
        println!("opened {how} in {:?}, {:.1} MB", start.elapsed(), memory() - before);
        let stats = store.stats();
        assert_eq!((stats.pages, stats.damaged, stats.foreign), (pages as u64, 0, 0), "{how}");
        let start = Instant::now();
        let known = store.resume_from(&[prompt(PAGE), prompt(PAGE)].concat());
        println!("looked for a prompt of two pages in {:?}: {}", start.elapsed(), known.is_some());
    };
    open("with its catalog");
    std::fs::remove_file(catalog(&place)).unwrap();
    open("without its catalog");
    let start = Instant::now();
    let drawers = Offline::open(&place).unwrap().drawers().unwrap();
    assert_eq!(drawers[0].counts().0, pages);
    println!("looked at from outside in {:?}", start.elapsed());
}
