//! Whisper's variables under Hugging Face's names, and the sizes that they tell.

use super::{File, Stored, Variable};
use crate::{LoadError, mapped::Shared};
use frit_graph::{Params, Spec, Value};
use serde_json::{Value as Json, json};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::Path,
};

const EMBEDDINGS: &str = "decoder/embeddings/weight";
const PROJECTION: &str = "decoder/projection/weight";

/// Weights by their place in the file and their shape: an alias shares what its target is, also
/// where that had to be copied, so aliases cannot ask for memory without end.
type Done = BTreeMap<(usize, Vec<usize>), Value>;

/// A parsed file with its bytes.
pub(super) struct Model<'a> {
    pub(super) file: &'a File,
    pub(super) bytes: &'a Shared,
    pub(super) path: &'a Path,
}

impl Model<'_> {
    /// The weights, and the names that have no counterpart. Scalars are settings, not weights:
    /// [`Model::config`] reads those that matter, the others are nobody's.
    pub(super) fn params(&self) -> Result<(Params, Vec<String>), LoadError> {
        let mut params = Params::new();
        let mut unmapped = Vec::new();
        let mut done = Done::new();
        for (name, variable) in &self.file.variables {
            if name == PROJECTION && self.is_tied() {
                continue;
            }
            match targets(name) {
                Some(targets) => self.split(name, variable, targets, &mut done, &mut params)?,
                None if variable.shape.is_empty() => {}
                None => unmapped.push(name.clone()),
            }
        }
        Ok((params, unmapped))
    }

    /// Gives each target its equal share of the variable's rows, without a copy where it is aligned.
    fn split(
        &self,
        name: &str,
        variable: &Variable,
        targets: Vec<String>,
        done: &mut Done,
        params: &mut Params,
    ) -> Result<(), LoadError> {
        let wrong = |message: String| LoadError::tensor(self.path, name, message);
        let Some(dtype) = variable.dtype.float() else {
            return Err(LoadError::Dtype {
                path: self.path.into(),
                name: name.into(),
                dtype: variable.dtype.name().into(),
                supported: "f32, f16 and bf16",
            });
        };
        let parts = targets.len();
        let mut shape = variable.shape.clone();
        if parts > 1 {
            match shape.first_mut() {
                Some(rows) if rows.is_multiple_of(parts) => *rows /= parts,
                _ => {
                    let shape = &shape[..shape.len().min(16)];
                    return Err(wrong(format!("of {shape:?} cannot be split into {parts}")));
                }
            }
        }
        let length = variable.range.len() / parts;
        for (i, target) in targets.into_iter().enumerate() {
            let start = variable.range.start + i * length;
            let range = start..start + length;
            let absent = target.ends_with(".k_proj.bias");
            let value = match done.entry((range.start, shape.clone())) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(free) => {
                    let spec = Spec::new(dtype, shape.clone());
                    let value = Value::from_shared(spec, self.bytes.clone(), range);
                    free.insert(value.map_err(|e| wrong(e.to_string()))?).clone()
                }
            };
            if !(absent && value.to_f64().iter().all(|&x| x == 0.0)) {
                params.insert(target, value);
            }
        }
        Ok(())
    }

    /// Whether the output projection is the embeddings: by alias, or because there is no other.
    fn is_tied(&self) -> bool {
        match self.file.aliases.get(PROJECTION) {
            Some(target) => target == EMBEDDINGS,
            None => !self.file.variables.contains_key(PROJECTION),
        }
    }

    /// The sizes of the model with Hugging Face's keys.
    pub(super) fn config(&self) -> Result<Json, LoadError> {
        let [vocabulary, width] = self.extents(EMBEDDINGS)?;
        let [source, _] = self.extents("encoder/position_encodings/encodings")?;
        let [target, _] = self.extents("decoder/position_encodings/encodings")?;
        let [_, mels, _] = self.extents("encoder/conv1/weight")?;
        let mut config = json!({
            "model_type": "whisper",
            "architectures": ["WhisperForConditionalGeneration"],
            "is_encoder_decoder": true,
            "d_model": width,
            "vocab_size": vocabulary,
            "num_mel_bins": mels,
            "max_source_positions": source,
            "max_target_positions": target,
            "tie_word_embeddings": self.is_tied(),
        });
        for side in ["encoder", "decoder"] {
            let [ffn, _] = self.extents(&format!("{side}/layer_0/ffn/linear_0/weight"))?;
            config[format!("{side}_layers")] = json!(self.layers(side)?);
            config[format!("{side}_ffn_dim")] = json!(ffn);
            let name = format!("{side}/num_heads");
            if let Some(heads) = self.scalar(&name) {
                if heads < 1 || width as i64 % heads != 0 {
                    let message = format!("of {heads} does not divide the width {width}");
                    return Err(LoadError::tensor(self.path, &name, message));
                }
                config[format!("{side}_attention_heads")] = json!(heads);
            }
        }
        // Only the decoder's is stored; the encoder has no other.
        if let Some(name) = self.scalar("decoder/activation").and_then(activation) {
            config["activation_function"] = json!(name);
        }
        if let Some(scaled) = self.scalar("decoder/scale_embeddings") {
            config["scale_embedding"] = json!(scaled != 0);
        }
        Ok(config)
    }

    /// The extents of a variable that a Whisper model cannot lack.
    fn extents<const N: usize>(&self, name: &str) -> Result<[usize; N], LoadError> {
        let Some(variable) = self.file.variables.get(name) else {
            return Err(LoadError::tensor(self.path, name, "is missing"));
        };
        variable.shape.as_slice().try_into().map_err(|_| {
            let message = format!("must have {N} axes, got {}", variable.shape.len());
            LoadError::tensor(self.path, name, message)
        })
    }

    /// How many layers a side has, by the numbers in the names.
    fn layers(&self, side: &str) -> Result<usize, LoadError> {
        let index = |name: &String| {
            let (first, rest) = name.split_once('/')?;
            let (layer, _) = rest.split_once('/')?;
            layer_index(layer).filter(|_| first == side)
        };
        let found: BTreeSet<usize> = self.file.variables.keys().filter_map(index).collect();
        match found.iter().enumerate().find(|&(i, &layer)| i != layer) {
            None => Ok(found.len()),
            Some((i, layer)) => {
                let message = format!("has a {side} layer {layer}, but no layer {i}");
                Err(LoadError::format(self.path, message))
            }
        }
    }

    /// A setting; `None` where there is none, or no whole number.
    fn scalar(&self, name: &str) -> Option<i64> {
        let variable = self.file.variables.get(name).filter(|v| v.shape.is_empty())?;
        let bytes = (**self.bytes).as_ref().get(variable.range.clone())?;
        Some(match variable.dtype {
            Stored::I8 => i8::from_le_bytes(bytes.try_into().ok()?).into(),
            Stored::I16 => i16::from_le_bytes(bytes.try_into().ok()?).into(),
            Stored::I32 => i32::from_le_bytes(bytes.try_into().ok()?).into(),
            Stored::F32 | Stored::F16 | Stored::BF16 => return None,
        })
    }
}

