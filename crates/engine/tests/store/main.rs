//! The page store, as short stories: on a tiny model, in folders and in memory.

mod failing;
mod full;
mod killed;
mod large;
mod setup;

use engine::store::offline::{FaultKind, Keep, Offline, plan};
use engine::store::{PageStore, Place, Saved, StoreOptions};
use failing::{Failing, Mood};
use model::{PAGE, SLACK};
use object_store::memory::InMemory;
use setup::{Setup, prompt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn folder() -> (tempfile::TempDir, Place) {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::Folder(dir.path().join("store"));
    (dir, place)
}

fn bucket() -> Place {
    Place::Objects(Arc::new(InMemory::new()), "some/prefix".into())
}

/// The files of a folder's only drawer, without the catalog.
fn files(place: &Place) -> Vec<PathBuf> {
    let Place::Folder(dir) = place else { panic!("a folder") };
    let Ok(drawers) = std::fs::read_dir(dir) else { return Vec::new() };
    let files = drawers.flat_map(|drawer| std::fs::read_dir(drawer.unwrap().path()).unwrap());
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.file_name().unwrap() != "catalog");
    files.sort();
    files
}

fn catalog(place: &Place) -> PathBuf {
    let Place::Folder(dir) = place else { panic!("a folder") };
    let drawer = std::fs::read_dir(dir).unwrap().next().expect("a drawer").unwrap();
    drawer.path().join("catalog")
}

/// A conversation that was saved goes on in another process exactly as if it had never stopped.
#[test]
fn a_saved_conversation_goes_on_where_it_stopped() {
    let on = Setup::new();
    let (_dir, place) = folder();
    for place in [place, bucket()] {
        for len in [1, 700, PAGE, 2 * PAGE + 150] {
            let first = on.read(&prompt(len));
            let key = on.open(&place).save(&first, PATIENCE).unwrap();

            let store = on.open(&place);
            let (entry, known) = store.resume_from(&prompt(len + 9)).unwrap();
            assert_eq!((entry.key, known), (key, len));
            let second = store.load(&on.ops, &key).unwrap();
            assert_eq!(second.tokens(), first.tokens());
            assert!(on.next(second) == on.next(first), "{len} tokens at {place}");
        }
    }
}

/// Somebody who asks for less, or for something else after a while, starts where they part.
#[test]
fn another_conversation_starts_at_the_last_place_in_common() {
    let on = Setup::new();
    let store = on.open(&bucket());
    let tokens = prompt(PAGE + 300);
    let tail_at = |len: usize| {
        let timeline = on.read(&tokens[..len]);
        let parent = timeline.pages().iter().fold(store.root(), |key, page| key.child(page.tokens()));
        for (index, page) in timeline.pages().iter().enumerate() {
            store.save_page(&store.root(), index, page);
        }
        store.save_tail(&parent, &Arc::new(timeline.tail(SLACK)));
    };
    tail_at(200);
    tail_at(PAGE + 300);
    assert!(store.settle(PATIENCE));
    let known = |tokens: &[u32]| store.resume_from(tokens).map(|(_, known)| known);
    assert_eq!(known(&tokens), Some(PAGE + 300));
    assert_eq!(known(&tokens[..PAGE + 250]), Some(PAGE + 250)); // within the tail's slack
    assert_eq!(known(&tokens[..PAGE + 200]), Some(PAGE));
    assert_eq!(known(&tokens[..900]), Some(200));
    assert_eq!(known(&[&tokens[..150], &[500, 500]].concat()), Some(150));
    assert_eq!(known(&[500, 500]), None);
}

/// What is written for a conversation that goes on is what is new: the pages that were there stay, and only the
/// end is written anew.
#[test]
fn a_longer_conversation_writes_only_what_is_new() {
    let on = Setup::new();
    let (_dir, place) = folder();
    let mut written = Vec::new();
    for turn in 1..=6 {
        let store = on.open(&place);
        store.save(&on.read(&prompt(turn * 700)), PATIENCE).unwrap();
        written.push((turn * 700, store.stats().written_bytes));
    }
    // A page, its end, and the end of the conversation: never more, however long the conversation.
    let codec = on.codec();
    let most = codec.page_len(0, true) + codec.tail_len(2 * PAGE - 1, SLACK);
    println!("tokens, bytes written for the last 700 of them: {written:?}; all of it: {most} at most a turn");
    assert!(written.iter().all(|(_, bytes)| *bytes <= most), "{written:?}, at most {most}");
}

