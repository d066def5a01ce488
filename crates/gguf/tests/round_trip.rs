//! What is written is what is read, in one file or several.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use gguf::{Array, Gguf, GgufWriter, Metadata, TensorInfo, TensorType, Value, WriteError};
use proptest::collection::vec;
use proptest::prelude::*;

/// Values without NaN, which would not equal themselves.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i64>().prop_map(Value::I64),
        (-1e30..1e30f32).prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        vec(any::<u8>(), 0..20).prop_map(Value::String),
        vec(any::<u16>(), 0..20).prop_map(Value::from),
        vec(-1e300..1e300f64, 0..20).prop_map(Value::from),
        vec(vec(any::<u8>(), 0..5), 0..20)
            .prop_map(|strings| Value::Array(Array::String(strings.iter().collect()))),
    ]
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let entries = vec(("[a-z]{1,8}\\.[a-zé_]{1,8}", value()), 0..10);
    let alignment = prop_oneof![Just(None), (0..8u32).prop_map(|log| Some(1u32 << log))];
    (entries, alignment).prop_map(|(entries, alignment)| {
        let mut metadata = Metadata::new();
        for (key, value) in entries {
            metadata.insert(key, value);
        }
        if let Some(alignment) = alignment {
            metadata.insert("general.alignment", alignment);
        }
        metadata
    })
}

/// Tensors named `t0`, `t1`, ... of various types and small sizes.
fn writer(metadata: Metadata, shapes: &[(usize, u64, u64)]) -> GgufWriter {
    let mut writer = GgufWriter::new(metadata).unwrap();
    for (i, &(kind, blocks, rows)) in shapes.iter().enumerate() {
        let kind = TensorType::ALL[kind];
        let dims = [blocks * kind.block_elements(), rows];
        writer.tensor(&format!("t{i}"), &dims, kind).unwrap();
    }
    writer
}

fn shapes() -> impl Strategy<Value = Vec<(usize, u64, u64)>> {
    vec((0..TensorType::ALL.len(), 1..4u64, 1..4u64), 0..8)
}

/// Bytes that depend on the tensor's name and the place.
fn data(tensor: &TensorInfo) -> Vec<u8> {
    let start = tensor.name.bytes().map(u64::from).sum::<u64>();
    (start..start + tensor.bytes).map(|x| x as u8).collect()
}

fn fill(tensor: &TensorInfo, out: &mut dyn Write) -> io::Result<()> {
    data(tensor).chunks(50).try_for_each(|piece| out.write_all(piece))
}

fn assert_same_tensors(gguf: &Gguf, writer: &GgufWriter) {
    assert_eq!(gguf.tensors().len(), writer.tensors().len());
    for (found, written) in gguf.tensors().zip(writer.tensors()) {
        assert_eq!(found.name, written.name);
        assert_eq!((&found.dims, found.kind), (&written.dims, written.kind));
        assert_eq!(*gguf.data(found), *data(written), "{}", found.name);
    }
    assert!(gguf.warnings().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_gives_back_what_was_written(metadata in metadata(), shapes in shapes()) {
        let writer = writer(metadata.clone(), &shapes);
        let gguf = Gguf::from_vec(writer.write_vec(fill).unwrap()).unwrap();
        prop_assert_eq!(gguf.metadata(), &metadata);
        assert_same_tensors(&gguf, &writer);
    }

    #[test]
    fn shards_give_back_what_was_written(
        metadata in metadata(),
        shapes in shapes(),
        limit in 8_000..20_000u64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(metadata.clone(), &shapes);
        let files = writer.max_file_bytes(limit).write(&folder.path().join("m.gguf"), fill).unwrap();
        for file in &files {
            prop_assert!(file.metadata().unwrap().len() <= limit);
        }
        let gguf = Gguf::open(files.last().unwrap()).unwrap();
        assert_same_tensors(&gguf, &writer);
        for (key, value) in metadata.iter() {
            prop_assert_eq!(gguf.metadata().get(key), Some(value));
        }
    }
}

fn three_tensors() -> GgufWriter {
    let mut metadata = Metadata::new();
    metadata.insert("toy.first", 1u32);
    metadata.insert("general.architecture", "toy");
    writer(metadata, &[(0, 100, 1), (0, 100, 1), (0, 100, 1)])
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_architecture_comes_first() {
    let gguf = Gguf::from_vec(three_tensors().write_vec(fill).unwrap()).unwrap();
    let keys: Vec<_> = gguf.metadata().iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["general.architecture", "toy.first"]);
}

#[test]
fn a_split_model_joined_again_is_the_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let files = three_tensors().max_file_bytes(1000).write(&path, fill).unwrap();
    assert_eq!(files.len(), 3);
    assert_eq!(
        names_in(folder.path()),
        ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]
    );
    let split = Gguf::open(&files[0]).unwrap();
    let mut joined = GgufWriter::new(split.metadata().clone()).unwrap();
    for tensor in split.tensors() {
        joined.tensor(&tensor.name, &tensor.dims, tensor.kind).unwrap();
    }
    assert!(joined.write_vec(fill).unwrap() == three_tensors().write_vec(fill).unwrap());
}

