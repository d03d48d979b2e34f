//! What an ONNX file is run on: arrays of files, and random numbers for the rest.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use frit::graph::{Spec, Value};
use frit::load::onnx::{Dim, Port, read_tensor};
use frit::load::{OnnxModel, safetensors};

use super::{Failure, plain};
use crate::npy::{NpyError, read_npy, read_npz};

/// Inputs of an ONNX file.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Given {
    /// An input: .npy, .pb, .npz or .safetensors; the last two without NAME for all inputs
    #[arg(long, value_name = "[NAME=]FILE")]
    pub(super) input: Vec<String>,
    /// An extent that the file leaves open, for random inputs; without NAME for all of them
    #[arg(long, value_name = "[NAME=]N")]
    pub(super) dim: Vec<String>,
}

impl Given {
    /// The inputs that files give, and with a seed those that none gives.
    pub(super) fn values(
        &self,
        model: &OnnxModel,
        seed: Option<u64>,
    ) -> Result<BTreeMap<String, Value>, Failure> {
        let mut inputs = self.of_files(model)?;
        let dims = self.dims(model)?;
        for (i, port) in model.inputs().iter().enumerate() {
            if let Some(seed) = seed.filter(|_| !inputs.contains_key(&port.name)) {
                let value = random(port, &inputs, model, &dims, seed ^ i as u64)?;
                inputs.insert(port.name.clone(), value);
            }
        }
        Ok(inputs)
    }

    fn dims(&self, model: &OnnxModel) -> Result<Dims<'_>, Failure> {
        let mut dims = Dims::default();
        for text in &self.dim {
            let (name, extent) = match text.rsplit_once('=') {
                Some((name, extent)) => (Some(name), extent),
                None => (None, text.as_str()),
            };
            let Ok(extent) = extent.parse::<usize>() else {
                let message = format!("--dim {}: wants a number", plain(text));
                return Err(Failure::Usage(message));
            };
            let Some(name) = name else {
                dims.all = Some(extent);
                continue;
            };
            let open = model.inputs().iter().flat_map(|p| p.dims.iter().flatten());
            if !open.clone().any(|d| matches!(d, Dim::Named(n) if n == name)) {
                let mut names: Vec<String> =
                    open.filter(|d| matches!(d, Dim::Named(_))).map(Dim::to_string).collect();
                names.sort();
                names.dedup();
                let message = match names.is_empty() {
                    true => format!("--dim {}: the file names no extent", plain(text)),
                    false => format!("--dim {}: there are {}", plain(text), names.join(", ")),
                };
                return Err(Failure::Usage(message));
            }
            dims.named.insert(name, extent);
        }
        Ok(dims)
    }

    fn of_files(&self, model: &OnnxModel) -> Result<BTreeMap<String, Value>, Failure> {
        let mut inputs = BTreeMap::new();
        for argument in &self.input {
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
                        let message = format!("{path}: no array is called `{name}`");
                        return Err(Failure::Input(message));
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
}

/// Extents that are asked for.
#[derive(Default)]
struct Dims<'a> {
    named: BTreeMap<&'a str, usize>,
    all: Option<usize>,
}

/// How a path ends.
pub(super) fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default()
}

/// An array file that does not do.
pub(super) fn failed(path: &Path, e: &NpyError) -> Failure {
    Failure::Input(format!("{}: {}", path.display(), plain(&e.to_string())))
}

/// The arrays of a file; that of a file of one array has no name.
pub(super) fn read(path: &Path) -> Result<Vec<(Option<String>, Value)>, Failure> {
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

/// A value for an input; an open extent is that of the same name in another input, else the one
/// that is asked for, else 1.
fn random(
    port: &Port,
    inputs: &BTreeMap<String, Value>,
    model: &OnnxModel,
    dims: &Dims<'_>,
    seed: u64,
) -> Result<Value, Failure> {
    let bound = |name: &str| {
        let mut all =
            model.inputs().iter().filter_map(|p| Some((p.dims.as_ref()?, inputs.get(&p.name)?)));
        all.find_map(|(dims, value)| {
            let at = dims.iter().position(|d| matches!(d, Dim::Named(n) if n == name))?;
            value.shape().get(at).copied()
        })
    };
    let open = dims.all.unwrap_or(1);
    let extent = |dim: &Dim| match dim {
        Dim::Known(n) => *n,
        Dim::Named(name) => {
            bound(name).or_else(|| dims.named.get(name.as_str()).copied()).unwrap_or(open)
        }
        Dim::Any => open,
    };
    let shape: Vec<usize> = port.dims.iter().flatten().map(extent).collect();
    let spec = Spec::new(port.dtype, shape);
    let count = spec.checked_numel().filter(|&n| n < 1 << 32);
    let count = count.ok_or_else(|| Failure::Input(format!("input {port} is too large")))?;
    let numbers: Vec<f64> = match port.dtype.is_float() {
        true => unit(seed).take(count).map(|u| 2.0 * u - 1.0).collect(),
        false => unit(seed).take(count).map(|u| f64::from(u >= 0.5)).collect(),
    };
    Ok(Value::from_f64(spec, &numbers)?)
}

/// Random numbers from 0 to 1, the same for the same seed.
pub(super) fn unit(seed: u64) -> impl Iterator<Item = f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    })
}