/// Whatever becomes of a file, it is a miss that is counted, the file is gone afterwards, and no wrong state.
#[test]
fn a_damaged_file_is_a_miss() {
    let on = Setup::new();
    let (_dir, place) = folder();
    let timeline = on.read(&prompt(PAGE + 20));
    let key = on.open(&place).save(&timeline, PATIENCE).unwrap();
    for file in files(&place) {
        let own = file.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let good = std::fs::read(&file).unwrap();
        let len = good.len();
        let mut cuts: Vec<Vec<u8>> =
            [0, 1, 7, 8, 60, 127, 128, 140, len / 2, len - 33, len - 1].map(|at| good[..at].to_vec()).into();
        cuts.push([&good[..], b"!"].concat());
        for at in [0, 8, 12, 16, 48, 80, 104, 112, 120, 130, len / 2, len - 1] {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            cuts.push(flipped);
        }
        for bad in cuts {
            // Once while a store is open, and once before it is opened.
            let store = on.open(&place);
            std::fs::write(&file, &bad).unwrap();
            assert!(!on.reads(&store, &own), "{} of {len} bytes", bad.len());
            std::fs::write(&file, &bad).unwrap();
            drop(store);
            let store = on.open(&place);
            assert!(!on.reads(&store, &own), "{} of {len} bytes, after a restart", bad.len());
            let stats = store.stats();
            assert_eq!(stats.damaged + stats.foreign, 1, "{stats:?}");
            assert!(!file.exists());
            std::fs::write(&file, &good).unwrap();
        }
    }
    let store = on.open(&place);
    assert!(on.next(store.load(&on.ops, &key).unwrap()) == on.next(timeline));
}

/// A file under another's name is foreign, even if it is sound.
#[test]
fn a_file_is_known_by_what_is_in_it() {
    let on = Setup::new();
    let (_dir, place) = folder();
    let key = on.open(&place).save(&on.read(&prompt(30)), PATIENCE).unwrap();
    let [mine] = &files(&place)[..] else { panic!("one file") };
    let other = on.open(&place).save(&on.read(&prompt(31)), PATIENCE).unwrap();
    let theirs = mine.with_file_name(format!("{other}.tail"));
    let store = on.open(&place);
    std::fs::copy(&theirs, mine).unwrap();
    assert!(on.misses(&store, &key));
    assert_eq!(store.stats().damaged, 1);
    assert!(store.load(&on.ops, &other).is_some());
}

/// The store of another KV format does not get in the way, in the same place.
#[test]
fn every_model_and_format_has_its_own_drawer() {
    let (on, other) = (Setup::new(), Setup::in_f16());
    let (_dir, place) = folder();
    let key = on.open(&place).save(&on.read(&prompt(30)), PATIENCE).unwrap();
    let store = other.open(&place);
    assert!(store.entry(&key).is_none() && store.resume_from(&prompt(30)).is_none());
    store.save(&other.read(&prompt(30)), PATIENCE).unwrap();
    let drawers = Offline::open(&place).unwrap().drawers().unwrap();
    assert_eq!(drawers.len(), 2);
    assert!(drawers.iter().all(|drawer| drawer.faults.is_empty() && drawer.conversations().len() == 1));
}

#[cfg(unix)]
#[test]
fn what_is_on_disk_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let on = Setup::new();
    let (_dir, place) = folder();
    on.open(&place).save(&on.read(&prompt(30)), PATIENCE).unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let Place::Folder(root) = &place else { panic!("a folder") };
    let file = files(&place).remove(0);
    let drawer = file.parent().unwrap();
    assert_eq!((mode(root), mode(drawer), mode(&file)), (0o700, 0o700, 0o600));
    assert_eq!(mode(&drawer.join("catalog")), 0o600);
}

