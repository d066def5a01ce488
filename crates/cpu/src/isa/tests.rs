//! Choosing an instruction set.

use super::*;

#[test]
fn a_name_that_is_none_is_refused_with_the_names_there_are() {
    let error = choose("sse9").unwrap_err();
    assert_eq!(
        error.to_string(),
        r#""sse9" is not an instruction set; there are scalar, avx2, avx512 and neon"#
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
