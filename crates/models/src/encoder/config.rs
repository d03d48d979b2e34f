//! The numbers and switches of an encoder, from the `config.json` of Hugging Face.

pub use crate::config::ConfigError;
use crate::{config::Keys, rope::RopeSchedule};
use frit_ops::GeluForm;
use serde_json::Value as Json;

/// What an encoder reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Reads {
    /// Tokens of a text.
    Text {
        /// Tokens that there are.
        vocab_size: usize,
        /// Rows of the table of positions, if positions are added to tokens.
        positions: Option<usize>,
        /// Rows of the table of kinds of tokens (first text, second text), if there is one.
        types: Option<usize>,
    },
    /// Square patches of a square picture, and a learnt vector before them.
    Image {
        /// Height and width.
        size: usize,
        /// Height and width of a patch.
        patch: usize,
        /// Colours.
        channels: usize,
    },
}

/// What differs among the layers of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerKind {
    /// Which of [`EncoderConfig::ropes`] turns its heads, if any does.
    pub rope: Option<usize>,
    /// How near a key must be for a query to see it, if not all are seen: closer than this.
    pub window: Option<usize>,
}

/// An encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// The name that Hugging Face has for the type: `bert`, `vit`, ...
    pub model_type: String,
    /// What it reads.
    pub reads: Reads,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// The longest text that it is made for; patches and one, of a picture.
    pub max_length: usize,
    /// Epsilon of every norm.
    pub norm_eps: f64,
    /// The function of the feed-forward layers.
    pub activation: GeluForm,
    /// Whether attention and feed-forward read what is normed (and the sum is not), or sums are.
    pub pre_norm: bool,
    /// Whether the first half of the wide layer opens the second.
    pub gated: bool,
    /// Whether norms have biases.
    pub norm_bias: bool,
    /// Whether the projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of the attention has one.
    pub output_bias: bool,
    /// Whether the feed-forward layers have biases.
    pub mlp_bias: bool,
    /// The rotary schedules.
    pub ropes: Vec<RopeSchedule>,
    /// The layers.
    pub layers: Vec<LayerKind>,
}

/// The model types that [`EncoderConfig::from_json`] knows.
pub const MODEL_TYPES: &[&str] = &["bert", "distilbert", "modernbert", "vit"];

/// More layers than any model has; a list of them is made.
const MOST_LAYERS: usize = 4096;

impl EncoderConfig {
    /// Reads the keys of Hugging Face.
    ///
    /// # Errors
    /// A model type or option that is not supported, an absent key, a size that makes no sense.
    pub fn from_json(json: &Json) -> Result<EncoderConfig, ConfigError> {
        let keys = Keys::new(json, "config.json");
        let model_type =
            keys.maybe_text("model_type")?.ok_or_else(|| keys.missing("model_type"))?;
        if !MODEL_TYPES.contains(&model_type) {
            return Err(keys.wrong("model_type", format!("one of {}", MODEL_TYPES.join(", "))));
        }
        for key in ["is_decoder", "add_cross_attention"] {
            if keys.flag(key, false)? {
                return Err(keys.wrong(key, "false: these are encoders"));
            }
        }
        let is = |name: &str| model_type == name;
        let (distil, modern, vit) = (is("distilbert"), is("modernbert"), is("vit"));
        let one_of = |usual: &'static str, distilbert: &'static str| {
            if distil { distilbert } else { usual }
        };
        let hidden_size = keys.size(one_of("hidden_size", "dim"))?;
        let heads_key = one_of("num_attention_heads", "n_heads");
        let heads = keys.size(heads_key)?;
        if !hidden_size.is_multiple_of(heads) {
            return Err(keys.wrong(heads_key, format!("a divisor of the width {hidden_size}")));
        }
        let layers_key = one_of("num_hidden_layers", "n_layers");
        let count = keys.size(layers_key)?;
        if count > MOST_LAYERS {
            return Err(keys.wrong(layers_key, format!("at most {MOST_LAYERS}")));
        }
        let (reads, max_length) = if vit { image(keys)? } else { text(keys, model_type)? };
        let (ropes, layers) = match modern {
            true => alternating(keys, json, hidden_size / heads, count)?,
            false => (Vec::new(), vec![LayerKind::default(); count]),
        };
        let eps = if modern { 1e-5 } else { 1e-12 };
        let bias = |key: &str| if modern { keys.flag(key, false) } else { Ok(true) };
        Ok(EncoderConfig {
            model_type: model_type.to_string(),
            reads,
            hidden_size,
            intermediate_size: keys.size(one_of("intermediate_size", "hidden_dim"))?,
            num_attention_heads: heads,
            max_length,
            norm_eps: keys
                .maybe_positive(if modern { "norm_eps" } else { "layer_norm_eps" })?
                .unwrap_or(eps),
            activation: activation(keys, model_type)?,
            pre_norm: modern || vit,
            gated: modern,
            norm_bias: bias("norm_bias")?,
            qkv_bias: if vit { keys.flag("qkv_bias", true)? } else { bias("attention_bias")? },
            output_bias: bias("attention_bias")?,
            mlp_bias: bias("mlp_bias")?,
            ropes,
            layers,
        })
    }

