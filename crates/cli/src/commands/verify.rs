//! `frit verify`: a model, run fused, against itself, composed, Block by Block.
//!
//! Every fused Block's output becomes an output of the graph. The graph then runs twice on the same
//! inputs, once with the fused kernels and once with every Block replaced by its composition, and
//! the outputs are compared in graph order. The outputs of the model are compared with those of the
//! graph before anything was put in the place of its layers, so that a wrong rule shows as well.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use frit::cpu::{Cpu, Pool};
use frit::graph::{
    Backend, DType, Graph, Op, Params, Policy, Spec, Tensor, Value, compile, recognise, rewrite,
};
use frit::load::{Checkpoint, OnnxModel};
use frit::models::Traced;
use frit::models::fast_kernels;
use frit::models::llama::{self, Llama};
use frit::models::whisper::config::WhisperConfig;
use frit::models::whisper::model::{LoadOptions, Whisper};
use frit::ops::recognisers;
use serde::Serialize;

use super::given::{Given, extension, read, unit};
use super::out::{row, table};
use super::{BackendName, Failure, Machine, Out, Threads, Verdict, count, plain};

const EXAMPLES: &str = "\
A Block is an operation that has a kernel of its own, and a meaning in small operations; both must
give the same numbers. They pass if |fused - composed| <= bound * (1 + largest) everywhere, where
`largest` is the largest number of the row (along the last axis) in the composed output. Differences
add up from Block to Block, so look at the first one past the bound; the exit status is 1 if there is
one. `relative` is the largest difference over the largest number of that output.

Inputs that no file gives are random, the same for the same seed. They have the names of the file
(ONNX), input_ids, or input_features and decoder_input_ids (Whisper).

Examples:
  frit verify model.onnx --dim sequence=16
  frit verify SmolLM2-135M-Instruct.gguf --tokens 8 --bound 1e-3
  frit verify whisper-tiny/ --inputs inputs.safetensors --json";

/// Arguments of `frit verify`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    /// An ONNX file, or a checkpoint: a folder or a GGUF file
    model: PathBuf,
    /// Inputs by name: .safetensors or .npz
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Begins the random numbers of the inputs that no file gives
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    random: u64,
    /// An extent that an ONNX file leaves open, for random inputs; without NAME for all of them
    #[arg(long, value_name = "[NAME=]N")]
    dim: Vec<String>,
    /// How many random tokens a language model or a decoder gets
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    tokens: u16,
    /// The most that a Block may differ
    #[arg(long, value_name = "B", default_value_t = 1e-4, value_parser = bound)]
    bound: f64,
    /// What runs the graphs, composed and fused
    ///
    /// [default: cpu; mlx where it is built in and has a GPU]
    #[arg(long, value_enum)]
    backend: Option<BackendName>,
    #[command(flatten)]
    threads: Threads,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn bound(text: &str) -> Result<f64, String> {
    let found = text.parse::<f64>().ok().filter(|b| b.is_finite() && *b >= 0.0);
    found.ok_or_else(|| "wants a number that is not negative".to_string())
}

/// What is verified.
struct Subject {
    /// The graph as it was.
    plain: Graph,
    /// The graph with Blocks in it.
    rewritten: Graph,
    params: Params,
    inputs: Vec<Value>,
    outputs: Vec<String>,
}

/// A Block, or an output of the model.
#[derive(Serialize)]
struct Line {
    /// Its place in the graph, from 1.
    number: usize,
    name: String,
    spec: String,
    /// Whether it ran as one kernel.
    fused: bool,
    max_abs: f64,
    max_rel: f64,
    within: bool,
}

#[derive(Serialize)]
struct Summary {
    model: String,
    threads: usize,
    bound: f64,
    passed: bool,
    first_past: Option<usize>,
    fused: usize,
    blocks: Vec<Line>,
    outputs: Vec<Line>,
}