/// Hugging Face's name for CTranslate2's number of an activation.
fn activation(code: i64) -> Option<&'static str> {
    Some(match code {
        0 => "relu",
        1 => "gelu_pytorch_tanh",
        2 => "silu",
        3 => "gelu",
        4 => "quick_gelu",
        _ => return None,
    })
}

/// The number in `layer_7`, written as a number is written.
fn layer_index(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("layer_")?;
    let index: usize = digits.parse().ok()?;
    (index.to_string() == digits).then_some(index)
}

/// The names that share the rows of a variable, in the order of the rows.
pub(super) fn targets(name: &str) -> Option<Vec<String>> {
    let parts: Vec<&str> = name.split('/').collect();
    let one = |name: String| Some(vec![name]);
    match parts[..] {
        ["encoder", conv @ ("conv1" | "conv2"), p @ ("weight" | "bias")] => {
            one(format!("model.encoder.{conv}.{p}"))
        }
        [side @ ("encoder" | "decoder"), "position_encodings", "encodings"] => {
            one(format!("model.{side}.embed_positions.weight"))
        }
        ["decoder", "embeddings", "weight"] => one("model.decoder.embed_tokens.weight".into()),
        ["decoder", "projection", "weight"] => one("proj_out.weight".into()),
        [side @ ("encoder" | "decoder"), "layer_norm", p] => {
            one(format!("model.{side}.layer_norm.{}", norm(p)?))
        }
        [side @ ("encoder" | "decoder"), layer, block, part, p] => {
            let at = format!("model.{side}.layers.{}", layer_index(layer)?);
            in_layer(side, block, part, p)
                .map(|names| names.into_iter().map(|n| format!("{at}.{n}")).collect())
        }
        _ => None,
    }
}

/// The same within a layer.
fn in_layer(side: &str, block: &str, part: &str, p: &str) -> Option<Vec<String>> {
    let attention = match (side, block) {
        (_, "self_attention") => "self_attn",
        ("decoder", "attention") => "encoder_attn",
        (_, "ffn") => "",
        _ => return None,
    };
    if part == "layer_norm" {
        let owner = if block == "ffn" { "final" } else { attention };
        return Some(vec![format!("{owner}_layer_norm.{}", norm(p)?)]);
    }
    if !matches!(p, "weight" | "bias") {
        return None;
    }
    // Queries come from the decoder and keys from the encoder in a cross attention, which
    // therefore has two matrices where a self attention has one.
    let names: &[&str] = match (block, part) {
        ("self_attention", "linear_0") => &["q_proj", "k_proj", "v_proj"],
        ("self_attention", "linear_1") => &["out_proj"],
        ("attention", "linear_0") => &["q_proj"],
        ("attention", "linear_1") => &["k_proj", "v_proj"],
        ("attention", "linear_2") => &["out_proj"],
        ("ffn", "linear_0") => return Some(vec![format!("fc1.{p}")]),
        ("ffn", "linear_1") => return Some(vec![format!("fc2.{p}")]),
        _ => return None,
    };
    Some(names.iter().map(|n| format!("{attention}.{n}.{p}")).collect())
}

fn norm(parameter: &str) -> Option<&'static str> {
    match parameter {
        "gamma" => Some("weight"),
        "beta" => Some("bias"),
        _ => None,
    }
}
