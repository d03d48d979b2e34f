//! The network as a graph of plain layers (Radford et al., 2022).
//!
//! ```text
//! mel [B, M, 2S] - conv, gelu - conv (stride 2), gelu - + positions - N x block - norm = [B, S, C]
//! ids [B, T] - embedding + positions - N x (self attention, cross attention, feed-forward)
//!            - norm - x embedding^T = logits [B, T, V]
//! ```
//! Weights have the names of Hugging Face. Every block is `x + f(norm(x))`.

use super::config::WhisperConfig;
use crate::nn::{Conv1d, layer, stored};
use frit_graph::{DType, Params, Spec, Tensor};

/// Epsilon of every norm.
const EPS: f64 = 1e-5;

/// The checkpoint's weights as tensors of a graph.
pub struct Network<'a> {
    config: &'a WhisperConfig,
    params: &'a Params,
    dtype: DType,
}

/// Keys and values of one layer: `[B, H, S, D]` each.
#[derive(Clone)]
pub struct KeyValue {
    /// Keys.
    pub key: Tensor,
    /// Values.
    pub value: Tensor,
}

/// What the decoder computes.
pub struct Decoded {
    /// `[B, T, C]`, before the projection on the vocabulary.
    pub hidden: Tensor,
    /// The caches with the new tokens in them, a layer each.
    pub caches: Vec<KeyValue>,
}

