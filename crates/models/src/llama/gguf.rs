//! The configuration that a GGUF file carries in its metadata.

use super::config::{ConfigError, LayerKind, LlamaConfig, layer_count};
use crate::{
    config::Keys,
    nn::GateActivation,
    rope::{RopeScaling, RopeSchedule, longrope_amplitude},
};
use frit_graph::Params;
use frit_ops::RopeLayout;
use serde_json::Value as Json;

/// The architectures that are known, and what Hugging Face calls them.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("llama", "llama"),
    ("mistral", "mistral"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("gemma3", "gemma3_text"),
    ("smollm3", "smollm3"),
    ("phi3", "phi3"),
];

/// Metadata and tensors of a file.
struct File<'a> {
    keys: Keys<'a>,
    architecture: &'a str,
    params: &'a Params,
}

impl File<'_> {
    /// `attention.head_count` of the architecture.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str) -> Result<usize, ConfigError> {
        self.keys.size(&self.key(name))
    }

    fn maybe_size(&self, name: &str) -> Result<Option<usize>, ConfigError> {
        self.keys.maybe_size(&self.key(name))
    }

    fn positive(&self, name: &str) -> Result<Option<f64>, ConfigError> {
        self.keys.maybe_positive(&self.key(name))
    }

    /// Whether there is such a tensor, under the name of GGUF or of Hugging Face.
    fn has(&self, name: &str) -> bool {
        let other = super::names::hugging_face(self.architecture, name);
        let other = other.and_then(|n| self.params.get(&n));
        self.params.get(name).or(other).is_some()
    }

    /// The positive numbers of a tensor that is part of the configuration.
    fn numbers(&self, name: &str, count: usize) -> Result<Option<Vec<f64>>, ConfigError> {
        let Some(value) = self.params.get(name) else { return Ok(None) };
        let numbers = value.to_f64();
        let good = numbers.len() == count && numbers.iter().all(|n| n.is_finite() && *n > 0.0);
        match good {
            true => Ok(Some(numbers)),
            false => Err(ConfigError::Wrong {
                source_name: "the GGUF tensors",
                key: name.to_string(),
                wanted: format!("{count} positive numbers"),
                got: value.spec().to_string(),
            }),
        }
    }

    fn scaling(&self, dims: usize, context: usize) -> Result<RopeScaling, ConfigError> {
        if let Some(divisors) = self.numbers("rope_freqs.weight", dims / 2)? {
            return Ok(RopeScaling::Divided(divisors));
        }
        let trained = self.maybe_size("rope.scaling.original_context_length")?.unwrap_or(context);
        let attention = self.positive("rope.scaling.attn_factor")?;
        let long = self.numbers("rope_factors_long.weight", dims / 2)?;
        let short = self.numbers("rope_factors_short.weight", dims / 2)?;
        if let (Some(long), Some(short)) = (long, short) {
            let ratio = context as f64 / trained as f64;
            let default = if ratio > 1.0 { longrope_amplitude(ratio, trained) } else { 1.0 };
            let amplitude = attention.unwrap_or(default);
            return Ok(RopeScaling::LongRope { short, long, trained, amplitude });
        }
        let factor = match self.positive("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.positive("rope.scale_linear")?,
        };
        let key = self.key("rope.scaling.type");
        let name = self.keys.maybe_text(&key)?;
        Ok(match (name, factor) {
            (Some("none"), _) | (None | Some("linear" | "longrope"), None) => RopeScaling::Default,
            (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
            (Some("yarn"), Some(factor)) => RopeScaling::Yarn {
                factor,
                trained,
                beta_fast: self.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: self.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
                amplitude: attention.unwrap_or(1.0) * (1.0 + 0.1 * factor.max(1.0).ln()),
            },
            _ => return Err(self.keys.wrong(&key, "none, linear, or yarn with a factor")),
        })
    }

    /// Which layers of Gemma 3 slide: all but each sixth, unless the file says otherwise.
    fn slides(&self, count: usize) -> Result<Vec<bool>, ConfigError> {
        let key = self.key("attention.sliding_window_pattern");
        if let Some(list) = self.keys.get(&key).and_then(Json::as_array) {
            let list: Option<Vec<bool>> = list.iter().map(Json::as_bool).collect();
            let wrong = || self.keys.wrong(&key, format!("{count} of true and false"));
            return list.filter(|l| l.len() == count).ok_or_else(wrong);
        }
        let pattern = self.keys.maybe_size(&key)?.unwrap_or(6);
        Ok((1..=count).map(|i| !i.is_multiple_of(pattern)).collect())
    }
}

