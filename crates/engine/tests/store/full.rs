//! A disk that is really full: a small file system in memory, mounted where this process alone sees it.
//!
//! Needs Linux and the right to make a user namespace, or root; where that is not to be had, the test says so, and
//! the disk of [`super::failing`] has to do.

use super::setup::{Setup, prompt};
use engine::store::{PageStore, Place, StoreOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Tells a process that it is the one with the small disk, and where that is.
const DISK: &str = "DS4_FULL_DISK_FOLDER";

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a command where `folder` is a file system of eight megabytes.
fn with_small_disk(folder: &Path, command: &str) -> Command {
    let mount = format!("mount -t tmpfs -o size=8m tmpfs '{}' && {command}", folder.display());
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount", "sh", "-c", &mount]).env(DISK, folder);
    unshare
}

#[test]
fn a_disk_that_is_really_full_is_no_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let possible = with_small_disk(folder.path(), "true").output();
    if !possible.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no small file system can be mounted here: {possible:?}");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let user = format!("'{}' full::user_of_a_small_disk --exact --nocapture", program.display());
    let done = with_small_disk(folder.path(), &user).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success() && said.contains("survived"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Not a test of its own: the story of a store on a small disk.
#[test]
fn user_of_a_small_disk() {
    let Some(disk) = std::env::var_os(DISK).map(PathBuf::from) else { return };
    let on = Setup::new();
    let place = Place::Folder(disk.join("store"));
    let options = StoreOptions { rest: Duration::from_millis(10), ..StoreOptions::default() };
    let store = PageStore::open(&place, on.codec(), options).unwrap();
    let conversation = |nth: u32| on.read(&[&[nth + 3], &prompt(60)[..]].concat());
    let mut saved = Vec::new();
    let full = (0..300).find(|&nth| {
        saved.extend(store.save(&conversation(nth), PATIENCE));
        store.stats().failed > 0
    });
    assert!(full.is_some() && saved.len() > 3, "the disk filled up: {:?}", store.stats());

    // What was saved is still read, here and by whoever comes next; nothing half-written is left.
    assert!(saved.iter().all(|key| on.loads(&store, key)));
    let other = on.open(&place);
    assert!(saved.iter().all(|key| on.loads(&other, key)));
    let stats = other.stats();
    assert_eq!((stats.damaged, stats.foreign, stats.tails), (0, 0, saved.len() as u64));
    let drawer = std::fs::read_dir(disk.join("store")).unwrap().next().unwrap().unwrap().path();
    let files = || std::fs::read_dir(&drawer).unwrap().map(|file| file.unwrap().path());
    assert!(files().all(|file| !file.to_string_lossy().contains('#')), "half-written files");

    // When there is room again, saving goes on.
    let tails: Vec<_> = files().filter(|file| file.extension().is_some_and(|kind| kind == "tail")).collect();
    tails.iter().take(2).for_each(|file| std::fs::remove_file(file).unwrap());
    std::thread::sleep(Duration::from_millis(200)); // it rests longer after each failure
    let key = store.save(&conversation(400), PATIENCE).expect("there is room");
    assert!(on.loads(&on.open(&place), &key));
    println!("survived");
}
