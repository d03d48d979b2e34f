//! The network as a graph of plain layers (Touvron et al., 2023, and those that followed).
//!
//! ```text
//! ids [B, T] - embedding - N x (x + attention(norm(x)), x + mlp(norm(x))) - norm - x W^T = logits
//! ```
//! Weights have the names of Hugging Face.

use super::{config::LlamaConfig, weights::Weights};
use crate::nn::{self, layer};
use frit_graph::{DType, Tensor, Value};

/// The checkpoint's weights as tensors of a graph.
pub struct Network<'a> {
    config: &'a LlamaConfig,
    weights: &'a Weights,
}

/// Keys and values of one layer: `[B, K, S, D]` each.
#[derive(Clone)]
pub struct KeyValue {
    /// Keys.
    pub key: Tensor,
    /// Values.
    pub value: Tensor,
}

/// A cache that holds what was before.
pub struct Past<'a> {
    /// One pair a layer.
    pub caches: &'a [KeyValue],
    /// Where the new tokens go: an i64 scalar.
    pub start: Tensor,
}

/// What stands at the input.
pub struct Tokens<'a> {
    /// Token ids `[B, T]`.
    pub ids: Tensor,
    /// Their positions `[B, T]`.
    pub positions: Tensor,
    /// Inverse frequencies `[dims/2]` of the schedules that follow the length of the text, in the
    /// order of [`LlamaConfig::ropes`].
    pub frequencies: &'a [Tensor],
    /// Which keys count, `[B, S]`, if not all.
    pub key_mask: Option<Tensor>,
    /// The cache, if there is one; without it the tokens see each other alone.
    pub past: Option<Past<'a>>,
}

/// What the layers compute.
pub struct Decoded {
    /// `[B, T, C]`, before the projection on the vocabulary.
    pub hidden: Tensor,
    /// The caches with the new tokens in them, a layer each; empty if there was none.
    pub caches: Vec<KeyValue>,
}

