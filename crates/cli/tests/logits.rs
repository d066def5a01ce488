//! `ds4 logits` and `ds4 kv-rounding` as processes. What the numbers have to be is in tests/goldens.

mod common;

use common::{Said, ds4, golden};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A golden whose tokens and positions lie in files, and a place for the rows.
struct Case {
    dir: TempDir,
    model: String,
    golden: Value,
}

impl Case {
    fn new(name: &str) -> Case {
        let golden: Value =
            serde_json::from_slice(&std::fs::read(common::golden(&format!("{name}.json"))).unwrap()).unwrap();
        let case = Case {
            dir: tempfile::tempdir().unwrap(),
            model: common::golden(golden["model"].as_str().unwrap()),
            golden,
        };
        case.write("tokens.json", &case.golden["tokens"].to_string());
        case.write("positions.json", &case.golden["positions"].to_string());
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, args: &[&str]) -> Said {
        let [tokens, out] =
            ["tokens.json", "out.f32"].map(|name| self.path(name).to_str().unwrap().to_owned());
        ds4(&[&["logits", "-m", &self.model, "--tokens", &tokens, "--out", &out], args].concat())
    }

    /// The rows that a successful run writes.
    fn rows(&self, args: &[&str]) -> Vec<f32> {
        let said = self.run(args);
        assert_eq!((said.err.as_str(), said.status), ("", 0), "{args:?}");
        floats(&self.path("out.f32"))
    }

    /// The rows of the golden's positions.
    fn at_positions(&self, args: &[&str]) -> Vec<f32> {
        let positions = self.path("positions.json");
        self.rows(&[&["--positions", positions.to_str().unwrap()], args].concat())
    }
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn assert_close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 3e-4, "largest difference {worst}");
}

const EXACT: [&str; 4] = ["--ops", "reference", "--kv", "f32"];

#[test]
fn the_rows_are_the_golden_ones_in_chunks_of_any_size() {
    let case = Case::new("mini-bf16.mid");
    let want = floats(Path::new(&golden(case.golden["logits_file"].as_str().unwrap())));
    let got = case.at_positions(&EXACT);
    assert_close(&got, &want);
    for chunk in ["7", "97"] {
        assert_eq!(case.at_positions(&[&EXACT[..], &["--chunk", chunk]].concat()), got, "chunks of {chunk}");
    }
    let vocab = want.len() / case.golden["positions"].as_array().unwrap().len();
    let last = case.rows(&[&EXACT[..], &["--positions", "last"]].concat());
    assert_eq!(last, got[got.len() - vocab..]);
}

#[test]
fn greedy_rows_are_those_that_chose_the_golden_tokens() {
    let case = Case::new("mini-mxfp4.mid");
    let said = case.run(&[&EXACT[..], &["--greedy", "32"]].concat());
    let ids: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(ids, case.golden["greedy"]["tokens"]);
    let want = case.golden["greedy"]["logits_file"].as_str().unwrap();
    assert_close(&floats(&case.path("out.f32")), &floats(Path::new(&golden(want))));
}

#[test]
fn mtp_rows_are_the_golden_ones() {
    let case = Case::new("mini-bf16.short");
    case.write("positions.json", &case.golden["mtp"]["positions"].to_string());
    let want = floats(Path::new(&golden(case.golden["mtp"]["logits_file"].as_str().unwrap())));
    let got = case.at_positions(&[&EXACT[..], &["--mtp"]].concat());
    assert_close(&got, &want);
    assert_eq!(case.at_positions(&[&EXACT[..], &["--mtp", "--chunk", "7"]].concat()), got);
}

/// A whole model, so that every kernel takes part. An instruction set that this CPU lacks is refused.
#[test]
fn every_instruction_set_gives_the_same_bits() {
    let case = Case::new("mini-mxfp4.mid");
    let bits = |name| -> Vec<u32> { case.rows(&["--isa", name]).into_iter().map(f32::to_bits).collect() };
    let want = bits("scalar");
    for name in
        ["avx2", "avx512", "neon", "neon-dotprod"].into_iter().filter(|name| cpu::isa::choose(name).is_ok())
    {
        assert!(bits(name) == want, "{name}");
    }
}

#[test]
fn mistakes_are_explained() {
    let case = Case::new("mini-mxfp4.mid");
    let positions = case.path("positions.json");
    let positions = positions.to_str().unwrap();
    let check = |args: &[&str], want: &str| {
        let said = case.run(args);
        let err = said.err.replace(case.dir.path().to_str().unwrap(), "DIR");
        assert_eq!((err.trim_end(), said.status), (want, 1));
    };
    check(&["--mtp"], "error: this model has no MTP block; --mtp-file names the file that has it");
    case.write("positions.json", "[3, 3]");
    check(&["--positions", positions], "error: DIR/positions.json: positions must ascend");
    case.write("positions.json", "[420]");
    check(
        &["--positions", positions],
        "error: DIR/positions.json: position 420, but there are only 420 rows",
    );
    case.write("tokens.json", "[0, 512]");
    check(&[], "error: token 512 is outside the vocabulary of 512");
    case.write("tokens.json", "[]");
    check(&[], "error: DIR/tokens.json: too few tokens");
    case.write("tokens.json", "[0, -1]");
    check(
        &[],
        "error: reading DIR/tokens.json: invalid value: integer `-1`, expected u32 at line 1 column 6",
    );
}

#[test]
fn roundings_are_the_golden_ones_to_the_bit() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../quants/tests/data/kv_rounding.json");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.f32");
    let said = ds4(&["kv-rounding", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!((said.out.as_str(), said.err.as_str(), said.status), ("", "", 0));
    let golden: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let values = golden["cases"].as_array().unwrap().iter().flat_map(|case| case["out"].as_array().unwrap());
    let want: Vec<f32> = values.map(|value| value.as_f64().unwrap() as f32).collect();
    assert_eq!(floats(&out), want);
}
