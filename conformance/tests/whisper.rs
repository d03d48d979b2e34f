//! Whisper against golden numbers of other implementations, composed and fused.
//!
//! The checkpoint and the recording are fetched (and kept) the first time.

use frit_cli::assets::{self, JFK, WHISPER_TINY_EN};
use frit_conformance::compare;
use frit_cpu::{Cpu, Pool};
use frit_graph::{Backend, Error, Outcome, Policy, Reference, Value};
use frit_load::{Checkpoint, safetensors};
use frit_models::{
    fast_kernels,
    whisper::{
        audio,
        config::WhisperConfig,
        decode::{SpeechModel, TimestampMode},
        format::Transcript,
        mel::LogMel,
        model::{LoadOptions, Whisper},
        tokens::{GenerationConfig, Tokenizer},
        transcribe::{TranscribeOptions, transcribe},
    },
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn tiny_en() -> Checkpoint {
    safetensors::read(golden("whisper-tiny.en.safetensors")).expect("golden numbers")
}

fn numbers(golden: &Checkpoint, name: &str) -> Vec<f64> {
    golden.tensor(name).expect(name).to_f64()
}

fn ids(golden: &Checkpoint, name: &str) -> Vec<u32> {
    let text = golden.metadata.get(name).expect(name);
    let inner = text.trim_matches(['[', ']']);
    inner.split(',').map(|n| n.trim().parse().expect("a token")).collect()
}

fn recording() -> Vec<f32> {
    let folder = assets::ensure(&JFK, true).expect("the recording");
    audio::load(&folder.join("jfk.wav")).expect("it loads")
}

fn folder() -> PathBuf {
    assets::ensure(&WHISPER_TINY_EN, true).expect("the checkpoint")
}

fn options(fused: bool) -> LoadOptions {
    match fused {
        true => LoadOptions { policy: Policy::Deny, ..LoadOptions::default() },
        false => LoadOptions { rules: Vec::new(), ..LoadOptions::default() },
    }
}

fn model(fused: bool) -> Whisper {
    let cpu = if fused { Cpu::default() } else { Cpu::composed() };
    Whisper::open(&folder(), Arc::new(cpu), options(fused)).expect("it loads")
}

fn heard(model: &mut Whisper, timestamps: TimestampMode) -> Transcript {
    let tokenizer = Tokenizer::from_folder(&folder()).expect("a tokenizer");
    let rules = GenerationConfig::from_folder(&folder()).expect("rules");
    let options = TranscribeOptions {
        timestamps,
        temperatures: vec![0.0],
        suppress: rules.suppress,
        suppress_begin: rules.suppress_begin,
        ..TranscribeOptions::default()
    };
    transcribe(model, &tokenizer, tokenizer.special(), &recording(), &options, &mut ())
        .expect("it is heard")
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64], bound: f64) {
    let d = compare(got, want, (0.0, bound));
    assert!(d.within, "{what}: max abs {:.3e} at {}", d.max_abs, d.at);
    println!("{what}: max abs {:.3e}", d.max_abs);
}

#[test]
fn the_log_mel_is_the_golden_one() {
    let mut samples = recording();
    samples.resize(480_000, 0.0);
    let mel = LogMel::new(80).expect("80 bands").compute(&samples);
    let got: Vec<f64> = mel.data.iter().map(|&x| f64::from(x)).collect();
    close("log-mel", &got, &numbers(&tiny_en(), "logmel"), 1e-4);
}

fn holds_against_golden_numbers(fused: bool) {
    let golden = tiny_en();
    let mut whisper = model(fused);
    let window: Vec<f32> = golden.tensor("logmel").expect("mel").to_f32();
    let hidden = whisper.encode_window(&window).expect("encoded");
    close("encoder", &hidden.to_f64(), &numbers(&golden, "encoder_out"), 2e-4);
    for (prompt, logits) in
        [("prompt", "logits0_notimestamps"), ("free_prompt", "logits0_timestamps")]
    {
        let begin = whisper.begin(&ids(&golden, prompt), 0).expect("begun");
        let got: Vec<f64> = begin.last.iter().map(|&x| f64::from(x)).collect();
        close(logits, &got, &numbers(&golden, logits), 2e-3);
    }

    // Plain greedy, without any rule, token by token.
    for (prompt, all) in [("prompt", "ids"), ("free_prompt", "free_ids")] {
        let (prompt, all) = (ids(&golden, prompt), ids(&golden, all));
        let mut row = whisper.begin(&prompt, 0).expect("begun").last;
        let mut got = prompt;
        while got.len() < all.len() {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            let token = best.expect("a row").0 as u32;
            got.push(token);
            row = whisper.step(token).expect("a step");
        }
        assert_eq!(got, all);
    }

    let transcript = heard(&mut whisper, TimestampMode::Off);
    let tokens: Vec<u32> = transcript.segments.iter().flat_map(|s| s.tokens.clone()).collect();
    let all = ids(&golden, "ids");
    assert_eq!(tokens, all[2..all.len() - 1], "without timestamps");
    assert_eq!(transcript.text.trim(), golden.metadata["text"].trim());
}