impl<'a> Network<'a> {
    /// The network over these weights.
    pub fn new(config: &'a LlamaConfig, weights: &'a Weights) -> Network<'a> {
        Network { config, weights }
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        let c = x.shape().last().copied().unwrap_or(0);
        let weight = self.weights.weight(&format!("{name}.weight"), &[c]);
        let (eps, offset) = (self.config.rms_norm_eps, self.config.norm_offset);
        layer::rms_norm(x, weight, nn::RmsNorm { eps, offset })
    }

    fn linear(&self, x: &Tensor, name: &str, n: usize, bias: bool) -> Tensor {
        let k = x.shape().last().copied().unwrap_or(0);
        let weight = self.weights.weight(&format!("{name}.weight"), &[n, k]);
        let bias = bias.then(|| self.weights.weight(&format!("{name}.bias"), &[n]));
        layer::linear(x, weight, bias)
    }

    /// Inverse frequencies of every schedule that has them as an operand.
    fn frequencies(&self, inputs: &[Tensor]) -> Vec<Option<Tensor>> {
        let mut inputs = inputs.iter();
        let of = |rope: &crate::rope::RopeSchedule| match rope.scale() {
            Some(_) => None,
            None if rope.follows_length() => inputs.next().cloned(),
            None => {
                let all: Vec<f32> = rope.inv_freqs(0).iter().map(|&f| f as f32).collect();
                Some(match Value::new([all.len()], all) {
                    Ok(value) => Tensor::constant(value),
                    Err(e) => Tensor::poison("rope", e),
                })
            }
        };
        self.config.ropes.iter().map(of).collect()
    }

    /// Heads `[B, T, H, D]`, normed and turned as the layer does.
    fn turned(
        &self,
        x: Tensor,
        name: &str,
        rope: Option<usize>,
        tokens: &Tokens<'_>,
        frequencies: &[Option<Tensor>],
    ) -> Tensor {
        let x = if self.config.query_key_norm { self.norm(&x, name) } else { x };
        let Some((schedule, inv_freqs)) =
            rope.and_then(|r| Some((self.config.ropes.get(r)?, frequencies.get(r)?)))
        else {
            return x;
        };
        let options = nn::Rope {
            dims: schedule.dims,
            base: schedule.base,
            scale: schedule.scale().unwrap_or(1.0),
            amplitude: schedule.amplitude(),
            layout: self.config.rope_layout,
        };
        layer::rope(x, &tokens.positions, inv_freqs.as_ref(), options)
    }

    fn attention(
        &self,
        x: &Tensor,
        i: usize,
        tokens: &Tokens<'_>,
        frequencies: &[Option<Tensor>],
    ) -> (Tensor, Option<KeyValue>) {
        let (c, kind) = (self.config, self.config.layers[i]);
        let name = format!("model.layers.{i}.self_attn");
        let (b, t) = (x.shape()[0], x.shape()[1]);
        let (heads, key_heads, d) = (c.num_attention_heads, c.num_key_value_heads, c.head_dim);
        let split = |x: Tensor, heads: usize| x.reshape(&[b, t, heads, d]);
        let [q, k, v] = match c.fused_projections {
            true => {
                let (n, m) = (heads * d, key_heads * d);
                let all = self.linear(x, &format!("{name}.qkv_proj"), n + 2 * m, c.qkv_bias);
                let part =
                    |from: usize, heads: usize| split(all.slice(-1, from..from + heads * d), heads);
                [part(0, heads), part(n, key_heads), part(n + m, key_heads)]
            }
            false => [("q", heads), ("k", key_heads), ("v", key_heads)].map(|(p, heads)| {
                split(self.linear(x, &format!("{name}.{p}_proj"), heads * d, c.qkv_bias), heads)
            }),
        };
        let turn = |x, norm: &str| {
            let norm = format!("{name}.{norm}");
            let x = self.turned(x, &norm, kind.rope, tokens, frequencies);
            x.transpose(&[0, 2, 1, 3])
        };
        let (q, k, v) = (turn(q, "q_norm"), turn(k, "k_norm"), v.transpose(&[0, 2, 1, 3]));

        let dtype = q.dtype();
        let (mut k, mut v, mut key_length, mut kept) = (k, v, None, None);
        if let Some(past) = &tokens.past {
            let cache = &past.caches[i];
            let stored = |x: &Tensor| x.cast(cache.key.dtype());
            let key = layer::cache(&cache.key, stored(&k), &past.start);
            let value = layer::cache(&cache.value, stored(&v), &past.start);
            (k, v) = (key.cast(dtype), value.cast(dtype));
            key_length = Some(&past.start + Tensor::scalar(DType::I64, t as f64));
            kept = Some(KeyValue { key, value });
        }
        let options = nn::Attention {
            causal: true,
            window: kind.window,
            scale: Some(c.attention_scale),
            softcap: c.attention_softcap,
        };
        let key_mask = tokens.key_mask.clone();
        let inputs = nn::AttentionInputs { q, k, v, key_length, key_mask };
        let y = Tensor::block(options, inputs);
        let y = y.transpose(&[0, 2, 1, 3]).reshape(&[b, t, heads * d]);
        (self.linear(&y, &format!("{name}.o_proj"), c.hidden_size, c.output_bias), kept)
    }

    fn feed_forward(&self, x: &Tensor, i: usize) -> Tensor {
        let c = self.config;
        let (name, f) = (format!("model.layers.{i}.mlp"), c.intermediate_size);
        let (gate, up) = match c.fused_projections {
            true => {
                let both = self.linear(x, &format!("{name}.gate_up_proj"), 2 * f, c.mlp_bias);
                (both.slice(-1, 0..f), both.slice(-1, f..2 * f))
            }
            false => {
                let [gate, up] = ["gate", "up"]
                    .map(|p| self.linear(x, &format!("{name}.{p}_proj"), f, c.mlp_bias));
                (gate, up)
            }
        };
        let h = layer::gate(gate, up, c.activation);
        self.linear(&h, &format!("{name}.down_proj"), c.hidden_size, c.mlp_bias)
    }

    fn embedding(&self) -> Tensor {
        let shape = [self.config.vocab_size, self.config.hidden_size];
        self.weights.weight("model.embed_tokens.weight", &shape)
    }

    /// The layers over these tokens.
    pub fn decode(&self, tokens: &Tokens<'_>) -> Decoded {
        let c = self.config;
        let frequencies = self.frequencies(tokens.frequencies);
        let mut x = layer::embedding(self.embedding(), tokens.ids.clone());
        if let Some(scale) = c.embedding_scale {
            x = x * scale;
        }
        let mut caches = Vec::new();
        for i in 0..c.layers.len() {
            let name = format!("model.layers.{i}");
            let norm = |x: &Tensor, n: &str| self.norm(x, &format!("{name}.{n}_layernorm"));
            let (h, kept) = self.attention(&norm(&x, "input"), i, tokens, &frequencies);
            caches.extend(kept);
            x = match c.post_norms {
                true => {
                    let x = x + norm(&h, "post_attention");
                    let h = self.feed_forward(&norm(&x, "pre_feedforward"), i);
                    x + norm(&h, "post_feedforward")
                }
                false => {
                    let x = x + h;
                    &x + self.feed_forward(&norm(&x, "post_attention"), i)
                }
            };
        }
        Decoded { hidden: self.norm(&x, "model.norm"), caches }
    }

    /// Scores of every token, `[.., V]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let c = self.config;
        let weight = match c.tie_word_embeddings {
            true => self.embedding(),
            false => self.weights.weight("lm_head.weight", &[c.vocab_size, c.hidden_size]),
        };
        let logits = layer::linear(hidden, weight, None);
        match c.logit_softcap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }
}
