//! Putting shaders together: WGSL has no includes and no conditions, and we write each kernel once.
//!
//! A kernel's text may hold these directives, each on a line of its own:
//!
//! | directive | what it does |
//! |---|---|
//! | `//#include NAME` | the file `wgsl/NAME.wgsl`, once |
//! | `//#format P` | how weights of matrix `P` are decoded: `wgsl/formats/..`, with `P` for `$P`; in kernels `.._dot` how they are multiplied: `wgsl/dot/..` |
//! | `//#formats` | the same for every matrix that the variant names |
//! | `//#prefixed NAME` | inside a format: the file `wgsl/NAME.wgsl` with the same `$P` |
//! | `//#if A \|\| !B`, `//#else`, `//#endif` | text for some variants only |
//! | `//#repeat i N`, `//#end` | the text N times with 0, 1, .. for `$i`; N is a number or a constant |
//!
//! A condition inside a repetition may speak of `$i`, as in `//#if BIAS$i`; it is then decided once the
//! index is known.
//!
//! Unrolling here rather than hoping for it keeps sums in registers. A variant's constants are also
//! constants of the shader.

use quants::Format;
use std::collections::HashMap;

/// A variant of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Name of its file in `kernels/`.
    pub kernel: &'static str,
    /// Constants; one that is 0 counts as not defined for `//#if`.
    pub constants: Vec<(&'static str, u32)>,
    /// Formats of the matrices it reads.
    pub formats: Vec<(&'static str, Format)>,
}

/// Whether products of bytes need sums of x for such weights: for the minimums that are part of all weights of a group.
pub(crate) fn needs_sums(format: Format) -> bool {
    matches!(format, Format::Q2K | Format::Q4K)
}

impl Variant {
    /// The kernel as it stands in its file.
    pub fn of(kernel: &'static str) -> Variant {
        Variant { kernel, constants: Vec::new(), formats: Vec::new() }
    }

    /// With a constant.
    pub fn with(mut self, name: &'static str, value: impl TryInto<u32>) -> Variant {
        let value = value.try_into().ok().expect("sizes fit 32 bits");
        self.constants.push((name, value));
        self
    }

    /// With a condition that holds.
    pub fn when(self, name: &'static str, holds: bool) -> Variant {
        self.with(name, u32::from(holds))
    }

    /// With the format of matrix `prefix`.
    pub fn format(mut self, prefix: &'static str, format: Format) -> Variant {
        if format == Format::Iq2Xxs {
            // Its code book has to be brought to workgroup memory first.
            self = self.with("PREPARED", 1u32);
        }
        if needs_sums(format) {
            self = self.with("SUMS", 1u32);
        }
        self.formats.push((prefix, format));
        self
    }

    /// The value of a constant.
    fn constant(&self, name: &str) -> Option<u32> {
        self.constants.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    /// Rows of a tile, in a product by tiles.
    pub fn tile(&self) -> Option<u32> {
        matches!(self.kernel, "linear_tile" | "linear_matrix").then(|| self.constant("ROWS")).flatten()
    }

    /// A name for people: the kernel and what sets this variant apart, formats and the size of its matrices.
    pub fn label(&self) -> String {
        let mut label = self.kernel.to_owned();
        let mut formats: Vec<_> = self.formats.iter().map(|(_, f)| f.name()).collect();
        formats.dedup();
        for format in formats {
            label += &format!(" {format}");
        }
        for what in ["GROUPED", "EXPERTS", "GATED", "SPLIT", "ROUTE"] {
            if self.constant(what).unwrap_or(0) != 0 {
                label += &format!(" {}", what.to_lowercase());
            }
        }
        if let Some(units) = self.constant("UNITS") {
            let outputs = |(name, _): &&(&str, u32)| name.starts_with("OUT") || name.starts_with("FF");
            let rows: u32 = self.constants.iter().filter(outputs).map(|(_, rows)| rows).sum();
            label += &format!(" {rows}x{}", 32 * units);
        }
        label
    }

    /// The shader's whole text.
    pub fn source(&self) -> String {
        let mut out = String::new();
        let mut seen = HashMap::new();
        for (name, value) in &self.constants {
            if seen.insert(*name, ()).is_none() {
                out += &format!("const {name} = {}u;\n", self.constant(name).unwrap_or(*value));
            }
        }
        if let Some(width) = self.constant("WIDTH").filter(|w| w.is_power_of_two()) {
            let factor = (1.0 / f64::from(width).sqrt()) as f32;
            out += &format!("const HADAMARD = {factor:?}f;\n");
        }
        let mut included = Vec::new();
        let mut body = String::new();
        self.expand(kernel_file(self.kernel), "", &mut included, &mut body);
        let lines: Vec<&str> = body.lines().collect();
        let mut repeated = String::new();
        self.repeat(&lines, &mut repeated);
        self.decide(&repeated, &mut out);
        // WGSL wants these ahead of everything else.
        let (enabled, rest): (Vec<&str>, Vec<&str>) = out.lines().partition(|l| l.starts_with("enable "));
        enabled.into_iter().chain(rest).flat_map(|line| [line, "\n"]).collect()
    }

    /// Conditions that had to wait for the index of a repetition.
    fn decide(&self, text: &str, out: &mut String) {
        let mut open: Vec<bool> = Vec::new();
        for line in text.lines() {
            match line.trim().strip_prefix("//#").map(|d| d.split_once(' ').unwrap_or((d, ""))) {
                Some(("if", condition)) => open.push(self.holds(condition)),
                Some(("else", _)) => {
                    let last = open.last_mut().expect("an open condition");
                    *last = !*last;
                }
                Some(("endif", _)) => drop(open.pop().expect("an open condition")),
                _ if open.iter().all(|&taken| taken) => {
                    *out += line;
                    out.push('\n');
                }
                _ => {}
            }
        }
    }

    /// Includes and conditions.
    fn expand(&self, text: &'static str, prefix: &str, included: &mut Vec<&'static str>, out: &mut String) {
        // Whether each open condition's current branch is taken; `None` if that is decided later.
        let mut open: Vec<Option<bool>> = Vec::new();
        let taken = |open: &[Option<bool>]| open.iter().all(|&taken| taken.unwrap_or(true));
        for line in text.lines() {
            let Some(directive) = line.trim().strip_prefix("//#") else {
                if taken(&open) {
                    *out += &line.replace("$P", prefix);
                    out.push('\n');
                }
                continue;
            };
            let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
            match word {
                "if" | "else" | "endif" => {
                    let waits = match word {
                        "if" => rest.contains('$'),
                        _ => open.last().expect("an open condition").is_none(),
                    };
                    match word {
                        "if" if waits => open.push(None),
                        "if" => open.push(Some(self.holds(rest))),
                        "endif" => drop(open.pop()),
                        _ if waits => {}
                        _ => {
                            let last = open.last_mut().expect("an open condition");
                            *last = last.map(|taken| !taken);
                        }
                    }
                    if waits && taken(&open) {
                        *out += line;
                        out.push('\n');
                    }
                }
                _ if !taken(&open) => {}
                "include" => {
                    let (name, text) = shared_file(rest);
                    if !included.contains(&name) {
                        included.push(name);
                        self.expand(text, prefix, included, out);
                    }
                }
                "format" => {
                    let (_, format) =
                        self.formats.iter().find(|(p, _)| *p == rest).expect("the variant names its formats");
                    self.expand(format_file(*format, self.kernel.ends_with("_dot")), rest, included, out);
                }
                "formats" => {
                    for (prefix, format) in &self.formats {
                        self.expand(
                            format_file(*format, self.kernel.ends_with("_dot")),
                            prefix,
                            included,
                            out,
                        );
                    }
                }
                "prefixed" => {
                    let (_, text) = shared_file(rest);
                    self.expand(text, prefix, included, out);
                }
                "repeat" | "end" => {
                    *out += line;
                    out.push('\n');
                }
                other => panic!("unknown directive {other} in {}", self.kernel),
            }
        }
        assert!(open.is_empty(), "a condition of {} is not closed", self.kernel);
    }

    fn holds(&self, condition: &str) -> bool {
        condition.split("||").map(str::trim).any(|term| match term.strip_prefix('!') {
            Some(name) => self.constant(name).unwrap_or(0) == 0,
            None => self.constant(term).unwrap_or(0) != 0,
        })
    }

    fn repeat(&self, lines: &[&str], out: &mut String) {
        let mut i = 0;
        while i < lines.len() {
            let Some(loop_of) = lines[i].trim().strip_prefix("//#repeat ") else {
                *out += lines[i];
                out.push('\n');
                i += 1;
                continue;
            };
            let (name, count) = loop_of.split_once(' ').expect("a name and a count");
            let count = count
                .parse()
                .ok()
                .or_else(|| self.constant(count))
                .unwrap_or_else(|| panic!("{}: how often is {count}?", self.kernel));
            let end = i + 1 + matching_end(&lines[i + 1..]);
            let variable = format!("${name}");
            for index in 0..count {
                let index = index.to_string();
                let body: Vec<String> =
                    lines[i + 1..end].iter().map(|line| line.replace(&variable, &index)).collect();
                self.repeat(&body.iter().map(String::as_str).collect::<Vec<_>>(), out);
            }
            i = end + 1;
        }
    }
}

/// The line that ends a repetition whose body begins with these lines.
fn matching_end(lines: &[&str]) -> usize {
    let mut depth = 0;
    for (i, line) in lines.iter().enumerate() {
        match line.trim() {
            "//#end" if depth == 0 => return i,
            "//#end" => depth -= 1,
            line if line.starts_with("//#repeat ") => depth += 1,
            _ => {}
        }
    }
    panic!("a repetition is not closed")
}

macro_rules! files {
    ($folder:literal: $($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!($folder, $name, ".wgsl")))),*]
    };
}

