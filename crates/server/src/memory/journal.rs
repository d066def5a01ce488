//! What is remembered of replies, beyond a restart: a file that only grows at its end.
//!
//! `replies-FINGERPRINT.log`, one for each model: a first line with the version, then records: the length of the
//! content (u32, little-endian), the first 16 bytes of its BLAKE3 hash, the content (JSON). Whenever the process or
//! the machine stops, at most what was written last is missing or torn; reading ends at the first record that is not
//! whole, and the file is cut there. When it grows beyond [`MOST_BYTES`], its newer half is written anew beside it
//! and takes its place. One server writes to a file; another one with the same folder remembers nothing beyond its end.
//!
//! A record is believed if its tokens spell the text that stands beside them in this model's vocabulary.

use super::Record;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use text::{Prompt, Sampled, Segment, Tokenizer};

/// The first line: what this is, and its version.
const HEAD: &[u8] = b"ds4 replies 1\n";

/// The longest that a file becomes.
const MOST_BYTES: u64 = 64 << 20;

/// Longer contents are no records.
const MOST_CONTENT: usize = 16 << 20;

/// Records that may wait to be written; what comes then is not remembered beyond a restart.
const WAITING: usize = 256;

/// Length and hash, before the content.
const BEFORE: usize = 4 + 16;

/// Where replies are written down. At its end what waits is written.
#[derive(Debug)]
pub struct Journal {
    records: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens the file of a model in a folder, or begins one. Returns what is in it, oldest first.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or another server writes to it.
    pub fn open(
        folder: &Path,
        fingerprint: &[u8; 32],
        tokenizer: &Tokenizer,
    ) -> io::Result<(Journal, Vec<Record>)> {
        Journal::open_with(folder, fingerprint, tokenizer, MOST_BYTES)
    }

