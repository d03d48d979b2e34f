//! `frit embed`, on a small random model with a tokenizer of a few words, and `frit forward` of
//! encoders.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::common::{frit, json, run, status, stderr, stdout, temp};
use frit::load::safetensors;

fn tiny(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/golden/tiny").join(model)
}

/// A folder `model` with a BERT and a tokenizer that, by its file, pads every text to 128 tokens.
fn model(home: &Path) {
    let folder = home.join("model");
    fs::create_dir(&folder).expect("make a folder");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(tiny("bert").join(file), folder.join(file)).expect("copy a file");
    }
    let words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "man", "is", "eating", "food", "bread"];
    let vocab: serde_json::Map<String, serde_json::Value> =
        words.iter().zip(0..).map(|(word, id)| (word.to_string(), id.into())).collect();
    let special = |id: &str| serde_json::json!({"SpecialToken": {"id": id, "type_id": 0}});
    let text = serde_json::json!({"Sequence": {"id": "A", "type_id": 0}});
    let token = |id: &str, n: u32| serde_json::json!({"id": id, "ids": [n], "tokens": [id]});
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"
        },
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]"), text, special("[SEP]")],
            "pair": [special("[CLS]"), text, special("[SEP]")],
            "special_tokens": {"[CLS]": token("[CLS]", 1), "[SEP]": token("[SEP]", 2)}
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("write a file");
}

/// The command with these lines on its standard input.
fn with_lines(home: &Path, arguments: &[&str], lines: &str) -> Output {
    let mut command = frit(home);
    command.current_dir(home).args(arguments).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
    // It may be gone before it reads this.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(lines.as_bytes()));
    child.wait_with_output().expect("it ends")
}

fn numbers(line: &str) -> Vec<f64> {
    line.split(' ').map(|x| x.parse().expect("a number")).collect()
}

#[test]
fn texts_become_vectors_of_length_1_from_arguments_and_from_lines() {
    let home = temp();
    model(home.path());
    let texts = ["a man is eating food", "bread", "a man is eating a man is eating bread"];
    let usual = ["embed", "--model", "model"];
    let output = run(home.path(), &[&usual[..], &texts].concat());
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let vectors: Vec<Vec<f64>> = stdout(&output).lines().map(numbers).collect();
    assert_eq!(vectors.iter().map(Vec::len).collect::<Vec<_>>(), [64; 3]);
    for vector in &vectors {
        let length: f64 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
    let lines =
        with_lines(home.path(), &usual, &format!("{}\n\n{}\n{}", texts[0], texts[1], texts[2]));
    assert_eq!((status(&lines), stdout(&lines)), (0, stdout(&output)), "{}", stderr(&lines));

    // Words and the two tokens around them; neither padding nor the cut of the file.
    let said = json(&run(home.path(), &[&usual[..], &["--json"], &texts].concat()));
    let tokens: Vec<u64> =
        said.as_array().expect("a list").iter().filter_map(|t| t["tokens"].as_u64()).collect();
    assert_eq!(tokens, [7, 3, 11]);
    assert_eq!(said[1]["text"], "bread");
    let first: Vec<f64> = serde_json::from_value(said[0]["embedding"].clone()).expect("numbers");
    assert!(first.iter().zip(&vectors[0]).all(|(a, b)| (a - b).abs() < 1e-6));

    for machine in [&["--composed"][..], &["--backend", "reference"], &["--threads", "1"]] {
        let output = run(home.path(), &[&usual[..], machine, &texts].concat());
        let got: Vec<Vec<f64>> = stdout(&output).lines().map(numbers).collect();
        for (got, want) in got.iter().flatten().zip(vectors.iter().flatten()) {
            assert!((got - want).abs() < 1e-5, "{machine:?}: {got} {want}");
        }
    }
}

#[test]
fn vectors_go_to_a_file_and_depend_on_the_pooling() {
    let home = temp();
    model(home.path());
    let mut all = Vec::new();
    for pooling in ["mean", "cls", "max"] {
        let arguments = ["embed", "--model", "model", "--pooling", pooling, "a man", "food"];
        let output = run(home.path(), &[&arguments[..], &["--out", "out.safetensors"]].concat());
        assert_eq!((status(&output), stdout(&output)), (0, String::new()), "{}", stderr(&output));
        let file = safetensors::read(home.path().join("out.safetensors")).expect("a file");
        let value = file.tensor("embeddings").expect("vectors");
        assert_eq!(value.shape(), [2, 64]);
        all.push(value.to_f64());
    }
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    // Without a choice it is what the folder says.
    let folder = home.path().join("model/1_Pooling");
    fs::create_dir(&folder).expect("make a folder");
    let settings = r#"{"pooling_mode_cls_token": true}"#;
    fs::write(folder.join("config.json"), settings).expect("write a file");
    let output = run(home.path(), &["embed", "--model", "model", "a man", "--explain"]);
    let got = numbers(stdout(&output).trim_end());
    assert!(got.iter().zip(&all[1]).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}");
    let said = stderr(&output);
    for words in ["layer_norm", "scaled_dot_product_attention", "Blocks fused on cpu"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_name() {
    let home = temp();
    let (bert, vit, llama) = (tiny("bert"), tiny("vit"), tiny("llama"));
    let [bert, vit, llama] = [bert, vit, llama].map(|path| path.display().to_string());
    for (arguments, code, words) in [
        (&["embed"][..], 2, "there is no text"),
        (&["embed", "a", "--pooling", "sum"], 2, "invalid value 'sum'"),
        (&["embed", "a", "--out", "a.npy"], 2, "must end in .safetensors"),
        (&["embed", "a", "--threads", "0"], 2, "invalid value '0'"),
        (&["embed", "a", "--model", "missing"], 1, "missing"),
        (&["embed", "a", "--model", &llama], 1, "one of bert, distilbert, modernbert, vit"),
        (&["embed", "a", "--model", &bert], 1, "tokenizer.json"),
        (&["embed", "a", "--model", &vit], 1, "vit reads no text"),
        // No package client can be found in these tests.
        (&["embed", "a"], 1, "all-MiniLM-L6-v2"),
    ] {
        let output = with_lines(home.path(), arguments, "\n \n");
        let said = stderr(&output);
        assert_eq!((status(&output), stdout(&output)), (code, String::new()), "{said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn a_forward_pass_of_an_encoder_is_that_of_another_implementation() {
    let home = temp();
    for model in ["bert", "distilbert", "modernbert", "vit"] {
        let folder = tiny(model).display().to_string();
        let inputs = tiny(model).join("expected.safetensors").display().to_string();
        let output = run(
            home.path(),
            &["forward", &folder, "--inputs", &inputs, "--out", "out.safetensors"],
        );
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).starts_with("last_hidden_state f32[2, "), "{}", stdout(&output));
        let got = safetensors::read(home.path().join("out.safetensors")).expect("outputs");
        let want = safetensors::read(&inputs).expect("golden numbers");
        let of = |file: &frit::load::Checkpoint| {
            file.tensor("last_hidden_state").expect("hidden states").to_f64()
        };
        // The first row has no padding.
        let (got, want) = (of(&got), of(&want));
        for (got, want) in got.iter().zip(&want).take(17 * 64) {
            assert!((got - want).abs() < 1e-4, "{model}: {got} {want}");
        }
    }
}
