//! Choosing an instruction set.

use super::*;

#[test]
fn a_name_that_is_none_is_refused_with_the_names_there_are() {
    let error = choose("sse9").unwrap_err();
    assert_eq!(
        error.to_string(),
        r#""sse9" is not an instruction set; there are scalar, avx2, avx512, neon and neon-dotprod"#
    );
}

#[test]
fn an_instruction_set_of_another_cpu_is_refused() {
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    let error = choose(foreign).unwrap_err().to_string();
    assert!(error.starts_with(&format!("this CPU does not have {foreign}; it has scalar")), "{error}");
}

#[test]
fn a_kernel_runs_on_all_that_this_cpu_has() {
    #[derive(Clone)]
    struct Answer;
    impl Kernel for Answer {
        type Output = f32;
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> f32 {
            isa.sum(isa.floats(&[2.625; 16]))
        }
    }
    let answers: Vec<_> = on_each(Answer).collect();
    assert_eq!(answers[0], (Level::Scalar, 42.0));
    assert!(answers.iter().all(|(_, answer)| *answer == 42.0), "{answers:?}");
    assert_eq!(dispatch(Answer), 42.0);
}

#[test]
fn every_f16_has_its_value() {
    for bits in 0..=u16::MAX {
        let want = half::f16::from_bits(bits).to_f32();
        let got = scalar::f16_value(bits);
        assert!(
            got == want && got.is_sign_negative() == want.is_sign_negative() || got.is_nan() && want.is_nan(),
            "{bits:#06x}"
        );
    }
}

#[test]
fn every_fp8_code_has_its_value() {
    #[derive(Clone)]
    struct Values([u8; 64]);
    impl Kernel for Values {
        type Output = Vec<f32>;
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> Vec<f32> {
            let mut values = vec![[0.0; 16]; 4];
            for (to, quarter) in values.iter_mut().zip(isa.fp8(&self.0)) {
                isa.put_floats(quarter, to);
            }
            values.concat()
        }
    }
    for start in [0, 64, 128, 192] {
        let codes: [u8; 64] = std::array::from_fn(|i| start + i as u8);
        for (level, values) in on_each(Values(codes)) {
            for (code, got) in codes.into_iter().zip(values) {
                let want = quants::fp8::decode(code);
                assert!(
                    got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                    "{level} {code:#x}"
                );
            }
        }
    }
}

#[test]
fn a_square_of_words_is_transposed() {
    #[derive(Clone)]
    struct Transpose([[u8; 64]; 16]);
    impl Kernel for Transpose {
        type Output = Vec<[u8; 64]>;
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> Vec<[u8; 64]> {
            let mut out = vec![[0; 64]; 16];
            let columns = isa.transpose(self.0.map(|row| isa.bytes(&row)));
            out.iter_mut().zip(columns).for_each(|(to, column)| isa.put_bytes(column, to));
            out
        }
    }
    // The byte at 4 j + b of row i names both, as far as a byte can.
    let byte = |i: usize, j: usize, b: usize| (i * 16 + j + 101 * b) as u8;
    let square = std::array::from_fn(|i| std::array::from_fn(|at| byte(i, at / 4, at % 4)));
    for (level, out) in on_each(Transpose(square)) {
        for (i, row) in out.into_iter().enumerate() {
            let want: [u8; 64] = std::array::from_fn(|at| byte(at / 4, i, at % 4));
            assert!(row == want, "{level}, row {i}");
        }
    }
}

#[test]
fn lanes_of_four_products_are_exact() {
    #[derive(Clone)]
    struct Dots([u8; 64], [i8; 4]);
    impl Kernel for Dots {
        type Output = [f32; 16];
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> [f32; 16] {
            let mut out = [0.0; 16];
            let sums = isa.ints(&std::array::from_fn(|i| i as i32 - 8));
            isa.put_floats(
                isa.as_floats(isa.dot_fours(sums, isa.bytes(&self.0), isa.fours(&self.1))),
                &mut out,
            );
            out
        }
    }
    let w = std::array::from_fn(|i| if i % 5 == 0 { 127 } else { i as u8 });
    for a in [[127; 4], [-127; 4], [127, -127, 1, 0]] {
        let want: [f32; 16] = std::array::from_fn(|i| {
            (0..4).map(|b| i32::from(w[4 * i + b]) * i32::from(a[b])).sum::<i32>() as f32 + i as f32 - 8.0
        });
        for (level, got) in on_each(Dots(w, a)) {
            assert_eq!(got, want, "{level}");
        }
    }
}
