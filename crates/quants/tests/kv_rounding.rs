//! The roundings of the cache against the vendor's formula in PyTorch; see `data/README.md`.

use quants::{hadamard, kv_rounding};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    op: String,
    name: String,
    #[serde(rename = "in")]
    input: Vec<f32>,
    out: Vec<f32>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str::<Golden>(include_str!("data/kv_rounding.json")).unwrap().cases
}

#[test]
fn rounding_in_place_equals_the_golden_bit_for_bit() {
    for case in cases() {
        let mut x = case.input;
        match case.op.as_str() {
            "fp8q64" => kv_rounding::round_fp8(&mut x, 64),
            "fp4q32" => kv_rounding::round_fp4(&mut x, 32),
            "hadamard_fp4q32" => {
                hadamard::transform(&mut x);
                kv_rounding::round_fp4(&mut x, 32);
            }
            op => panic!("unknown operator {op}"),
        }
        assert_eq!(x, case.out, "{} of {}", case.op, case.name);
    }
}

#[test]
fn packing_and_unpacking_is_rounding() {
    for case in cases() {
        let n = case.input.len();
        let mut out = vec![0.0; n];
        match case.op.as_str() {
            "fp8q64" => {
                let (mut codes, mut scales) = (vec![0; n], vec![0; n / 64]);
                kv_rounding::pack_fp8(&case.input, 64, &mut codes, &mut scales);
                kv_rounding::unpack_fp8(&codes, &scales, 64, &mut out);
            }
            _ => {
                let mut x = case.input;
                if case.op == "hadamard_fp4q32" {
                    hadamard::transform(&mut x);
                }
                let (mut codes, mut scales) = (vec![0; n / 2], vec![0; n / 32]);
                kv_rounding::pack_fp4(&x, 32, &mut codes, &mut scales);
                kv_rounding::unpack_fp4(&codes, &scales, 32, &mut out);
            }
        }
        assert_eq!(out, case.out, "{} of {}", case.op, case.name);
    }
}
