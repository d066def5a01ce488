//! Damaged and hostile files: an error that says what is wrong, or sound contents; never a panic.

mod read_all;

use gguf::Gguf;
use proptest::prelude::*;
use read_all::read_all;

const EVERY_TYPE: &[u8] = include_bytes!("corpus/every-type.gguf");
const ALIGNMENT_8: &[u8] = include_bytes!("corpus/alignment-8.gguf");

/// The fuzz target's body, over the files the fuzzer starts from.
#[test]
fn the_corpus_is_survived() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        read_all(&std::fs::read(entry.unwrap().path()).unwrap());
        seen += 1;
    }
    assert!(seen > 5, "the corpus is gone");
}

#[test]
fn any_flipped_byte_is_survived() {
    for file in [EVERY_TYPE, ALIGNMENT_8] {
        for i in 0..file.len() {
            for flip in [0x01, 0x02, 0x10, 0x80, 0xff] {
                let mut bytes = file.to_vec();
                bytes[i] ^= flip;
                read_all(&bytes);
            }
        }
    }
}

#[test]
fn any_truncation_is_an_error() {
    for file in [EVERY_TYPE, ALIGNMENT_8] {
        let whole = Gguf::from_static(file).unwrap();
        let needed = whole.tensors().map(|tensor| tensor.end()).max().unwrap() as usize;
        for len in 0..needed {
            let error = Gguf::from_static(&file[..len]).expect_err("cut short").to_string();
            assert!(len < 4 || error.contains("truncated") || error.contains("announced"), "{error}");
        }
        for len in needed..=file.len() {
            assert!(Gguf::from_static(&file[..len]).is_ok(), "only padding is missing at {len}");
        }
    }
}

proptest! {
    #[test]
    fn any_four_changed_bytes_are_survived(
        changes in prop::collection::vec((0..EVERY_TYPE.len(), any::<u8>()), 4)
    ) {
        let mut bytes = EVERY_TYPE.to_vec();
        for (i, byte) in changes {
            bytes[i] = byte;
        }
        read_all(&bytes);
    }

    #[test]
    fn any_bytes_after_the_magic_are_survived(rest in prop::collection::vec(any::<u8>(), 0..400)) {
        read_all(&[b"GGUF\x03\0\0\0", rest.as_slice()].concat());
    }
}

/// A file in the making, byte by byte.
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, keys: u64) -> Self {
        Self([b"GGUF\x03\0\0\0".as_slice(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat())
    }

    fn u32(mut self, x: u32) -> Self {
        self.0.extend(x.to_le_bytes());
        self
    }

    fn u64(mut self, x: u64) -> Self {
        self.0.extend(x.to_le_bytes());
        self
    }

    fn text(self, text: &[u8]) -> Self {
        let mut raw = self.u64(text.len() as u64);
        raw.0.extend(text);
        raw
    }

    fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let raw = self.text(name.as_bytes()).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &dim| raw.u64(dim)).u32(kind).u64(offset)
    }

    /// Padding and `len` bytes of data.
    fn data(mut self, len: usize) -> Self {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + len, 0);
        self
    }

    fn check(self, want: &str) {
        let error = Gguf::from_vec(self.0).expect_err(want).to_string();
        assert!(error.starts_with("model in memory: "), "{error}");
        assert!(error.contains(want), "found:  {error}\nneeded: {want}");
    }
}

