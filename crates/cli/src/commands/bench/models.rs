//! Whole models in turn with the libraries that people run them with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use frit::cpu::{Cpu, Pool};
use frit::graph::{DType, Policy, Value, compile, recognise};
use frit::load::onnx::OnnxModel;
use frit::models::fast_kernels;
use frit::models::llama::{Llama, LlamaConfig, LoadOptions};
use frit::ops::recognisers;
use serde_json::{Value as Json, json};

use super::super::Failure;
use super::super::demo::measure::hear;
use super::super::speech::{Checkpoint, recordings};
use crate::assets::{
    self, Asset, JFK, PARAPHRASE_MINILM_ONNX, PP_OCR_V4_REC_ONNX, SMOLLM2_135M_INSTRUCT,
    VIT_S_FOCUS_ONNX, WHISPER_TINY_EN,
};
use crate::bench::{Comparison, Effort, SHORT, Sampler, Timed, WARM, median, rounds, turns};
use crate::floor::Limits;
use crate::peers::Peer;

/// A model at a piece of work.
pub(super) struct Work {
    pub(super) name: &'static str,
    pub(super) peer: &'static str,
    kind: Kind,
}

enum Kind {
    /// A recording to text.
    Speech,
    /// So many tokens of a prompt.
    Prefill(usize),
    /// So many tokens after a short prompt; the time of one.
    Decode(usize),
    /// An ONNX file on inputs of these shapes: numbers, or token ids.
    Onnx { asset: &'static Asset, shape: &'static [usize] },
}

/// What is benched.
pub(super) const WORKS: &[Work] = &[
    Work { name: "whisper_tiny_en_jfk", peer: "faster_whisper", kind: Kind::Speech },
    Work { name: "smollm2_prefill_512", peer: "llama_cpp", kind: Kind::Prefill(512) },
    Work { name: "smollm2_decode", peer: "llama_cpp", kind: Kind::Decode(64) },
    onnx("minilm_l3_1x16", &PARAPHRASE_MINILM_ONNX, &[1, 16]),
    onnx("minilm_l3_8x128", &PARAPHRASE_MINILM_ONNX, &[8, 128]),
    onnx("minilm_l3_32x128", &PARAPHRASE_MINILM_ONNX, &[32, 128]),
    onnx("vit_s_focus", &VIT_S_FOCUS_ONNX, &[1, 3, 224, 224]),
    onnx("pp_ocr_v4_rec", &PP_OCR_V4_REC_ONNX, &[1, 3, 48, 320]),
];

const fn onnx(name: &'static str, asset: &'static Asset, shape: &'static [usize]) -> Work {
    Work { name, peer: "ort", kind: Kind::Onnx { asset, shape } }
}

/// Something that runs once and says how many seconds that took.
type Timer<'a> = Box<dyn FnMut() -> Result<f64, Failure> + 'a>;

/// Both sides, what the peer is asked, and the floor in seconds where it is known.
struct Sides<'a> {
    composed: Timer<'a>,
    fused: Timer<'a>,
    ask: Json,
    arrays: Vec<(String, Value)>,
    floor: Option<f64>,
}

