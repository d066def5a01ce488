//! Every kernel is valid WGSL and becomes valid MSL, SPIR-V and HLSL.

mod metal;

use super::*;
use crate::kernels::Side;
use crate::kernels::tiles::{on_threads, on_units};
use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

/// Formats whose rows meet x in 8 bits, where that is how products are made.
const BYTES: [Format; 5] = [Format::Q8_0, Format::Q2K, Format::Q4K, Format::Iq2Xxs, Format::Mxfp4];

/// How teams are made: sizes of subgroups that exist, and without.
const TEAMS: [(u32, bool); 5] = [(8, true), (16, true), (32, true), (64, true), (32, false)];

fn teams(kernel: &'static str, (lanes, subgroups): (u32, bool)) -> Variant {
    Variant::of(kernel)
        .with("THREADS", 256u32)
        .with("LANES", lanes)
        .with("TEAMS", 256 / lanes)
        .when("SUBGROUPS", subgroups)
}

fn layouts() -> Vec<Vec<(&'static str, u32)>> {
    vec![
        vec![("WIDTH", 128), ("SIXTEENS", 8), ("ROWS_F32", 1)],
        vec![("WIDTH", 128), ("SIXTEENS", 8), ("ROWS_F16", 1)],
        vec![("WIDTH", 512), ("SIXTEENS", 32), ("LATENT8", 1), ("ROPE", 64)],
        vec![("WIDTH", 128), ("SIXTEENS", 8), ("INDEX4", 1)],
    ]
}