#[test]
fn composed_it_holds_against_golden_numbers() {
    holds_against_golden_numbers(false);
}

#[test]
fn fused_it_holds_against_golden_numbers() {
    holds_against_golden_numbers(true);
}

#[test]
fn timestamps_run_forward_and_cover_the_speech() {
    for fused in [false, true] {
        let transcript = heard(&mut model(fused), TimestampMode::Rules);
        let segments = &transcript.segments;
        assert!(!segments.is_empty());
        for s in segments {
            assert!(s.start < s.end && s.end <= 11.5, "{} to {}", s.start, s.end);
        }
        for pair in segments.windows(2) {
            assert!(pair[0].end <= pair[1].start + 1e-9);
        }
        assert!(segments[0].start < 1.0 && segments[segments.len() - 1].end > 9.0);
        let text = transcript.text.to_lowercase().replace([',', '.'], "");
        assert_eq!(
            text.trim(),
            "and so my fellow americans ask not what your country can do for you ask what you can \
             do for your country"
        );
    }
}

#[test]
fn rewritten_it_leaves_nothing_composed_and_unrewritten_it_says_what_is() {
    let mut fused = model(true);
    fused.warm_up().expect("deny lets it pass");
    for (name, compiled) in fused.programs() {
        let report = compiled.program.report();
        assert!(report.lines.iter().all(|l| l.outcome == Outcome::Fused), "{name}: {report}");
        assert!(report.fused() > 20, "{name}: {report}");
    }
    let load = LoadOptions { rules: Vec::new(), ..LoadOptions::default() };
    let mut plain = Whisper::open(&folder(), Arc::new(Cpu::default()), load).expect("it loads");
    plain.warm_up().expect("allowed");
    let (_, encoder) = plain.programs().find(|p| p.0 == "encoder").expect("an encoder");
    let report = encoder.program.report().to_string();
    for line in ["9 x nn.layer_norm", "4 x nn.attention", "6 x nn.gelu", "2 x nn.conv1d"] {
        assert!(report.contains(line), "{report}");
    }
    assert!(report.contains("composed (no kernel)"), "{report}");

    let deny = LoadOptions { rules: Vec::new(), policy: Policy::Deny, ..LoadOptions::default() };
    let mut denied = Whisper::open(&folder(), Arc::new(Cpu::default()), deny).expect("it loads");
    match denied.warm_up() {
        Err(frit_models::Error::Graph(Error::Denied(report))) => assert!(report.fused() == 0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_random_checkpoint_agrees_with_transformers_on_every_backend() {
    let expected = safetensors::read(golden("whisper-random/expected.safetensors")).expect("it");
    let of = |n: &str| expected.tensor(n).expect(n).clone();
    let two = || Cpu::on(Pool::new(2));
    let backends: [(&str, Arc<dyn Backend>, bool); 4] = [
        ("reference", Arc::new(Reference), false),
        ("reference, rewritten", Arc::new(Reference), true),
        ("composed", Arc::new(two().without_fused()), false),
        ("fused", Arc::new(two()), true),
    ];
    for (name, backend, fused) in backends {
        let rules = if fused { fast_kernels() } else { Vec::new() };
        let load = LoadOptions { rules, ..LoadOptions::default() };
        let mut whisper =
            Whisper::open(&golden("whisper-random"), backend, load).expect("it loads");
        let (hidden, logits) =
            whisper.forward(&of("input_features"), &of("decoder_input_ids")).expect("it runs");
        for (got, want) in [(hidden, "encoder_last_hidden_state"), (logits, "logits")] {
            let want_value = of(want);
            assert_eq!(got.shape(), want_value.shape());
            close(&format!("{want}, {name}"), &got.to_f64(), &want_value.to_f64(), 1e-4);
        }
    }
}

#[test]
fn prompts_of_any_length_give_what_single_steps_give() {
    // The prompt is padded to a power of two; what is behind must not show.
    let cpu: Arc<dyn Backend> = Arc::new(Cpu::on(Pool::new(2)));
    let load = LoadOptions::default();
    let mut whisper = Whisper::open(&golden("whisper-random"), cpu, load).expect("it loads");
    let frames = whisper.window_frames();
    let window: Vec<f32> = (0..80 * frames).map(|i| ((i * 31) % 97) as f32 / 97.0 - 0.5).collect();
    whisper.encode_window(&window).expect("encoded");
    let tokens: Vec<u32> = (0..40).map(|i| (i * 13 + 5) % 320).collect();
    let mut steps = vec![whisper.begin(&tokens[..1], 0).expect("begun").last];
    for &t in &tokens[1..] {
        steps.push(whisper.step(t).expect("a step"));
    }
    for n in [2, 3, 5, 8, 13, 33, 40] {
        let begin = whisper.begin(&tokens[..n], 1).expect("begun");
        for (got, want) in [(&begin.start, &steps[1]), (&begin.last, &steps[n - 1])] {
            let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            close(&format!("prompt of {n}"), &wide(got), &wide(want), 1e-4);
        }
    }
}

#[test]
fn calls_that_do_not_fit_the_model_are_errors() {
    let cpu: Arc<dyn Backend> = Arc::new(Cpu::on(Pool::new(1)));
    let open = || {
        Whisper::open(&golden("whisper-random"), cpu.clone(), LoadOptions::default()).expect("it")
    };
    let mut whisper = open();
    let early = whisper.begin(&[1, 2], 0).expect_err("nothing was encoded").to_string();
    assert_eq!(early, "no audio was encoded before decoding");
    let short = whisper.encode_window(&[0.0; 80]).expect_err("too short").to_string();
    assert_eq!(short, "the encoder hears [80, 200] numbers of log-mel, got 80");
    whisper.encode_window(&vec![0.0; 80 * 200]).expect("encoded");
    let outside = whisper.begin(&[1, 320], 0).expect_err("no such token").to_string();
    assert_eq!(outside, "[gather] index 320 is outside 0..320");
    let long = whisper.begin(&[1; 65], 0).expect_err("too long").to_string();
    assert_eq!(long, "65 tokens do not fit in the 64 positions of the decoder");
    whisper.begin(&[1; 64], 0).expect("it fits");
    assert!(whisper.step(1).is_err(), "the cache is full");

    let features = Value::new([1, 80, 0], Vec::<f32>::new()).expect("a value");
    let ids = Value::new([1, 1], vec![1i64]).expect("a value");
    let empty = open().forward(&features, &ids).expect_err("no frames").to_string();
    assert_eq!(empty, "input_features must be [B, 80, 200], got f32[1, 80, 0]");
    let features = Value::new([1, 80, 200], vec![0f32; 16_000]).expect("a value");
    let ids = Value::new([1, 0], Vec::<i64>::new()).expect("a value");
    let none = open().forward(&features, &ids).expect_err("no tokens").to_string();
    assert!(none.starts_with("decoder_input_ids must be integers [1, T] with T from 1 to 64"));
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let checkpoint = frit_load::open(golden("whisper-random")).expect("it loads");
    let config = WhisperConfig::from_json(&checkpoint.config).expect("a configuration");
    let cpu: Arc<dyn Backend> = Arc::new(Cpu::on(Pool::new(1)));
    let warm = |params: frit_graph::Params| {
        let mut w = Whisper::new(config.clone(), params, cpu.clone(), LoadOptions::default());
        w.warm_up().expect_err("a damaged checkpoint").to_string()
    };
    let name = "model.decoder.layers.1.fc2.weight";
    let mut params = checkpoint.params.clone();
    params.remove(name);
    assert_eq!(warm(params), "missing tensor `model.decoder.layers.1.fc2.weight` (f32[64, 112])");
    let mut params = checkpoint.params.clone();
    params.insert(name, Value::new([3], vec![0f32; 3]).expect("a value"));
    assert_eq!(warm(params), format!("tensor `{name}` must be f32[64, 112], got f32[3]"));
    // Halves are widened, but nothing is rounded unasked.
    let wide = checkpoint.cast(frit_graph::DType::F64);
    assert!(warm(wide).contains("must be f32"), "a wrong type is named");
}
