//! What the numbers come to: the rows that ds4 is judged by, with what is wanted of each.

use super::run::Samples;
use std::fmt::Write;

/// A row of the table.
struct Row {
    name: &'static str,
    /// By recipe q2, mxfp4, q4: what must be reached and what is aimed at.
    wanted: [[f64; 2]; 3],
    /// Whether less is better.
    less: bool,
    value: fn(&Of<'_>) -> Option<f64>,
}

/// The medians of one recipe.
struct Of<'a> {
    samples: &'a Samples,
    recipe: &'a str,
}

impl Of<'_> {
    fn ds4(&self, measure: &str) -> Option<f64> {
        self.samples.median(self.recipe, "ds4", measure)
    }

    fn llama(&self, measure: &str) -> Option<f64> {
        self.samples.median(self.recipe, "llama", measure)
    }

    /// ds4 ÷ llama.cpp.
    fn ratio(&self, measure: &str) -> Option<f64> {
        Some(self.ds4(measure)? / self.llama(measure)?)
    }
}

/// Decode in turns with plenty of bandwidth.
pub const PLENTY: &str = "tg32, 38 GB/s or more";

/// Decode in turns with less than that.
pub const SCARCE: &str = "tg32, less than 38 GB/s";

const RECIPES: [&str; 3] = ["q2", "mxfp4", "q4"];

const ROWS: [Row; 12] = [
    Row {
        name: "decode t/s ÷ llama.cpp, with 38 GB/s or more",
        wanted: [[1.45, 1.7], [1.25, 1.45], [1.05, 1.2]],
        less: false,
        value: |of| of.ratio(PLENTY),
    },
    Row { name: "the same with less", wanted: [[f64::NAN; 2]; 3], less: false, value: |of| of.ratio(SCARCE) },
    Row {
        name: "the same, all turns",
        wanted: [[1.45, 1.7], [1.25, 1.45], [1.05, 1.2]],
        less: false,
        value: |of| of.ratio("tg32"),
    },
    Row {
        name: "prefill t/s (512 tokens) ÷ llama.cpp",
        wanted: [[3.0, 4.0], [4.0, 6.0], [4.0, 6.0]],
        less: false,
        value: |of| of.ratio("pp512"),
    },
    Row {
        name: "weight bytes/s in decode ÷ bandwidth",
        wanted: [[0.83, 0.92]; 3],
        less: false,
        value: |of| of.ds4("tg32 of_bandwidth"),
    },
    Row {
        name: "int8 op/s in prefill ÷ peak",
        wanted: [[0.4, 0.5]; 3],
        less: false,
        value: |of| of.ds4("pp512 of_int8"),
    },
    Row {
        name: "decode time a token at 16k ÷ at 512",
        wanted: [[1.15, 1.05]; 3],
        less: true,
        value: |of| Some(of.ds4("tg32@d512")? / of.ds4("tg32@d16384")?),
    },
    Row {
        name: "prefill t/s at 16k ÷ at 512",
        wanted: [[0.75, 0.9]; 3],
        less: false,
        value: |of| Some(of.ds4("pp512@d16384")? / of.ds4("pp512@d512")?),
    },
    Row {
        name: "decode t/s, a core taken ÷ alone",
        wanted: [[0.4, 0.5]; 3],
        less: false,
        value: |of| Some(of.ds4("stolen")? / of.ds4("alone")?),
    },
    Row {
        name: "the same of llama.cpp",
        wanted: [[f64::NAN; 2]; 3],
        less: false,
        value: |of| Some(of.llama("stolen")? / of.llama("alone")?),
    },
    Row {
        name: "start to first token ÷ llama.cpp",
        wanted: [[0.5, 0.5]; 3],
        less: true,
        value: |of| of.ratio("start"),
    },
    Row {
        name: "memory beyond the file, 16k ÷ llama.cpp",
        wanted: [[1.0, 1.0]; 3],
        less: true,
        value: |of| of.ratio("memory"),
    },
];

