//! `ds4 inspect`: what a model file holds, and what running it would take.
//!
//! `report` gathers what is in the file, `plan` reckons memory; here both are printed, for people or as
//! JSON.

#[cfg(feature = "gpu")]
mod devices;
mod plan;
mod report;

#[cfg(feature = "gpu")]
use crate::backend::SplitArgs;
use crate::drafts_arg::MtpFileArg;
use anyhow::{Context, ensure};
use gguf::Gguf;
use indicatif::{BinaryBytes, HumanCount};
use plan::{CacheSize, Plan};
use report::{Group, Model, Report};
use std::cmp::Reverse;
use std::io::Write;
use std::path::PathBuf;

/// Context planned for when none is asked for, if the model knows that many positions.
const USUAL_CONTEXT: usize = 32768;

/// Show what a GGUF file holds, and the memory that running it takes.
///
/// Reads no weights, so it is quick for the largest files too. Files of other architectures are listed as
/// well, with a word on why they cannot be run.
#[derive(clap::Args)]
pub struct Inspect {
    /// The GGUF file; of a split model any part.
    #[cfg_attr(feature = "gpu", arg(required_unless_present = "devices"))]
    #[cfg_attr(not(feature = "gpu"), arg(required = true))]
    file: Option<PathBuf>,
    #[command(flatten)]
    mtp: MtpFileArg,
    /// List the GPUs of this machine instead: what --device can name.
    #[cfg(feature = "gpu")]
    #[arg(long, exclusive = true)]
    devices: bool,
    /// Plan memory for a context of N tokens [default: 32768, or all that the model knows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
    /// List every tensor, too.
    #[arg(long)]
    tensors: bool,
    #[cfg(feature = "gpu")]
    #[command(flatten)]
    split: SplitArgs,
    /// Plan for this GPU: a number that --devices lists [default: 0]
    #[cfg(feature = "gpu")]
    #[arg(long, value_name = "N")]
    device: Option<usize>,
    /// Print everything as one JSON object.
    #[arg(long, conflicts_with = "tensors")]
    json: bool,
}

/// Bytes of some layers' KV cache in the usual format, for a context of so many tokens, or the usual one.
#[cfg(feature = "gpu")]
pub fn cache_bytes(config: &model::Config, layers: std::ops::Range<usize>, context: Option<u32>) -> u64 {
    let format = model::KvFormat::usual(config);
    let part = model::Config { ratios: config.ratios[layers].to_vec(), ..config.clone() };
    let context = context.map_or(USUAL_CONTEXT, |tokens| tokens as usize);
    plan::Parts::new(&part, format, context.min(config.context)).total
}

impl Inspect {
    /// Reads the file and prints what is in it.
    pub fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let Some(file) = &self.file else {
            #[cfg(feature = "gpu")]
            devices::print(out)?;
            return Ok(());
        };
        let gguf = self.mtp.join(Gguf::open(file).context("opening the model")?)?;
        let report = Report::new(&gguf, self.model(&gguf)?);
        if self.json {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            writeln!(out)?;
            return Ok(());
        }
        print_file(out, &report)?;
        print_metadata(out, &gguf)?;
        print_purposes(out, &report)?;
        print_types(out, &report)?;
        if self.tensors {
            print_tensors(out, &report)?;
        }
        print_model(out, &report.model)?;
        #[cfg(feature = "gpu")]
        if self.split.is_given() {
            self.print_split(out, &gguf)?;
        }
        Ok(())
    }

    /// What is on the GPU and what on the CPU.
    #[cfg(feature = "gpu")]
    fn print_split(&self, out: &mut dyn Write, gguf: &Gguf) -> anyhow::Result<()> {
        let config = model::load::check(gguf).context("planning for a GPU")?.config;
        let split = self.split.of(config.layers())?;
        let (index, devices) = (self.device.unwrap_or(0), gpu::devices());
        let device = devices
            .get(index)
            .with_context(|| format!("there is no device {index}: `ds4 inspect --devices` lists them"))?;
        let at = |split| crate::backend::plan_both(device, gguf, &config, split, self.ctx);
        let plan = at(split).or_without_lending(at);
        writeln!(out, "\non {} and the CPU\n  {plan}", device.name)?;
        match plan.check(at) {
            Ok(()) if device.memory.is_none() => {
                writeln!(out, "  its driver does not tell how much memory it has")?
            }
            Ok(()) => writeln!(out, "  it fits")?,
            Err(refusal) => writeln!(out, "  {refusal}")?,
        }
        Ok(())
    }

    /// What the loader makes of the file.
    fn model(&self, gguf: &Gguf) -> anyhow::Result<Model> {
        let checked = match model::load::check(gguf) {
            Ok(checked) => checked,
            Err(refused) => return Ok(Model::Refused { refused: refused.to_string() }),
        };
        let config = checked.config;
        let context = self.ctx.map_or(USUAL_CONTEXT.min(config.context), |ctx| ctx as usize);
        ensure!(context <= config.context, "--ctx {context}: this model knows {} positions", config.context);
        let plan = Plan::new(gguf, &config, context);
        Ok(Model::Runs { unused: checked.unused, layers: config.layers(), draft_block: config.mtp, plan })
    }
}

