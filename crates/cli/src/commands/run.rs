//! `frit run`: an ONNX file on given inputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use frit::graph::{Policy, Spec, Value, compile, rewrite};
use frit::load::onnx::{Port, read_tensor};
use frit::load::{OnnxModel, safetensors};
use serde::Serialize;

use super::{Failure, Machine, Out, Verdict, note, plain};
use crate::npy::{NpyError, read_npy, read_npz, write_npz};

const EXAMPLES: &str = "\
Without inputs, the inputs and outputs of the model are listed. An archive gives every input that it
has an array of this name for; NAME=ARCHIVE gives one. The graph is made for the shapes of the
inputs, and where a value decides a shape (the size of a Resize), for this value.

Examples:
  frit run model.onnx                                          inputs and outputs
  frit run model.onnx --input x=image.npy --out y.npz
  frit run model.onnx --input inputs.npz --explain             what was fused, what not, and why
  frit run model.onnx --random 1 --composed --json";

/// Arguments of `frit run`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// An ONNX file, opset 7 or later
    model: PathBuf,
    /// An input: .npy, .pb, .npz or .safetensors; the last two without NAME for all inputs
    #[arg(long, value_name = "[NAME=]FILE")]
    input: Vec<String>,
    /// Where the outputs go, by their names: .npz or .safetensors
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Fill inputs that no file gives: floats from -1 to 1, integers 0 or 1; open extents are 1
    #[arg(long, value_name = "SEED")]
    random: Option<u64>,
    #[command(flatten)]
    machine: Machine,
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
    fused: usize,
    composed: usize,
    steps: usize,
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
    let idle = args.input.is_empty() && args.random.is_none() && args.out.is_none();
    if idle && !model.inputs().is_empty() {
        return list(args, &model, out);
    }
    let mut inputs = given(args, &model)?;
    if let Some(seed) = args.random {
        for (i, port) in model.inputs().iter().enumerate() {
            if !inputs.contains_key(&port.name) {
                inputs.insert(port.name.clone(), random(port, &inputs, &model, seed ^ i as u64)?);
            }
        }
    }
    let (graph, params, made_for) = model.graph_for(&inputs)?;
    let (graph, rewritten) = rewrite(&graph, &args.machine.rules())?;
    let pool = args.machine.threads.pool();
    let backend = args.machine.backend(&pool);
    let program = compile(&graph, &*backend, &params, Policy::Allow)?;
    let in_order = model.inputs().iter().filter_map(|p| inputs.remove(&p.name)).collect();
    let start = Instant::now();
    let outputs = program.run(in_order)?;
    let seconds = start.elapsed().as_secs_f64();

    let named: Vec<(&str, &Value)> =
        model.outputs().iter().map(|p| p.name.as_str()).zip(&outputs).collect();
    if let Some(path) = &args.out {
        match extension(path) {
            "npz" => write_npz(path, &named).map_err(|e| failed(path, &e))?,
            "safetensors" => frit::load::write(path, &named, &BTreeMap::new())?,
            _ => return Err(Failure::Usage("--out must end in .npz or .safetensors".into())),
        }
    }
    if args.explain {
        note(format!("{rewritten}{}", program.report()).trim_end());
    }
    let summary = Summary {
        backend: args.machine.words(&pool),
        fused: program.report().fused(),
        composed: program.report().composed().count(),
        steps: program.steps(),
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
        let Summary { backend, fused, composed, .. } = &summary;
        let ms = seconds * 1e3;
        note(&format!("{ms:.1} ms on {backend}; Blocks: {fused} fused, {composed} composed"));
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

fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default()
}

fn failed(path: &Path, e: &NpyError) -> Failure {
    Failure::Input(format!("{}: {}", path.display(), plain(&e.to_string())))
}

