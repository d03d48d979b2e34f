//! The numbers and switches of a model of this family.
//!
//! [`LlamaConfig::from_json`] reads the `config.json` of Hugging Face, with the defaults that each
//! model type has there (files leave out what is the default); [`LlamaConfig::from_gguf`] reads the
//! metadata of a GGUF file.

pub use crate::config::ConfigError;
use crate::{config::Keys, nn::GateActivation, rope::RopeSchedule};
use frit_ops::RopeLayout;
use serde_json::Value as Json;

/// What differs among the layers of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerKind {
    /// Which of [`LlamaConfig::ropes`] turns its heads, if any does.
    pub rope: Option<usize>,
    /// How many keys up to its own position a query sees, if not all.
    pub window: Option<usize>,
}

/// A model of the family.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// The name that Hugging Face has for the type: `llama`, `qwen3`, ...
    pub model_type: String,
    /// Tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Positions that the model is made for.
    pub max_position_embeddings: usize,
    /// Epsilon of every norm.
    pub rms_norm_eps: f64,
    /// Added to the weights of norms: 1 where the checkpoint keeps what is above 1.
    pub norm_offset: f64,
    /// Whether the embeddings are the output projection too.
    pub tie_word_embeddings: bool,
    /// The function of the gate.
    pub activation: GateActivation,
    /// Whether the projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of the attention has one.
    pub output_bias: bool,
    /// Whether the feed-forward layers have biases.
    pub mlp_bias: bool,
    /// Whether the heads of queries and keys are normed before they turn.
    pub query_key_norm: bool,
    /// Whether what attention and feed-forward give is normed before it is added.
    pub post_norms: bool,
    /// Whether queries, keys and values are one projection, and gate and up are one.
    pub fused_projections: bool,
    /// Multiplies the embeddings.
    pub embedding_scale: Option<f64>,
    /// Multiplies the attention scores.
    pub attention_scale: f64,
    /// Soft cap of the attention scores.
    pub attention_softcap: Option<f64>,
    /// Soft cap of the logits.
    pub logit_softcap: Option<f64>,
    /// The rotary schedules.
    pub ropes: Vec<RopeSchedule>,
    /// Which elements of a head are pairs.
    pub rope_layout: RopeLayout,
    /// The layers.
    pub layers: Vec<LayerKind>,
}