fn print_file(out: &mut dyn Write, report: &Report) -> anyhow::Result<()> {
    for file in &report.files {
        writeln!(out, "{}", file.display())?;
    }
    let (version, alignment) = (report.version, report.alignment);
    writeln!(out, "GGUF version {version}, {}, alignment {alignment}", BinaryBytes(report.file_bytes))?;
    for warning in &report.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}

fn print_metadata(out: &mut dyn Write, gguf: &Gguf) -> anyhow::Result<()> {
    writeln!(out, "\nmetadata")?;
    for (key, value) in gguf.metadata().iter() {
        writeln!(out, "  {key} = {value}")?;
    }
    Ok(())
}

fn print_purposes(out: &mut dyn Write, report: &Report) -> anyhow::Result<()> {
    if report.tensors.is_empty() {
        return Ok(writeln!(out, "\nno tensors")?);
    }
    print_group_titles(out, "purpose")?;
    for group in &report.purposes {
        print_group(out, group)?;
        let mut types: Vec<_> = group.types.iter().collect();
        types.sort_by_key(|&(_, count)| Reverse(count));
        let types: Vec<_> = types.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        writeln!(out, "  {}", types.join(", "))?;
    }
    print_group(out, &report.total)?;
    Ok(writeln!(out)?)
}

fn print_types(out: &mut dyn Write, report: &Report) -> anyhow::Result<()> {
    if !report.types.is_empty() {
        print_group_titles(out, "type")?;
    }
    for group in &report.types {
        print_group(out, group)?;
        writeln!(out)?;
    }
    Ok(())
}

fn print_group_titles(out: &mut dyn Write, what: &str) -> anyhow::Result<()> {
    writeln!(out, "\n{what:<18} {:>7} {:>15} {:>11} {:>11}", "tensors", "weights", "size", "bits/weight")?;
    Ok(())
}

/// One line without its end.
fn print_group(out: &mut dyn Write, group: &Group) -> anyhow::Result<()> {
    let (weights, size) = (HumanCount(group.weights).to_string(), BinaryBytes(group.bytes).to_string());
    let bits = group.bits_per_weight();
    write!(out, "{:<18} {:>7} {weights:>15} {size:>11} {bits:>11.2}", group.name, group.tensors)?;
    Ok(())
}

fn print_tensors(out: &mut dyn Write, report: &Report) -> anyhow::Result<()> {
    writeln!(out, "\n{:<38} {:<8} {:>11}  dimensions", "tensor", "type", "size")?;
    for tensor in &report.tensors {
        let size = BinaryBytes(tensor.bytes).to_string();
        writeln!(out, "{:<38} {:<8} {size:>11}  {:?}", tensor.name, tensor.kind, tensor.dims)?;
    }
    Ok(())
}

fn print_model(out: &mut dyn Write, model: &Model) -> anyhow::Result<()> {
    match model {
        Model::Refused { refused } => writeln!(out, "\nds4 cannot run this file: {refused}")?,
        Model::Runs { unused, plan, .. } => {
            print_plan(out, plan)?;
            if !unused.is_empty() {
                writeln!(out, "\nnot used by ds4: {}", unused.join(", "))?;
            }
        }
    }
    Ok(())
}

