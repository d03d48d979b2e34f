//! `frit verify`, on small random checkpoints and an operator test of ONNX.

use crate::common::{golden, json, operator, run, status, stderr, stdout, temp};

/// The names of the Blocks, each once.
fn names(said: &serde_json::Value) -> Vec<&str> {
    let blocks = said["blocks"].as_array().expect("a list");
    let mut names: Vec<&str> = blocks.iter().filter_map(|b| b["name"].as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn every_kind_of_model_agrees_with_itself_block_by_block() {
    let home = temp();
    operator(home.path(), "test_attention_4d_causal_expanded");
    let of = |model: &str| {
        let output = run(home.path(), &["verify", model, "--json"]);
        assert_eq!(status(&output), 0, "{}{}", stdout(&output), stderr(&output));
        json(&output)
    };
    let onnx = of("model.onnx");
    assert_eq!(names(&onnx), ["scaled_dot_product_attention"], "{onnx}");
    let llama = of(&golden("tiny/llama"));
    for name in ["linear", "rms_norm", "rope", "scaled_dot_product_attention", "swiglu"] {
        assert!(names(&llama).contains(&name), "{name}: {llama}");
    }
    assert_eq!(llama["outputs"][0]["name"], "logits");
    let whisper = of(&golden("whisper-random"));
    for name in ["cache_append", "conv1d", "layer_norm", "linear"] {
        assert!(names(&whisper).contains(&name), "{name}: {whisper}");
    }
    assert_eq!(whisper["outputs"].as_array().map(Vec::len), Some(2));
    for said in [onnx, llama, whisper] {
        assert_eq!((&said["passed"], &said["first_past"]), (&true.into(), &().into()), "{said}");
        assert_eq!(said["fused"].as_u64(), said["blocks"].as_array().map(|b| b.len() as u64));
    }
}

#[test]
fn the_first_block_past_the_bound_is_named_and_the_status_is_1() {
    let home = temp();
    let model = golden("tiny/qwen3");
    let output = run(home.path(), &["verify", &model, "--bound", "0"]);
    assert_eq!(status(&output), 1, "{}{}", stdout(&output), stderr(&output));
    let said = json(&run(home.path(), &["verify", &model, "--bound", "0", "--json"]));
    let first = said["first_past"].as_u64().expect("a number") as usize;
    let blocks = said["blocks"].as_array().expect("a list");
    assert!(blocks[..first - 1].iter().all(|b| b["max_abs"] == 0.0), "{said}");
    assert!(blocks[first - 1]["max_abs"].as_f64().expect("a number") > 0.0, "{said}");
    let name = blocks[first - 1]["name"].as_str().expect("a name");
    let line = format!("first past 0e0: Block {first} {name}");
    assert!(stdout(&output).contains(&line), "{line}\n{}", stdout(&output));
}

#[test]
fn given_inputs_are_taken_and_those_that_do_not_fit_are_named() {
    let home = temp();
    let expected = golden("tiny/llama") + "/expected.safetensors";
    let model = golden("tiny/llama");
    let said = json(&run(home.path(), &["verify", &model, "--inputs", &expected, "--json"]));
    assert_eq!(said["passed"], true, "{said}");
    assert!(said["outputs"][0]["spec"].as_str().expect("a spec").starts_with("f32[2, "), "{said}");
    let output = run(home.path(), &["verify", &model, "--dim", "4"]);
    assert_eq!(status(&output), 2, "{}", stderr(&output));
    let output = run(home.path(), &["verify", "no/model"]);
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).contains("no/model"), "{}", stderr(&output));
}
