//! What holds for all numbers: encoding loses little, refuses nonsense, and rounding twice is once.

use proptest::collection::vec;
use proptest::prelude::*;
use quants::q8_k::BlockQ8K;
use quants::{Block, Encode, EncodeError, Format, e8m0, fp4, fp8, hadamard, kv_rounding};

/// A number of any magnitude that matters and that every format holds, zero included.
fn number() -> impl Strategy<Value = f32> {
    (-1.0_f32..=1.0, -20..16).prop_map(|(x, k)| x * 2.0_f32.powi(k))
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m, x| m.max(x.abs()))
}

fn round_trip(format: Format, x: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0; format.row_bytes(x.len()).unwrap()];
    format.encode_row(x, &mut bytes).unwrap();
    let mut out = vec![0.0; x.len()];
    format.decode_row(&bytes, &mut out);
    out
}

proptest! {
    #[test]
    fn encoding_loses_at_most_half_a_step(x in vec(number(), 96)) {
        let tiny = 3e-8; // half a step of a subnormal f16
        for (x, y) in x.iter().zip(round_trip(Format::F16, &x)) {
            prop_assert!((x - y).abs() <= x.abs() / 2048.0 + tiny, "F16: {x} became {y}");
        }
        for (x, y) in x.iter().zip(round_trip(Format::BF16, &x)) {
            prop_assert!((x - y).abs() <= x.abs() / 256.0, "BF16: {x} became {y}");
        }
        prop_assert_eq!(&x, &round_trip(Format::F32, &x));
        for (x, y) in x.chunks(32).zip(round_trip(Format::Q8_0, &x).chunks(32)) {
            let bound = largest(x) * (0.5 / 127.0 + 1.0 / 2048.0) * 1.001 + 127.0 * tiny;
            for (x, y) in x.iter().zip(y) {
                prop_assert!((x - y).abs() <= bound, "Q8_0: {x} became {y}, bound {bound}");
            }
        }
        for (x, y) in x.chunks(32).zip(round_trip(Format::Mxfp4, &x).chunks(32)) {
            // The widest step, from 4 to 6, is half of 4; the largest may lie as far above 6.
            let bound = largest(x) / 4.0;
            for (x, y) in x.iter().zip(y) {
                prop_assert!((x - y).abs() <= bound, "MXFP4: {x} became {y}, bound {bound}");
            }
        }
    }

    #[test]
    fn q8_k_keeps_its_sums_and_loses_half_a_step(x in vec(number(), 256)) {
        let x: [f32; 256] = x.try_into().unwrap();
        let block = BlockQ8K::encode(&x);
        for (q, sum) in block.q.chunks(16).zip(block.sums) {
            prop_assert_eq!(q.iter().map(|&q| i16::from(q)).sum::<i16>(), sum.get());
        }
        let bound = largest(&x) * 0.5 / 127.0 * 1.001;
        for (x, y) in x.iter().zip(block.decode()) {
            prop_assert!((x - y).abs() <= bound, "{x} became {y}, bound {bound}");
        }
    }

    #[test]
    fn a_value_that_is_not_finite_is_refused_by_its_index(
        mut x in vec(number(), 32),
        index in 0_usize..32,
        bad in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ) {
        x[index] = bad;
        for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Mxfp4] {
            let mut bytes = vec![7; format.row_bytes(32).unwrap()];
            let error = format.encode_row(&x, &mut bytes).unwrap_err();
            let named = matches!(error, EncodeError::NotFinite { index: i, value } if i == index && value.to_bits() == bad.to_bits());
            prop_assert!(named, "{format}: {error}");
            prop_assert!(bytes.iter().all(|&b| b == 7), "{} wrote before it refused", format);
        }
    }

    #[test]
    fn any_bytes_decode_without_a_panic(bytes in vec(any::<u8>(), 512)) {
        for format in Format::ALL {
            let blocks = bytes.len() / format.block_bytes();
            let mut out = vec![0.0; blocks * format.block_len()];
            format.decode_row(&bytes[..blocks * format.block_bytes()], &mut out);
        }
    }

    #[test]
    fn rounding_twice_is_rounding_once(x in vec(number(), 128)) {
        for round in [kv_rounding::round_fp8, kv_rounding::round_fp4] {
            let mut once = x.clone();
            round(&mut once, 32);
            let mut twice = once.clone();
            round(&mut twice, 32);
            prop_assert_eq!(once, twice);
        }
    }

    #[test]
    fn fp8_takes_the_nearest_code(x in -500.0_f32..500.0) {
        let error = |code: u8| (fp8::decode(code) - x).abs();
        let best = (0..=255).filter(|code| code & 0x7f != 0x7f).map(error).fold(f32::MAX, f32::min);
        prop_assert_eq!(error(fp8::encode(x)), best);
    }

    #[test]
    fn the_hadamard_transform_is_its_own_inverse(x in vec(-1.0_f32..1.0, 128)) {
        let mut y = x.clone();
        hadamard::transform(&mut y);
        hadamard::transform(&mut y);
        for (x, y) in x.iter().zip(&y) {
            prop_assert!((x - y).abs() < 1e-5, "{x} came back as {y}");
        }
    }
}

