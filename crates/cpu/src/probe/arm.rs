//! Loops of multiply-accumulates for aarch64.
//!
//! As in `x86`: written down in assembly, with as many sums as the latency needs and registers hold.

use super::{Loop, Loops};
use crate::isa::Level;
use std::arch::aarch64::*;
use std::arch::asm;
use std::arch::is_aarch64_feature_detected;
use std::hint::black_box;

/// The loops of an instruction set; `None` for plain Rust.
pub fn loops(level: Level) -> Option<Loops> {
    let int8 = match level {
        Level::Neon => Loop { run: smull, products: 16 * 16 },
        Level::NeonDotprod => Loop { run: sdot, products: 16 * 16 },
        _ => return None,
    };
    let bf16 = is_aarch64_feature_detected!("bf16").then_some(Loop { run: bfdot, products: 16 * 8 });
    Some(Loops { int8, f32: Loop { run: fmla, products: 16 * 4 }, bf16 })
}

/// A function that runs `asm` on each of some sums, again and again, with factors `a` and `b` and two
/// registers that may be overwritten.
macro_rules! looped {
    ($name:ident: $features:literal, $asm:literal, $a:expr, $b:expr) => {
        looped!($name: $features, $asm, $a, $b, [s0 s1 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 s12 s13 s14 s15]);
    };
    ($name:ident: $features:literal, $asm:literal, $a:expr, $b:expr, [$($sum:ident)*]) => {
        fn $name(rounds: u64) {
            #[target_feature(enable = $features)]
            fn with_features(rounds: u64) {
                let (a, b): (int8x16_t, int8x16_t) = ($a, $b);
                let (mut spare, mut other) = (vdupq_n_s8(0), vdupq_n_s8(0));
                $(let mut $sum = vdupq_n_s8(0);)*
                for _ in 0..rounds {
                    $(
                        // SAFETY: only the registers named are read and written.
                        unsafe {
                            asm!(
                                $asm,
                                s = inout(vreg) $sum,
                                t = inout(vreg) spare,
                                u = inout(vreg) other,
                                a = in(vreg) a,
                                b = in(vreg) b,
                                options(pure, nomem, nostack, preserves_flags),
                            );
                        }
                    )*
                }
                black_box(($($sum,)* spare, other));
            }
            // SAFETY: NEON is part of the target; `loops` asks for the others.
            unsafe { with_features(rounds) }
        }
    };
}

looped!(sdot: "neon,dotprod", "sdot {s:v}.4s, {a:v}.16b, {b:v}.16b /* {t:v} {u:v} */",
    vdupq_n_s8(3), vdupq_n_s8(-5));

// Products in 16 bits, and their pairs added to 32: what there is without the dot product.
looped!(smull: "neon",
    "smull {t:v}.8h, {a:v}.8b, {b:v}.8b\nsmull2 {u:v}.8h, {a:v}.16b, {b:v}.16b\n\
     sadalp {s:v}.4s, {t:v}.8h\nsadalp {s:v}.4s, {u:v}.8h",
    vdupq_n_s8(3), vdupq_n_s8(-5));

looped!(fmla: "neon", "fmla {s:v}.4s, {a:v}.4s, {b:v}.4s /* {t:v} {u:v} */",
    vreinterpretq_s8_f32(vdupq_n_f32(1.5)), vreinterpretq_s8_f32(vdupq_n_f32(0.5)));

// 0x3fc0 is 1.5 in bf16.
looped!(bfdot: "neon,bf16", "bfdot {s:v}.4s, {a:v}.8h, {b:v}.8h /* {t:v} {u:v} */",
    vreinterpretq_s8_s16(vdupq_n_s16(0x3fc0)), vreinterpretq_s8_s16(vdupq_n_s16(0x3fc0)));
