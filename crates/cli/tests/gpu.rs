//! `--backend gpu` as a user meets it. A software device will do; it is what CI has.
#![cfg(feature = "gpu")]

mod common;

use common::{ds4, ds4_reading, golden};

#[test]
fn the_built_in_model_answers_on_the_gpu() {
    let said = ds4(&["run", "--backend", "gpu", "--temp", "0", "What is 12 + 30?"]);
    assert_eq!((said.out.contains("42"), said.out.lines().count(), said.status), (true, 1, 0), "{said:?}");
    assert!(said.err.contains("GPU: ") && said.err.contains(" of weights, "), "the plan: {said:?}");
}

#[test]
fn a_chat_with_a_tool_goes_on_with_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tools.json");
    let tool = r#"[{"type": "function", "function": {"name": "get_weather",
        "description": "Get the weather of a city", "parameters": {"type": "object",
        "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]"#;
    std::fs::write(&file, tool).unwrap();
    let script = "What is the weather in Bern?\n{\"temp\": 21, \"sky\": \"sunny\"}\n";
    let args = ["run", "--chat", "--backend", "gpu", "--temp", "0", "--tools", file.to_str().unwrap()];
    let said = ds4_reading(script, &args);
    let call = "{\"name\":\"get_weather\",\"arguments\":{\"city\":\"Bern\"}}\n";
    let answer = said.out.strip_prefix(call).unwrap_or_else(|| panic!("{said:?}"));
    assert!(answer.contains("21") && answer.lines().count() == 1, "{said:?}");
}

/// Mostly a few logits are all that leaves the device. Where probabilities are asked for all do, and the tokens are the
/// same.
#[test]
fn a_seed_gives_the_same_tokens_from_few_logits_as_from_all() {
    let prompt = ["run", "--backend", "gpu", "-n", "24", "--seed", "7", "Tell me something."];
    for sampling in
        [&["--temp", "0"][..], &["--temp", "1.2"], &["--temp", "0.8", "--min-p", "0", "--top-p", "0.8"]]
    {
        let few = ds4(&[&prompt[..], sampling].concat());
        // A bias of nothing changes no logit, but needs them all.
        let all = ds4(&[&prompt[..], sampling, &["--logit-bias", "5=0"]].concat());
        assert_eq!((few.status, all.status), (0, 0), "{few:?} {all:?}");
        assert_eq!(few.out, all.out, "{sampling:?}");
    }
}

/// The plan's sums are those of its parts, and its weights those that the model needs, on any device.
#[test]
fn a_plan_says_what_a_step_asks_of_the_device() {
    let args = ["bench", "--gpu-plan", "-p", "40", "-d", "70"];
    let said = ds4(&[&args[..], &["--json"]].concat());
    assert_eq!(said.status, 0, "{said:?}");
    let plan: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let steps = plan["steps"].as_array().unwrap();
    let tokens: Vec<_> = steps.iter().map(|step| (step["tokens"].as_u64(), step["depth"].as_u64())).collect();
    assert_eq!(tokens, [(Some(40), Some(70)), (Some(1), Some(70))]);
    for step in steps {
        let sum = |list: &str, what: &str| -> u64 {
            step[list].as_array().unwrap().iter().map(|x| x[what].as_u64().unwrap()).sum()
        };
        for what in ["launches", "barriers", "weights", "again", "cached", "rows"] {
            assert_eq!(sum("kernels", what), step["all"][what].as_u64().unwrap(), "{what}: {step}");
            assert_eq!(sum("layers", what), step["all"][what].as_u64().unwrap(), "{what}: {step}");
        }
        let [launches, barriers, weights] =
            ["launches", "barriers", "weights"].map(|what| step["all"][what].as_u64().unwrap());
        assert!(barriers > 0 && barriers <= launches, "{step}");
        let needed = step["needed_bytes"].as_u64().unwrap();
        assert!(weights > needed / 2 && weights < 2 * needed, "{weights} of {needed}: {step}");
        assert!(step["host_ms"].as_f64().unwrap() > 0.0, "{step}");
    }
    let said = ds4(&args);
    assert!(
        said.out.contains("one token after 70; the host needs ") && said.out.contains("\nmoved: "),
        "{said:?}"
    );
    let said = ds4(&[&args[..], &["--backend", "cpu"]].concat());
    assert!(said.status != 0 && said.err.contains("--backend cpu uses no GPU"), "{said:?}");
}

/// Every row as the scalar reference has it, to the noise of f32.
#[test]
fn logits_are_those_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens.json");
    std::fs::write(&tokens, format!("{:?}", (0..60).map(|i| (i * 37 + 3) % 512).collect::<Vec<u32>>()))
        .unwrap();
    let dump = |backend: &[&str]| -> Vec<f32> {
        let out = dir.path().join("rows.f32");
        let model = golden("mini-mxfp4.gguf");
        let args =
            ["logits", "-m", &model, "--tokens", tokens.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let said = ds4(&[&args, backend].concat());
        assert_eq!(said.status, 0, "{said:?}");
        let bytes = std::fs::read(&out).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let (want, got) = (dump(&["--ops", "reference"]), dump(&["--backend", "gpu", "--chunk", "50"]));
    assert_eq!(got.len(), 60 * 512);
    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 3e-4, "{worst}");
}

/// Where the layers are is said before anything is loaded, and the answer is the same.
#[test]
fn the_built_in_model_answers_with_a_part_on_the_gpu() {
    for (split, plan) in [
        (&["--gpu-layers", "2"][..], " layers on the GPU: "),
        (&["--cpu-moe", "--threads", "1"], " layers without their experts on the GPU: "),
    ] {
        let said = ds4(&[&["run", "--temp", "0", "What is 12 + 30?"], split].concat());
        assert_eq!((said.out.contains("42"), said.status), (true, 0), "{said:?}");
        assert!(said.err.contains(plan) && said.err.contains("on the CPU "), "{said:?}");
    }
    let model = golden("mini-mxfp4.gguf");
    let said = ds4(&["inspect", &model, "--gpu-layers", "1"]);
    assert!(said.out.contains("1 of ") && said.out.contains("\n  it fits\n"), "{said:?}");
}

#[test]
fn devices_are_listed_with_their_numbers() {
    let said = ds4(&["inspect", "--devices"]);
    assert!(said.out.starts_with("0  ") && said.out.contains("largest buffer"), "{said:?}");
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let check = |args: &[&str], reason: &str| {
        let said = ds4(&[&["run", "hello"], args].concat());
        assert!(said.status != 0 && said.err.contains(reason), "{said:?}");
    };
    check(&["--device", "99"], "there is no device 99");
    check(&["--backend", "cpu", "--device", "0"], "--backend cpu uses none");
    check(&["--backend", "gpu", "--ops", "fast"], "leave it out with --backend gpu");
    check(&["--device", "0", "--threads", "1"], "--threads speak of the CPU");
    check(&["--gpu-layers", "99"], "--gpu-layers 99: this model has ");
    check(&["--gpu-layers", "0", "--cpu-moe"], "nothing would be left for the GPU");
    check(&["--backend", "cpu", "--cpu-moe"], "speak of a GPU, and --backend cpu uses none");
    check(&["--cpu-moe", "--ops", "reference"], "leave out --gpu-layers and --cpu-moe");
    check(&["--cpu-moe", "--device", "99"], "there is no device 99");
}
