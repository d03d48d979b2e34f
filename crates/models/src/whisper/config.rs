//! The sizes of a Whisper checkpoint, from the `config.json` of Hugging Face (or what the loader
//! derived from the tensors).

use crate::config::{ConfigError, Keys};
use serde_json::Value as Json;

/// Sizes of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhisperConfig {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Layers of the encoder.
    pub encoder_layers: usize,
    /// Heads of the encoder.
    pub encoder_attention_heads: usize,
    /// Feed-forward width of the encoder.
    pub encoder_ffn_dim: usize,
    /// Layers of the decoder.
    pub decoder_layers: usize,
    /// Heads of the decoder.
    pub decoder_attention_heads: usize,
    /// Feed-forward width of the decoder.
    pub decoder_ffn_dim: usize,
    /// Mel bands of the input: 80, or 128 from large-v3 on.
    pub num_mel_bins: usize,
    /// Positions of the encoder; the input has twice as many frames.
    pub max_source_positions: usize,
    /// Positions of the decoder.
    pub max_target_positions: usize,
    /// Tokens.
    pub vocab_size: usize,
    /// Whether embeddings are multiplied by the root of the width.
    pub scale_embedding: bool,
}

impl WhisperConfig {
    /// Reads the keys of Hugging Face.
    ///
    /// # Errors
    /// An absent key, a size that makes no sense, another model type or activation.
    pub fn from_json(json: &Json) -> Result<WhisperConfig, ConfigError> {
        let keys = Keys::new(json, "config.json");
        for (key, wanted) in [("model_type", "whisper"), ("activation_function", "gelu")] {
            if keys.get(key).is_some_and(|v| v.as_str() != Some(wanted)) {
                return Err(keys.wrong(key, format!("\"{wanted}\"")));
            }
        }
        let config = WhisperConfig {
            d_model: keys.size("d_model")?,
            encoder_layers: keys.size("encoder_layers")?,
            encoder_attention_heads: keys.size("encoder_attention_heads")?,
            encoder_ffn_dim: keys.size("encoder_ffn_dim")?,
            decoder_layers: keys.size("decoder_layers")?,
            decoder_attention_heads: keys.size("decoder_attention_heads")?,
            decoder_ffn_dim: keys.size("decoder_ffn_dim")?,
            num_mel_bins: keys.size("num_mel_bins")?,
            max_source_positions: keys.size("max_source_positions")?,
            max_target_positions: keys.size("max_target_positions")?,
            vocab_size: keys.size("vocab_size")?,
            scale_embedding: keys.flag("scale_embedding", false)?,
        };
        for (key, heads) in [
            ("encoder_attention_heads", config.encoder_attention_heads),
            ("decoder_attention_heads", config.decoder_attention_heads),
        ] {
            if !config.d_model.is_multiple_of(heads) {
                let wanted = format!("a divisor of d_model {}", config.d_model);
                return Err(keys.wrong(key, wanted));
            }
        }
        Ok(config)
    }

    /// Frames of mel that the encoder hears at once.
    pub fn frames(&self) -> usize {
        2 * self.max_source_positions
    }

    /// Elements of a head of the decoder.
    pub fn decoder_head(&self) -> usize {
        self.d_model / self.decoder_attention_heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tiny() -> Json {
        json!({
            "model_type": "whisper", "d_model": 64, "encoder_layers": 2,
            "encoder_attention_heads": 4, "encoder_ffn_dim": 112, "decoder_layers": 2,
            "decoder_attention_heads": 4, "decoder_ffn_dim": 112, "num_mel_bins": 80,
            "max_source_positions": 100, "max_target_positions": 64, "vocab_size": 320
        })
    }

    fn error_with(key: &str, value: Json) -> String {
        let mut json = tiny();
        json[key] = value;
        WhisperConfig::from_json(&json).expect_err("it makes no sense").to_string()
    }

    #[test]
    fn keys_that_make_no_sense_are_named() {
        assert!(WhisperConfig::from_json(&tiny()).is_ok());
        let missing = WhisperConfig::from_json(&json!({})).expect_err("empty").to_string();
        assert_eq!(missing, "config.json has no `d_model`");
        assert!(error_with("model_type", json!("llama")).contains("must be \"whisper\""));
        assert!(error_with("d_model", json!(-3)).contains("`d_model` must be a whole number"));
        assert!(error_with("vocab_size", json!(1u64 << 60)).contains("vocab_size"));
        let heads = error_with("decoder_attention_heads", json!(5));
        assert_eq!(
            heads,
            "config.json: `decoder_attention_heads` must be a divisor of d_model 64, got 5"
        );
    }
}
