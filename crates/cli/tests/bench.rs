//! `ds4 bench` as a user meets it, on the model built into the program.

mod common;

use common::ds4;
use serde_json::Value;

fn json(args: &[&str]) -> Value {
    let said = ds4(args);
    assert_eq!(said.status, 0, "{said:?}");
    serde_json::from_str(&said.out).unwrap()
}

#[test]
fn tests_are_named_as_llama_bench_names_them() {
    let said =
        json(&["bench", "-p", "16", "-n", "4,0", "-d", "64,0", "-r", "3", "-t", "2", "--json", "--profile"]);
    let results = said["results"].as_array().unwrap();
    let names: Vec<_> = results.iter().map(|r| r["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["pp16", "tg4", "pp16@d64", "tg4@d64"]);
    for result in results {
        let number = |key: &str| result[key].as_f64().unwrap_or_else(|| panic!("{key} in {result}"));
        assert!(0.0 < number("tps_min") && number("tps_min") <= number("tps"), "{result}");
        assert!(number("tps") <= number("tps_max") && number("tps_stddev") >= 0.0, "{result}");
        assert_eq!(result["samples"].as_array().unwrap().len(), 3);
        let shares = result["profile"]["lines"].as_array().unwrap().iter();
        let whole: f64 = shares.filter(|l| l["layers"] == "").map(|l| l["share"].as_f64().unwrap()).sum();
        assert!((whole - 1.0).abs() < 0.01, "{whole}");
    }
    let at_depth = |key: &str, i: usize| results[i]["per_token"][key].as_f64().unwrap();
    assert!(at_depth("cached_bytes", 3) > at_depth("cached_bytes", 1));
    assert!(at_depth("weight_bytes", 0) < at_depth("weight_bytes", 1), "a chunk shares its weights");
}

#[test]
fn a_sweep_is_kept_drawn_and_compared_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (csv, svg) = (path("a.csv"), path("a.svg"));
    let sweep = ["bench", "--sweep", "80", "--step", "32", "-n", "2", "-r", "2", "-t", "2"];
    let first = ds4(&[&sweep[..], &["--csv", &csv, "--svg", &svg]].concat());
    assert_eq!(first.status, 0, "{first:?}");
    let rows = std::fs::read_to_string(&csv).unwrap();
    let contexts: Vec<_> = rows.lines().skip(1).map(|row| row.split(',').next().unwrap()).collect();
    assert_eq!(contexts, ["32", "64", "80"]);
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("decode, tokens a second"), "{drawn}");

    let second = ds4(&[&sweep[..], &["--compare", &csv]].concat());
    assert_eq!(second.status, 0, "{second:?}");
    assert!(second.out.contains("prefill ÷ other"), "{}", second.out);
    assert_eq!(second.out.matches('×').count(), 6, "{}", second.out);
}

#[test]
fn contexts_are_kept_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().to_str().unwrap();
    for _ in 0..2 {
        let args = ["bench", "-p", "0", "-n", "2", "-d", "100", "-r", "1", "--json", "--contexts", kept];
        assert_eq!(json(&args)["results"][0]["test"], "tg2@d100");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_reason() {
    let refused = |args: &[&str]| {
        let said = ds4(&[&["bench", "-r", "1"], args].concat());
        assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
        said.err
    };
    let error = refused(&["-p", "0", "-n", "0"]);
    assert!(error.contains("nothing to measure: -p and -n are both 0"), "{error}");
    let error = refused(&["-d", "4000000000"]);
    assert!(error.contains("pp512@d4000000000 needs 4000000512 positions"), "{error}");
    let error = refused(&["--sweep", "64", "-n", "1", "--compare", "/no/such.csv"]);
    assert!(error.contains("reading /no/such.csv"), "{error}");
    let said = ds4(&["bench", "--csv", "a.csv"]);
    assert_eq!(said.status, 2, "{said:?}");
}