fn print_plan(out: &mut dyn Write, plan: &Plan) -> anyhow::Result<()> {
    writeln!(out, "\nmemory for a context of {} tokens", plan.context)?;
    writeln!(out, "  weights, mapped from the file  {}", BinaryBytes(plan.weights))?;
    writeln!(out, "  of these a token reads         {}", BinaryBytes(plan.weights_read_per_token))?;
    for cache in &plan.kv_cache {
        match &cache.size {
            CacheSize::Unsuitable { reason } => writeln!(out, "  KV cache {}: {reason}", cache.format)?,
            CacheSize::Parts(parts) => {
                let [details @ .., (_, total)] = parts.named();
                let details = details.map(|(name, bytes)| format!("{name} {}", BinaryBytes(bytes)));
                writeln!(out, "  KV cache in {:<3}                {}", cache.format, BinaryBytes(total))?;
                writeln!(out, "    {}", details.join(", "))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use forge::synth::{Recipe, Synthetic, byte_vocab, write_vocab};
    use serde_json::Value;
    use tempfile::TempDir;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        inspect: Inspect,
    }

    /// What `inspect` prints for `file` with some more arguments.
    fn run(file: &str, args: &[&str]) -> anyhow::Result<String> {
        let mut out = Vec::new();
        Cli::try_parse_from([&["inspect", file], args].concat())?.inspect.run(&mut out)?;
        Ok(String::from_utf8(out)?)
    }

    /// A tiny q2 model with a draft block, in a file.
    fn tiny(folder: &TempDir) -> String {
        let path = folder.path().join("tiny.gguf");
        let mut tiny = Synthetic::tiny(Recipe::Q2, 1);
        tiny.sizes.mtp = true;
        tiny.write(&path, None, |_| ()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The part of `text` from the line that begins with `title` to the next empty one.
    fn section<'a>(text: &'a str, title: &str) -> &'a str {
        let start = text.find(&format!("\n{title}")).unwrap_or_else(|| panic!("no {title} in {text}")) + 1;
        text[start..].split("\n\n").next().unwrap()
    }

    #[test]
    fn tensors_are_added_up_by_purpose_and_type() {
        let folder = tempfile::tempdir().unwrap();
        let text = run(&tiny(&folder), &[]).unwrap();
        assert_eq!(
            section(&text, "purpose "),
            "\
purpose            tensors         weights        size bits/weight
attention               40       1,804,180    1.83 MiB        8.53  25 Q8_0, 15 F32
routed experts          15       5,898,240    1.58 MiB        2.25  10 IQ2_XXS, 5 Q2_K
draft block             28       1,920,192    1.12 MiB        4.88  13 F32, 9 Q8_0, 3 F16, 2 IQ2_XXS, 1 Q2_K
shared experts          15         983,040 1020.00 KiB        8.50  15 Q8_0
compressors             16         428,544  838.00 KiB       16.02  12 F16, 4 F32
indexer                 12         398,464  778.50 KiB       16.01  10 F16, 2 F32
hyper-connections       33         250,131  489.07 KiB       16.02  22 F32, 11 F16
embedding                1         131,072  256.00 KiB       16.00  1 F16
output head              1         131,072  136.00 KiB        8.50  1 Q8_0
routing                 10           9,746   23.07 KiB       19.39  5 F16, 3 F32, 2 I32
norms                   11           2,816   11.00 KiB       32.00  11 F32
total                  182      11,957,497    8.00 MiB        5.61"
        );
        assert_eq!(
            section(&text, "type "),
            "\
type               tensors         weights        size bits/weight
Q8_0                    50       3,604,480    3.65 MiB        8.50
F16                     42       1,265,664    2.41 MiB       16.00
IQ2_XXS                 12       4,718,592    1.16 MiB        2.06
Q2_K                     6       2,359,296  756.00 KiB        2.62
F32                     70           7,417   28.97 KiB       32.00
I32                      2           2,048    8.00 KiB       32.00"
        );
    }

    #[test]
    fn memory_is_planned_for_the_context_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let text = run(&tiny(&folder), &["--ctx", "1024"]).unwrap();
        assert_eq!(
            section(&text, "memory "),
            "\
memory for a context of 1024 tokens
  weights, mapped from the file  8.02 MiB
  of these a token reads         5.57 MiB
  KV cache in f32                869.50 KiB
    window rows 80.00 KiB, CSA rows 256.00 KiB, HCA rows 8.00 KiB, index keys 128.00 KiB, frontiers 296.00 KiB, page ends 101.50 KiB
  KV cache in f16                594.75 KiB
    window rows 40.00 KiB, CSA rows 128.00 KiB, HCA rows 4.00 KiB, index keys 64.00 KiB, frontiers 296.00 KiB, page ends 62.75 KiB
  KV cache f8: KV format f8 needs rows whose part without rotary embedding is a multiple of 64, and this model's is 96: use f16 or f32
"
        );
        let error = run(&tiny(&folder), &["--ctx", "2049"]).unwrap_err().to_string();
        assert_eq!(error, "--ctx 2049: this model knows 2048 positions");
    }

    #[test]
    fn long_metadata_is_cut_short() {
        let folder = tempfile::tempdir().unwrap();
        let text = run(&tiny(&folder), &[]).unwrap();
        assert!(text.contains("\n  deepseek4.attention.compress_ratios = [i32; 6] 0, 4, 128, 4, 128, 0\n"));
        assert!(text.contains("\n  tokenizer.ggml.token_type = [i32; 512] 3, 3, 3, 1, 1, 1, 1, 1, ...\n"));
    }

    #[test]
    fn json_has_it_all() {
        let folder = tempfile::tempdir().unwrap();
        let report: Value = serde_json::from_str(&run(&tiny(&folder), &["--json"]).unwrap()).unwrap();
        assert_eq!(report["metadata"]["deepseek4.attention.layer_norm_rms_epsilon"].to_string(), "1e-6");
        assert_eq!(report["tensors"].as_array().unwrap().len(), 182);
        assert_eq!(report["total"]["tensors"], 182);
        assert_eq!(report["model"]["draft_block"], true);
        assert_eq!(report["model"]["plan"]["context"], 2048);
        assert_eq!(report["model"]["plan"]["kv_cache"][0]["format"], "f32");
        assert!(report["model"]["plan"]["kv_cache"][0]["csa"].as_u64().unwrap() > 0);
        assert!(
            report["model"]["plan"]["kv_cache"][2]["reason"].as_str().unwrap().contains("multiple of 64")
        );
    }

    #[test]
    fn every_tensor_is_listed_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let line = "\nblk.1.ffn_up_exps.weight               IQ2_XXS    99.00 KiB  [256, 256, 6]\n";
        assert!(run(&tiny(&folder), &["--tensors"]).unwrap().contains(line));
        assert!(!run(&tiny(&folder), &[]).unwrap().contains(line));
    }

    #[test]
    fn a_draft_block_in_a_file_of_its_own_counts() {
        let folder = tempfile::tempdir().unwrap();
        let whole = Gguf::open(tiny(&folder).as_ref()).unwrap();
        let write = |name: &str, blocks: u32, wanted: &dyn Fn(&str) -> bool| {
            let mut metadata = whole.metadata().clone();
            metadata.insert("deepseek4.block_count", blocks);
            let tensors: Vec<_> = whole.tensors().filter(|tensor| wanted(&tensor.name)).collect();
            let mut writer = gguf::GgufWriter::new(metadata).unwrap();
            for tensor in &tensors {
                writer.tensor(&tensor.name, &tensor.dims, tensor.kind).unwrap();
            }
            let mut left = tensors.iter();
            let bytes = writer.write_vec(|_, out| out.write_all(&whole.data(left.next().unwrap()))).unwrap();
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let main = write("main.gguf", 5, &|name| !name.starts_with("blk.5."));
        let block = write("block.gguf", 6, &|name| name.starts_with("blk.5."));
        let report = |args: &[&str]| serde_json::from_str::<Value>(&run(&main, args).unwrap()).unwrap();
        let with = report(&["--json", "--mtp-file", &block]);
        assert_eq!(with["model"]["draft_block"], true);
        assert_eq!(with["total"]["tensors"], 182);
        assert!(with["files"].as_array().unwrap().iter().any(|file| *file == *block), "{}", with["files"]);
        assert_eq!(report(&["--json"])["total"]["tensors"], 182 - 28);
    }

    #[test]
    fn what_cannot_run_is_listed_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.gguf");
        write_vocab(&byte_vocab(512), &path).unwrap();
        let text = run(path.to_str().unwrap(), &[]).unwrap();
        assert!(text.contains("\n  tokenizer.ggml.model = \"gpt2\"\n"), "{text}");
        assert!(text.contains("\nno tensors\n\nds4 cannot run this file: key deepseek4."), "{text}");
    }
}