    fn open_with(
        folder: &Path,
        fingerprint: &[u8; 32],
        tokenizer: &Tokenizer,
        most: u64,
    ) -> io::Result<(Journal, Vec<Record>)> {
        let model: String = fingerprint[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let path = folder.join(format!("replies-{model}.log"));
        let (mut log, contents) = Log::open(path, most)?;
        let known = contents.iter().filter_map(|content| serde_json::from_slice::<Record>(content).ok());
        let known = known.filter(|record| is_spelled(record, tokenizer)).collect();
        let (records, waiting): (_, Receiver<Vec<u8>>) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("ds4-replies".to_owned()).spawn(move || {
            for content in waiting {
                if let Err(error) = log.add(&content) {
                    let path = log.path.display();
                    eprintln!("warning: replies are no longer remembered beyond a restart: {path}: {error}");
                    return;
                }
            }
            let _ = log.file.sync_data(); // what is lost is a miss
        })?;
        Ok((Journal { records: Some(records), thread: Some(thread) }, known))
    }

    /// Writes a record down, on a thread that nobody waits for.
    pub(super) fn write(&self, record: &Record) {
        let Some(records) = &self.records else { return };
        let content = serde_json::to_vec(record).expect("our own types are JSON");
        if content.len() <= MOST_CONTENT {
            let _ = records.try_send(content);
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.records = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The file.
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    most: u64,
}

impl Log {
    /// Opens a file, and cuts it after its last whole record. Returns the contents.
    fn open(path: PathBuf, most: u64) -> io::Result<(Log, Vec<Vec<u8>>)> {
        let mut file = private(OpenOptions::new().create(true).read(true).append(true), &path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("another server writes to it")),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut bytes = Vec::new();
        // Whatever lies there, not more of it than could have been written.
        (&mut file).take(2 * most + MOST_CONTENT as u64).read_to_end(&mut bytes)?;
        let (whole, contents) = read(&bytes);
        let contents = contents.into_iter().map(<[u8]>::to_vec).collect();
        file.set_len(whole as u64)?;
        if whole == 0 {
            file.write_all(HEAD)?;
        }
        Ok((Log { path, file, bytes: whole.max(HEAD.len()) as u64, most }, contents))
    }

    fn add(&mut self, content: &[u8]) -> io::Result<()> {
        let record = framed(content);
        self.file.write_all(&record)?;
        self.bytes += record.len() as u64;
        if self.bytes > self.most { self.forget_half() } else { Ok(()) }
    }

    /// Writes the newer half into a new file, which takes the place of this one whole or not at all.
    fn forget_half(&mut self) -> io::Result<()> {
        let bytes = std::fs::read(&self.path)?;
        let (_, contents) = read(&bytes);
        let mut size = HEAD.len() as u64;
        let newer = contents.iter().rev().take_while(|content| {
            size += (BEFORE + content.len()) as u64;
            size <= self.most / 2
        });
        let mut kept = HEAD.to_vec();
        for content in newer.collect::<Vec<_>>().into_iter().rev() {
            kept.extend_from_slice(&framed(content));
        }
        let beside = self.path.with_extension("new");
        let mut file = private(OpenOptions::new().create(true).write(true).truncate(true), &beside)?;
        file.write_all(&kept)?;
        file.sync_all()?;
        // Locked before anybody can find it under its name.
        file.try_lock().map_err(io::Error::from)?;
        std::fs::rename(&beside, &self.path)?;
        (self.file, self.bytes) = (file, kept.len() as u64);
        Ok(())
    }
}

/// A file for its owner's eyes only.
fn private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

fn framed(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("checked before it was handed over");
    let hash = blake3::hash(content);
    [&length.to_le_bytes()[..], &hash.as_bytes()[..16], content].concat()
}

/// The contents of a file, and how many of its bytes are whole records. Nothing, if it is of another kind.
fn read(bytes: &[u8]) -> (usize, Vec<&[u8]>) {
    let Some(mut rest) = bytes.strip_prefix(HEAD) else { return (0, Vec::new()) };
    let mut contents = Vec::new();
    while let Some((before, after)) = rest.split_at_checked(BEFORE) {
        let length = u32::from_le_bytes([before[0], before[1], before[2], before[3]]) as usize;
        let Some((content, next)) = after.split_at_checked(length).filter(|_| length <= MOST_CONTENT) else {
            break;
        };
        if blake3::hash(content).as_bytes()[..16] != before[4..] {
            break;
        }
        contents.push(content);
        rest = next;
    }
    (bytes.len() - rest.len(), contents)
}

/// Whether the tokens of a record are those of its texts in this vocabulary.
fn is_spelled(record: &Record, tokenizer: &Tokenizer) -> bool {
    let spells = |sampled: &Sampled| tokenizer.decode(&sampled.ids).is_ok_and(|text| text == sampled.text);
    let block = |prompt: &Prompt| {
        prompt.segments().iter().all(|segment| match segment {
            Segment::Sampled(sampled) => spells(sampled),
            _ => true,
        })
    };
    match record {
        Record::Calls(entry) => {
            block(&entry.block) && entry.turn.as_ref().is_none_or(|turn| spells(&turn.tokens))
        }
        Record::Turn { said, .. } => said.turn.as_ref().is_none_or(|turn| spells(&turn.tokens)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Said;
    use super::*;
    use forge::synth::byte_vocab;
    use text::chat::replay::SampledTurn;

    fn tokenizer() -> Tokenizer {
        Tokenizer::new(byte_vocab(1024)).unwrap()
    }

    fn record(nth: u8, tokenizer: &Tokenizer) -> Record {
        let text = format!("reply {nth}");
        let turn =
            SampledTurn { reasons: false, tokens: Sampled { ids: tokenizer.encode_trusted(&text), text } };
        Record::Turn { key: [nth; 32], said: Said { reasoning: "Hm.".to_owned(), turn: Some(turn) } }
    }

    fn open(folder: &Path, most: u64) -> (Journal, Vec<u8>) {
        let (journal, known) = Journal::open_with(folder, &[7; 32], &tokenizer(), most).unwrap();
        let keys = known.iter().map(|record| match record {
            Record::Turn { key, .. } => key[0],
            Record::Calls(_) => panic!("none was written"),
        });
        (journal, keys.collect())
    }

    fn file(folder: &Path) -> PathBuf {
        folder.join("replies-0707070707070707.log")
    }

    #[test]
    fn whatever_was_cut_off_what_came_before_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, known) = open(folder.path(), MOST_BYTES);
        assert!(known.is_empty());
        (1..=3).for_each(|nth| journal.write(&record(nth, &tokenizer())));
        drop(journal);
        let whole = std::fs::read(file(folder.path())).unwrap();
        let third = (whole.len() - HEAD.len()) / 3;
        for cut in
            [0, 5, HEAD.len(), HEAD.len() + third - 1, whole.len() - third, whole.len() - 1, whole.len()]
        {
            std::fs::write(file(folder.path()), &whole[..cut]).unwrap();
            let want: Vec<u8> = (1..=3).take(cut.saturating_sub(HEAD.len()) / third).collect();
            let (journal, known) = open(folder.path(), MOST_BYTES);
            assert_eq!(known, want, "{cut} of {} bytes", whole.len());
            journal.write(&record(9, &tokenizer()));
            drop(journal);
            assert_eq!(open(folder.path(), MOST_BYTES).1, [&want[..], &[9]].concat(), "and it goes on");
        }
        for at in [3, HEAD.len() + 2, HEAD.len() + 7, HEAD.len() + BEFORE + 4] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(file(folder.path()), &damaged).unwrap();
            assert!(open(folder.path(), MOST_BYTES).1.is_empty(), "byte {at}");
        }
    }

    #[test]
    fn the_file_stays_small_and_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = open(folder.path(), 4000);
        for nth in 1..=100 {
            journal.write(&record(nth, &tokenizer()));
        }
        drop(journal);
        assert!(std::fs::metadata(file(folder.path())).unwrap().len() <= 4000);
        let known = open(folder.path(), 4000).1;
        assert!(known.len() > 2 && known.len() < 50, "{known:?}");
        let newest: Vec<u8> = (101 - known.len() as u8..=100).collect();
        assert_eq!(known, newest);
    }

    #[test]
    fn tokens_that_spell_something_else_are_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = open(folder.path(), MOST_BYTES);
        for (nth, ids) in [(1, vec![99_999]), (2, tokenizer().encode_trusted("other"))] {
            let turn = SampledTurn { reasons: false, tokens: Sampled { ids, text: "reply".to_owned() } };
            let said = Said { reasoning: String::new(), turn: Some(turn) };
            journal.write(&Record::Turn { key: [nth; 32], said });
        }
        drop(journal);
        assert!(open(folder.path(), MOST_BYTES).1.is_empty());
    }

    #[test]
    fn one_server_writes_to_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (first, _) = open(folder.path(), MOST_BYTES);
        let second = Journal::open(folder.path(), &[7; 32], &tokenizer());
        assert!(second.unwrap_err().to_string().contains("another server"));
        assert!(Journal::open(folder.path(), &[8; 32], &tokenizer()).is_ok(), "another model has its own");
        drop(first);
        assert!(Journal::open(folder.path(), &[7; 32], &tokenizer()).is_ok());
    }
}
