//! `frit generate` and `frit chat`, on a small random model that has no tokenizer.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::{frit, json, run, status, stderr, stdout, temp};
use frit::load::safetensors;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/golden/tiny/llama")
}

/// The prompt of the golden file as an argument, and the tokens that follow it.
fn golden() -> (String, Vec<i64>) {
    let file = safetensors::read(tiny().join("expected.safetensors")).expect("golden numbers");
    let prompt = file.tensor("prompt").expect("a prompt").to_i64();
    let prompt: Vec<String> = prompt.iter().map(i64::to_string).collect();
    (prompt.join(","), file.tensor("greedy").expect("tokens").to_i64())
}

#[test]
fn token_ids_go_on_as_another_implementation_says_composed_and_fused() {
    let (home, (prompt, greedy)) = (temp(), golden());
    let model = tiny().display().to_string();
    let count = greedy.len().to_string();
    let usual = ["generate", &model, "--ids", &prompt, "--greedy", "--ignore-eos", "--json"];
    let arguments = [&usual[..], &["--max-tokens", &count]].concat();
    for more in [&[][..], &["--composed"], &["--backend", "reference"], &["--cache", "f16"]] {
        let output = run(home.path(), &[&arguments[..], more].concat());
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        let said = json(&output);
        assert_eq!(said["ids"], serde_json::json!(greedy), "{more:?}");
        assert_eq!(said["prompt_tokens"], prompt.split(',').count());
        assert_eq!((&said["finish"], &said["text"]), (&"length".into(), &"".into()));
        for rate in ["prefill_tokens_per_s", "decode_tokens_per_s"] {
            assert!(said[rate].as_f64().is_some_and(|r| r > 0.0), "{said}");
        }
    }
}

#[test]
fn it_tells_what_was_fused_and_how_fast_it_was() {
    let (home, (prompt, _)) = (temp(), golden());
    let model = tiny().display().to_string();
    let usual = ["generate", &model, "--ids", &prompt, "--max-tokens", "3", "--ignore-eos"];
    let output = run(home.path(), &[&usual[..], &["--explain", "--stats", "--seed", "1"]].concat());
    let said = stderr(&output);
    assert_eq!(status(&output), 0, "{said}");
    for words in ["rms_norm ", "rope ", "prefill  7 tokens", "decode   3 tokens", "MB a token"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_name() {
    let home = temp();
    let model = tiny().display().to_string();
    for (arguments, code, words) in [
        (&["generate"][..], 2, "there is no prompt"),
        (&["generate", "a", "b", "--ids", "1"], 2, "--ids is a prompt"),
        (&["generate", "--ids", "1,x"], 2, "invalid value 'x'"),
        (&["generate", "a", "--greedy", "--top-p", "0.5"], 2, "cannot be used with"),
        (&["generate", &model, "a", "--top-p", "1.5"], 2, "top_p must be above 0"),
        (&["generate", "missing.gguf", "a"], 1, "missing.gguf: no such file"),
        (&["generate", &model, "a"], 1, "this model has no tokenizer"),
        (&["generate", &model, "--ids", "1,99999"], 1, "token 99999 is not one of"),
        (&["chat", &model], 1, "has no chat template"),
    ] {
        let output = run(home.path(), arguments);
        let said = stderr(&output);
        assert_eq!((status(&output), stdout(&output)), (code, String::new()), "{said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn a_file_that_is_no_model_ends_a_talk_before_it_begins() {
    let home = temp();
    std::fs::write(home.path().join("a.gguf"), b"GGUF\x03\0\0\0").expect("write a file");
    let mut chat = frit(home.path());
    chat.current_dir(home.path()).args(["chat", "a.gguf"]).stdin(Stdio::piped());
    let mut child = chat.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run frit");
    // It may be gone before it reads this.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(b"Hello\n"));
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(status(&output), 1);
    assert!(stderr(&output).contains("a.gguf"), "{}", stderr(&output));
}