/// Times a model composed and fused, in turn with a peer if there is one.
pub(super) fn compare(
    work: &Work,
    pool: &Pool,
    effort: Effort,
    limits: &Limits,
    peer: Result<&mut Peer, String>,
) -> Result<Comparison, Failure> {
    let mut sides = work.kind.sides(pool, limits)?;
    // The first of each compiles, packs weights and touches memory.
    (sides.composed)()?;
    (sides.fused)()?;
    let mut one = || sample(&mut sides.composed).map(Some);
    let mut other = || sample(&mut sides.fused).map(Some);
    let mut samplers: Vec<Sampler<'_, Failure>> = vec![&mut one, &mut other];
    let arrays: Vec<(&str, &Value)> = sides.arrays.iter().map(|(n, v)| (&**n, v)).collect();
    let mut ready;
    let times = match peer {
        Ok(peer) => {
            ready = peer.make_model(sides.ask, &arrays).map_err(|e| e.to_string());
            let mut theirs = turns(peer, &mut ready, effort);
            samplers.push(&mut theirs);
            rounds(&mut samplers, effort)?
        }
        Err(why) => {
            ready = Err(why);
            rounds(&mut samplers, effort)?
        }
    };
    let us = |k: usize| times.get(k).map_or(f64::NAN, |t| median(t) * 1e6);
    Ok(Comparison {
        case: work.name,
        op: "model",
        dtype: DType::F32,
        threads: pool.threads(),
        composed_us: us(0),
        fused_us: us(1),
        floor_us: sides.floor.map_or(f64::NAN, |s| s * 1e6),
        peers: vec![(work.peer, ready.map(|()| Timed { us: us(2), composed: false }))],
        max_abs_diff: f64::NAN,
        not_fused: None,
        flops: None,
        bytes: 0,
    })
}

/// A run; of what is short one more, with caches and threads awake.
fn sample(timer: &mut Timer<'_>) -> Result<f64, Failure> {
    let waking = Instant::now();
    let seconds = timer()?;
    if seconds >= SHORT.as_secs_f64() {
        return Ok(seconds);
    }
    while waking.elapsed() < WARM {
        timer()?;
    }
    timer()
}

impl Kind {
    fn sides(&self, pool: &Pool, limits: &Limits) -> Result<Sides<'static>, Failure> {
        match self {
            Kind::Speech => speech(pool),
            Kind::Prefill(tokens) => language(pool, limits, *tokens, 0),
            Kind::Decode(steps) => language(pool, limits, 16, *steps),
            Kind::Onnx { asset, shape } => file(pool, asset, shape),
        }
    }
}

fn member(asset: &'static Asset) -> Result<PathBuf, Failure> {
    Ok(assets::ensure(asset, false)?.join(asset.members[0].file))
}

fn timed<T>(run: impl FnOnce() -> Result<T, Failure>) -> Result<f64, Failure> {
    let started = Instant::now();
    run()?;
    Ok(started.elapsed().as_secs_f64())
}

fn speech(pool: &Pool) -> Result<Sides<'static>, Failure> {
    let recording = member(&JFK)?;
    let samples = recordings(std::slice::from_ref(&recording))?.concat();
    let folder = assets::ensure(&WHISPER_TINY_EN, false)?;
    let checkpoint = Arc::new(Checkpoint::open(&folder)?);
    let cpu = Cpu::on(pool.clone());
    let side = |fused: bool| -> Timer<'static> {
        let (cpu, rules) = match fused {
            true => (cpu.clone(), fast_kernels()),
            false => (cpu.clone().without_fused(), Vec::new()),
        };
        let mut model = checkpoint.model(Arc::new(cpu), rules, Policy::Allow);
        let (checkpoint, samples) = (checkpoint.clone(), samples.clone());
        let (path, threads) = (recording.clone(), pool.threads());
        Box::new(move || {
            timed(|| {
                hear(&mut model, &checkpoint, &samples, threads)
                    .map_err(|source| Failure::Speech { path: path.clone(), source })
            })
        })
    };
    let array = Value::new([samples.len()], samples.clone())?;
    Ok(Sides {
        composed: side(false),
        fused: side(true),
        ask: json!({ "speech": folder }),
        arrays: vec![("samples".into(), array)],
        floor: None,
    })
}

/// Tokens of no meaning: times do not depend on it.
fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 7919 + 3) % 49_000).collect()
}