/// The kernels, by name.
pub const KERNELS: [(&str, &str); 33] = files!("kernels/":
    "append", "attend", "attend_few", "attend_matrix", "attend_merge", "compress", "down", "embed", "enter", "gate_up", "gather",
    "group_experts", "halve", "index_matrix", "index_scores", "leaders", "linear_matrix", "linear_tile", "linear_vec", "gate_up_dot", "down_dot", "linear_dot", "mixture", "move_rows", "norm", "nothing", "peak", "peaks", "round_query", "route",
    "streams", "sum_slots", "top_k",
);

const SHARED: [(&str, &str); 30] = files!("wgsl/":
    "activation", "bound/attend", "bound/down", "bound/gate_up", "bound/linear", "choose", "dot/common", "dot/floats", "dot/iq2_grid", "dot/meets", "dot/rounded", "e8m0", "entry", "formats/common", "formats/halves", "formats/halves_of_unit", "formats/iq2_grid", "formats/k_scales", "iq2_signs", "last", "mixes", "mixture", "ordered", "peak", "reduce", "rows_read", "rows_write", "scan", "sigmoid",
    "tile",
);

fn kernel_file(name: &str) -> &'static str {
    KERNELS.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no kernel {name}")).1
}

fn shared_file(name: &str) -> (&'static str, &'static str) {
    *SHARED.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no file {name}.wgsl"))
}