impl<'a> Network<'a> {
    /// The network over these weights, which are widened to `dtype` where they are narrower.
    pub fn new(config: &'a WhisperConfig, params: &'a Params, dtype: DType) -> Network<'a> {
        Network { config, params, dtype }
    }

    fn weight(&self, name: &str, shape: &[usize]) -> Tensor {
        stored(self.params, name, shape, self.dtype)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        let c = self.config.d_model;
        let [weight, bias] = ["weight", "bias"].map(|p| self.weight(&format!("{name}.{p}"), &[c]));
        layer::layer_norm(x, weight, bias, EPS)
    }

    fn linear(&self, x: &Tensor, name: &str, k: usize, n: usize) -> Tensor {
        let weight = self.weight(&format!("{name}.weight"), &[n, k]);
        // Keys have no bias in most checkpoints.
        let bias = format!("{name}.bias");
        let bias = self.params.get(&bias).map(|_| self.weight(&bias, &[n]));
        layer::linear(x, weight, bias)
    }

    /// `[B, T, C]` to `[B, H, T, D]`.
    fn split(&self, x: &Tensor, heads: usize) -> Tensor {
        let (b, t, c) = (x.shape()[0], x.shape()[1], self.config.d_model);
        x.reshape(&[b, t, heads, c / heads]).transpose(&[0, 2, 1, 3])
    }

    /// `[B, H, T, D]` to `[B, T, C]`, then the output projection.
    fn join(&self, x: &Tensor, name: &str) -> Tensor {
        let (b, t, c) = (x.shape()[0], x.shape()[2], self.config.d_model);
        let x = x.transpose(&[0, 2, 1, 3]).reshape(&[b, t, c]);
        self.linear(&x, &format!("{name}.out_proj"), c, c)
    }

    fn project(&self, x: &Tensor, name: &str, heads: usize) -> Tensor {
        let c = self.config.d_model;
        self.split(&self.linear(x, name, c, c), heads)
    }

    fn feed_forward(&self, x: &Tensor, name: &str, width: usize) -> Tensor {
        let c = self.config.d_model;
        let h = self.norm(x, &format!("{name}.final_layer_norm"));
        let h = layer::gelu(self.linear(&h, &format!("{name}.fc1"), c, width));
        x + self.linear(&h, &format!("{name}.fc2"), width, c)
    }

    /// Mel `[B, M, 2S]` to hidden states `[B, S, C]`.
    pub fn encoder(&self, mel: &Tensor) -> Tensor {
        let c = self.config;
        let conv = |x: &Tensor, name: &str, channels: usize, stride: usize| {
            let name = format!("model.encoder.{name}");
            let weight = self.weight(&format!("{name}.weight"), &[c.d_model, channels, 3]);
            let bias = self.weight(&format!("{name}.bias"), &[c.d_model]);
            layer::gelu(layer::conv1d(x, weight, bias, Conv1d { stride, padding: 1 }))
        };
        let x = conv(mel, "conv1", c.num_mel_bins, 1);
        let x = conv(&x, "conv2", c.d_model, 2).transpose(&[0, 2, 1]);
        let positions = [c.max_source_positions, c.d_model];
        let mut x = x + self.weight("model.encoder.embed_positions.weight", &positions);
        let heads = c.encoder_attention_heads;
        for i in 0..c.encoder_layers {
            let name = format!("model.encoder.layers.{i}");
            let h = self.norm(&x, &format!("{name}.self_attn_layer_norm"));
            let at = format!("{name}.self_attn");
            let [q, k, v] =
                ["q", "k", "v"].map(|p| self.project(&h, &format!("{at}.{p}_proj"), heads));
            let h = layer::attention(q, k, v, None, false);
            x = x + self.join(&h, &at);
            x = self.feed_forward(&x, &name, c.encoder_ffn_dim);
        }
        self.norm(&x, "model.encoder.layer_norm")
    }

    /// Keys and values of the cross attention, a layer each; the same for every token.
    pub fn cross(&self, hidden: &Tensor) -> Vec<KeyValue> {
        let heads = self.config.decoder_attention_heads;
        let of = |i: usize, p: &str| {
            let name = format!("model.decoder.layers.{i}.encoder_attn.{p}_proj");
            self.project(hidden, &name, heads)
        };
        let layers = 0..self.config.decoder_layers;
        layers.map(|i| KeyValue { key: of(i, "k"), value: of(i, "v") }).collect()
    }

    /// Token ids `[B, T]` that stand at `start` (i64 scalar) and after; the caches hold what was
    /// before.
    pub fn decoder(
        &self,
        ids: &Tensor,
        start: &Tensor,
        caches: &[KeyValue],
        cross: &[KeyValue],
    ) -> Decoded {
        let c = self.config;
        let tokens = ids.shape().get(1).copied().unwrap_or(1);
        let embed = self.weight("model.decoder.embed_tokens.weight", &[c.vocab_size, c.d_model]);
        let mut x = layer::embedding(embed, ids.clone());
        if c.scale_embedding {
            x = x * (c.d_model as f64).sqrt();
        }
        let place = Tensor::iota(Spec::new(DType::I64, [tokens]), 0) + start;
        let shape = [c.max_target_positions, c.d_model];
        let positions = self.weight("model.decoder.embed_positions.weight", &shape);
        x = x + layer::embedding(positions, place);
        let length = start + Tensor::scalar(DType::I64, tokens as f64);

        let heads = c.decoder_attention_heads;
        let mut kept = Vec::new();
        for (i, (cache, cross)) in caches.iter().zip(cross).enumerate() {
            let name = format!("model.decoder.layers.{i}");
            let h = self.norm(&x, &format!("{name}.self_attn_layer_norm"));
            let at = format!("{name}.self_attn");
            let [q, k, v] =
                ["q", "k", "v"].map(|p| self.project(&h, &format!("{at}.{p}_proj"), heads));
            let key = layer::cache(&cache.key, k, start);
            let value = layer::cache(&cache.value, v, start);
            let h = layer::attention(q, key.clone(), value.clone(), Some(length.clone()), true);
            kept.push(KeyValue { key, value });
            x = x + self.join(&h, &at);

            let h = self.norm(&x, &format!("{name}.encoder_attn_layer_norm"));
            let at = format!("{name}.encoder_attn");
            let q = self.project(&h, &format!("{at}.q_proj"), heads);
            let h = layer::attention(q, cross.key.clone(), cross.value.clone(), None, false);
            x = x + self.join(&h, &at);
            x = self.feed_forward(&x, &name, c.decoder_ffn_dim);
        }
        let hidden = self.norm(&x, "model.decoder.layer_norm");
        Decoded { hidden, caches: kept }
    }

    /// Scores of every token, `[.., V]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let c = self.config;
        let untied = "proj_out.weight";
        let name = match self.params.get(untied) {
            Some(_) => untied,
            None => "model.decoder.embed_tokens.weight",
        };
        layer::linear(hidden, self.weight(name, &[c.vocab_size, c.d_model]), None)
    }
}
