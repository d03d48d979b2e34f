//! `frit run`: an ONNX file on given inputs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use frit::graph::{Policy, Value, compile, recognise};
use frit::load::OnnxModel;
use frit::load::onnx::Port;
use frit::ops::recognisers;
use serde::Serialize;

use super::given::{Given, extension, failed};
use super::profile::Profiling;
use super::{Failure, Machine, Out, Verdict, note, plain};
use crate::bench::median;
use crate::npy::write_npz;

const EXAMPLES: &str = "\
Without inputs, the inputs and outputs of the model are listed. An archive gives every input that it
has an array of this name for; NAME=ARCHIVE gives one. The graph is made for the shapes of the
inputs, and where a value decides a shape (the size of a Resize), for this value.

Operations that the file spells out in small ones are recognised and run as one kernel each, with
the same numbers up to rounding; --composed runs the file as it is written.

Examples:
  frit run model.onnx                                          inputs and outputs
  frit run model.onnx --input x=image.npy --out y.npz
  frit run model.onnx --input inputs.npz --explain             what was recognised and fused, and why not
  frit run model.onnx --random 1 --dim batch=2 --dim sequence=16
  frit run model.onnx --random 1 --composed --json
  frit run model.onnx --random 1 --runs 20 --profile           where the time goes";

/// Arguments of `frit run`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// An ONNX file, opset 7 or later
    model: PathBuf,
    #[command(flatten)]
    given: Given,
    /// Where the outputs go, by their names: .npz or .safetensors
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Fill inputs that no file gives: floats from -1 to 1, integers 0 or 1; open extents are 1 or --dim
    #[arg(long, value_name = "SEED")]
    random: Option<u64>,
    /// Run so many times: the time is the median (the first also pays for memory that is new)
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    runs: u16,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    profiling: Profiling,
    /// Print what was rewritten, fused and composed, and why, to the standard error
    #[arg(long)]
    explain: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An input or an output, in words.
#[derive(Serialize)]
struct Described {
    name: String,
    dtype: &'static str,
    shape: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Listed {
    inputs: Vec<Described>,
    outputs: Vec<Described>,
    nodes: usize,
}

#[derive(Serialize)]
struct OutputLine {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    least: f64,
    most: f64,
    mean: f64,
}

#[derive(Serialize)]
struct Summary {
    backend: String,
    /// Operations that were found in small ones.
    recognised: usize,
    fused: usize,
    composed: usize,
    steps: usize,
    /// How often it ran.
    runs: u16,
    /// The median of the runs.
    seconds: f64,
    /// Inputs whose values decided a shape.
    made_for: Vec<String>,
    outputs: Vec<OutputLine>,
}

/// Runs the command.
///
/// # Errors
/// A file that is missing or damaged, inputs that are missing or misshapen, operators that are not
/// supported.
pub fn run(args: &RunArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let model = OnnxModel::open(&args.model)?;
    let idle = args.given.input.is_empty() && args.random.is_none() && args.out.is_none();
    if idle && !model.inputs().is_empty() {
        return list(args, &model, out);
    }
    let mut inputs = args.given.values(&model, args.random)?;
    let (graph, params, made_for) = model.graph_for(&inputs)?;
    let rules = if args.machine.composed { Vec::new() } else { recognisers() };
    let (graph, found) = recognise(&graph, &rules)?;
    let pool = args.machine.threads.pool();
    let watch = args.profiling.watch();
    let backend = watch.backend(args.machine, &pool)?;
    let program = compile(&graph, &*backend, &params, Policy::Allow)?;
    let mut in_order: Vec<Value> =
        model.inputs().iter().filter_map(|p| inputs.remove(&p.name)).collect();
    let (mut outputs, mut times) = (Vec::new(), Vec::new());
    for left in (0..args.runs).rev() {
        outputs.clear();
        // What nobody else holds is written over where the graph says so, and not copied.
        let given = if left == 0 { std::mem::take(&mut in_order) } else { in_order.clone() };
        let start = Instant::now();
        outputs = program.run(given)?;
        times.push(start.elapsed().as_secs_f64());
    }
    let seconds = median(&times);

    let named: Vec<(&str, &Value)> =
        model.outputs().iter().map(|p| p.name.as_str()).zip(&outputs).collect();
    if let Some(path) = &args.out {
        match extension(path) {
            "npz" => write_npz(path, &named).map_err(|e| failed(path, &e))?,
            "safetensors" => frit::load::write(path, &named, &BTreeMap::new())?,
            _ => return Err(Failure::Usage("--out must end in .npz or .safetensors".into())),
        }
    }
    watch.tell()?;
    if args.explain {
        note(format!("{found}{}", program.report()).trim_end());
    }
    let summary = Summary {
        backend: args.machine.words(&pool),
        recognised: found.replaced(),
        fused: program.report().fused(),
        composed: program.report().composed().count(),
        steps: program.steps(),
        runs: args.runs,
        seconds,
        made_for,
        outputs: named.iter().map(|(name, value)| result(name, value)).collect(),
    };
    if args.json {
        out.json(&summary)?;
    } else {
        for (r, value) in summary.outputs.iter().zip(&outputs) {
            let (name, spec) = (plain(&r.name), value.spec());
            let OutputLine { least, most, mean, .. } = r;
            out.line(&format!("{name} {spec} from {least:.4} to {most:.4}, mean {mean:.6}"))?;
        }
        let Summary { backend, recognised, fused, composed, .. } = &summary;
        let ms = seconds * 1e3;
        let blocks = format!("{recognised} recognised, {fused} fused, {composed} composed");
        let of =
            if args.runs > 1 { format!(", the median of {}", args.runs) } else { String::new() };
        note(&format!("{ms:.1} ms on {backend}{of}; Blocks: {blocks}"));
        if !summary.made_for.is_empty() {
            note(&format!("made for these values of {}", plain(&summary.made_for.join(", "))));
        }
    }
    Ok(Verdict::Passed)
}

fn list(args: &RunArgs, model: &OnnxModel, out: &mut Out) -> Result<Verdict, Failure> {
    if args.json {
        let all = |ports: &[Port]| ports.iter().map(described).collect();
        let (inputs, outputs) = (all(model.inputs()), all(model.outputs()));
        out.json(&Listed { inputs, outputs, nodes: model.nodes() })?;
        return Ok(Verdict::Passed);
    }
    for port in model.inputs() {
        out.line(&format!("input  {port}"))?;
    }
    for port in model.outputs() {
        out.line(&format!("output {port}"))?;
    }
    Ok(Verdict::Passed)
}

fn described(port: &Port) -> Described {
    let shape = port.dims.as_ref().map(|d| d.iter().map(ToString::to_string).collect());
    Described { name: port.name.clone(), dtype: port.element, shape }
}

fn result(name: &str, value: &Value) -> OutputLine {
    let numbers = value.to_f64();
    let mean = numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
    // JSON has no infinities.
    let finite = |n: f64| if n.is_finite() { n } else { 0.0 };
    OutputLine {
        name: name.into(),
        dtype: value.dtype().name(),
        shape: value.shape().to_vec(),
        least: finite(numbers.iter().copied().fold(f64::INFINITY, f64::min)),
        most: finite(numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        mean: finite(mean),
    }
}
