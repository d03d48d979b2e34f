//! Models on MLX against golden numbers: the same as on the CPU, from the same files.

use frit_cli::assets::{self, ALL_MINILM_L6_V2, JFK, SMOLLM2_135M_INSTRUCT, WHISPER_TINY_EN};
use frit_conformance::{compare, mlx::mlx};
use frit_graph::{Backend, Outcome, Report, Value};
use frit_load::{Checkpoint, safetensors};
use frit_mlx::Mlx;
use frit_models::{
    encoder::{self, Encoder, TextEmbedder},
    fast_kernels,
    generate::{GenerateOptions, TextGenerator},
    llama::{self, Llama},
    tokenizer::Tokenizer,
    whisper::model::{self as speech, Whisper},
};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn read(name: &str) -> Checkpoint {
    safetensors::read(golden(name)).expect("golden numbers")
}

fn backend(mlx: &Mlx, fused: bool) -> Arc<dyn Backend> {
    Arc::new(if fused { *mlx } else { mlx.without_fused() })
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64], bound: f64) {
    let d = compare(got, want, (0.0, bound));
    println!("{what}: max abs {:.3e}", d.max_abs);
    assert!(d.within, "{what}: max abs {:.3e} at {}", d.max_abs, d.at);
}

fn best(row: &[f32]) -> u32 {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("a row").0 as u32
}

/// Every norm, turn and attention must have gone to MLX's own call; as many as `wanted` says.
#[track_caller]
fn all_by_mlx(name: &str, report: &Report, wanted: &[(&str, usize)]) {
    for block in ["rms_norm", "layer_norm", "rope", "scaled_dot_product_attention"] {
        let lines = report.lines.iter().filter(|l| l.block == block);
        let fused = lines.clone().filter(|l| l.outcome == Outcome::Fused).count();
        assert_eq!(fused, lines.count(), "{name}: {report}");
        let wanted = wanted.iter().find(|w| w.0 == block).map_or(0, |w| w.1);
        assert_eq!(fused, wanted, "{name}: {block}\n{report}");
    }
}

fn ids(golden: &Checkpoint, name: &str) -> Vec<u32> {
    let text = golden.metadata.get(name).expect(name);
    let inner = text.trim_matches(['[', ']']);
    inner.split(',').map(|n| n.trim().parse().expect("a token")).collect()
}

fn whisper_is_golden(fused: bool) {
    let Some(mlx) = mlx() else { return };
    let golden = read("whisper-tiny.en.safetensors");
    let numbers = |name: &str| golden.tensor(name).expect(name).to_f64();
    let folder = assets::ensure(&WHISPER_TINY_EN, true).expect("the checkpoint");
    let rules = if fused { fast_kernels() } else { Vec::new() };
    let options = speech::LoadOptions { rules, ..Default::default() };
    let mut whisper = Whisper::open(&folder, backend(&mlx, fused), options).expect("it loads");
    let window: Vec<f32> = golden.tensor("logmel").expect("mel").to_f32();
    let hidden = whisper.encode_window(&window).expect("encoded");
    close("encoder", &hidden.to_f64(), &numbers("encoder_out"), 2e-4);
    for (prompt, all, logits) in [
        ("prompt", "ids", "logits0_notimestamps"),
        ("free_prompt", "free_ids", "logits0_timestamps"),
    ] {
        let (prompt, all) = (ids(&golden, prompt), ids(&golden, all));
        let mut row = frit_models::whisper::decode::SpeechModel::begin(&mut whisper, &prompt, 0)
            .expect("begun")
            .last;
        let first: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        close(logits, &first, &numbers(logits), 2e-3);
        let mut got = prompt;
        while got.len() < all.len() {
            got.push(best(&row));
            let token = got[got.len() - 1];
            row = frit_models::whisper::decode::SpeechModel::step(&mut whisper, token)
                .expect("a step");
        }
        assert_eq!(got, all, "the golden tokens");
    }
    if !fused {
        return;
    }
    for (name, compiled) in whisper.programs() {
        let wanted: &[(&str, usize)] = match name {
            "encoder" => &[("layer_norm", 9), ("scaled_dot_product_attention", 4)],
            "cross" => &[],
            _ => &[("layer_norm", 13), ("scaled_dot_product_attention", 8)],
        };
        all_by_mlx(name, compiled.program.report(), wanted);
    }
}