#[test]
fn every_fp8_code_survives_decoding_and_encoding() {
    for code in 0..=255 {
        assert_eq!(fp8::encode(fp8::decode(code)), code, "code {code:#04x}");
    }
    assert_eq!([fp8::decode(0x01), fp8::decode(0x38), fp8::decode(0xfe)], [2.0_f32.powi(-9), 1.0, -448.0]);
    assert_eq!([fp8::encode(f32::INFINITY), fp8::encode(-1e9)], [0x7e, 0xfe]);
    assert!(fp8::decode(0x7f).is_nan() && fp8::decode(0xff).is_nan());
}

#[test]
fn fp8_breaks_ties_to_the_even_code() {
    for code in 0..0x7e {
        let between = (fp8::decode(code) + fp8::decode(code + 1)) / 2.0;
        let even = code + (code & 1);
        assert_eq!(fp8::encode(between), even, "between {code:#04x} and the next");
        assert_eq!(fp8::encode(between.next_up()), code + 1);
        assert_eq!(fp8::encode(between.next_down()), code);
    }
}

#[test]
fn every_fp4_code_survives_and_ties_go_to_the_even_code() {
    for code in (0..16).filter(|&code| code != 8) {
        assert_eq!(fp4::encode(fp4::decode(code)), code);
    }
    let given = [0.1, 0.25, 0.75, -1.25, 1.75, 2.5, -3.5, 5.0, 5.9, -6.0, -0.2];
    let want = [0.0, 0.0, 1.0, -1.0, 2.0, 2.0, -4.0, 4.0, 6.0, -6.0, 0.0];
    assert_eq!(given.map(|x| fp4::decode(fp4::encode(x))), want);
}

#[test]
fn e8m0_scales_are_powers_of_two_and_never_too_small() {
    for e in 0..=254 {
        assert_eq!(f64::from(e8m0::decode(e)), 2.0_f64.powi(i32::from(e) - 127));
    }
    assert!(e8m0::decode(255).is_nan());
    assert_eq!([1.0, 1.0_f32.next_up(), 2.0, 3.0].map(e8m0::at_least), [127, 128, 128, 129]);
    assert_eq!([f32::INFINITY, f32::NAN].map(e8m0::at_least), [255, 255]);
}

#[test]
fn a_worked_example_of_fp8_rounding() {
    let mut x = [0.3, -1.7, 100.0, 450.0, 0.001, -0.02, 7.25, 3.2];
    kv_rounding::round_fp8(&mut x, 8);
    assert_eq!(x, [0.3125, -1.75, 96.0, 448.0, 0.0, -0.01953125, 7.0, 3.25]);
}

#[test]
fn a_nan_spoils_its_block_and_no_other() {
    for round in [kv_rounding::round_fp8, kv_rounding::round_fp4] {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = [1.0; 96];
            x[40] = bad;
            round(&mut x, 32);
            assert!(x[32..64].iter().all(|x| x.is_nan()), "{x:?}");
            assert!(x[..32].iter().chain(&x[64..]).all(|&x| x == 1.0), "{x:?}");
        }
    }
}

#[test]
fn a_value_too_large_for_the_format_is_refused() {
    let cases =
        [(Format::F16, 65519.99, 65520.0), (Format::Q8_0, 8.319e6, 8.32e6), (Format::BF16, 3.3e38, f32::MAX)];
    for (format, good, bad) in cases {
        let mut x = [0.0; 32];
        let mut bytes = vec![0; format.row_bytes(32).unwrap()];
        x[3] = good;
        assert_eq!(format.encode_row(&x, &mut bytes), Ok(()), "{format}");
        let mut out = [0.0; 32];
        format.decode_row(&bytes, &mut out);
        assert!(out[3].is_finite(), "{format} wrote {}", out[3]);
        x[5] = bad;
        let error = format.encode_row(&x, &mut bytes).unwrap_err();
        assert!(matches!(error, EncodeError::TooLarge { index: 5, .. }), "{format}: {error}");
    }
}

#[test]
fn formats_without_an_encoder_say_so() {
    let mut bytes = [0; 66];
    let error = Format::Iq2Xxs.encode_row(&[0.0; 256], &mut bytes).unwrap_err();
    assert_eq!(error.to_string(), "IQ2_XXS can be read, but there is no encoder for it");
}

#[test]
fn sizes_and_numbers_are_those_of_gguf() {
    for format in Format::ALL {
        assert_eq!(Format::from_ggml_id(format.ggml_id()), Some(format));
    }
    assert_eq!(Format::from_ggml_id(2), None);
    assert_eq!(Format::Q2K.row_bytes(512), Some(168));
    assert_eq!(Format::Q2K.row_bytes(300), None);
    assert_eq!(Format::F32.row_bytes(usize::MAX), None);
}
