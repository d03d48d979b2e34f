//! `frit forward` and `frit transcribe` where something is wrong, and a small random model.

use std::fs;
use std::path::Path;

use crate::common::{floats, run, status, stderr, stdout, temp, write};
use frit::graph::Value;
use frit::load::safetensors;

/// A wav file of 16-bit samples at 16 kHz whose header declares `declared` bytes of them.
fn wav(path: &Path, samples: usize, declared: u32) {
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + declared).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend([1u16, 1].iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend([16_000u32, 32_000].iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend([2u16, 16].iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend(b"data");
    bytes.extend(declared.to_le_bytes());
    bytes.resize(bytes.len() + 2 * samples, 0);
    fs::write(path, bytes).expect("write a wav file");
}

#[test]
fn recordings_that_cannot_be_read_are_all_named_before_a_model_is_fetched() {
    let home = temp();
    wav(&home.path().join("empty.wav"), 0, 0);
    wav(&home.path().join("cut.wav"), 100, 32_000);
    fs::write(home.path().join("nothing.wav"), "").expect("write a file");
    fs::write(home.path().join("text.wav"), "this is no sound").expect("write a file");
    let names = ["empty.wav", "cut.wav", "nothing.wav", "text.wav", "missing.wav"];
    for name in names {
        let output = run(home.path(), &["transcribe", name]);
        let said = stderr(&output);
        assert_eq!((status(&output), stdout(&output)), (1, String::new()), "{said}");
        assert!(said.contains(name) && !said.contains("fetch"), "{said}");
    }
    let output = run(home.path(), &[&["transcribe", "--json"], &names[..]].concat());
    assert_eq!((status(&output), stdout(&output)), (1, String::new()));
    let said = stderr(&output);
    assert!(names.iter().all(|name| said.contains(name)) && said.contains("declares"), "{said}");
}

#[test]
fn a_model_that_is_not_there_is_named() {
    let home = temp();
    wav(&home.path().join("good.wav"), 1600, 3200);
    let output = run(home.path(), &["transcribe", "good.wav", "--model", "no/model"]);
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).contains("no/model"), "{}", stderr(&output));
    // No package client can be found in these tests: a plain message says so.
    let output = run(home.path(), &["transcribe", "good.wav"]);
    assert_eq!((status(&output), stdout(&output)), (1, String::new()));
    assert!(stderr(&output).contains("Whisper tiny.en"), "{}", stderr(&output));
}

#[test]
fn a_forward_pass_names_what_is_missing_or_not_known() {
    let home = temp();
    let x = floats(&[1], &[1.0]);
    let at = |name: &str| home.path().join(name);
    write(&at("other/model.safetensors"), &[("x", &x)], &[]);
    fs::write(at("other/config.json"), r#"{"model_type": "sphinx"}"#).expect("write a file");
    write(&at("bare/model.safetensors"), &[("x", &x)], &[]);
    write(&at("whisper/model.safetensors"), &[("x", &x)], &[]);
    fs::write(at("whisper/config.json"), r#"{"model_type": "whisper"}"#).expect("write a file");
    write(&at("in.safetensors"), &[("input_features", &x), ("decoder_input_ids", &x)], &[]);
    write(&at("few.safetensors"), &[("decoder_input_ids", &x)], &[]);
    for (model, inputs, says) in [
        ("nowhere", "in.safetensors", "nowhere"),
        (
            "other",
            "in.safetensors",
            "other: a checkpoint of model_type `sphinx`; supported: whisper",
        ),
        ("bare", "in.safetensors", "without a model_type"),
        ("whisper", "none.safetensors", "none.safetensors"),
        ("whisper", "few.safetensors", "missing tensor `input_features`"),
        ("whisper", "in.safetensors", "d_model"),
    ] {
        let output =
            run(home.path(), &["forward", model, "--inputs", inputs, "--out", "out.safetensors"]);
        assert_eq!((status(&output), stdout(&output)), (1, String::new()), "{model} {inputs}");
        assert!(stderr(&output).contains(says), "{says}: {}", stderr(&output));
    }
    assert!(!at("out.safetensors").exists());
}

/// Numbers between -1 and 1 that look random.
fn noise(shape: &[usize], seed: usize) -> Value {
    let numbers = (0..shape.iter().product()).map(|i| ((i * 37 + seed * 101 + 13) as f32).sin());
    floats(shape, &numbers.collect::<Vec<_>>())
}

const CONFIG: &str = r#"{
    "model_type": "whisper", "d_model": 8, "encoder_layers": 1, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 12, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 12,
    "num_mel_bins": 4, "max_source_positions": 5, "max_target_positions": 6, "vocab_size": 11}"#;

/// The names and shapes of a Whisper of one layer each.
fn weights() -> Vec<(String, Vec<usize>)> {
    let mut out = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        out.push((format!("model.{name}.weight"), shape.to_vec()));
        if !name.contains("embed") && !name.ends_with("k_proj") {
            out.push((format!("model.{name}.bias"), shape[..1].to_vec()));
        }
    };
    add("encoder.conv1".into(), &[8, 4, 3]);
    add("encoder.conv2".into(), &[8, 8, 3]);
    add("encoder.embed_positions".into(), &[5, 8]);
    add("decoder.embed_positions".into(), &[6, 8]);
    add("decoder.embed_tokens".into(), &[11, 8]);
    for half in ["encoder", "decoder"] {
        add(format!("{half}.layer_norm"), &[8]);
        let attentions: &[&str] =
            if half == "encoder" { &["self_attn"] } else { &["self_attn", "encoder_attn"] };
        for attention in attentions {
            add(format!("{half}.layers.0.{attention}_layer_norm"), &[8]);
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                add(format!("{half}.layers.0.{attention}.{part}"), &[8, 8]);
            }
        }
        add(format!("{half}.layers.0.final_layer_norm"), &[8]);
        add(format!("{half}.layers.0.fc1"), &[12, 8]);
        add(format!("{half}.layers.0.fc2"), &[8, 12]);
    }
    out
}