#[test]
fn whisper_gives_the_golden_tokens_composed() {
    whisper_is_golden(false);
}

#[test]
fn whisper_gives_the_golden_tokens_rewritten() {
    whisper_is_golden(true);
    // The recording itself is heard in the tests of the command.
    assert!(JFK.bytes() > 0);
}

/// What another implementation wrote greedily.
#[derive(Deserialize)]
struct Greedy {
    prompt: String,
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
}

fn smollm2_is_golden(fused: bool) {
    let Some(mlx) = mlx() else { return };
    let golden = read("smollm2/greedy.safetensors");
    let text = golden.metadata.get("exact").expect("texts");
    let greedy: Vec<Greedy> = serde_json::from_str(text).expect("texts");
    let folder = assets::ensure(&SMOLLM2_135M_INSTRUCT, true).expect("the checkpoint");
    let checkpoint =
        frit_load::open(folder.join(SMOLLM2_135M_INSTRUCT.members[0].file)).expect("it");
    let rules = if fused { fast_kernels() } else { Vec::new() };
    let options = llama::LoadOptions { rules, ..Default::default() };
    let mut model =
        Llama::from_checkpoint(&checkpoint, backend(&mlx, fused), options).expect("a llama");
    for (i, want) in greedy.iter().enumerate() {
        let logits = model.prefill(std::slice::from_ref(&want.prompt_ids), 64).expect("logits");
        let got: Vec<f64> = logits[0].iter().map(|&x| x.into()).collect();
        let first = golden.tensor(&format!("first_logits_{i}")).expect("logits").to_f64();
        close(&format!("logits of prompt {i}"), &got, &first, 2e-3);
    }
    let mut generator = TextGenerator::new(model, Tokenizer::of(&checkpoint).expect("a tokenizer"));
    for want in &greedy {
        let prompt = generator.encode(&want.prompt).expect("tokens");
        assert_eq!(prompt, want.prompt_ids, "{:?}", want.prompt);
        let options =
            GenerateOptions { max_tokens: 64, ignore_end: true, ..GenerateOptions::default() };
        let on = &mut |_: &_| std::ops::ControlFlow::Continue(());
        let got = generator.generate_with(&prompt, &options, on).expect("a text");
        assert_eq!(got.ids, want.ids, "fused {fused}: {:?}", want.prompt);
    }
    if fused {
        for (name, compiled) in generator.model().programs() {
            let wanted = [("rms_norm", 61), ("rope", 60), ("scaled_dot_product_attention", 30)];
            all_by_mlx(name, compiled.program.report(), &wanted);
        }
    }
}

#[test]
fn smollm2_gives_the_golden_tokens_composed() {
    smollm2_is_golden(false);
}

#[test]
fn smollm2_gives_the_golden_tokens_rewritten() {
    smollm2_is_golden(true);
}

/// Rows of `[B, T, C]` at attended positions.
fn attended(rows: &Value, mask: Option<&Value>) -> Vec<f64> {
    let (all, c) = (rows.to_f64(), rows.shape()[2]);
    let Some(mask) = mask.map(Value::to_i64) else { return all };
    let kept = mask.iter().enumerate().filter(|(_, m)| **m != 0);
    kept.flat_map(|(i, _)| all[i * c..][..c].to_vec()).collect()
}

