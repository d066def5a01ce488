//! An MTP block in a file of its own guesses as one inside the model's file does.

mod common;

use common::{Golden, assert_golden_draft_of};
use cpu::Reference;
use gguf::{Gguf, GgufWriter, Metadata, TensorInfo, TensorType};
use model::{JoinError, join_mtp, load};

/// The layers before the block.
fn layers(gguf: &Gguf) -> usize {
    let is_entry =
        |name: &str| name.strip_prefix("blk.")?.strip_suffix(".nextn.eh_proj.weight")?.parse().ok();
    gguf.tensors().find_map(|tensor| is_entry(&tensor.name)).unwrap()
}

/// A tensor of a file to be written: its name, shape and type, and its bytes.
type Part = (String, Vec<u64>, TensorType, Vec<u8>);

fn part(gguf: &Gguf, info: &TensorInfo, name: String) -> Part {
    (name, info.dims.clone(), info.kind, gguf.data(info).to_vec())
}

fn written(metadata: Metadata, parts: &[Part]) -> Gguf {
    let mut writer = GgufWriter::new(metadata).unwrap();
    for (name, dims, kind, _) in parts {
        writer.tensor(name, dims, *kind).unwrap();
    }
    let mut left = parts.iter();
    let bytes = writer.write_vec(|_, out| out.write_all(&left.next().unwrap().3)).unwrap();
    Gguf::from_vec(bytes).unwrap()
}

/// The model without its block.
fn alone(gguf: &Gguf) -> Gguf {
    let block = format!("blk.{}.", layers(gguf));
    let main = gguf.tensors().filter(|tensor| !tensor.name.starts_with(&block));
    let parts: Vec<Part> = main.map(|tensor| part(gguf, tensor, tensor.name.clone())).collect();
    let mut metadata = gguf.metadata().clone();
    // As in published main files.
    metadata.insert("deepseek4.block_count", layers(gguf) as u32);
    metadata.insert("deepseek4.nextn_predict_layers", 1u32);
    written(metadata, &parts)
}

/// The block as llama.cpp has it: a model of one layer, with what it shares.
fn of_llama(gguf: &Gguf) -> Vec<Part> {
    let block = format!("blk.{}.", layers(gguf));
    let is_shared = |name: &str| name.starts_with("output") || name.starts_with("token_embd");
    let there = gguf.tensors().filter(|t| t.name.starts_with(&block) || is_shared(&t.name));
    there.map(|tensor| part(gguf, tensor, tensor.name.clone())).collect()
}

/// The block as the C engine ds4 has it.
fn of_ds4(gguf: &Gguf) -> Vec<Part> {
    let block = format!("blk.{}.", layers(gguf));
    let mut parts = Vec::new();
    for tensor in gguf.tensors() {
        let name = match (tensor.name.strip_prefix("output_hc_"), tensor.name.strip_prefix(&block)) {
            (Some(name), _) => format!("hc_head_{name}"),
            (_, Some("nextn.eh_proj.weight")) => {
                let (width, bytes) = (tensor.dims[1], gguf.data(tensor));
                let row = bytes.len() / width as usize;
                for (nth, name) in ["e_proj", "h_proj"].into_iter().enumerate() {
                    let half = |row: &[u8]| row[nth * row.len() / 2..][..row.len() / 2].to_vec();
                    let bytes = bytes.chunks_exact(row).flat_map(half).collect();
                    parts.push((format!("mtp.0.{name}.weight"), vec![width; 2], tensor.kind, bytes));
                }
                continue;
            }
            (_, Some("nextn.shared_head_norm.weight")) => "norm.weight".to_owned(),
            (_, Some(name)) => name.strip_prefix("nextn.").unwrap_or(name).to_owned(),
            _ => continue,
        };
        parts.push(part(gguf, tensor, format!("mtp.0.{name}")));
    }
    parts
}

fn bare() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "deepseek4");
    metadata
}

