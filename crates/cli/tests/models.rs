//! `frit forward` and `frit transcribe` where something is wrong, and a small random model.

mod common;

use std::fs;
use std::path::Path;

use common::{floats, run, status, stderr, stdout, temp, write};

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
        ("other", "in.safetensors", "other: a checkpoint of model_type `sphinx`; supported: whisper"),
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