/// The store stays within its limit, and what was used last stays.
#[test]
fn what_is_worth_least_makes_room() {
    let on = Setup::new();
    let (_dir, place) = folder();
    let one = on.codec().page_len(0, true) + on.codec().tail_len(PAGE + 900, SLACK);
    let options = StoreOptions { limit: 3 * one + one / 2, ..StoreOptions::default() };
    let store = PageStore::open(&place, on.codec(), options.clone()).unwrap();
    let conversation = |first: u32| [&[first][..], &prompt(PAGE + 899)].concat();
    let keys: Vec<_> = (1..=6).map(|first| store.save(&on.read(&conversation(first)), PATIENCE)).collect();
    let stats = store.stats();
    assert!(stats.bytes <= stats.limit && stats.evicted > 0, "{stats:?}");
    assert!(on.loads(&store, &keys[5].unwrap()));
    let on_disk: u64 = files(&place).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!(on_disk, stats.bytes);
    // A smaller limit is kept to with the next thing that is written.
    let smaller = StoreOptions { limit: one + one / 2, ..options };
    let store = PageStore::open(&place, on.codec(), smaller).unwrap();
    store.save(&on.read(&conversation(9)), PATIENCE).unwrap();
    assert!(store.stats().bytes <= store.stats().limit, "{:?}", store.stats());
}

/// Two processes with one folder: each finds what the other wrote, and misses what the other removed.
#[test]
fn two_stores_share_a_folder() {
    let on = Setup::new();
    let (_dir, place) = folder();
    let (first, second) = (on.open(&place), on.open(&place));
    let timeline = on.read(&prompt(PAGE + 50));
    let key = first.save(&timeline, PATIENCE).unwrap();
    assert_eq!(second.save(&timeline, PATIENCE), Some(key));
    assert!(on.loads(&first, &key) && on.loads(&second, &key));
    for file in files(&place) {
        std::fs::remove_file(file).unwrap();
    }
    assert!(on.misses(&first, &key) && on.misses(&second, &key));
    assert_eq!((first.stats().gone, second.stats().gone), (1, 1));
    let key = second.save(&timeline, PATIENCE).unwrap();
    assert!(on.loads(&on.open(&place), &key));
}

/// What somebody else has removed is written again when it is needed: nothing is put behind a page that is gone.
#[test]
fn what_was_removed_is_written_again() {
    let on = Setup::new();
    let (_dir, folder) = folder();
    for place in [folder, bucket()] {
        let store = on.open(&place);
        let mut timeline = on.read(&prompt(PAGE + 40));
        store.save(&timeline, PATIENCE).unwrap();
        let offline = Offline::open(&place).unwrap();
        let mut drawers = offline.drawers().unwrap();
        let all = plan(&drawers, Keep { bytes: Some(0), since: None });
        offline.remove(&mut drawers, &all).unwrap();

        on.go_on(&mut timeline, &prompt(PAGE + 50)[PAGE + 40..]);
        let key = timeline.pages()[0].tokens();
        let key = store.root().child(key);
        let tail = Arc::new(timeline.tail(SLACK));
        assert_eq!(store.save_tail(&key, &tail), Saved::Queued, "nobody knows yet");
        assert!(store.settle(PATIENCE));
        assert_eq!(offline.verify(&mut |_| {}).unwrap().objects, 0);
        assert_eq!(store.save_tail(&key, &tail), Saved::Dropped, "now it is known");
        let end = store.save(&timeline, PATIENCE).unwrap();
        assert!(on.loads(&on.open(&place), &end));
        assert_eq!(offline.verify(&mut |_| {}).unwrap().faults, []);
        // Whoever saves a whole conversation need not know.
        let all = plan(&offline.drawers().unwrap(), Keep { bytes: Some(0), since: None });
        offline.remove(&mut offline.drawers().unwrap(), &all).unwrap();
        on.go_on(&mut timeline, &[7]);
        let end = store.save(&timeline, PATIENCE).unwrap();
        assert!(on.loads(&on.open(&place), &end));
    }
}