/// Runs the command.
///
/// # Errors
/// Files that are missing or damaged, a model that is not known, inputs that do not fit it.
pub fn run(args: &VerifyArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let pool = args.threads.pool();
    let subject = match extension(&args.model) {
        "onnx" => onnx(args)?,
        _ => checkpoint(args, &pool)?,
    };
    let machine = |composed| Machine { backend: args.backend, composed, threads: args.threads };
    let (fused, composed) = (machine(false).backend(&pool)?, machine(true).backend(&pool)?);
    let blocks: Vec<Tensor> = subject.rewritten.nodes().into_iter().filter(is_block).collect();
    let outputs = [subject.rewritten.outputs(), &blocks].concat();
    let tapped = Graph::new(subject.rewritten.inputs().to_vec(), outputs)?;
    let values = |graph: &Graph, backend: &dyn Backend| -> Result<Vec<Value>, Failure> {
        let program = compile(graph, backend, &subject.params, Policy::Allow)?;
        Ok(program.run(subject.inputs.clone())?)
    };
    let (fast, slow) = (values(&tapped, &*fused)?, values(&tapped, &*composed)?);
    let truth = values(&subject.plain, &*composed)?;
    let compared = |number: usize, name: &str, fused: bool, got: &Value, wanted: &Value| {
        let Difference { max_abs, max_rel, within } = difference(got, wanted, args.bound);
        let (name, spec) = (name.to_string(), got.spec().to_string());
        Line { number, name, spec, fused, max_abs, max_rel, within }
    };
    let named = subject.outputs.iter().zip(fast.iter().zip(&truth)).enumerate();
    let outputs: Vec<Line> =
        named.map(|(i, (name, (got, wanted)))| compared(i + 1, name, true, got, wanted)).collect();
    let first = subject.plain.outputs().len();
    let pairs = blocks.iter().zip(fast[first..].iter().zip(&slow[first..])).enumerate();
    let lines: Vec<Line> = pairs
        .map(|(i, (t, (got, wanted)))| compared(i + 1, t.name(), is_fused(&*fused, t), got, wanted))
        .collect();
    let first_past = lines.iter().find(|l| !l.within).map(|l| l.number);
    let passed = first_past.is_none() && outputs.iter().all(|l| l.within);
    let summary = Summary {
        model: args.model.display().to_string(),
        threads: pool.threads(),
        bound: args.bound,
        passed,
        first_past,
        fused: lines.iter().filter(|l| l.fused).count(),
        blocks: lines,
        outputs,
    };
    if args.json {
        out.json(&summary)?;
    } else {
        out.text(&text(&summary))?;
    }
    Ok(if passed { Verdict::Passed } else { Verdict::Failed })
}

fn is_block(t: &Tensor) -> bool {
    matches!(t.op(), Op::Block(b) if !b.is_container())
}

fn is_fused(backend: &dyn Backend, t: &Tensor) -> bool {
    let specs: Vec<Option<&Spec>> =
        t.inputs().iter().map(|i| i.as_ref().map(|i| i.spec())).collect();
    matches!(t.op(), Op::Block(b) if backend.accept(&**b, &specs).is_ok())
}

struct Difference {
    max_abs: f64,
    max_rel: f64,
    within: bool,
}

/// How far two values are apart. A row, along the last axis, has one measure: small numbers in it
/// are made of large ones. NaN against a number is past any bound.
fn difference(got: &Value, wanted: &Value, bound: f64) -> Difference {
    let (got_spec, row) = (got.spec(), wanted.shape().last().copied().unwrap_or(1).max(1));
    let (mut max_abs, mut largest, mut within) = (0.0f64, 0.0f64, got_spec == wanted.spec());
    for (got, wanted) in got.to_f64().chunks(row).zip(wanted.to_f64().chunks(row)) {
        let finite = wanted.iter().filter(|b| b.is_finite());
        let most = finite.fold(0.0f64, |most, b| most.max(b.abs()));
        largest = largest.max(most);
        for (a, b) in got.iter().zip(wanted) {
            if a == b || a.is_nan() && b.is_nan() {
                continue;
            }
            let d = (a - b).abs();
            within &= d.is_finite() && d <= bound * (1.0 + most);
            max_abs = if d.is_nan() || max_abs.is_nan() { f64::NAN } else { max_abs.max(d) };
        }
    }
    let max_rel = if largest > 0.0 { max_abs / largest } else { max_abs };
    Difference { max_abs, max_rel, within }
}

