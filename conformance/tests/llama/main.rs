//! The llama family against golden numbers of transformers on small random checkpoints, composed
//! and fused: passes and generation here, what is changed or damaged in `changed.rs`.

mod changed;
mod packed;

use frit_conformance::compare;
use frit_cpu::{Cpu, Pool};
use frit_graph::{DType, Outcome, Policy, Reference, Value};
use frit_load::{Checkpoint, safetensors};
use frit_models::llama::{Llama, LoadOptions};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

const MODELS: &[&str] = &[
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
];

fn golden(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tiny").join(model)
}

fn expected(model: &str) -> Checkpoint {
    safetensors::read(golden(model).join("expected.safetensors")).expect("golden numbers")
}

fn cpu() -> Cpu {
    Cpu::on(Pool::new(2))
}

fn options(fused: bool) -> LoadOptions {
    match fused {
        true => LoadOptions { policy: Policy::Deny, ..LoadOptions::default() },
        false => LoadOptions { rules: Vec::new(), ..LoadOptions::default() },
    }
}

fn open(model: &str, fused: bool) -> Llama {
    let cpu = if fused { cpu() } else { cpu().without_fused() };
    Llama::open(&golden(model), Arc::new(cpu), options(fused)).expect("it loads")
}

fn tokens(value: &Value) -> Vec<u32> {
    value.to_i64().iter().map(|&t| t as u32).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64], bound: f64) {
    let d = compare(got, want, (0.0, bound));
    assert!(d.within, "{what}: max abs {:.3e} at {}", d.max_abs, d.at);
}

fn best(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("a row").0 as u32
}

/// Logits at attended positions.
fn attended(logits: &Value, mask: &Value) -> Vec<f64> {
    let (all, v) = (logits.to_f64(), logits.shape()[2]);
    let mask = mask.to_i64();
    let kept = mask.iter().enumerate().filter(|(_, m)| **m != 0);
    kept.flat_map(|(i, _)| all[i * v..][..v].to_vec()).collect()
}

fn forward_is_golden(what: &str, llama: &mut Llama, model: &str) {
    let golden = expected(model);
    let of = |n: &str| golden.tensor(n).expect(n);
    let (ids, mask, positions) = (of("input_ids"), of("attention_mask"), of("position_ids"));
    let logits = llama.forward(ids, Some(mask), Some(positions)).expect("it runs");
    assert_eq!(logits.shape(), of("logits").shape());
    let want = attended(of("logits"), mask);
    close(&format!("{what} {model}"), &attended(&logits, mask), &want, 1e-4);
    // Positions that count the mask are what the golden ones are.
    let counted = llama.forward(ids, Some(mask), None).expect("it runs");
    assert_eq!(attended(&counted, mask), attended(&logits, mask), "{what} {model}");
}

fn generation_is_golden(llama: &mut Llama, model: &str) {
    let golden = expected(model);
    let of = |n: &str| golden.tensor(n).expect(n);
    let (prompt, greedy) = (tokens(of("prompt")), tokens(of("greedy")));
    let mut logits = llama.prefill(std::slice::from_ref(&prompt), 64).expect("a prompt");
    let mut said = Vec::new();
    while said.len() < greedy.len() {
        said.push(best(&logits[0]));
        logits = llama.step(&said[said.len() - 1..]).expect("a step");
    }
    assert_eq!(said, greedy, "{model}");
    assert_eq!(llama.position(), prompt.len() + greedy.len());

    // The rows of the batch, the padded one too, token by token past every window.
    let (ids, mask) = (tokens(of("input_ids")), of("attention_mask").to_i64());
    let (want, t, v) =
        (of("logits").to_f64(), of("input_ids").shape()[1], llama.config().vocab_size);
    for row in 0..2 {
        let first = (0..t).find(|s| mask[row * t + s] != 0).expect("a token");
        let real = &ids[row * t + first..(row + 1) * t];
        let want = |n: usize| &want[(row * t + first + n) * v..][..v];
        let mut last = llama.prefill(&[real[..5].to_vec()], t).expect("a prompt").remove(0);
        close(&format!("{model}, prompt of row {row}"), &wide(&last), want(4), 1e-4);
        for (n, token) in real.iter().enumerate().skip(5) {
            last = match n % 4 {
                1 => llama.append(&[*token]).expect("appended"),
                _ => llama.step(&[*token]).expect("a step").remove(0),
            };
            close(&format!("{model}, token {n} of row {row}"), &wide(&last), want(n), 1e-4);
        }
        // The same in chunks, which programs of fewer sizes serve.
        let mut at = llama.prefill(&[real[..1].to_vec()], t).map(|_| 1).expect("a prompt");
        for n in [3, 8, 1, 11, 2] {
            let end = (at + n).min(real.len());
            last = llama.append(&real[at..end]).expect("appended");
            close(&format!("{model}, up to {end} of row {row}"), &wide(&last), want(end - 1), 1e-4);
            at = end;
        }
    }
}