fn with_all(variant: Variant, constants: &[(&'static str, u32)]) -> Variant {
    constants.iter().fold(variant, |variant, &(name, value)| variant.with(name, value))
}

/// Variants in which every line of every kernel occurs.
fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    let plain = |kernel| Variant::of(kernel).with("THREADS", 256u32);
    all.extend(["gather", "move_rows", "nothing", "peak", "peaks", "sum_slots"].map(plain));
    all.push(plain("mixture").with("MIX", 0u32).with("HC", 4u32));
    all.push(plain("group_experts").with("EXPERTS", 256u32).with("TILE", 64u32));
    for table in [false, true] {
        all.push(plain("route").with("EXPERTS", 256u32).with("USED", 6u32).when("TABLE", table));
    }
    all.push(plain("attend_merge").with("WIDTH", 512u32).with("ROPE", 64u32));
    for layout in layouts() {
        all.push(with_all(plain("append"), &layout).with("MORE", 0u32));
        all.push(with_all(plain("append"), &layout).with("MORE", 2u32));
        for keys in [16, 64] {
            let variant = with_all(plain("index_scores"), &layout);
            all.push(variant.with("KEYS", keys).with("SLICES", 256 / keys));
        }
        if layout.iter().any(|(name, _)| *name == "INDEX4") {
            let round = with_all(plain("round_query"), &layout).with("READ_ONLY", 1u32);
            let turned = round.clone().with("TURNED", 64u32);
            let halved =
                |variant: &Variant, angles| variant.clone().with("HALVES", 1u32).with("ANGLES", angles);
            all.extend([halved(&round, 0u32), halved(&turned, 4), turned.with("ANGLES", 1u32), round]);
            all.push(with_all(Variant::of("index_matrix"), &layout).with("ROWS", 8u32));
        }
        for team in TEAMS {
            let norm = teams("norm", team)
                .with("NORM", 1u32)
                .with("WEIGHT", 1u32)
                .with("ROTATE", 1u32)
                .with("STORE", 1u32)
                .with("MORE", 2u32);
            if layout.iter().all(|(name, _)| *name != "INDEX4") {
                all.push(with_all(norm.with("ROPE", 64u32), &layout));
            }
            for overlap in [false, true] {
                all.push(
                    with_all(teams("compress", team), &layout)
                        .with("ROPE", 64u32)
                        .with("INNER", 1024u32)
                        .with("RATIO", 4u32)
                        .when("OVERLAP", overlap),
                );
            }
            for (picks, merge) in [(false, false), (true, false), (false, true), (true, true)] {
                let spread = 128u32.div_ceil(team.0);
                let attend = with_all(teams("attend", team), &layout)
                    .with("KEYS", 4u32)
                    .with("HEADS", if spread <= 4 { 2u32 } else { 1 })
                    .with("SPREAD", spread)
                    .with("ITEMS", 2u32)
                    .with("TURNED", 64u32)
                    .with("PICKS", if picks { 10u32 } else { 0 });
                let lanes = team.0.min(32);
                let few = with_all(Variant::of("attend_few"), &layout)
                    .with("THREADS", 8 * lanes)
                    .with("WAVE", team.0)
                    .with("LANES", lanes)
                    .with("TEAMS", 8u32)
                    .with("KEYS", 2u32)
                    .with("HEADS", 2u32)
                    .with("PIECES", 32u32.div_ceil(lanes))
                    .with("MOST_PARTS", 26u32)
                    .with("TURNED", 64u32)
                    .when("MERGE", merge)
                    .with("PICKS", if picks { 10u32 } else { 0 });
                let all_few = [few.clone(), few.with("NORM", 1u32)];
                all.extend(all_few.into_iter().filter(|_| team.1));
                all.extend([attend.clone(), attend.with("NORM", 1u32)].into_iter().filter(|_| !merge));
            }
        }
    }
    for layout in [&layouts()[1], &layouts()[2]] {
        let width = if layout[0].1 == 512 { 512u32 } else { 128 };
        for picks in [0u32, 7] {
            let variant =
                with_all(plain("attend_matrix"), layout).with("WHOLE", 1u32).with("TILES", width / 128);
            let variant = variant.with("SPREAD", width / 64).with("ITEMS", (width / 256).max(1));
            all.push(variant.with("TURNED", 64u32).with("PICKS", picks));
        }
    }
    for team in TEAMS {
        all.push(teams("leaders", team));
        all.push(teams("top_k", team));
        for (norm, weight, rotate) in
            [(true, true, true), (true, false, true), (false, false, true), (true, true, false)]
        {
            let one = teams("norm", team).with("WIDTH", 512u32).with("ROPE", 64u32);
            all.push(one.when("NORM", norm).when("WEIGHT", weight).when("ROTATE", rotate));
        }
        let entry = |kernel| {
            teams(kernel, team)
                .with("HC", 4u32)
                .with("OUT", 24u32)
                .with("CHUNK", 128u32)
                .with("CHUNKS", 32u32)
                .with("SPREAD", 4u32)
        };
        all.push(entry("enter"));
        all.push(entry("enter").with("HEAD", 1u32));
        for (leave, dots) in [(true, false), (false, true), (true, true)] {
            if team.1 && dots {
                let one = entry("streams").with("ROWS", 1u32).with("LOADS", 1u32);
                let finish = one.when("LEAVE", leave).with("DOTS", 1u32).with("FINISH", 1u32);
                all.push(finish.format("w", Format::F16));
            }
            let four = entry("streams").with("ROWS", 4u32).with("LOADS", 2u32);
            all.push(four.when("LEAVE", leave).when("DOTS", dots).format("w", Format::F32));
        }
        let vec = |format| {
            teams("linear_vec", team)
                .format("m0", format)
                .with("SEGMENTS", 1u32)
                .with("BITS0", 4u32)
                .with("SCALES0", 5u32)
                .with("OUT0", 1000u32)
                .with("START0", 0u32)
                .with("END0", 100u32)
                .with("STRIDE0", 1000u32)
                .with("FACTOR0", 1f32.to_bits())
                .with("BIAS_WIDTH0", 1000u32)
                .with("BIAS_FIRST0", 0u32)
                .with("UNITS", 128u32)
        };
        for format in Format::ALL {
            all.push(
                vec(format)
                    .with("WHOLE", 1u32)
                    .with("PASSES", 3u32)
                    .with("ROWS", 2u32)
                    .with("COLUMNS", 1u32)
                    .with("CHUNK", 128u32)
                    .with("UNROLL0", if team.0 < 64 { 2u32 } else { 1 })
                    .with("EXACT", 1u32),
            );
            let w = |kernel| teams(kernel, team).with("ROWS", 2u32);
            for shared in [false, true] {
                let down = w("down").format("w0", format).with("UNITS0", 64u32).when("SHARED", shared);
                all.push(match shared {
                    false => down,
                    true => down.format("w1", Format::Q8_0).with("UNITS1", 64u32),
                });
            }
            let gate_up = w("gate_up")
                .format("gate", format)
                .format("up", format)
                .with("UNITS", 128u32)
                .with("CHUNK", 128u32)
                .with("FF", 2048u32);
            all.extend([gate_up.clone(), gate_up.with("EXACT", 1u32)]);
        }
        for format in BYTES.into_iter().filter(|_| team.1) {
            let of = |kernel| {
                teams(kernel, team)
                    .with("UNROLL0", 1u32)
                    .with("UNROLL1", 2u32)
                    .with("PASSES", 2u32)
                    .with("ROWS", 2u32)
                    .with("UNITS", 128u32)
                    .with("UNITS0", 64u32)
                    .with("UNITS1", 64u32)
            };
            for shared in [false, true] {
                let down = of("down_dot").format("w0", format).with("USED", 6u32).when("SHARED", shared);
                let down = if shared { down.format("w1", Format::Q8_0) } else { down };
                all.extend([down.clone(), down.with("ROUNDED", 1u32)]);
            }
            let gate_up = of("gate_up_dot").format("gate", format).format("up", format);
            let gate_up = gate_up.with("UNROLL", 2u32).with("FF", 2048u32);
            all.extend([gate_up.clone(), gate_up.with("ROUNDS", 1u32)]);
            for (flag, columns) in [("NORM", 4u32), ("GROUPED", 1)] {
                let variant = vec(format).with("PASSES", 1u32).with("ROWS", 1u32).with("UNROLL0", 2u32);
                let variant =
                    Variant { kernel: "linear_dot", ..variant.with("COLUMNS", columns).with(flag, 1u32) };
                all.extend([variant.clone(), mixing(variant)]);
            }
        }
        for format in [Format::F16, Format::BF16].into_iter().filter(|_| team.1) {
            for (columns, flag) in [(1u32, ("NORM", 1u32)), (2, ("BIAS0", 6))] {
                let variant = vec(format).with("PASSES", 1u32).with("ROWS", 1u32).with("UNROLL0", 8u32);
                let variant = variant.with("COLUMNS", columns).with("FLOATS", 1u32).with("FLOATS0", 1u32);
                let variant = variant.with(flag.0, flag.1).when("BIASED", flag.0 == "BIAS0");
                all.push(Variant { kernel: "linear_dot", ..variant });
            }
        }
        for flag in [&["NORM"][..], &["NORM", "WHOLE"], &["BIASED", "BIAS0"], &["GROUPED"]] {
            let variant = vec(Format::Q8_0)
                .with("PASSES", 1u32)
                .with("ROWS", 4u32)
                .with("COLUMNS", 4u32)
                .with("CHUNK", 32u32)
                .with("UNROLL0", 1u32);
            all.push(flag.iter().fold(variant, |v, f| v.with(f, if *f == "BIAS0" { 6u32 } else { 1 })));
        }
        for table in [false, true].into_iter().filter(|_| team.1) {
            let variant = vec(Format::F16).with("PASSES", 1u32).with("ROWS", 1u32).with("CHUNK", 128u32);
            let variant = variant.with("COLUMNS", 2u32).with("UNROLL0", 1u32).with("ROUTE", 6u32);
            let variant = variant.with("EXPERTS", 255u32).with("USED", 6u32).when("TABLE", table);
            all.extend([variant.clone(), mixing(variant)]);
        }
    }
    for format in Format::ALL {
        all.push(plain("embed").format("w", format));
    }
    all.extend([plain("halve"), plain("halve").with("SPLIT", 1u32)].map(|v| v.with("PAD", 4u32)));
    for side in SIDES {
        for format in Format::ALL {
            all.push(tiles(side, 64).format("w", format));
            all.push(tiles(side, 64).format("w", format).with("GATED", 1u32).format("gate", format));
        }
        for flags in [&["BIAS"][..], &["GROUPED"], &["EXPERTS"], &["EXPERTS", "PAIRS"], &["EXPERTS", "GATED"]]
        {
            let variant = tiles(side, 64).format("w", Format::Q8_0);
            let variant = flags.iter().fold(variant, |v, f| v.with(f, 1u32));
            all.push(if flags.contains(&"GATED") { variant.format("gate", Format::Iq2Xxs) } else { variant });
        }
    }
    for side in SIDES.into_iter().flatten() {
        for split in [false, true] {
            for rows in [32, side.most_rows(split)] {
                let variant = on_units(side, rows, split, false);
                all.push(variant.format("w", if split { Format::F16 } else { Format::Iq2Xxs }));
            }
        }
        let mixed = on_units(side, side.most_rows(true), true, true).with("GATED", 1u32);
        all.push(mixed.format("w", Format::F16).format("gate", Format::Iq2Xxs));
    }
    all
}

/// With a mixture beside it.
fn mixing(variant: Variant) -> Variant {
    variant.with("MIX", 10u32).with("HC", 4u32)
}

/// How products of many rows are made.
const SIDES: [Option<Side>; 3] = [None, Some(Side::Eight), Some(Side::Sixteen)];

fn tiles(side: Option<Side>, rows: usize) -> Variant {
    side.map_or(on_threads(rows), |side| on_units(side, rows, false, false))
}

fn given(variant: &Variant, name: &str) -> bool {
    variant.constant(name).unwrap_or(0) != 0
}

/// Whether Metal never gets it: it makes no products of bytes, either.
fn not_on_metal(variant: &Variant) -> bool {
    on_vulkan_only(variant) || variant.kernel.ends_with("_dot")
}

/// Kernels of devices whose last workgroup goes on, or that have matrices of 16 × 16.
fn on_vulkan_only(variant: &Variant) -> bool {
    let sixteen = ["attend_matrix", "index_matrix"].contains(&variant.kernel)
        || variant.kernel == "linear_matrix" && !given(variant, "EIGHT");
    sixteen || merges(variant)
}

/// Kernels whose last workgroup goes on.
fn merges(variant: &Variant) -> bool {
    ["MERGE", "FINISH", "ROUTE", "MIX"].iter().any(|name| given(variant, name))
}

/// Kernels of devices with matrix units, which need more than others.
fn about_matrices(variant: &Variant) -> bool {
    ["attend_matrix", "halve", "index_matrix", "linear_matrix"].contains(&variant.kernel)
        || given(variant, "HALVES")
}

fn validated(variant: &Variant) -> (naga::Module, ModuleInfo) {
    let source = variant.source();
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{variant:?}: {}", error.emit_to_string(&source)));
    let mut capabilities =
        Capabilities::IMMEDIATES | Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if about_matrices(variant) {
        capabilities |= Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16;
    }
    if merges(variant) {
        capabilities |= Capabilities::MEMORY_DECORATION_COHERENT;
    }
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{variant:?}: {}", error.emit_to_string(&source)));
    (module, info)
}

#[test]
fn every_kernel_becomes_msl_and_spirv() {
    let all = variants();
    for (name, _) in KERNELS {
        assert!(all.iter().any(|v| v.kernel == name), "{name} has no variant here");
    }
    for variant in &all {
        let (module, info) = validated(variant);
        for lang_version in [(2, 4), (3, 1)] {
            if not_on_metal(variant) {
                continue;
            }
            let options = msl::Options { lang_version, ..Default::default() };
            let (text, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
                .unwrap_or_else(|error| panic!("{variant:?}: {error}"));
            assert!(text.contains("kernel void"), "{variant:?}");
        }
        let options = spv::Options { lang_version: (1, 3), ..Default::default() };
        let words = spv::write_vec(&module, &info, &options, None)
            .unwrap_or_else(|error| panic!("{variant:?}: {error}"));
        assert_eq!(words[0], 0x0723_0203, "{variant:?}: the magic word");
    }
}

/// What DX12 gets: of shader model 5.1 where a device has no subgroups, as with the compiler that is part of Windows.
#[test]
fn every_kernel_becomes_hlsl() {
    let on_dx12 = |variant: &&Variant| !on_vulkan_only(variant) && !about_matrices(variant);
    for variant in variants().iter().filter(on_dx12) {
        let (module, info) = validated(variant);
        let subgroups = variant.constant("SUBGROUPS").unwrap_or(0) != 0;
        let options = hlsl::Options {
            shader_model: if subgroups { hlsl::ShaderModel::V6_0 } else { hlsl::ShaderModel::V5_1 },
            immediates_target: Some(hlsl::BindTarget { register: 100, ..Default::default() }),
            ..Default::default()
        };
        let mut text = String::new();
        hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{variant:?}: {error}"));
        assert!(text.contains("[numthreads("), "{variant:?}");
    }
}

/// A tile on matrix units has room in the memory that a device is asked for.
#[test]
fn tiles_fit_workgroup_memory() {
    for variant in variants().iter().filter(|variant| variant.kernel.ends_with("_matrix")) {
        let (module, _) = validated(variant);
        let globals = module.global_variables.iter().map(|(_, global)| global);
        let in_workgroup = globals.filter(|global| global.space == naga::AddressSpace::WorkGroup);
        let bytes: u32 = in_workgroup.map(|global| module.types[global.ty].inner.size(module.to_ctx())).sum();
        let side = if given(variant, "EIGHT") { Side::Eight } else { Side::Sixteen };
        assert!(bytes <= side.memory(), "{variant:?} takes {bytes}");
    }
}

#[test]
fn a_repetition_inside_another_sees_both_indices() {
    let variant = Variant::of("gather").with("N", 2u32);
    let mut out = String::new();
    let text = "//#repeat a N\n//#repeat b 2\nx$a_$b;\n//#end\ny$a;\n//#end";
    variant.repeat(&text.lines().collect::<Vec<_>>(), &mut out);
    assert_eq!(out.split_whitespace().collect::<String>(), "x0_0;x0_1;y0;x1_0;x1_1;y1;");
}

#[test]
fn a_condition_is_an_or_of_names_and_their_opposites() {
    let variant = Variant::of("gather").with("A", 1u32).with("B", 0u32);
    let check = |condition, want| assert_eq!(variant.holds(condition), want, "{condition}");
    check("A", true);
    check("B", false);
    check("!A", false);
    check("!C", true);
    check("B || A", true);
    check("B || C", false);
}

/// The MSL that Metal gets of a kernel, as `wgpu` asks for it: with run-time checks in tests, else without.
fn msl_of(variant: &Variant, checks: bool) -> String {
    let (module, info) = validated(variant);
    let policy = if checks { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    let options = msl::Options {
        lang_version: (3, 1),
        bounds_check_policies: BoundsCheckPolicies { index: policy, buffer: policy, ..Default::default() },
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: checks,
        emit_int_div_checks: checks,
        ..Default::default()
    };
    msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).expect("tested above").0
}

/// What is hot becomes loops as we wrote them, with loads of whole vectors and nothing in between: no index is
/// clamped, no loop counted by a guard, no divisor asked whether it is 0. `docs/gpu.md` shows some of it.
#[test]
fn hot_kernels_become_plain_msl() {
    const HOT: [&str; 8] = [
        "linear_matrix",
        "linear_vec",
        "gate_up",
        "down",
        "linear_tile",
        "attend",
        "attend_few",
        "index_scores",
    ];
    const GUARDS: [&str; 5] =
        ["loop_bound", "naga_div", "naga_mod", "DefaultConstructible", "metal::min(unsigned("];
    let all = variants();
    for kernel in HOT {
        let on_metal = |variant: &&Variant| variant.kernel == kernel && !not_on_metal(variant);
        let of_kernel: Vec<_> = all.iter().filter(on_metal).collect();
        assert!(!of_kernel.is_empty(), "{kernel}");
        for variant in of_kernel {
            let text = msl_of(variant, false);
            for guard in GUARDS {
                assert!(!text.contains(guard), "{variant:?} has {guard}");
            }
            let loads_vectors = text.contains("device metal::uint4") || text.contains("metal::uint4 type_");
            assert!(loads_vectors, "{variant:?} reads no vectors of bits");
        }
    }
}