/// The model types that [`LlamaConfig::from_json`] knows.
pub const MODEL_TYPES: &[&str] =
    &["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "smollm3", "phi3"];

/// More layers than any model has; a list of them is made.
const MOST_LAYERS: usize = 4096;

pub(super) fn layer_count(keys: Keys<'_>, key: &str) -> Result<usize, ConfigError> {
    match keys.size(key)? {
        n if n <= MOST_LAYERS => Ok(n),
        _ => Err(keys.wrong(key, format!("at most {MOST_LAYERS}"))),
    }
}

impl LlamaConfig {
    /// Reads the keys of Hugging Face.
    ///
    /// # Errors
    /// A model type or option that is not supported, an absent key, a size that makes no sense.
    pub fn from_json(json: &Json) -> Result<LlamaConfig, ConfigError> {
        let keys = Keys::new(json, "config.json");
        let model_type =
            keys.maybe_text("model_type")?.ok_or_else(|| keys.missing("model_type"))?;
        if !MODEL_TYPES.contains(&model_type) {
            return Err(keys.wrong("model_type", format!("one of {}", MODEL_TYPES.join(", "))));
        }
        let is = |name: &str| model_type == name;
        let gemma = is("gemma3_text");
        for key in ["use_bidirectional_attention", "use_qk_norm", "attention_sink"] {
            if keys.flag(key, false)? {
                return Err(keys.wrong(key, "false: no more is supported"));
            }
        }

        let hidden_size = keys.size("hidden_size")?;
        let heads = keys.size("num_attention_heads")?;
        let head_dim = match (keys.maybe_size("head_dim")?, model_type) {
            (Some(d), _) => d,
            (None, "gemma3_text") => 256,
            (None, "qwen3") => 128,
            (None, _) if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            (None, _) => {
                let wanted = format!("a divisor of hidden_size {hidden_size}");
                return Err(keys.wrong("num_attention_heads", wanted));
            }
        };
        let key_heads = match keys.maybe_size("num_key_value_heads")? {
            Some(n) if heads.is_multiple_of(n) => n,
            Some(_) => {
                let wanted = format!("a divisor of num_attention_heads {heads}");
                return Err(keys.wrong("num_key_value_heads", wanted));
            }
            // Only for these does an absent key mean as many as queries.
            None if is("llama") || is("phi3") => heads,
            None => return Err(keys.missing("num_key_value_heads")),
        };
        let eps = if is("phi3") { 1e-5 } else { 1e-6 };
        let activation_key = if gemma { "hidden_activation" } else { "hidden_act" };
        let default = if gemma { "gelu_pytorch_tanh" } else { "silu" };
        let activation = match keys.maybe_text(activation_key)?.unwrap_or(default) {
            "silu" | "swish" => GateActivation::Silu,
            "gelu" => GateActivation::Gelu,
            "gelu_pytorch_tanh" | "gelu_new" => GateActivation::GeluTanh,
            _ => return Err(keys.wrong(activation_key, "silu, gelu or gelu_pytorch_tanh")),
        };
        let attention_bias = keys.flag("attention_bias", false)?;
        let scalar = match gemma {
            true => keys.maybe_positive("query_pre_attn_scalar")?.unwrap_or(256.0),
            false => head_dim as f64,
        };
        let (ropes, layers) = layers(keys, json, model_type, head_dim)?;
        Ok(LlamaConfig {
            model_type: model_type.to_string(),
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_attention_heads: heads,
            num_key_value_heads: key_heads,
            head_dim,
            max_position_embeddings: keys.size("max_position_embeddings")?,
            rms_norm_eps: keys.maybe_positive("rms_norm_eps")?.unwrap_or(eps),
            norm_offset: if gemma { 1.0 } else { 0.0 },
            tie_word_embeddings: keys.flag("tie_word_embeddings", gemma || is("smollm3"))?,
            activation,
            qkv_bias: is("qwen2") || attention_bias,
            output_bias: attention_bias && !is("qwen2"),
            mlp_bias: keys.flag("mlp_bias", false)?,
            query_key_norm: is("qwen3") || gemma,
            post_norms: gemma,
            fused_projections: is("phi3"),
            embedding_scale: gemma.then(|| (hidden_size as f64).sqrt()),
            attention_scale: 1.0 / scalar.sqrt(),
            attention_softcap: keys.maybe_positive("attn_logit_softcapping")?,
            logit_softcap: keys.maybe_positive("final_logit_softcapping")?,
            ropes,
            rope_layout: RopeLayout::Split,
            layers,
        })
    }

    /// Whether the keys of a text of `before` positions must be turned again when it becomes one of
    /// `after`.
    pub fn turns_again(&self, before: usize, after: usize) -> bool {
        self.ropes.iter().any(|r| r.turns_again(before, after))
    }
}

/// The rotary schedules, and what each layer has of them and of windows.
fn layers(
    keys: Keys<'_>,
    json: &Json,
    model_type: &str,
    head_dim: usize,
) -> Result<(Vec<RopeSchedule>, Vec<LayerKind>), ConfigError> {
    let count = layer_count(keys, "num_hidden_layers")?;
    let gemma = model_type == "gemma3_text";
    let rope = |base, kind| RopeSchedule::from_json(json, head_dim, base, kind);
    let ropes = match model_type {
        "gemma3_text" => {
            vec![rope(1e6, Some("full_attention"))?, rope(1e4, Some("sliding_attention"))?]
        }
        "smollm3" => vec![rope(2e6, None)?],
        _ => vec![rope(1e4, None)?],
    };

    // Absent is not the same as null: absent means what the model type has by itself.
    let window = match keys.names("sliding_window") {
        true => keys.maybe_size("sliding_window")?,
        false => {
            matches!(model_type, "mistral" | "gemma3_text" | "qwen2" | "qwen3").then_some(4096)
        }
    };
    let used = keys.flag("use_sliding_window", false)?;
    let turns = turns(keys, model_type, count)?;
    let types = match keys.get("layer_types") {
        Some(list) => Some(layer_types(keys, list, count)?),
        None => None,
    };
    let kinds = (0..count).map(|i| {
        let local = match (&types, model_type) {
            (_, "mistral" | "phi3") => true,
            (_, "llama") => false,
            (Some(types), _) => types[i],
            (None, "gemma3_text") => {
                let pattern = keys.maybe_size("sliding_window_pattern")?.unwrap_or(6);
                !(i + 1).is_multiple_of(pattern)
            }
            (None, "smollm3") => used && !turns[i],
            (None, _) => {
                let first = keys.get("max_window_layers").and_then(Json::as_u64).unwrap_or(28);
                used && i as u64 >= first
            }
        };
        let rope = turns[i].then_some(usize::from(gemma && local));
        let window = window.filter(|_| local);
        if local && types.is_some() && window.is_none() && model_type.starts_with("qwen") {
            return Err(keys.wrong("sliding_window", "a number, as some layers slide"));
        }
        Ok(LayerKind { rope, window })
    });
    let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
    Ok((ropes, kinds))
}

/// Which layers slide.
fn layer_types(keys: Keys<'_>, list: &Json, count: usize) -> Result<Vec<bool>, ConfigError> {
    let sliding = |v: &Json| match v.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let list = list.as_array().and_then(|a| a.iter().map(sliding).collect::<Option<Vec<_>>>());
    list.filter(|l| l.len() == count).ok_or_else(|| {
        let wanted = format!("{count} of full_attention and sliding_attention");
        keys.wrong("layer_types", wanted)
    })
}

/// Which layers turn their heads.
fn turns(keys: Keys<'_>, model_type: &str, count: usize) -> Result<Vec<bool>, ConfigError> {
    if model_type != "smollm3" {
        return Ok(vec![true; count]);
    }
    let Some(list) = keys.get("no_rope_layers") else {
        let interval = keys.maybe_size("no_rope_layer_interval")?.unwrap_or(4);
        return Ok((1..=count).map(|i| !i.is_multiple_of(interval)).collect());
    };
    // In spite of the name, 1 stands for a layer that turns.
    let turn = |v: &Json| v.as_u64().filter(|&n| n < 2).map(|n| n == 1);
    let list = list.as_array().and_then(|a| a.iter().map(turn).collect::<Option<Vec<_>>>());
    let wrong = || keys.wrong("no_rope_layers", format!("{count} of 0 and 1"));
    list.filter(|l| l.len() >= count).ok_or_else(wrong)
}

#[cfg(test)]
mod tests;
