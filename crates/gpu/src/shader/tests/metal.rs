//! What Metal gets, without a Mac: clang compiles every kernel against a library of our own that stands for Metal's, and
//! products through matrix units are computed on the CPU by the very text that Metal would compile.
//!
//! `crates/gpu/tests/metal` has the library. `DS4_CLANG` names the compiler, as `cargo xtask test` does; without it
//! these tests print that they were skipped.

use super::*;
use crate::kernels::tests::{Random, assert_near, decoded, random_matrix};
use crate::kernels::tiles::{PAD, whole_rows};
use crate::planes::planes_of;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A call of the compiler, if there is one.
fn clang() -> Option<Command> {
    let Some(name) = std::env::var_os("DS4_CLANG") else {
        println!("skipped: DS4_CLANG names no compiler");
        return None;
    };
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metal");
    let mut clang = Command::new(name);
    clang.args(["-std=c++17", "-Wall", "-Wextra", "-Werror"]);
    // What Metal does without a word: attributes of its own, literals in half, and in float where C++ has double.
    clang.args([
        "-Wno-unknown-attributes",
        "-Wno-user-defined-literals",
        "-Xclang",
        "-cl-single-precision-constant",
    ]);
    // `naga` writes arrays of unknown length as of length 1, and more names and parentheses than are needed.
    clang.args([
        "-Wno-array-bounds",
        "-Wno-unused",
        "-Wno-unused-parameter",
        "-Wno-missing-field-initializers",
        "-Wno-parentheses-equality",
    ]);
    // Each operation on halves is rounded, and no product becomes a part of a sum.
    clang.args(["-Xclang", "-ffloat16-excess-precision=none", "-ffp-contract=off"]);
    clang.arg("-I").arg(include.join("include")).arg("-I").arg(include);
    Some(clang)
}

fn run(command: &mut Command, what: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    let first: Vec<&str> = errors.lines().take(60).collect();
    assert!(output.status.success(), "{what}: {}", first.join("\n"));
}

/// Words, address spaces, types of arguments and overloads of every kernel are such as Metal has them.
#[test]
fn every_kernel_compiles_for_metal() {
    if clang().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let on_metal = variants().into_iter().filter(|variant| !not_on_metal(variant));
    let texts: Vec<_> = on_metal.flat_map(|v| [false, true].map(|checks| (v.clone(), checks))).collect();
    for (i, some) in texts.chunks(64).enumerate() {
        let mut text = "#include <metal_stdlib>\n".to_owned();
        for (k, (variant, checks)) in some.iter().enumerate() {
            let label = format!("{variant:?}").replace(['"', '\\'], "");
            text +=
                &format!("namespace kernel_{k} {{\n#line 1 \"{label}\"\n{}\n}}\n", msl_of(variant, *checks));
        }
        let file = folder.path().join(format!("kernels{i}.cc"));
        std::fs::write(&file, text).unwrap();
        run(clang().unwrap().arg("-fsyntax-only").arg(&file), "kernels");
    }
}

/// A kernel that runs on the CPU.
struct Program {
    folder: tempfile::TempDir,
    /// Bindings that it writes.
    outputs: Vec<String>,
}