/// Writes a checkpoint without the weight `but`.
fn checkpoint(folder: &Path, but: &str) {
    let tensors: Vec<(String, Value)> = weights()
        .into_iter()
        .enumerate()
        .filter(|(_, (name, _))| name != but)
        .map(|(seed, (name, shape))| (name, noise(&shape, seed)))
        .collect();
    let tensors: Vec<(&str, &Value)> = tensors.iter().map(|(n, v)| (n.as_str(), v)).collect();
    write(&folder.join("model.safetensors"), &tensors, &[]);
    fs::write(folder.join("config.json"), CONFIG).expect("write a file");
}

#[test]
fn a_forward_pass_is_the_same_on_every_machine() {
    let home = temp();
    checkpoint(&home.path().join("model"), "");
    let ids = Value::new([2, 3], vec![1i64, 5, 10, 0, 3, 3]).expect("six ids");
    let mel = noise(&[2, 4, 10], 99);
    let inputs = [("input_features", &mel), ("decoder_input_ids", &ids), ("ignored", &mel)];
    write(&home.path().join("in.safetensors"), &inputs, &[]);
    let outputs = |machine: &[&str]| {
        let files = ["forward", "model", "--inputs", "in.safetensors", "--out", "out.safetensors"];
        let output = run(home.path(), &[&files, machine].concat());
        assert_eq!(status(&output), 0, "{machine:?}: {}", stderr(&output));
        let out = safetensors::read(home.path().join("out.safetensors")).expect("outputs");
        ["encoder_last_hidden_state", "logits"].map(|n| out.tensor(n).expect("an output").clone())
    };
    let oracle = outputs(&["--backend", "reference"]);
    assert_eq!([oracle[0].shape(), oracle[1].shape()], [&[2, 5, 8], &[2, 3, 11]]);
    for machine in [&["--threads", "1"][..], &["--threads", "2"], &["--composed"]] {
        for (got, wanted) in outputs(machine).iter().zip(&oracle) {
            for (got, wanted) in got.to_f64().into_iter().zip(wanted.to_f64()) {
                assert!((got - wanted).abs() < 1e-5, "{machine:?}: {got} {wanted}");
            }
        }
    }
    // The tokens of the two rows differ, so their scores must.
    let logits = oracle[1].to_f64();
    assert!((0..11).any(|i| (logits[i] - logits[33 + i]).abs() > 1e-3));
}

#[test]
fn a_weight_that_is_missing_is_named() {
    let home = temp();
    let missing = "model.decoder.layers.0.fc2.weight";
    checkpoint(&home.path().join("model"), missing);
    let ids = Value::new([1, 1], vec![1i64]).expect("one id");
    let mel = noise(&[1, 4, 10], 99);
    let inputs = [("input_features", &mel), ("decoder_input_ids", &ids)];
    write(&home.path().join("in.safetensors"), &inputs, &[]);
    let files = ["forward", "model", "--inputs", "in.safetensors", "--out", "out.safetensors"];
    let output = run(home.path(), &files);
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).contains(missing), "{}", stderr(&output));
}

#[test]
fn a_model_without_a_tokenizer_cannot_transcribe_and_says_so() {
    let home = temp();
    checkpoint(&home.path().join("model"), "");
    wav(&home.path().join("good.wav"), 1600, 3200);
    let output = run(home.path(), &["transcribe", "good.wav", "--model", "model"]);
    assert_eq!((status(&output), stdout(&output)), (1, String::new()));
    let said = stderr(&output);
    assert!(said.contains("tokenizer.json") && said.contains("must hold its tokenizer"), "{said}");
}