impl LlamaConfig {
    /// Reads the metadata of a GGUF file, an object with its keys (`llama.block_count`, ...). The
    /// tensors (of either names) say the rest: biases, the size of the vocabulary, whether the
    /// output is tied, and the rotary frequencies of Llama 3 and Phi 3.
    ///
    /// # Errors
    /// An architecture or option that is not supported, an absent key, a size that makes no sense.
    pub fn from_gguf(metadata: &Json, params: &Params) -> Result<LlamaConfig, ConfigError> {
        let keys = Keys::new(metadata, "the GGUF metadata");
        let key = "general.architecture";
        let name = keys.maybe_text(key)?.ok_or_else(|| keys.missing(key))?;
        let known = ARCHITECTURES.iter().find(|(a, _)| *a == name);
        let Some((architecture, model_type)) = known else {
            let names: Vec<&str> = ARCHITECTURES.iter().map(|(a, _)| *a).collect();
            return Err(keys.wrong(key, format!("one of {}", names.join(", "))));
        };
        let file = File { keys, architecture, params };
        let gemma = *architecture == "gemma3";
        let experts = file.key("expert_count");
        if keys.get(&experts).and_then(Json::as_u64).is_some_and(|n| n > 0) {
            return Err(keys.wrong(&experts, "0: mixtures of experts are not supported"));
        }

        let count = layer_count(keys, &file.key("block_count"))?;
        let hidden_size = file.size("embedding_length")?;
        let heads = file.size("attention.head_count")?;
        let key_heads = file.maybe_size("attention.head_count_kv")?.unwrap_or(heads);
        if !heads.is_multiple_of(key_heads) {
            let wanted = format!("a divisor of attention.head_count {heads}");
            return Err(keys.wrong(&file.key("attention.head_count_kv"), wanted));
        }
        let head_dim = match file.maybe_size("attention.key_length")? {
            Some(d) => d,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => return Err(keys.missing(&file.key("attention.key_length"))),
        };
        if file.maybe_size("attention.value_length")?.is_some_and(|d| d != head_dim) {
            let wanted = format!("as long as keys, {head_dim}");
            return Err(keys.wrong(&file.key("attention.value_length"), wanted));
        }
        let dims = file.maybe_size("rope.dimension_count")?.unwrap_or(head_dim);
        if dims > head_dim || !dims.is_multiple_of(2) {
            let wanted = format!("even and at most {head_dim}");
            return Err(keys.wrong(&file.key("rope.dimension_count"), wanted));
        }
        let context = file.size("context_length")?;
        let base = file.positive("rope.freq_base")?;
        let base = base.unwrap_or(if gemma { 1e6 } else { 1e4 });
        let mut ropes = vec![RopeSchedule { dims, base, scaling: file.scaling(dims, context)? }];
        if gemma {
            let base = file.positive("rope.freq_base_swa")?.unwrap_or(1e4);
            ropes.push(RopeSchedule { dims, base, scaling: RopeScaling::Default });
        }

        let window = match *architecture {
            "llama" | "mistral" | "phi3" | "gemma3" => {
                file.maybe_size("attention.sliding_window")?
            }
            _ => None,
        };
        let slides = if gemma { file.slides(count)? } else { vec![true; count] };
        let layers = (0..count).map(|i| {
            let turns = *architecture != "smollm3" || !(i + 1).is_multiple_of(4);
            let rope = turns.then_some(usize::from(gemma && slides[i]));
            LayerKind { rope, window: window.filter(|_| slides[i]) }
        });
        let layers = layers.collect();

        let embedding = ["token_embd.weight", "model.embed_tokens.weight"];
        let embedding = embedding.iter().find_map(|n| params.get(n)).map(|v| v.shape().to_vec());
        let vocab_size = match embedding.and_then(|s| s.first().copied()) {
            Some(rows) => rows,
            None => file.size("vocab_size")?,
        };
        // Only the largest Gemma 3 scales by the width.
        let scalar = if gemma && count == 62 { hidden_size / heads } else { head_dim };
        let interleaved = matches!(*architecture, "llama" | "mistral" | "smollm3");
        Ok(LlamaConfig {
            model_type: model_type.to_string(),
            vocab_size,
            hidden_size,
            intermediate_size: file.size("feed_forward_length")?,
            num_attention_heads: heads,
            num_key_value_heads: key_heads,
            head_dim,
            max_position_embeddings: context,
            rms_norm_eps: file.positive("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
            // GGUF files of Gemma have the 1 in the weights.
            norm_offset: 0.0,
            tie_word_embeddings: !file.has("output.weight"),
            activation: if gemma { GateActivation::GeluTanh } else { GateActivation::Silu },
            qkv_bias: file.has("blk.0.attn_q.bias") || file.has("blk.0.attn_qkv.bias"),
            output_bias: file.has("blk.0.attn_output.bias"),
            mlp_bias: file.has("blk.0.ffn_down.bias"),
            query_key_norm: gemma || *architecture == "qwen3",
            post_norms: gemma,
            fused_projections: *architecture == "phi3",
            embedding_scale: gemma.then(|| (hidden_size as f64).sqrt()),
            attention_scale: 1.0 / (scalar.max(1) as f64).sqrt(),
            attention_softcap: file.positive("attn_logit_softcapping")?,
            logit_softcap: file.positive("final_logit_softcapping")?,
            ropes,
            rope_layout: match interleaved {
                true => RopeLayout::Interleaved,
                false => RopeLayout::Split,
            },
            layers,
        })
    }
}

#[cfg(test)]
mod tests;
