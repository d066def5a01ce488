//! Synthetic models: what the engine makes of them.

use cpu::Reference;
use forge::synth::{Recipe, Synthetic, byte_vocab, write_vocab};
use gguf::{Gguf, TensorType};
use model::{Entry, KvFormat, NoTap, Ops, Timeline, Wanted, forward};

fn made(description: &Synthetic) -> Gguf {
    Gguf::from_vec(description.to_vec().unwrap()).unwrap()
}

#[test]
fn every_recipe_makes_a_model_that_loads() {
    for recipe in Recipe::ALL {
        for mtp in [false, true] {
            let mut description = Synthetic::tiny(recipe, 1);
            description.sizes.mtp = mtp;
            let gguf = made(&description);
            let checked = model::load::check(&gguf).unwrap();
            assert_eq!(checked.config.mtp, mtp);
            assert!(checked.unused.is_empty(), "{:?}", checked.unused);
            assert!(gguf.warnings().is_empty());
        }
    }
}

/// Each recipe has the formats it is named for, so none of them fell back to another in silence.
#[test]
fn tiny_rows_are_long_enough_for_every_format() {
    let check = |recipe, tensor: &str, want| {
        let name = format!("blk.1.{tensor}.weight");
        assert_eq!(made(&Synthetic::tiny(recipe, 1)).tensor(&name).unwrap().kind, want, "{name}");
    };
    check(Recipe::Q2, "ffn_up_exps", TensorType::IQ2_XXS);
    check(Recipe::Q2, "ffn_down_exps", TensorType::Q2_K);
    check(Recipe::Q4, "ffn_down_exps", TensorType::Q4_K);
    check(Recipe::Mxfp4, "ffn_down_exps", TensorType::MXFP4);
    check(Recipe::Mix, "ffn_gate_exps", TensorType::Q3_K);
    check(Recipe::Mix, "attn_q_b", TensorType::Q5_K);
    check(Recipe::Mix, "attn_output_b", TensorType::Q5_K);
}

/// Activations neither explode nor vanish: after a prompt that fills all caches, logits of every
/// position differ among tokens, by a few units as in a trained model, and among positions.
#[test]
fn every_recipe_has_lively_logits() {
    for recipe in Recipe::ALL {
        let gguf = made(&Synthetic::tiny(recipe, 2));
        let model = model::load(&Reference, &gguf).unwrap();
        let mut timeline = Timeline::new(&Reference, &model.config, KvFormat::F32);
        let tokens: Vec<u32> = (0..140).map(|i| (i * i + 5) % 512).collect();
        let mut batch = [Entry { timeline: &mut timeline, tokens: &tokens, wanted: Wanted::All }];
        let output = forward(&model, &Reference, &mut batch, &mut NoTap).unwrap();
        let logits = Reference.read(&output.logits.unwrap()).unwrap();
        let rows: Vec<&[f32]> = logits.chunks(512).collect();
        for row in &rows {
            let deviation = (row.iter().map(|x| x * x).sum::<f32>() / 512.0).sqrt();
            assert!((1.0..6.0).contains(&deviation), "{recipe:?}: {deviation}");
        }
        let product: f32 = rows[50].iter().zip(rows[139]).map(|(a, b)| a * b).sum();
        assert!(product.abs() < 0.5 * 512.0 * 9.0, "{recipe:?}: the prompt does not matter");
    }
}

#[test]
fn a_model_is_a_function_of_its_description() {
    let description = Synthetic::tiny(Recipe::Q8, 3);
    assert!(description.to_vec().unwrap() == description.to_vec().unwrap());
    let other = Synthetic { seed: 4, ..description.clone() };
    assert!(description.to_vec().unwrap() != other.to_vec().unwrap());
}

/// Numbers measured on a synthetic model stay comparable: a seed must go on to mean what it meant.
#[test]
fn a_seed_keeps_its_meaning() {
    let gguf = made(&Synthetic::tiny(Recipe::F32, 7));
    let data = gguf.data(gguf.tensor("blk.0.attn_q_a.weight").unwrap());
    let first: Vec<f32> =
        data[..12].chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(first, [0.131_338_79, -0.079_211_526, 0.058_621_61]);
}

/// What one tensor holds does not depend on what else is in the file.
#[test]
fn a_draft_block_changes_no_other_tensor() {
    let plain = Synthetic::tiny(Recipe::F32, 5);
    let mut drafting = plain.clone();
    drafting.sizes.mtp = true;
    let (plain, drafting) = (made(&plain), made(&drafting));
    for tensor in plain.tensors() {
        let other = drafting.tensor(&tensor.name).unwrap();
        assert!(*plain.data(tensor) == *drafting.data(other), "{}", tensor.name);
    }
}

/// A tensor of many pieces is the same whether its file is written at once or in parts.
#[test]
fn parts_hold_what_the_whole_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut description = Synthetic::tiny(Recipe::Q8, 6);
    description.sizes.width = 512;
    description.vocab = byte_vocab(8192); // an embedding of 8 MiB, several pieces
    let total = description.data_bytes().unwrap();

    let mut reported = 0;
    let files =
        description.write(&folder.path().join("m.gguf"), Some(10 << 20), |bytes| reported += bytes).unwrap();
    assert!(files.len() > 1);
    assert_eq!(reported, total);

    let (parts, whole) = (Gguf::open(&files[0]).unwrap(), made(&description));
    assert_eq!(parts.tensors().len(), whole.tensors().len());
    for tensor in whole.tensors() {
        let part = parts.tensor(&tensor.name).unwrap();
        assert!(*parts.data(part) == *whole.data(tensor), "{}", tensor.name);
    }
}

#[test]
fn impossible_sizes_are_refused_by_name() {
    let check = |change: fn(&mut Synthetic), want: &str| {
        let mut description = Synthetic::tiny(Recipe::Q8, 1);
        change(&mut description);
        let error = description.to_vec().unwrap_err().to_string();
        assert!(error.contains(want), "found:  {error}\nneeded: {want}");
    };
    check(|d| d.sizes.heads = 0, "deepseek4.attention.head_count is 0");
    check(|d| d.sizes.rope_dim = 33, "deepseek4.rope.dimension_count is 33");
    check(|d| d.sizes.out_groups = 3, "deepseek4.attention.output_group_count is 3");
    check(|d| d.sizes.experts_used = 11, "deepseek4.expert_used_count is 11");
    check(|d| d.sizes.ratios = vec![0, 5], "deepseek4.attention.compress_ratios is 5");
    check(|d| d.sizes.ratios.clear(), "deepseek4.block_count is 0");
    check(|d| d.vocab.tokens.clear(), "deepseek4.vocab_size is 0");
}

#[test]
fn a_vocabulary_can_be_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.gguf");
    write_vocab(&byte_vocab(512), &path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.metadata().strings("tokenizer.ggml.tokens").unwrap().len(), 512);
    assert_eq!(gguf.tensors().len(), 0);
}
