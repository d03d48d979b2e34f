//! The quantised checkpoints of MLX: safetensors whose `config.json` says how weights are packed.
//!
//! A quantised layer `X` has `X.weight` (u32 words), `X.scales` and `X.biases`, a number for each
//! group. The configuration gives bits and group size for all, and others for some by name:
//!
//! ```json
//! {"quantization": {"bits": 4, "group_size": 64, "lm_head": {"bits": 8, "group_size": 32}}}
//! ```
//!
//! Files of GPTQ and others have a `quantization_config` of their own with a `quant_method`: they
//! are none of these.

use crate::{Checkpoint, LoadError, error::shown};
use frit_graph::{DType, Value};
use frit_ops::Encoding;
use serde_json::{Map, Value as Json};
use std::{collections::BTreeMap, path::Path};

const BITS: [u64; 3] = [2, 4, 8];
const GROUP_SIZES: [u64; 3] = [32, 64, 128];

/// Fills [`Checkpoint::packed`]; `config` is the file that errors name.
pub(crate) fn mark(checkpoint: &mut Checkpoint, config: &Path) -> Result<(), LoadError> {
    let Some(settings) = settings(&checkpoint.config) else { return Ok(()) };
    let mut packed = BTreeMap::new();
    for (name, weight) in checkpoint.params.iter().filter(|(_, v)| v.dtype() == DType::U32) {
        let Some(layer) = name.strip_suffix(".weight") else { continue };
        let beside = |what: &str| checkpoint.params.get(&format!("{layer}.{what}"));
        let (Some(scales), Some(biases)) = (beside("scales"), beside("biases")) else { continue };
        let own = match settings.get(layer) {
            Some(Json::Object(own)) => own,
            Some(Json::Bool(false)) => continue,
            _ => settings,
        };
        let wrong = |message: String| LoadError::tensor(&checkpoint.path, name, message);
        let encoding = encoding(own, config, layer)?;
        check(encoding, weight, scales, biases).map_err(wrong)?;
        packed.insert(name.to_string(), encoding);
    }
    checkpoint.packed = packed;
    Ok(())
}

fn settings(config: &Json) -> Option<&Map<String, Json>> {
    let copy = config.get("quantization_config").filter(|c| c.get("quant_method").is_none());
    config.get("quantization").or(copy)?.as_object()
}

/// What these settings say of a layer.
fn encoding(own: &Map<String, Json>, config: &Path, layer: &str) -> Result<Encoding, LoadError> {
    let wrong = |message: String| {
        LoadError::format(config, format!("quantization of `{}`: {message}", shown(layer)))
    };
    if let Some(mode) = own.get("mode").filter(|mode| *mode != "affine") {
        let mode = shown(&mode.to_string());
        return Err(wrong(format!("mode {mode} cannot be read, only \"affine\"")));
    }
    let one_of = |key: &str, known: [u64; 3]| {
        let value = own.get(key).ok_or_else(|| wrong(format!("there is no `{key}`")))?;
        let number = value.as_u64().filter(|n| known.contains(n));
        let number = number.and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| {
            let [a, b, c] = known;
            wrong(format!(
                "{key} {} cannot be read, only {a}, {b} and {c}",
                shown(&value.to_string())
            ))
        })
    };
    let (bits, group_size) = (one_of("bits", BITS)?, one_of("group_size", GROUP_SIZES)?);
    Ok(Encoding::Affine { bits, group_size })
}

/// Checks that words, scales and biases are of one matrix.
fn check(encoding: Encoding, weight: &Value, scales: &Value, biases: &Value) -> Result<(), String> {
    let Encoding::Affine { bits, group_size } = encoding else { return Ok(()) };
    for (what, value) in [("scales", scales), ("biases", biases)] {
        if !value.dtype().is_float() {
            return Err(format!("has {what} of {}, which is no float", value.dtype()));
        }
        let fits = match (weight.shape().split_last(), value.shape().split_last()) {
            // A word has 32 / bits elements, and a group is a whole number of words.
            (Some((words, rows)), Some((groups, same))) => {
                rows == same && groups.checked_mul(group_size * bits / 32) == Some(*words)
            }
            _ => false,
        };
        if !fits {
            let (got, shape) = (value.shape(), weight.shape());
            return Err(format!("of {shape:?} words has {what} of {got:?}, unfit for {encoding}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
