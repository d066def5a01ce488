//! Loops of multiply-accumulates for x86-64.
//!
//! Each instruction is written down in assembly, so that the compiler can neither compute the result beforehand nor
//! use another one; the sums are as many as the latency of the instruction needs, and few enough to stay in
//! registers. A compiler that spills one of them would make the roof a third of what it is.

use super::{Loop, Loops};
use crate::isa::Level;
use std::arch::asm;
use std::arch::x86_64::*;
use std::hint::black_box;

/// The loops of an instruction set; `None` for plain Rust.
pub fn loops(level: Level) -> Option<Loops> {
    match level {
        Level::Avx2 => Some(Loops {
            int8: Loop { run: maddubs, products: 8 * 32 },
            f32: match is_x86_feature_detected!("fma") {
                true => Loop { run: fma_256, products: 10 * 8 },
                false => Loop { run: mul_add_256, products: 10 * 8 },
            },
            bf16: None,
        }),
        Level::Avx512 => Some(Loops {
            int8: Loop { run: vnni, products: 16 * 64 },
            f32: Loop { run: fma_512, products: 16 * 16 },
            bf16: is_x86_feature_detected!("avx512bf16").then_some(Loop { run: bf16_512, products: 16 * 32 }),
        }),
        _ => None,
    }
}

/// A function that runs `asm` on each of some sums, again and again, with factors `a` and `b` and a third
/// register that may be overwritten.
macro_rules! looped {
    ($name:ident: $features:literal, $class:ident $vector:ty, $asm:literal,
     $zero:expr, $a:expr, $b:expr, [$($sum:ident)*]) => {
        fn $name(rounds: u64) {
            #[target_feature(enable = $features)]
            fn with_features(rounds: u64) {
                let (a, b): ($vector, $vector) = ($a, $b);
                let mut spare: $vector = $zero;
                $(let mut $sum: $vector = $zero;)*
                for _ in 0..rounds {
                    $(
                        // SAFETY: only the registers named are read and written.
                        unsafe {
                            asm!(
                                $asm,
                                s = inout($class) $sum,
                                t = inout($class) spare,
                                a = in($class) a,
                                b = in($class) b,
                                options(pure, nomem, nostack, preserves_flags),
                            );
                        }
                    )*
                }
                black_box(($($sum,)* spare));
            }
            // SAFETY: `loops` gives this only for a level that was found, or asks for the feature.
            unsafe { with_features(rounds) }
        }
    };
}

looped!(vnni: "avx512f", zmm_reg __m512i, "vpdpbusd {s}, {a}, {b} /* {t} */",
    _mm512_setzero_si512(), _mm512_set1_epi8(3), _mm512_set1_epi8(-5),
    [s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15]);

looped!(fma_512: "avx512f", zmm_reg __m512, "vfmadd231ps {s}, {a}, {b} /* {t} */",
    _mm512_setzero_ps(), _mm512_set1_ps(1.5), _mm512_set1_ps(0.5),
    [s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15]);

// 0x3fc0 is 1.5 in bf16.
looped!(bf16_512: "avx512f", zmm_reg __m512i, "vdpbf16ps {s}, {a}, {b} /* {t} */",
    _mm512_setzero_si512(), _mm512_set1_epi16(0x3fc0), _mm512_set1_epi16(0x3fc0),
    [s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15]);

// Pairs of bytes to 16 bits, pairs of those to 32, and the sum: what AVX2 has for the purpose. `b` of ones is
// the second factor of all three, which changes no timing.
looped!(maddubs: "avx2", ymm_reg __m256i,
    "vpmaddubsw {t}, {a}, {b}\nvpmaddwd {t}, {t}, {b}\nvpaddd {s}, {s}, {t}",
    _mm256_setzero_si256(), _mm256_set1_epi8(3), _mm256_set1_epi8(1),
    [s0 s1 s2 s3 s4 s5 s6 s7]);

looped!(fma_256: "avx2,fma", ymm_reg __m256, "vfmadd231ps {s}, {a}, {b} /* {t} */",
    _mm256_setzero_ps(), _mm256_set1_ps(1.5), _mm256_set1_ps(0.5),
    [s0 s1 s2 s3 s4 s5 s6 s7 s8 s9]);

looped!(mul_add_256: "avx2", ymm_reg __m256, "vmulps {t}, {a}, {b}\nvaddps {s}, {s}, {t}",
    _mm256_setzero_ps(), _mm256_set1_ps(1.5), _mm256_set1_ps(0.5),
    [s0 s1 s2 s3 s4 s5 s6 s7 s8 s9]);