fn format_file(format: Format, dot: bool) -> &'static str {
    if dot {
        return match format {
            Format::Q8_0 => include_str!("wgsl/dot/q8_0.wgsl"),
            Format::Q2K => include_str!("wgsl/dot/q2_k.wgsl"),
            Format::Q4K => include_str!("wgsl/dot/q4_k.wgsl"),
            Format::Iq2Xxs => include_str!("wgsl/dot/iq2_xxs.wgsl"),
            Format::Mxfp4 => include_str!("wgsl/dot/mxfp4.wgsl"),
            Format::F16 => include_str!("wgsl/dot/f16.wgsl"),
            Format::BF16 => include_str!("wgsl/dot/bf16.wgsl"),
            other => unreachable!("{other} has no pieces"),
        };
    }
    match format {
        Format::F32 => include_str!("wgsl/formats/f32.wgsl"),
        Format::F16 => include_str!("wgsl/formats/f16.wgsl"),
        Format::BF16 => include_str!("wgsl/formats/bf16.wgsl"),
        Format::Q8_0 => include_str!("wgsl/formats/q8_0.wgsl"),
        Format::Q2K => include_str!("wgsl/formats/q2_k.wgsl"),
        Format::Q3K => include_str!("wgsl/formats/q3_k.wgsl"),
        Format::Q4K => include_str!("wgsl/formats/q4_k.wgsl"),
        Format::Q5K => include_str!("wgsl/formats/q5_k.wgsl"),
        Format::Q6K => include_str!("wgsl/formats/q6_k.wgsl"),
        Format::Iq2Xxs => include_str!("wgsl/formats/iq2_xxs.wgsl"),
        Format::Mxfp4 => include_str!("wgsl/formats/mxfp4.wgsl"),
    }
}

#[cfg(test)]
mod tests;