impl Program {
    /// Compiles what Metal would get of a variant, if there is a compiler.
    fn new(variant: &Variant) -> Option<Program> {
        let mut clang = clang()?;
        let folder = tempfile::tempdir().unwrap();
        let kernel = msl_of(variant, false);
        let (text, outputs) = with_main(&kernel, variant.constant("THREADS").expect("so many"));
        let file = folder.path().join("program.cc");
        std::fs::write(&file, text).unwrap();
        clang.arg("-O1").arg(&file).arg("-o").arg(folder.path().join("program")).arg("-lm");
        run(&mut clang, &format!("{variant:?}"));
        Some(Program { folder, outputs })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs it on buffers by their names in the shader, its immediates among them as `p`, with threads taking turns in
    /// both orders; returns the only buffer that it writes.
    fn run(&self, grid: [usize; 3], buffers: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let [output] = &self.outputs[..] else { panic!("one output, not {:?}", self.outputs) };
        let mut results = ["forward", "backward"].map(|order| {
            for (name, bytes) in buffers {
                std::fs::write(self.path(name), bytes).unwrap();
            }
            let mut program = Command::new(self.path("program"));
            program.current_dir(self.folder.path()).args(grid.map(|n| n.to_string())).arg(order);
            run(&mut program, "a run");
            std::fs::read(self.path(output)).unwrap()
        });
        assert!(results[0] == results[1], "the order of threads changes what comes out");
        std::mem::take(&mut results[0])
    }
}

/// A program that runs a kernel with so many threads over a grid, and what it writes.
fn with_main(kernel: &str, threads: u32) -> (String, Vec<String>) {
    let (_, signature) = kernel.split_once("kernel void main_(").expect("an entry");
    let (signature, _) = signature.split_once("\n) {").expect("its end");
    let (mut before, mut start, mut arguments, mut end) =
        (String::new(), String::new(), Vec::new(), String::new());
    let mut outputs = Vec::new();
    for parameter in signature.split("\n,").map(str::trim) {
        let (parameter, attribute) = parameter.split_once(" [[").unwrap_or((parameter, ""));
        let (kind, name) = parameter.rsplit_once(' ').expect("a type and a name");
        let space = kind.split(' ').next().expect("a word");
        match (attribute.trim_end_matches(']'), space) {
            ("threadgroup_position_in_grid", _) => arguments.push("group".to_owned()),
            ("threadgroups_per_grid", _) => {
                arguments.push("metal::uint3{grid[0], grid[1], grid[2]}".to_owned())
            }
            ("thread_index_in_threadgroup", _) => arguments.push("index".to_owned()),
            ("thread_index_in_simdgroup", _) => arguments.push("index % 32".to_owned()),
            ("simdgroup_index_in_threadgroup", _) => arguments.push("index / 32".to_owned()),
            (_, "threadgroup") => {
                let plain = kind.trim_start_matches("threadgroup ").trim_end_matches('&');
                before += &format!("alignas(64) char {name}_[sizeof({plain})];\n");
                // Nobody has cleared it.
                start += &format!("memset({name}_, 0xfe, sizeof {name}_);\n");
                arguments.push(format!("*(threadgroup {plain}*){name}_"));
            }
            (_, "device" | "constant") if name == "_buffer_sizes" => {
                before += "_mslBufferSizes sizes_;\n";
                arguments.push("*(constant _mslBufferSizes*)&sizes_".to_owned());
            }
            (_, "device" | "constant") => {
                before += &format!("char* {name}_; size_t {name}_size;\n");
                // `naga` numbers a name that something else has, too.
                let file = name
                    .rsplit_once('_')
                    .filter(|(_, n)| n.parse::<u32>().is_ok())
                    .map_or(name, |(file, _)| file);
                end = format!("{name}_ = read_file(\"{file}\", &{name}_size);\n{end}");
                arguments.push(format!("*({}*){name}_", kind.trim_end_matches('&')));
                if space == "device" && !kind.contains("const") {
                    assert_eq!(file, name, "what is written has its own name");
                    outputs.push(name.to_owned());
                }
            }
            other => panic!("{parameter}: {other:?}"),
        }
    }
    let writes: String =
        outputs.iter().map(|name| format!("write_file(\"{name}\", {name}_, {name}_size);\n")).collect();
    let text = format!(
        "#include \"run.h\"\n{kernel}\n{before}metal::uint3 group;\nuint grid[3];\n\
         void one(uint index) {{ main_({}); }}\n\
         int main(int, char** words) {{\n{end}\
         backward = words[4][0] == 'b';\n\
         for (int i = 0; i < 3; i++) grid[i] = atoi(words[i + 1]);\n\
         for (uint z = 0; z < grid[2]; z++)\nfor (uint y = 0; y < grid[1]; y++)\nfor (uint x = 0; x < grid[0]; x++) {{\n\
         group = metal::uint3{{x, y, z}};\n{start}run_group({threads}, one);\n}}\n{writes}}}\n",
        arguments.join(", ")
    );
    (text, outputs)
}

fn words(values: impl IntoIterator<Item = u32>) -> Vec<u8> {
    values.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    words(values.iter().map(|v| v.to_bits()))
}

/// Rows as `halve` makes them; and their stride in vectors.
fn halved(x: &[f32], cols: usize, split: bool) -> Option<(Vec<u8>, usize)> {
    let (n, vectors) = (x.len() / cols, cols / 4);
    let stride = vectors * if split { 2 } else { 1 } + PAD;
    let variant = Variant::of("halve").with("THREADS", 256u32).with("PAD", PAD).when("SPLIT", split);
    let params = words([vectors, vectors, stride].map(|v| v as u32));
    let y = vec![0; n * stride * 8];
    let y = Program::new(&variant)?.run([n, 1, 1], &[("x", floats(x)), ("y", y), ("p", params)]);
    Some((y, stride))
}

/// Parameters of `tile`: outputs, columns, rows of x and its stride, rows of a group, of which each row of x has `used`.
fn params([outputs, cols, n, stride, group_rows, used]: [usize; 6], limit: f32) -> Vec<u8> {
    let shape = [outputs, cols / 32, n, stride, outputs, 0, group_rows, 0].map(|v| v as u32);
    words(shape.into_iter().chain([1f32.to_bits(), limit.to_bits(), 0, used as u32]))
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect()
}

/// Products of more rows and outputs than a tile has, in every format that goes through matrix units, are as near as
/// those on a device have to be.
#[test]
fn products_on_metals_matrix_units_are_right() {
    if clang().is_none() {
        return;
    }
    let formats = Format::ALL.into_iter().filter(|format| *format != Format::F32);
    for (seed, format) in (1..).zip(formats) {
        let random = &mut Random::new(seed);
        let split = whole_rows(format);
        let rows = if format == Format::Q8_0 { Side::Eight.most_rows(split) } else { 32 };
        // An odd number of units in some, so that the last is alone.
        let (n, outputs, cols) = (rows + 3, 75, format.block_len().max(96));
        let matrix = random_matrix(format, outputs, cols, random);
        let w = decoded(&matrix);
        let x = random.floats(n * cols);
        let (halves, stride) = halved(&x, cols, split).expect("a compiler");
        let variant = on_units(Side::Eight, rows, split, format == Format::F16).format("w", format);
        let (bits, scales) = planes_of(format, &matrix.bytes);
        let p = params([outputs, cols, n, stride, outputs, 1], 0.0);
        let y = vec![0xfe; 4 * n * outputs];
        let buffers = [("x", halves), ("w_q", bits), ("w_s", scales), ("y", y), ("p", p)];
        let grid = [outputs.div_ceil(64), n.div_ceil(rows), 1];
        let y = Program::new(&variant).expect("a compiler").run(grid, &buffers);
        let limit = if split { 4e-6 } else { 1.0 / 1024.0 };
        assert_near(&numbers(&y), &w, &x, cols, limit, &format!("{format:?}"));
    }
}

/// Few rows, whose sums are those of SIMD-groups: one by itself, and three that are normed.
#[test]
fn products_of_few_rows_on_metals_simdgroups_are_right() {
    if clang().is_none() {
        return;
    }
    const COLS: usize = 2048;
    const EPS: f32 = 1e-2;
    for (format, n, norm) in [(Format::Iq2Xxs, 1, false), (Format::Q2K, 1, false), (Format::Q8_0, 3, true)] {
        let random = &mut Random::new(n as u64);
        let outputs = 75;
        let matrix = random_matrix(format, outputs, COLS, random);
        let w = decoded(&matrix);
        let [x, weight] = [n * COLS, COLS].map(|count| random.floats(count));
        let (columns, chunk, unroll) = if n == 1 { (1u32, 64u32, 2u32) } else { (4, 32, 1) };
        let first = 2 + u32::from(norm);
        let variant = teams("linear_vec", (32, true))
            .format("m0", format)
            .with("COLUMNS", columns)
            .with("CHUNK", chunk)
            .with("EXACT", 1u32)
            .with("SEGMENTS", 1u32)
            .with("ROWS", 2u32)
            .with("UNITS", COLS / 32)
            .with("PASSES", 1u32)
            .when("NORM", norm)
            .with("UNROLL0", unroll)
            .with("BITS0", first)
            .with("SCALES0", first + 1)
            .with("START0", 0u32)
            .with("END0", 5u32)
            .with("OUT0", outputs)
            .with("STRIDE0", outputs)
            .with("FACTOR0", 1f32.to_bits());
        let (bits, scales) = planes_of(format, &matrix.bytes);
        let quarter = COLS as u32 / 4;
        let p = words([n as u32, quarter, outputs as u32, quarter, 0, EPS.to_bits(), 0]);
        let y = vec![0xfe; 4 * n * outputs];
        let mut buffers = vec![("x", floats(&x)), ("m0_q", bits), ("m0_s", scales), ("y", y), ("p", p)];
        let mut normed = x.clone();
        if norm {
            buffers.push(("norm", floats(&weight)));
            for row in normed.chunks_exact_mut(COLS) {
                let mean = row.iter().map(|x| x * x).sum::<f32>() / COLS as f32;
                row.iter_mut().zip(&weight).for_each(|(x, w)| *x *= w / (mean + EPS).sqrt());
            }
        }
        let y =
            Program::new(&variant).expect("a compiler").run([5, n.div_ceil(columns as usize), 1], &buffers);
        assert_near(&numbers(&y), &w, &normed, COLS, 2e-6, &format!("{format:?}"));
    }
}

/// Gate and up of experts in one launch: one with more pairs than a tile has rows, one with few, one with none.
#[test]
fn experts_on_metals_matrix_units_are_right() {
    if clang().is_none() {
        return;
    }
    const ROWS: usize = 32;
    let (experts, used, outputs, cols, limit) = (4, 2, 40, 256, 0.75);
    let random = &mut Random::new(7);
    let [up, gate] =
        [Format::Q8_0, Format::Iq2Xxs].map(|format| random_matrix(format, experts * outputs, cols, random));
    let [w, g] = [&up, &gate].map(decoded);
    // Rows 0 to 36 go to experts 3 and 0, the others to 3 and 1.
    let n = 39;
    let chosen: Vec<usize> = (0..n).flat_map(|row| [3, usize::from(row > 36)]).collect();
    let (mut order, mut tiles) = (Vec::new(), Vec::new());
    for expert in 0..experts {
        let pairs: Vec<usize> = (0..n * used).filter(|&pair| chosen[pair] == expert).collect();
        for some in pairs.chunks(ROWS) {
            tiles.push([expert, order.len(), some.len(), 0]);
            order.extend(some);
        }
    }
    tiles.push([0; 4]); // one that nobody needs
    let [x, shares] = [n * cols, n * used].map(|count| random.floats(count));
    let (halves, stride) = halved(&x, cols, false).expect("a compiler");
    let variant = on_units(Side::Eight, ROWS, false, false)
        .format("w", up.format)
        .with("EXPERTS", 1u32)
        .with("GATED", 1u32)
        .format("gate", gate.format);
    let [(w_q, w_s), (gate_q, gate_s)] = [&up, &gate].map(|m| planes_of(m.format, &m.bytes));
    let as_words = |values: &[usize]| words(values.iter().map(|&v| v as u32));
    let buffers = [
        ("x", halves),
        ("w_q", w_q),
        ("w_s", w_s),
        ("y", vec![0xfe; 4 * n * used * outputs]),
        ("tiles", as_words(tiles.as_flattened())),
        ("order", as_words(&order)),
        ("gate_q", gate_q),
        ("gate_s", gate_s),
        ("shares", floats(&shares)),
        ("p", params([outputs, cols, n, stride, experts * outputs, used], limit)),
    ];
    let grid = [outputs.div_ceil(32), tiles.len(), 1];
    let y = numbers(&Program::new(&variant).expect("a compiler").run(grid, &buffers));
    for (pair, got) in y.chunks_exact(outputs).enumerate() {
        let row = &x[pair / used * cols..][..cols];
        let product = |w: &[f32], o: usize| {
            let w = &w[(chosen[pair] * outputs + o) * cols..][..cols];
            w.iter().zip(row).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>()
        };
        let want: Vec<f64> = (0..outputs)
            .map(|o| {
                let gate = product(&g, o).min(f64::from(limit));
                let up = product(&w, o).clamp(-f64::from(limit), f64::from(limit));
                gate / (1.0 + (-gate).exp()) * up * f64::from(shares[pair])
            })
            .collect();
        let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let error = length(&mut want.iter().zip(got).map(|(want, got)| want - f64::from(*got)));
        let size = length(&mut want.iter().copied());
        assert!(error <= 1e-2 * size, "pair {pair}: {error:e} of {size:e}");
    }
}