fn holds_against_golden_numbers(model: &str) {
    for fused in [false, true] {
        let mut llama = open(model, fused);
        let what = if fused { "fused" } else { "composed" };
        forward_is_golden(what, &mut llama, model);
        generation_is_golden(&mut llama, model);
        if fused {
            for (name, compiled) in llama.programs() {
                let report = compiled.program.report();
                let all = report.lines.iter().all(|l| l.outcome == Outcome::Fused);
                assert!(all && report.fused() > 10, "{model}, {name}: {report}");
            }
        }
    }
}

#[test]
fn llama_holds_against_golden_numbers() {
    holds_against_golden_numbers("llama");
    let mut llama =
        Llama::open(&golden("llama"), Arc::new(Reference), options(false)).expect("it loads");
    forward_is_golden("reference", &mut llama, "llama");
}

#[test]
fn scaled_rotary_frequencies_hold_against_golden_numbers() {
    for model in ["llama3_scaled", "llama_linear", "llama_yarn", "phi3_longrope"] {
        holds_against_golden_numbers(model);
    }
}

#[test]
fn qwen_holds_against_golden_numbers() {
    holds_against_golden_numbers("qwen2");
    holds_against_golden_numbers("qwen3");
}

#[test]
fn windows_hold_against_golden_numbers() {
    holds_against_golden_numbers("mistral_window");
    holds_against_golden_numbers("gemma3");
}

#[test]
fn layers_that_do_not_turn_hold_against_golden_numbers() {
    holds_against_golden_numbers("smollm3");
}

#[test]
fn a_padded_batch_is_its_rows_alone() {
    for model in MODELS {
        let mut llama = open(model, true);
        let prompt = |n: u32, seed: u32| (0..n).map(|i| (i * 37 + seed * 11) % 320).collect();
        let prompts: Vec<Vec<u32>> = vec![prompt(3, 1), prompt(17, 2), prompt(1, 3), prompt(11, 4)];
        let steps: Vec<Vec<u32>> =
            (0..6).map(|s| (0..4).map(|b| 5 + 9 * s + 50 * b).collect()).collect();
        let mut together = llama.prefill(&prompts, 32).expect("a batch");
        let mut all = vec![together.clone()];
        for tokens in &steps {
            together = llama.step(tokens).expect("a step");
            all.push(together.clone());
        }
        for (b, prompt) in prompts.iter().enumerate() {
            let mut alone = llama.prefill(std::slice::from_ref(prompt), 32).expect("a prompt");
            for (n, tokens) in steps.iter().enumerate() {
                let what = format!("{model}, row {b}, step {n}");
                close(&what, &wide(&all[n][b]), &wide(&alone[0]), 1e-5);
                alone = llama.step(&tokens[b..=b]).expect("a step");
            }
            close(&format!("{model}, row {b}"), &wide(&all[6][b]), &wide(&alone[0]), 1e-5);
        }
    }
}