    /// The inputs of a pass, by their Hugging Face names; the first is needed, the others not.
    pub fn inputs(&self) -> &'static [&'static str] {
        match self.reads {
            Reads::Image { .. } => &["pixel_values"],
            Reads::Text { types: Some(_), .. } => {
                &["input_ids", "attention_mask", "token_type_ids"]
            }
            Reads::Text { types: None, .. } => &["input_ids", "attention_mask"],
        }
    }
}

fn image(keys: Keys<'_>) -> Result<(Reads, usize), ConfigError> {
    let or = |key: &str, default| Ok(keys.maybe_size(key)?.unwrap_or(default));
    let (size, patch) = (or("image_size", 224)?, or("patch_size", 16)?);
    if !size.is_multiple_of(patch) {
        return Err(keys.wrong("patch_size", format!("a divisor of image_size {size}")));
    }
    let channels = or("num_channels", 3)?;
    // Far above any, and far from overflow.
    for (key, value) in [("patch_size", patch), ("num_channels", channels)] {
        if value > 4096 {
            return Err(keys.wrong(key, "at most 4096"));
        }
    }
    let patches = (size / patch).checked_pow(2).filter(|&n| n < 1 << 24);
    let patches = patches.ok_or_else(|| keys.wrong("image_size", "a size with fewer patches"))?;
    Ok((Reads::Image { size, patch, channels }, patches + 1))
}

fn text(keys: Keys<'_>, model_type: &str) -> Result<(Reads, usize), ConfigError> {
    let vocab_size = keys.size("vocab_size")?;
    let longest = keys.maybe_size("max_position_embeddings")?;
    if model_type == "modernbert" {
        let reads = Reads::Text { vocab_size, positions: None, types: None };
        return Ok((reads, longest.unwrap_or(8192)));
    }
    let kind = keys.maybe_text("position_embedding_type")?;
    if kind.is_some_and(|kind| kind != "absolute") {
        return Err(keys.wrong("position_embedding_type", "absolute"));
    }
    let types = match model_type {
        "bert" => Some(keys.maybe_size("type_vocab_size")?.unwrap_or(2)),
        _ => None,
    };
    let longest = longest.unwrap_or(512);
    Ok((Reads::Text { vocab_size, positions: Some(longest), types }, longest))
}

fn activation(keys: Keys<'_>, model_type: &str) -> Result<GeluForm, ConfigError> {
    let key = match model_type {
        "distilbert" => "activation",
        "modernbert" => "hidden_activation",
        _ => "hidden_act",
    };
    match keys.maybe_text(key)?.unwrap_or("gelu") {
        "gelu" => Ok(GeluForm::Erf),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(GeluForm::Tanh),
        "quick_gelu" if model_type != "modernbert" => Ok(GeluForm::Quick),
        _ => Err(keys.wrong(key, "gelu, gelu_new, gelu_pytorch_tanh or quick_gelu")),
    }
}

/// Layers that see everything and layers that see what is near, each with its own frequencies.
fn alternating(
    keys: Keys<'_>,
    json: &Json,
    head_dim: usize,
    count: usize,
) -> Result<(Vec<RopeSchedule>, Vec<LayerKind>), ConfigError> {
    let wide = keys.maybe_positive("global_rope_theta")?.unwrap_or(160_000.0);
    let near = match keys.names("local_rope_theta") {
        true => keys.maybe_positive("local_rope_theta")?.unwrap_or(wide),
        false => 10_000.0,
    };
    let rope = |base, kind| RopeSchedule::from_json(json, head_dim, base, Some(kind));
    let ropes = vec![rope(wide, "full_attention")?, rope(near, "sliding_attention")?];
    // Half of them lie on either side, besides the query's own position.
    let window = keys.maybe_size("local_attention")?.unwrap_or(128) / 2 + 1;
    let local = match keys.get("layer_types") {
        Some(list) => {
            let kind = |v: &Json| match v.as_str() {
                Some("sliding_attention") => Some(true),
                Some("full_attention") => Some(false),
                _ => None,
            };
            let all = list.as_array().and_then(|l| l.iter().map(kind).collect::<Option<Vec<_>>>());
            all.filter(|l| l.len() == count).ok_or_else(|| {
                let wanted = format!("{count} of full_attention and sliding_attention");
                keys.wrong("layer_types", wanted)
            })?
        }
        None => {
            let every = keys.maybe_size("global_attn_every_n_layers")?.unwrap_or(3);
            (0..count).map(|i| !i.is_multiple_of(every)).collect()
        }
    };
    let kind = |&local: &bool| LayerKind {
        rope: Some(usize::from(local)),
        window: local.then_some(window),
    };
    Ok((ropes, local.iter().map(kind).collect()))
}

#[cfg(test)]
mod tests;