fn onnx(args: &VerifyArgs) -> Result<Subject, Failure> {
    let model = OnnxModel::open(&args.model)?;
    let input = args.inputs.iter().map(|p| p.display().to_string()).collect();
    let given = Given { input, dim: args.dim.clone() };
    let mut inputs = given.values(&model, Some(args.random))?;
    let (plain, params, _) = model.graph_for(&inputs)?;
    let (rewritten, _) = recognise(&plain, &recognisers())?;
    let inputs = model.inputs().iter().filter_map(|p| inputs.remove(&p.name)).collect();
    let outputs = model.outputs().iter().map(|p| p.name.clone()).collect();
    Ok(Subject { plain, rewritten, params, inputs, outputs })
}

/// A model of our own by the `model_type` of its configuration.
fn checkpoint(args: &VerifyArgs, pool: &Pool) -> Result<Subject, Failure> {
    if !args.dim.is_empty() {
        return Err(Failure::Usage("--dim is for ONNX files; see --tokens".into()));
    }
    let checkpoint = frit::load::open(&args.model)?;
    let mut given = BTreeMap::new();
    if let Some(path) = &args.inputs {
        given.extend(read(path)?.into_iter().filter_map(|(n, v)| Some((n?, v))));
    }
    // Nothing is compiled on it: only the graph is made.
    let backend: Arc<dyn Backend> = Arc::new(Cpu::on(pool.clone()));
    let (traced, outputs) = match checkpoint.config["model_type"].as_str() {
        Some("whisper") => whisper(args, &checkpoint, &given, backend)?,
        _ => language(args, &checkpoint, &given, backend)?,
    };
    let (rewritten, _) = rewrite(&traced.graph, &fast_kernels())?;
    let Traced { graph: plain, params, inputs } = traced;
    let outputs = outputs.iter().map(|o| o.to_string()).collect();
    Ok(Subject { plain, rewritten, params, inputs, outputs })
}

type Made = (Traced, &'static [&'static str]);

fn whisper(
    args: &VerifyArgs,
    checkpoint: &Checkpoint,
    given: &BTreeMap<String, Value>,
    backend: Arc<dyn Backend>,
) -> Result<Made, Failure> {
    let config = WhisperConfig::from_json(&checkpoint.config).map_err(|source| {
        frit::models::Error::Config { path: args.model.display().to_string(), source }
    })?;
    let (rules, policy, dtype) = (fast_kernels(), Policy::Allow, DType::F32);
    let options = LoadOptions { rules, policy, dtype };
    let shape = [1, config.num_mel_bins, config.frames()];
    let (vocab, most) = (config.vocab_size, config.max_target_positions);
    let model = Whisper::new(config, checkpoint.params_for(dtype), backend, options);
    let features = match given.get("input_features") {
        Some(features) => features.clone(),
        None => {
            let numbers = unit(args.random).take(shape.iter().product());
            Value::new(shape, numbers.map(|u| (2.0 * u - 1.0) as f32).collect::<Vec<f32>>())?
        }
    };
    let ids = match given.get("decoder_input_ids") {
        Some(ids) => ids.clone(),
        None => ids(args.random, usize::from(args.tokens).min(most), vocab)?,
    };
    Ok((model.trace(&features, &ids)?, &["encoder_last_hidden_state", "logits"]))
}