/// Saving does not wait for a slow disk: what is too much is dropped, and counted.
#[test]
fn saving_never_waits() {
    let on = Setup::new();
    let slow = Failing::new(Mood::Slow(Duration::from_millis(100)));
    let place = Place::Objects(slow, "".into());
    let options = StoreOptions { waiting: 3 * on.codec().tail_len(60, 0), ..StoreOptions::default() };
    let store = PageStore::open(&place, on.codec(), options).unwrap();
    let tails: Vec<_> = (10..40).map(|len| Arc::new(on.read(&prompt(len)).tail(0))).collect();
    let start = Instant::now();
    let saved: Vec<_> = tails.iter().map(|tail| store.save_tail(&store.root(), tail)).collect();
    // Waiting would have taken 3 s.
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let dropped = saved.iter().filter(|saved| **saved == Saved::Dropped).count() as u64;
    assert!(dropped > 20 && store.stats().waiting > 0);
    assert!(store.settle(PATIENCE));
    assert_eq!((store.stats().dropped, store.stats().written), (dropped, 30 - dropped));
    // What was dropped can be saved later.
    assert_eq!(store.save_tail(&store.root(), &tails[29]), Saved::Queued);
}

/// A full disk, or a bucket that is away: nothing is saved, what was saved is still read, and when there is room
/// again, saving goes on.
#[test]
fn a_full_disk_is_no_trouble() {
    let on = Setup::new();
    let disk = Failing::new(Mood::Well);
    let place = Place::Objects(disk.clone(), "".into());
    let options = StoreOptions { rest: Duration::from_millis(50), ..StoreOptions::default() };
    let store = PageStore::open(&place, on.codec(), options).unwrap();
    let key = store.save(&on.read(&prompt(40)), PATIENCE).unwrap();

    disk.set(Mood::Full);
    let long = on.read(&prompt(PAGE + 40));
    assert_eq!(store.save(&long, PATIENCE), None);
    let stats = store.stats();
    assert!(stats.failed > 0 && stats.dropped > 0, "{stats:?}");
    assert!(on.loads(&store, &key));

    disk.set(Mood::Well);
    std::thread::sleep(Duration::from_millis(300));
    let key = store.save(&long, PATIENCE).unwrap();
    assert!(on.loads(&on.open(&place), &key));
}

/// Looked at from outside: what is there, whether it is sound, and less of it.
#[test]
fn a_store_is_looked_at_without_its_model() {
    let on = Setup::new();
    let (_dir, place) = folder();
    let store = on.open(&place);
    let long = store.save(&on.read(&prompt(PAGE + 100)), PATIENCE).unwrap();
    let short = store.save(&on.read(&[&[9], &prompt(50)[..]].concat()), PATIENCE).unwrap();
    drop(store);
    let offline = Offline::open(&place).unwrap();
    let mut drawers = offline.drawers().unwrap();
    assert_eq!(drawers[0].fingerprint, Some(on.model.fingerprint));
    let conversations = drawers[0].conversations();
    let tokens: Vec<_> = conversations.iter().map(|c| (c.key, c.tokens, c.is_inner)).collect();
    assert!(
        tokens.contains(&(long, PAGE + 100, false)) && tokens.contains(&(short, 51, false)),
        "{tokens:?}"
    );
    assert!(tokens.iter().any(|c| (c.1, c.2) == (PAGE, true)), "the end of the page: {tokens:?}");
    let verified = offline.verify(&mut |_| {}).unwrap();
    assert_eq!((verified.objects, verified.faults), (4, vec![]));

    // The checksum finds what a look at the beginning does not.
    let file = files(&place).into_iter().find(|file| file.ends_with(format!("{long}.tail"))).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let faults = offline.verify(&mut |_| {}).unwrap().faults;
    assert_eq!((faults.len(), faults[0].kind), (1, FaultKind::Damaged));
    assert_eq!(faults[0].why, "a damaged saved conversation: the checksum does not match");
    let bad: Vec<_> = faults.into_iter().map(|fault| fault.object).collect();
    assert_eq!(offline.remove(&mut drawers, &bad).unwrap().0, 1);
    assert_eq!(offline.verify(&mut |_| {}).unwrap().faults, []);

    let all = plan(&drawers, Keep { bytes: Some(0), since: None });
    assert_eq!(offline.remove(&mut drawers, &all).unwrap().0, 3);
    assert_eq!((files(&place).len(), catalog(&place).exists()), (0, false));
}

