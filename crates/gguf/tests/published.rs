//! Files written by gguf-py, the reference writer, read by us.

mod read_all;

use std::path::{Path, PathBuf};

use gguf::{Array, Gguf, Strings, TensorType, Value};
use read_all::read_all;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)
}

fn open(name: &str) -> Gguf {
    Gguf::open(&corpus(name)).unwrap()
}

#[test]
fn every_type_of_value_is_read() {
    let gguf = open("every-type.gguf");
    let check = |key: &str, want: Value| assert_eq!(gguf.metadata().get(key), Some(&want), "{key}");
    check("general.architecture", "toy".into());
    check("toy.u8", 200u8.into());
    check("toy.i8", (-100i8).into());
    check("toy.u16", 60_000u16.into());
    check("toy.i16", (-30_000i16).into());
    check("toy.u32", 4_000_000_000u32.into());
    check("toy.i32", (-2_000_000_000i32).into());
    check("toy.u64", ((1u64 << 63) + 5).into());
    check("toy.i64", (-(1i64 << 62)).into());
    check("toy.f32", 0.5f32.into());
    check("toy.f64", 0.1f64.into());
    check("toy.bool", true.into());
    check("toy.string", "größer als ｜".into());
    check("toy.array.UINT8", vec![1u8, 0, 2].into());
    check("toy.array.INT8", vec![1i8, 0, 2].into());
    check("toy.array.UINT16", vec![1u16, 0, 2].into());
    check("toy.array.INT16", vec![1i16, 0, 2].into());
    check("toy.array.UINT32", vec![1u32, 0, 2].into());
    check("toy.array.INT32", vec![1i32, 0, 2].into());
    check("toy.array.UINT64", vec![1u64, 0, 2].into());
    check("toy.array.INT64", vec![1i64, 0, 2].into());
    check("toy.array.FLOAT32", vec![1f32, 0.0, 2.0].into());
    check("toy.array.FLOAT64", vec![1f64, 0.0, 2.0].into());
    check("toy.array.bool", Value::Array(Array::Bool(vec![true, false])));
    check("toy.array.string", ["a", "", "｜"].iter().collect::<Strings>().into());
}

#[test]
fn tensors_have_their_shapes_and_bytes() {
    let gguf = open("every-type.gguf");
    let check = |name: &str, kind: TensorType, dims: &[u64], want: &[u8]| {
        let tensor = gguf.tensor(name).unwrap();
        assert_eq!((tensor.kind, tensor.dims.as_slice()), (kind, dims), "{name}");
        assert_eq!(*gguf.data(tensor), *want, "{name}");
    };
    let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    check("plain", TensorType::F32, &[3, 2], &floats);
    let halves = [0u16, 0x3c00, 0x4000, 0x4200, 0x4400].map(u16::to_le_bytes).concat();
    check("half", TensorType::F16, &[5], &halves);
    check("blocks", TensorType::Q8_0, &[32, 2], &(0..68).collect::<Vec<u8>>());
    assert!(gguf.tensor("blockz").is_none());
    assert!(gguf.warnings().is_empty());
}

#[test]
fn another_alignment_is_followed() {
    let gguf = open("alignment-8.gguf");
    assert_eq!(gguf.alignment(), 8);
    for (i, tensor) in gguf.tensors().enumerate() {
        assert_eq!(*gguf.data(tensor), (i as f32).to_le_bytes().repeat(i + 1), "{}", tensor.name);
    }
    assert_eq!(gguf.tensors().len(), 3);
}

#[test]
fn a_split_model_opens_by_any_of_its_files() {
    for no in 1..=3 {
        let gguf = open(&format!("split-0000{no}-of-00003.gguf"));
        assert_eq!(gguf.metadata().str("general.name"), Ok("in three parts"));
        let names: Vec<_> = gguf.tensors().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["t0", "t1", "t2", "t3", "t4"]);
        for (i, tensor) in gguf.tensors().enumerate() {
            assert_eq!(*gguf.data(tensor), (i as f32).to_le_bytes().repeat(i + 1));
        }
        assert_eq!(gguf.files().len(), 3);
    }
}

#[test]
fn a_big_endian_file_is_named_as_such() {
    let error = Gguf::open(&corpus("big-endian.gguf")).unwrap_err().to_string();
    assert!(error.contains("big-endian"), "{error}");
}

/// gguf-py writes keys in the order given, pads as we do and knows no other freedom, so even the
/// bytes agree.
#[test]
fn our_writer_gives_the_same_bytes() {
    for name in ["every-type.gguf", "alignment-8.gguf", "no-tensors.gguf"] {
        let theirs = std::fs::read(corpus(name)).unwrap();
        assert!(read_all(&theirs).as_ref() == Some(&theirs), "{name}");
    }
}