fn language(
    args: &VerifyArgs,
    checkpoint: &Checkpoint,
    given: &BTreeMap<String, Value>,
    backend: Arc<dyn Backend>,
) -> Result<Made, Failure> {
    let model = Llama::from_checkpoint(checkpoint, backend, llama::LoadOptions::default())?;
    let random = ids(args.random, args.tokens.into(), model.config().vocab_size)?;
    let ids = given.get("input_ids").unwrap_or(&random);
    let traced = model.trace(ids, given.get("attention_mask"), given.get("position_ids"))?;
    Ok((traced, &["logits"]))
}

/// Random tokens.
fn ids(seed: u64, tokens: usize, vocab: usize) -> Result<Value, Failure> {
    let ids = unit(seed).take(tokens).map(|u| (u * vocab as f64) as i64);
    Ok(Value::new([1, tokens], ids.collect::<Vec<i64>>())?)
}

fn text(s: &Summary) -> String {
    let threads = count(s.threads, "thread");
    let mut out = format!(
        "{} of {}, {} of them fused, on cpu, {threads}: fused against composed\n\n",
        count(s.blocks.len(), "Block"),
        plain(&s.model),
        s.fused
    );
    let mut rows = vec![row(["", "Block", "output", "kernel", "max abs", "relative"])];
    let cells = |number: String, kernel: &str, l: &Line| {
        let past = if l.within { "" } else { ", past the bound" };
        let kernel = format!("{kernel}{past}");
        let (abs, rel) = (format!("{:.2e}", l.max_abs), format!("{:.2e}", l.max_rel));
        vec![number, plain(&l.name), l.spec.clone(), kernel, abs, rel]
    };
    for l in &s.blocks {
        rows.push(cells(l.number.to_string(), if l.fused { "fused" } else { "none" }, l));
    }
    for l in &s.outputs {
        rows.push(cells("output".into(), "", l));
    }
    out += &table(4, &rows);
    let bound = s.bound;
    let first = s.first_past.and_then(|n| s.blocks.get(n - 1));
    out += &match (s.passed, first) {
        (true, _) => format!("\nall within {bound:e}\n"),
        (false, Some(l)) => {
            format!("\nfirst past {bound:e}: Block {} {} {}\n", l.number, plain(&l.name), l.spec)
        }
        (false, None) => format!("\nno Block, but an output is past {bound:e}\n"),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(data: &[f32]) -> Value {
        Value::new([data.len()], data.to_vec()).expect("a value")
    }

    #[test]
    fn differences_are_measured_against_what_is_composed() {
        let d = difference(&floats(&[1.0, 4.5]), &floats(&[1.0, 4.0]), 0.1);
        assert_eq!((d.max_abs, d.max_rel, d.within), (0.5, 0.125, true), "0.5 <= 0.1 * (1 + 4)");
        assert!(!difference(&floats(&[1.0, 4.75]), &floats(&[1.0, 4.0]), 0.1).within);
        let rows = |data: [f32; 2]| Value::new([2, 1], data.to_vec()).expect("a value");
        assert!(difference(&floats(&[1.4, 4.0]), &floats(&[1.0, 4.0]), 0.1).within, "one row");
        assert!(!difference(&rows([1.4, 4.0]), &rows([1.0, 4.0]), 0.1).within, "two rows");
    }

    #[test]
    fn only_equal_infinities_and_two_nans_are_the_same() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let same = difference(&floats(&[inf, nan]), &floats(&[inf, nan]), 0.0);
        assert_eq!((same.max_abs, same.within), (0.0, true));
        assert!(!difference(&floats(&[nan]), &floats(&[1.0]), 1e9).within);
        assert!(!difference(&floats(&[-inf]), &floats(&[inf]), 1e9).within);
        let one = difference(&floats(&[nan, 2.0]), &floats(&[1.0, 1.0]), 0.0);
        assert!(one.max_abs.is_nan() && !one.within);
    }
}