/// The inputs that files give.
fn given(args: &RunArgs, model: &OnnxModel) -> Result<BTreeMap<String, Value>, Failure> {
    let mut inputs = BTreeMap::new();
    for argument in &args.input {
        // A name may hold an equals sign, and so may a path: the names of the model decide.
        let known = model.inputs().iter().find_map(|port| {
            Some((&port.name, argument.strip_prefix(&port.name)?.strip_prefix('=')?))
        });
        let (name, path) = match (known, argument.split_once('=')) {
            (Some((name, path)), _) => (Some(name.as_str()), path),
            (None, Some((name, path))) if !Path::new(argument).exists() => (Some(name), path),
            (None, _) => (None, argument.as_str()),
        };
        let path = Path::new(path);
        let all = read(path)?;
        let wanted = |n: &String| model.inputs().iter().any(|p| p.name == *n);
        match name {
            Some(name) if all.len() == 1 && all[0].0.is_none() => {
                inputs.extend(all.into_iter().map(|(_, v)| (name.to_string(), v)));
            }
            Some(name) => {
                let found = all.into_iter().find(|(n, _)| n.as_deref() == Some(name));
                let Some((_, value)) = found else {
                    let (path, name) = (path.display(), plain(name));
                    return Err(Failure::Input(format!("{path}: no array is called `{name}`")));
                };
                inputs.insert(name.to_string(), value);
            }
            None => {
                let before = inputs.len();
                let named = all.into_iter().filter_map(|(n, v)| Some((n?, v)));
                inputs.extend(named.filter(|(n, _)| wanted(n)));
                if inputs.len() == before {
                    let path = path.display();
                    let message = format!("{path}: nothing in it is called as an input is");
                    return Err(Failure::Input(message));
                }
            }
        }
    }
    Ok(inputs)
}

/// The arrays of a file; that of a file of one array has no name.
fn read(path: &Path) -> Result<Vec<(Option<String>, Value)>, Failure> {
    match extension(path) {
        "npy" => Ok(vec![(None, read_npy(path).map_err(|e| failed(path, &e))?)]),
        "npz" => {
            let all = read_npz(path).map_err(|e| failed(path, &e))?;
            Ok(all.into_iter().map(|(n, v)| (Some(n), v)).collect())
        }
        "pb" => Ok(vec![(None, read_tensor(path)?.1)]),
        "safetensors" => {
            let checkpoint = safetensors::read(path)?;
            let all = checkpoint.params.iter().map(|(n, v)| (Some(n.to_string()), v.clone()));
            Ok(all.collect())
        }
        _ => {
            let path = path.display();
            let message = format!("{path}: an input must be .npy, .npz, .pb or .safetensors");
            Err(Failure::Usage(message))
        }
    }
}

/// A value for an input; an open extent is that of the same name in another input, else 1.
fn random(
    port: &Port,
    inputs: &BTreeMap<String, Value>,
    model: &OnnxModel,
    seed: u64,
) -> Result<Value, Failure> {
    use frit::load::onnx::Dim;
    let bound = |name: &str| {
        let mut all =
            model.inputs().iter().filter_map(|p| Some((p.dims.as_ref()?, inputs.get(&p.name)?)));
        all.find_map(|(dims, value)| {
            let at = dims.iter().position(|d| matches!(d, Dim::Named(n) if n == name))?;
            value.shape().get(at).copied()
        })
    };
    let extent = |dim: &Dim| match dim {
        Dim::Known(n) => *n,
        Dim::Named(name) => bound(name).unwrap_or(1),
        Dim::Any => 1,
    };
    let shape: Vec<usize> = port.dims.iter().flatten().map(extent).collect();
    let spec = Spec::new(port.dtype, shape);
    let count = spec.checked_numel().filter(|&n| n < 1 << 32);
    let count = count.ok_or_else(|| Failure::Input(format!("input {port} is too large")))?;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut number = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let unit = (state >> 11) as f64 / (1u64 << 53) as f64;
        if port.dtype.is_float() { 2.0 * unit - 1.0 } else { f64::from(unit >= 0.5) }
    };
    let numbers: Vec<f64> = (0..count).map(|_| number()).collect();
    Ok(Value::from_f64(spec, &numbers)?)
}