/// What the ratios are made of.
const RAW: [(&str, &str, f64); 10] = [
    ("decode, t/s", "tg32", 1.0),
    ("with 38 GB/s or more", PLENTY, 1.0),
    ("with less", SCARCE, 1.0),
    ("prefill of 512, t/s", "pp512", 1.0),
    ("decode at 512, t/s", "tg32@d512", 1.0),
    ("decode at 16k, t/s", "tg32@d16384", 1.0),
    ("prefill at 512, t/s", "pp512@d512", 1.0),
    ("prefill at 16k, t/s", "pp512@d16384", 1.0),
    ("start to first token, s", "start", 1.0),
    ("memory at 16k, MiB", "memory", 1.0 / (1 << 20) as f64),
];

/// The table, in Markdown, and below it what it was made of.
pub fn table(samples: &Samples, recipes: &[String]) -> String {
    let mut text = String::new();
    let columns = recipes.join(" | ");
    let _ = writeln!(text, "| measure | at least (q2, mxfp4, q4) | aim | {columns} |");
    let _ = writeln!(text, "|---|---|---|{}", "---|".repeat(recipes.len()));
    for row in &ROWS {
        let wanted = |i: usize| {
            let mut all: Vec<String> = row.wanted.iter().map(|w| shown(w[i])).collect();
            all.dedup();
            all.join(", ")
        };
        let _ = write!(text, "| {} | {} | {} |", row.name, wanted(0), wanted(1));
        for recipe in recipes {
            let value = (row.value)(&Of { samples, recipe });
            let _ =
                write!(text, " {} |", value.map_or_else(|| "–".into(), |value| row.judged(value, recipe)));
        }
        text.push('\n');
    }
    let engines = recipes.iter().map(|r| format!("{r}: ds4 | llama.cpp")).collect::<Vec<_>>().join(" | ");
    let _ = writeln!(text, "\n| medians | {engines} |\n|---|{}", "---|".repeat(2 * recipes.len()));
    for (name, measure, scale) in RAW {
        let _ = write!(text, "| {name} |");
        for recipe in recipes {
            for engine in ["ds4", "llama"] {
                let value = samples.median(recipe, engine, measure).map(|value| value * scale);
                let _ = write!(text, " {} |", value.map_or_else(|| "–".into(), shown));
            }
        }
        text.push('\n');
    }
    text
}

impl Row {
    /// The value, and a mark: `✓✓` where the aim is reached, `✓` what must be, `✗` neither.
    fn judged(&self, value: f64, recipe: &str) -> String {
        let wanted = RECIPES.iter().position(|r| *r == recipe).map(|i| self.wanted[i]);
        let reached = |limit: f64| if self.less { value <= limit } else { value >= limit };
        let mark = match wanted {
            Some([least, _]) if least.is_nan() => "",
            Some([_, aim]) if reached(aim) => " ✓✓",
            Some([least, _]) if reached(least) => " ✓",
            Some(_) => " ✗",
            None => "",
        };
        format!("{}{mark}", shown(value))
    }
}

/// Three digits or so.
fn shown(value: f64) -> String {
    match value {
        v if v.is_nan() => String::new(),
        v if v.abs() >= 100.0 => format!("{v:.0}"),
        v if v.abs() >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_made_of_medians() {
        let folder = std::env::temp_dir().join(format!("ds4-bench-peers-{}", std::process::id()));
        let mut samples = Samples::open(&folder).unwrap();
        for (engine, values) in [("ds4", [20.0, 99.0, 18.0]), ("llama", [10.0, 10.0, 11.0])] {
            values.into_iter().for_each(|value| samples.add("q2", engine, "tg32", value));
            samples.add("q2", engine, PLENTY, 12.0);
        }
        samples.add("q2", "ds4", "tg32@d512", 20.0);
        samples.add("q2", "ds4", "tg32@d16384", 16.0);
        let text = table(&samples, &["q2".to_owned()]);
        assert!(
            text.contains("| the same, all turns | 1.45, 1.25, 1.05 | 1.70, 1.45, 1.20 | 2.00 ✓✓ |"),
            "{text}"
        );
        assert!(
            text.contains(" with 38 GB/s or more | 1.45, 1.25, 1.05 | 1.70, 1.45, 1.20 | 1.00 ✗ |"),
            "{text}"
        );
        assert!(text.contains("| decode time a token at 16k ÷ at 512 | 1.15 | 1.05 | 1.25 ✗ |"), "{text}");
        assert!(text.contains("| prefill t/s at 16k ÷ at 512 | 0.75 | 0.90 | – |"), "{text}");
        assert!(text.contains("| decode, t/s | 20.0 | 10.0 |"), "{text}");
    }
}
