//! Decoding and encoding against the `gguf` Python package; `data/README.md` says how they came.

use quants::Format;
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    format: String,
    bytes: String,
    bits: Vec<u32>,
}

fn cases(json: &str) -> impl Iterator<Item = (Format, Vec<u8>, Vec<f32>)> {
    let cases: Vec<Case> = serde_json::from_str(json).unwrap();
    cases.into_iter().map(|case| {
        let format = Format::ALL.into_iter().find(|f| f.name() == case.format).unwrap();
        let values = case.bits.into_iter().map(f32::from_bits).collect();
        (format, from_hex(&case.bytes), values)
    })
}

fn from_hex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn every_format_decodes_to_the_bits_of_gguf_py() {
    let mut seen = vec![Format::F32]; // nothing to decode
    for (format, bytes, want) in cases(include_str!("data/decode.json")) {
        let mut got = vec![0.0; want.len()];
        format.decode_row(&bytes, &mut got);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got, want, "{format} weight {i}"); // 0 and -0 are equal
        }
        seen.push(format);
    }
    assert_eq!(seen, Format::ALL, "a format without a vector");
}

#[test]
fn encoders_write_the_bytes_of_gguf_py() {
    let mut seen = vec![];
    for (format, want, values) in cases(include_str!("data/encode.json")) {
        let mut got = vec![0; want.len()];
        format.encode_row(&values, &mut got).unwrap();
        for (i, (got, want)) in
            got.chunks(format.block_bytes()).zip(want.chunks(format.block_bytes())).enumerate()
        {
            assert_eq!(got, want, "{format} block {i}");
        }
        seen.push(format);
    }
    assert_eq!(seen, [Format::F16, Format::BF16, Format::Q8_0, Format::Mxfp4]);
}