#[test]
fn small_language_models_hold_against_golden_numbers() {
    let Some(mlx) = mlx() else { return };
    for model in [
        "llama",
        "llama3_scaled",
        "llama_linear",
        "llama_yarn",
        "qwen2",
        "qwen3",
        "mistral_window",
        "gemma3",
        "smollm3",
        "phi3_longrope",
    ] {
        let golden_file = read(&format!("tiny/{model}/expected.safetensors"));
        let of = |n: &str| golden_file.tensor(n).expect(n);
        for fused in [false, true] {
            let rules = if fused { fast_kernels() } else { Vec::new() };
            let options = llama::LoadOptions { rules, ..Default::default() };
            let folder = golden(&format!("tiny/{model}"));
            let mut llama = Llama::open(&folder, backend(&mlx, fused), options).expect("it loads");
            let (mask, positions) = (of("attention_mask"), of("position_ids"));
            let logits =
                llama.forward(of("input_ids"), Some(mask), Some(positions)).expect("it runs");
            let (got, want) = (attended(&logits, Some(mask)), attended(of("logits"), Some(mask)));
            close(&format!("{model}, fused {fused}"), &got, &want, 1e-4);

            let (prompt, greedy) = (of("prompt").to_i64(), of("greedy").to_i64());
            let prompt: Vec<u32> = prompt.iter().map(|&t| t as u32).collect();
            let mut rows = llama.prefill(&[prompt], 64).expect("a prompt");
            let mut said = Vec::new();
            while said.len() < greedy.len() {
                said.push(i64::from(best(&rows[0])));
                rows = llama.step(&[said[said.len() - 1] as u32]).expect("a step");
            }
            assert_eq!(said, greedy, "{model}, fused {fused}");
        }
    }
}

#[test]
fn small_encoders_and_whisper_hold_against_golden_numbers() {
    let Some(mlx) = mlx() else { return };
    for fused in [false, true] {
        let rules = || if fused { fast_kernels() } else { Vec::new() };
        for model in ["bert", "distilbert", "modernbert", "vit"] {
            let expected = read(&format!("tiny/{model}/expected.safetensors"));
            let options = encoder::LoadOptions { rules: rules(), ..Default::default() };
            let folder = golden(&format!("tiny/{model}"));
            let mut encoder =
                Encoder::open(&folder, backend(&mlx, fused), options).expect("it loads");
            let names = encoder.config().inputs().iter();
            let inputs: Vec<_> =
                names.filter_map(|n| Some((*n, expected.params.get(n)?))).collect();
            let hidden = encoder.forward(&inputs).expect("it runs");
            let want = expected.tensor("last_hidden_state").expect("hidden states");
            let mask = expected.params.get("attention_mask");
            let (got, want) = (attended(&hidden, mask), attended(want, mask));
            close(&format!("{model}, fused {fused}"), &got, &want, 1e-4);
        }
        let expected = read("whisper-random/expected.safetensors");
        let of = |n: &str| expected.tensor(n).expect(n);
        let options = speech::LoadOptions { rules: rules(), ..Default::default() };
        let mut whisper = Whisper::open(&golden("whisper-random"), backend(&mlx, fused), options)
            .expect("it loads");
        let (hidden, logits) =
            whisper.forward(of("input_features"), of("decoder_input_ids")).expect("it runs");
        close("hidden", &hidden.to_f64(), &of("encoder_last_hidden_state").to_f64(), 1e-4);
        close("logits", &logits.to_f64(), &of("logits").to_f64(), 1e-4);
    }
}

/// Sentences and their vectors by another implementation.
#[derive(Deserialize)]
struct Embeddings {
    sentences: Vec<String>,
    emb: Vec<Vec<f64>>,
}

#[test]
fn embeddings_are_those_of_sentence_transformers() {
    let Some(mlx) = mlx() else { return };
    let text = std::fs::read_to_string(golden("minilm/ref_embeddings.json")).expect("numbers");
    let wanted: Embeddings = serde_json::from_str(&text).expect("numbers");
    let folder = assets::ensure(&ALL_MINILM_L6_V2, true).expect("the checkpoint");
    for fused in [false, true] {
        let rules = if fused { fast_kernels() } else { Vec::new() };
        let options = encoder::LoadOptions { rules, ..Default::default() };
        let mut embedder =
            TextEmbedder::open(&folder, backend(&mlx, fused), options).expect("it loads");
        let texts: Vec<&str> = wanted.sentences.iter().map(String::as_str).collect();
        let got = embedder.embed(&texts).expect("vectors");
        for (text, (got, want)) in texts.iter().zip(got.iter().zip(&wanted.emb)) {
            let got: Vec<f64> = got.iter().map(|&x| f64::from(x)).collect();
            close(text, &got, want, 1e-5);
        }
    }
}