/// A page that is missing makes what is behind it useless; that is found, and what others are about to write is not
/// taken for it.
#[test]
fn a_broken_chain_is_found() {
    let on = Setup::new();
    let (_dir, place) = folder();
    let key = on.open(&place).save(&on.read(&prompt(2 * PAGE + 100)), PATIENCE).unwrap();
    let first = on.codec().root().child(&prompt(PAGE));
    let page = files(&place).into_iter().find(|file| file.ends_with(format!("{first}.page"))).unwrap();
    std::fs::remove_file(page).unwrap();
    let faults = Offline::open(&place).unwrap().verify(&mut |_| {}).unwrap().faults;
    // The ends of both pages, the second page, the tail.
    assert_eq!(faults.len(), 4, "{faults:?}");
    assert!(faults.iter().all(|fault| fault.kind == FaultKind::Unreachable), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.object.name == format!("{key}.tail")), "{faults:?}");
}

/// What is not the store's is never removed, wherever somebody points.
#[test]
fn other_files_are_left_alone() {
    let on = Setup::new();
    let (_dir, place) = folder();
    on.open(&place).save(&on.read(&prompt(40)), PATIENCE).unwrap();
    let Place::Folder(dir) = &place else { panic!("a folder") };
    let letter = files(&place)[0].with_file_name("letter.txt");
    let elsewhere = dir.join("photos").join(format!("{}.page", "a".repeat(64)));
    std::fs::create_dir(elsewhere.parent().unwrap()).unwrap();
    for file in [&letter, &elsewhere] {
        std::fs::write(file, "dear all").unwrap();
    }
    let offline = Offline::open(&place).unwrap();
    let mut drawers = offline.drawers().unwrap();
    assert_eq!(drawers.len(), 1);
    let faults = offline.verify(&mut |_| {}).unwrap().faults;
    assert_eq!((faults.len(), faults[0].kind), (1, FaultKind::Stray));
    let all = plan(&drawers, Keep { bytes: Some(0), since: Some(u64::MAX) });
    offline.remove(&mut drawers, &all).unwrap();
    assert!(letter.exists() && elsewhere.exists());
}

/// What a killed process has left half-written is thrown away, when it is certain that nobody writes it any more.
#[test]
fn half_written_files_are_thrown_away() {
    let on = Setup::new();
    let (_dir, place) = folder();
    on.open(&place).save(&on.read(&prompt(40)), PATIENCE).unwrap();
    let file = files(&place).remove(0);
    let (old, new) = (file.with_extension("tail#1"), file.with_extension("tail#2"));
    std::fs::write(&old, "half").unwrap();
    std::fs::write(&new, "half").unwrap();
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    std::fs::File::options().write(true).open(&old).unwrap().set_modified(hour_ago).unwrap();
    assert_eq!(on.open(&place).stats().tails, 1);
    assert!(!old.exists() && new.exists());
}

/// The catalog is a hint: without it, or with a wrong one, all is found as well.
#[test]
fn the_catalog_may_be_lost() {
    let on = Setup::new();
    let (_dir, place) = folder();
    let key = on.open(&place).save(&on.read(&prompt(PAGE + 40)), PATIENCE).unwrap();
    let catalog = files(&place)[0].with_file_name("catalog");
    let whole = std::fs::read(&catalog).unwrap();
    for bytes in [None, Some(&whole[..whole.len() / 2]), Some(&b"something else"[..])] {
        match bytes {
            Some(bytes) => std::fs::write(&catalog, bytes).unwrap(),
            None => std::fs::remove_file(&catalog).unwrap(),
        }
        assert!(on.loads(&on.open(&place), &key));
    }
}