#[test]
fn other_files_are_recognized() {
    let check = |bytes: &[u8], want: &str| Raw(bytes.to_vec()).check(want);
    check(b"", "it is empty");
    check(b"PK\x03\x04 and more of it, much more", r#"starts with "PK\x03\x04""#);
    check(b"\n<!DOCTYPE html><html><body>Error 404</body></html>", "looks like a web page");
    check(b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git-LFS pointer");
    check(b"\x10\0\0\0\0\0\0\0{\"__metadata__\":{}}", "looks like safetensors");
    check(b"GGUF\x01\0\0\0aaaaaaaaaaaaaaaaaaaaaaa", "GGUF version 1, needed 2 or 3: the file is too old");
    check(b"GGUF\x04\0\0\0aaaaaaaaaaaaaaaaaaaaaaa", "the file is newer than this program");
    check(b"GGUF\0\0\0\x03aaaaaaaaaaaaaaaaaaaaaaa", "big-endian");
    check(b"GGUF\x03\0", "truncated");
}

#[test]
fn lengths_are_not_believed() {
    Raw::new(1 << 60, 0).check("1152921504606846976 tensors announced, but the 0 bytes");
    Raw::new(0, u64::MAX).check("keys announced");
    Raw::new(0, 1).u64(1 << 20).data(100).check("key 1 of 1 needs 1048576 bytes at offset 32");
    Raw::new(0, 1).u64(u64::MAX).data(100).check("key 1 of 1 is 18446744073709551615 long");
    let array = |kind, count| Raw::new(0, 1).text(b"list").u32(9).u32(kind).u64(count).data(100);
    array(4, 1000).check("the value of key list needs 4000 bytes");
    array(8, 1 << 29).check("the value of key list needs 8 bytes");
    array(4, 1 << 62).check("the value of key list is 4611686018427387904 long");
}

#[test]
fn keys_and_values_are_checked() {
    let key = |name: &[u8], kind| Raw::new(0, 1).text(name).u32(kind).data(100);
    key(b"", 4).check("key 1 of 1 is empty");
    key(&[b'k'; 65536], 4).check("key 1 of 1 is 65536 long");
    key(b"\xff\xfe", 4).check(r#"key 1 of 1 is named "\xff\xfe", which is not UTF-8"#);
    key(b"strange", 13).check("the value of key strange has type 13");
    let array = |kind| Raw::new(0, 1).text(b"nested").u32(9).u32(kind).u64(1).data(100);
    array(9).check("the value of key nested is an array of type 9");
    array(99).check("the value of key nested is an array of type 99");
    let twice = Raw::new(0, 2).text(b"same").u32(4).u32(1).text(b"same").u32(4).u32(2);
    twice.check("key same occurs twice");
}

#[test]
fn alignment_is_a_power_of_two() {
    let alignment = |x| Raw::new(0, 1).text(b"general.alignment").u32(4).u32(x).data(0);
    alignment(0).check("general.alignment is 0 (u32)");
    alignment(48).check("general.alignment is 48 (u32)");
    alignment(1 << 21).check("general.alignment is 2097152 (u32)");
    let wrong_type = Raw::new(0, 1).text(b"general.alignment").u32(5).u32(32).data(0);
    wrong_type.check("general.alignment is 32 (i32), needed a power of two up to 1048576, as u32");
}

#[test]
fn tensors_are_checked() {
    let one = |dims: &[u64], kind, offset| Raw::new(1, 0).tensor("w", dims, kind, offset).data(64);
    one(&[4, 0], 0, 0).check("tensor w: a dimension of 0");
    one(&[1 << 40, 1 << 40], 0, 0).check("tensor w: dimensions");
    one(&[8], 4, 0).check("tensor w: unknown type id 4");
    one(&[33], 8, 0).check("tensor w: Q8_0 needs rows of a multiple of 32 elements, found 33");
    one(&[8], 0, 4).check("tensor w: offset 4 is no multiple of the alignment 32");
    one(&[8], 0, u64::MAX - 31).check("tensor w: dimensions [8] are too large");
    one(&[32], 0, 0).check("truncated: tensor w ends at byte 192, but the file has 128 (66 %");
    Raw::new(1, 0).tensor("w", &[1; 5], 0, 0).check("tensor w: 5 dimensions");
    Raw::new(1, 0).tensor("", &[1], 0, 0).data(32).check("the name is 0 bytes long");
    Raw::new(1, 0).tensor(&"n".repeat(64), &[1], 0, 0).data(32).check("the name is 64 bytes long");
}

#[test]
fn tensors_share_nothing() {
    let two = |second: &str, offset| {
        Raw::new(2, 0).tensor("w", &[16], 0, 0).tensor(second, &[16], 0, offset).data(256)
    };
    two("w", 64).check("tensor w occurs twice");
    two("v", 32).check("tensors w and v overlap");
    let gaps = Gguf::from_vec(two("v", 128).0).unwrap();
    assert_eq!(gaps.warnings()[0].to_string(), "model in memory: 64 bytes between tensors belong to none");
}