#[test]
fn prompts_of_any_length_give_what_a_pass_gives() {
    // Programs are compiled for a few lengths; what is behind a prompt must not show.
    for model in ["llama", "mistral_window"] {
        let mut llama = open(model, true);
        let text: Vec<u32> = (0..600).map(|i| (i * 29 + i / 7) % 320).collect();
        let ids: Vec<i64> = text.iter().map(|&t| i64::from(t)).collect();
        let ids = Value::new([1, 600], ids).expect("ids");
        let whole = llama.forward(&ids, None, None).expect("it runs").to_f64();
        let want = |n: usize| &whole[(n - 1) * 320..n * 320];
        for n in [1, 2, 3, 8, 31, 255, 256, 257, 511, 520] {
            let last = llama.prefill(&[text[..n].to_vec()], 600).expect("a prompt").remove(0);
            close(&format!("{model}, {n} tokens"), &wide(&last), want(n), 1e-4);
            let last = llama.append(&text[n..n + 70]).expect("appended");
            close(&format!("{model}, {n} and 70 tokens"), &wide(&last), want(n + 70), 1e-4);
        }
        assert_eq!((llama.position(), llama.capacity()), (590, 768));
        llama.reset();
        assert_eq!(llama.position(), 0);
    }
}

#[test]
fn longrope_turns_all_keys_again_when_the_text_outgrows_the_training() {
    let mut llama = open("phi3_longrope", true);
    let text: Vec<u32> = (0..70).map(|i| (i * 23 + 7) % 320).collect();
    let mut last = llama.prefill(&[text[..60].to_vec()], 128).expect("a prompt").remove(0);
    for n in 60..70 {
        let ids: Vec<i64> = text[..n].iter().map(|&t| i64::from(t)).collect();
        let ids = Value::new([1, n], ids).expect("ids");
        let whole = llama.forward(&ids, None, None).expect("it runs").to_f64();
        close(&format!("{n} tokens"), &wide(&last), &whole[(n - 1) * 320..], 1e-4);
        last = llama.step(&text[n..=n]).expect("a step").remove(0);
    }
}

#[test]
fn a_cache_of_halves_is_near() {
    let (mut full, load) = (open("qwen3", true), options(true));
    let load = LoadOptions { cache: DType::F16, ..load };
    let mut half = Llama::open(&golden("qwen3"), Arc::new(cpu()), load).expect("it loads");
    let prompt: Vec<u32> = (0..20).collect();
    let run = |llama: &mut Llama| {
        llama.prefill(std::slice::from_ref(&prompt), 32).expect("a prompt");
        wide(&llama.step(&[7]).expect("a step")[0])
    };
    let (near, exact) = (run(&mut half), run(&mut full));
    close("halves", &near, &exact, 5e-3);
    assert_ne!(near, exact, "the cache was rounded");
}

#[test]
fn half_precision_is_near_and_fuses_too() {
    for dtype in [DType::F16, DType::BF16] {
        let load = LoadOptions { dtype, cache: dtype, ..options(true) };
        for model in MODELS {
            let mut llama = Llama::open(&golden(model), Arc::new(cpu()), load.clone()).expect("it");
            let golden = expected(model);
            let of = |n: &str| golden.tensor(n).expect(n);
            let (ids, mask) = (of("input_ids"), of("attention_mask"));
            let logits = llama.forward(ids, Some(mask), None).expect("it runs");
            let want = attended(of("logits"), mask);
            let largest = want.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            let bound = largest * if dtype == DType::F16 { 0.01 } else { 0.08 };
            close(&format!("{model} {dtype}"), &attended(&logits, mask), &want, bound);
            llama.prefill(&[vec![1, 2, 3], vec![4]], 8).expect("a batch");
            llama.step(&[5, 6]).expect("a step");
        }
    }
}