#[test]
fn a_large_head_leaves_the_first_shard_without_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let mut metadata = Metadata::new();
    metadata.insert("toy.long", vec![7u8; 800]);
    let mut writer = writer(metadata, &[(0, 100, 1)]);
    let files = writer.max_file_bytes(1024).write(&folder.path().join("m"), fill).unwrap();
    assert_eq!(files.len(), 2);
    assert_same_tensors(&Gguf::open(&files[1]).unwrap(), &writer);
}

/// Puts `new` where `file` has `old`, and `skip` bytes on.
fn patch(file: &Path, old: &str, skip: usize, new: &[u8]) {
    let mut bytes = std::fs::read(file).unwrap();
    let found = bytes.windows(old.len()).position(|window| window == old.as_bytes());
    let start = found.expect(old) + skip;
    bytes[start..start + new.len()].copy_from_slice(new);
    std::fs::write(file, bytes).unwrap();
}

/// A set of three files changed by `damage` is refused with a message that has `want` in it.
fn check_broken_set(damage: impl Fn(&[PathBuf]), want: &str) {
    let folder = tempfile::tempdir().unwrap();
    let files = three_tensors().max_file_bytes(1000).write(&folder.path().join("m"), fill).unwrap();
    damage(&files);
    let error = Gguf::open(&files[0]).expect_err(want).to_string();
    assert!(error.contains(want), "found:  {error}\nneeded: {want}");
}

#[test]
fn a_broken_set_of_shards_is_refused() {
    let value_of = |key: &str| key.len() + 4; // the type lies between
    check_broken_set(|files| std::fs::remove_file(&files[1]).unwrap(), "shard 2 of 3 is missing");
    check_broken_set(
        |files| assert!(std::fs::copy(&files[2], &files[1]).is_ok()),
        "key split.no is 2, needed 1",
    );
    check_broken_set(
        |files| patch(&files[1], "split.count", value_of("split.count"), &[2]),
        "key split.count is 2, needed 3",
    );
    check_broken_set(
        |files| patch(&files[0], "split.tensors.count", value_of("split.tensors.count"), &[4]),
        "the shards hold 3 tensors, key split.tensors.count says 4",
    );
    check_broken_set(|files| patch(&files[1], "t1", 0, b"t0"), "tensor t0 is in shard 1 too");
}

#[test]
fn a_shard_under_another_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let files = three_tensors().max_file_bytes(1000).write(&folder.path().join("m"), fill).unwrap();
    let renamed = folder.path().join("renamed.gguf");
    std::fs::rename(&files[0], &renamed).unwrap();
    let error = Gguf::open(&renamed).unwrap_err().to_string();
    assert!(error.contains("must be named PREFIX-00001-of-00003.gguf"), "{error}");
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let check = |fill: &dyn Fn(&mut dyn Write) -> io::Result<()>, want: &str| {
        let error = three_tensors().write(&path, |_, out| fill(out)).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
        assert!(names_in(folder.path()).is_empty());
    };
    check(&|out| out.write_all(&[0; 399]), "tensor t0: 399 bytes supplied, needed 400");
    check(&|out| out.write_all(&[0; 401]), "tensor t0: 401 bytes supplied, needed 400");
    check(&|_| Err(io::Error::other("out of ideas")), "m.gguf: out of ideas");
}

#[test]
fn a_complete_file_replaces_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, "old").unwrap();
    three_tensors().write(&path, fill).unwrap();
    assert_same_tensors(&Gguf::open(&path).unwrap(), &three_tensors());
    assert_eq!(names_in(folder.path()), ["m.gguf"]);
}

#[test]
fn what_no_reader_would_accept_is_not_written() {
    let mut metadata = Metadata::new();
    metadata.insert("", 1u32);
    assert!(matches!(GgufWriter::new(metadata), Err(WriteError::Invalid(_))));

    let mut writer = three_tensors();
    assert!(writer.tensor("t0", &[1], TensorType::F32).is_err(), "a name twice");
    assert!(writer.tensor("x", &[31], TensorType::Q8_0).is_err(), "half a block");
    assert!(writer.tensor("y", &[1 << 62, 2], TensorType::I8).is_err(), "larger than any disk");
    let error = writer.max_file_bytes(500).write(Path::new("m"), fill).unwrap_err().to_string();
    assert!(error.contains("tensor t0 needs a file of"), "{error}");
}

#[test]
fn a_file_that_changes_its_length_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    three_tensors().write(&path, fill).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    gguf.check_unchanged().unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"more").unwrap();
    let error = gguf.check_unchanged().unwrap_err().to_string();
    assert!(error.contains("m.gguf: the file had 1472 bytes when it was opened and has 1476 now"), "{error}");
}