#[test]
fn a_block_in_a_file_of_its_own_gives_the_golden_logits() {
    let golden = Golden::load("mini-bf16.short");
    let gguf = golden.gguf();
    for (kind, metadata, parts) in
        [("llama.cpp", gguf.metadata().clone(), of_llama(&gguf)), ("ds4", bare(), of_ds4(&gguf))]
    {
        let joined = join_mtp(alone(&gguf), written(metadata, &parts)).unwrap();
        let checked = load::check(&joined).unwrap();
        assert_eq!((checked.config.mtp, checked.unused.len()), (true, 0), "{kind}: {:?}", checked.unused);
        assert_golden_draft_of(&Reference, &joined, &golden, kind);
    }
}

/// What the model has read is the same whether or not it guesses, so it goes by the same key.
#[test]
fn a_joined_block_does_not_change_the_fingerprint() {
    let gguf = Golden::load("mini-bf16.short").gguf();
    let joined = join_mtp(alone(&gguf), written(bare(), &of_ds4(&gguf))).unwrap();
    assert_eq!(load::fingerprint(&joined), load::fingerprint(&alone(&gguf)));
    assert!(joined.tensors().len() > joined.own_tensors().len());
}

/// The collapse in the block's file is its own, and not the model's of the same name.
#[test]
fn a_block_has_a_collapse_of_its_own() {
    let gguf = Golden::load("mini-bf16.short").gguf();
    let mut parts = of_ds4(&gguf);
    let base = parts.iter_mut().find(|(name, ..)| name == "mtp.0.hc_head_base.weight").unwrap();
    base.3.fill(0);
    let joined = join_mtp(alone(&gguf), written(bare(), &parts)).unwrap();
    let model = load(&Reference, &joined).unwrap();
    let [of_block, of_model] = [&model.mtp.as_ref().unwrap().head.base, &model.head.base]
        .map(|base| model::Ops::read(&Reference, base).unwrap());
    assert!(of_block.iter().all(|x| *x == 0.0) && of_model.iter().any(|x| *x != 0.0));
}

#[test]
fn what_is_no_block_for_the_model_is_refused() {
    let gguf = Golden::load("mini-bf16.short").gguf();
    let refused =
        |parts: Vec<Part>, metadata: Metadata| join_mtp(alone(&gguf), written(metadata, &parts)).unwrap_err();
    let with = |change: &dyn Fn(&mut Part)| {
        let mut parts = of_ds4(&gguf);
        parts.iter_mut().for_each(change);
        refused(parts, bare())
    };
    let renamed = |from: &'static str, to: &'static str| {
        with(&move |part: &mut Part| {
            if part.0 == from {
                part.0 = to.to_owned();
            }
        })
    };
    assert!(matches!(renamed("mtp.0.e_proj.weight", "mtp.0.x.weight"), JoinError::NoBlock { .. }));
    assert!(matches!(renamed("mtp.0.e_proj.weight", "mtp.0.main_proj.weight"), JoinError::DSpark));
    let odd = with(&|part: &mut Part| {
        if part.0 == "mtp.0.h_proj.weight" {
            part.1 = vec![part.1[0] / 2, part.1[1] * 2];
        }
    });
    assert!(matches!(odd, JoinError::Projections), "{odd}");
    let other = |part: &mut Part| part.0 = part.0.replace(&format!("blk.{}.", layers(&gguf)), "blk.43.");
    let mut parts = of_llama(&gguf);
    parts.iter_mut().for_each(other);
    let error = refused(parts, gguf.metadata().clone());
    assert!(error.to_string().contains("after 43 layers"), "{error}");
    let mut metadata = gguf.metadata().clone();
    metadata.insert("tokenizer.ggml.tokens", ["a", "b"].into_iter().collect::<gguf::Strings>());
    assert!(matches!(refused(of_llama(&gguf), metadata), JoinError::Vocabulary { found: 2, .. }));
    let file = written(bare(), &of_ds4(&gguf));
    assert!(matches!(join_mtp(Golden::load("mini-bf16.short").gguf(), file), Err(JoinError::Twice)));
    // A block with a tensor too few, or of another size, is found when the model is checked.
    let parts: Vec<Part> =
        of_ds4(&gguf).into_iter().filter(|part| part.0 != "mtp.0.attn_kv.weight").collect();
    let joined = join_mtp(alone(&gguf), written(bare(), &parts)).unwrap();
    assert!(load::check(&joined).err().unwrap().to_string().contains("attn_kv"));
}