fn language(
    pool: &Pool,
    limits: &Limits,
    prompt: usize,
    steps: usize,
) -> Result<Sides<'static>, Failure> {
    let path = member(&SMOLLM2_135M_INSTRUCT)?;
    let checkpoint = frit::load::open(&path)?;
    let cpu = Cpu::on(pool.clone());
    let prompt = tokens(prompt);
    let model = |fused: bool| {
        let (cpu, rules) = match fused {
            true => (cpu.clone(), fast_kernels()),
            false => (cpu.clone().without_fused(), Vec::new()),
        };
        let options =
            LoadOptions { rules, policy: Policy::Allow, dtype: DType::F32, cache: DType::F32 };
        Llama::from_checkpoint(&checkpoint, Arc::new(cpu), options)
    };
    let side = |mut model: Llama| -> Timer<'static> {
        let prompt = prompt.clone();
        Box::new(move || {
            let capacity = prompt.len() + steps;
            let begin = timed(|| {
                let said = model.prefill(std::slice::from_ref(&prompt), capacity);
                Ok(said?)
            })?;
            if steps == 0 {
                return Ok(begin);
            }
            let all = timed(|| {
                for token in tokens(steps) {
                    model.step(&[token])?;
                }
                Ok(())
            })?;
            Ok(all / steps as f64)
        })
    };
    let (composed, fused) = (model(false)?, model(true)?);
    let floor = match steps {
        0 => flops(fused.config(), prompt.len()) / limits.product,
        n => fused.bytes_per_token(prompt.len() + n / 2) as f64 / limits.read,
    };
    Ok(Sides {
        composed: side(composed),
        fused: side(fused),
        ask: json!({ "language": path, "prompt": prompt, "steps": steps }),
        arrays: Vec::new(),
        floor: Some(floor),
    })
}

/// Multiplications and additions of a prompt: every weight of a layer once a token, the scores that
/// the causal rule keeps, and the head for the last token alone.
fn flops(c: &LlamaConfig, tokens: usize) -> f64 {
    let (hidden, head) = (c.hidden_size, c.head_dim);
    let projections = 2 * hidden * head * (c.num_attention_heads + c.num_key_value_heads);
    let weights = projections + 3 * hidden * c.intermediate_size;
    let scores = c.num_attention_heads * 2 * head * tokens * (tokens + 1) / 2;
    2.0 * (c.layers.len() * (weights * tokens + scores) + hidden * c.vocab_size) as f64
}

fn file(pool: &Pool, asset: &'static Asset, shape: &[usize]) -> Result<Sides<'static>, Failure> {
    let path = member(asset)?;
    let model = OnnxModel::open(&path)?;
    let numel: usize = shape.iter().product();
    let mut arrays = Vec::new();
    for port in model.inputs() {
        let value = match port.dtype {
            DType::F32 => {
                let wave = (0..numel).map(|i| (i as f32 * 0.37).sin());
                Value::new(shape, wave.collect::<Vec<f32>>())?
            }
            _ => {
                let id = |i: usize| match &*port.name {
                    "attention_mask" => 1,
                    "token_type_ids" => 0,
                    _ => 1000 + i as i64 % 20_000,
                };
                Value::new(shape, (0..numel).map(id).collect::<Vec<i64>>())?
            }
        };
        arrays.push((port.name.clone(), value));
    }
    let given = arrays.iter().cloned().collect();
    let (graph, params, _) = model.graph_for(&given)?;
    let (found, _) = recognise(&graph, &recognisers())?;
    let cpu = Cpu::on(pool.clone());
    let composed = compile(&graph, &cpu.clone().without_fused(), &params, Policy::Allow)?;
    let fused = compile(&found, &cpu, &params, Policy::Allow)?;
    let inputs: Vec<Value> = arrays.iter().map(|(_, v)| v.clone()).collect();
    let side = |program: frit::graph::Program| -> Timer<'static> {
        let inputs = inputs.clone();
        Box::new(move || timed(|| Ok(program.run(inputs.clone())?)))
    };
    Ok(Sides {
        composed: side(composed),
        fused: side(fused),
        ask: json!({ "onnx": path }),
        arrays,
        floor: None,
    })
}
