//! The network as a graph of plain layers (Devlin et al., 2019; Dosovitskiy et al., 2021; Warner et
//! al., 2024).
//!
//! ```text
//! sums normed:   x = norm(x + attention(x)); x = norm(x + mlp(x))      BERT, DistilBERT
//! inputs normed: x = x + attention(norm(x)); x = x + mlp(norm(x))      ModernBERT, ViT
//! ```
//! Weights have the names of Hugging Face, without the prefix of a model with a head.

use super::{
    config::{EncoderConfig, Reads},
    names::{self, Names},
};
use crate::{
    llama::weights::Weights,
    nn::{self, GateActivation, layer},
};
use frit_graph::{DType, Spec, Tensor, Value};
use frit_ops::{GeluForm, RopeLayout};

/// The checkpoint's weights as tensors of a graph.
pub struct Network<'a> {
    config: &'a EncoderConfig,
    weights: &'a Weights,
    names: &'static Names,
}

impl<'a> Network<'a> {
    /// The network over these weights.
    pub fn new(config: &'a EncoderConfig, weights: &'a Weights) -> Network<'a> {
        Network { config, weights, names: names::of(&config.model_type) }
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        let c = self.config;
        let of = |part: &str| self.weights.weight(&format!("{name}.{part}"), &[c.hidden_size]);
        layer::layer_norm(x, of("weight"), c.norm_bias.then(|| of("bias")), c.norm_eps)
    }

    fn linear(&self, x: &Tensor, name: &str, n: usize, bias: bool) -> Tensor {
        let k = x.shape().last().copied().unwrap_or(0);
        let weight = self.weights.weight(&format!("{name}.weight"), &[n, k]);
        let bias = bias.then(|| self.weights.weight(&format!("{name}.bias"), &[n]));
        layer::linear(x, weight, bias)
    }

    /// Tokens `[B, T]`, and of what kind each is, if not all are of the first, to `[B, T, C]`.
    fn tokens(&self, ids: &Tensor, types: Option<&Tensor>) -> Tensor {
        let (c, t) = (self.config.hidden_size, ids.shape()[1]);
        let Reads::Text { vocab_size, positions, types: kinds } = self.config.reads else {
            return Tensor::poison("encoder", "it reads no text");
        };
        let table = |name: &str, rows| self.weights.weight(&format!("{name}.weight"), &[rows, c]);
        let mut x = layer::embedding(table(self.names.embedding, vocab_size), ids.clone());
        if let Some(rows) = kinds {
            let table = table("embeddings.token_type_embeddings", rows);
            x = match types {
                Some(types) => x + layer::embedding(table, types.clone()),
                None => x + table.slice(0, 0..1),
            };
        }
        if let Some(rows) = positions {
            x = x + table("embeddings.position_embeddings", rows).slice(0, 0..t);
        }
        x
    }

    /// A picture `[B, channels, size, size]` to its patches, `[B, 1 + N, C]`.
    fn patches(&self, pixels: &Tensor) -> Tensor {
        let c = self.config.hidden_size;
        let Reads::Image { size, patch, channels } = self.config.reads else {
            return Tensor::poison("encoder", "it reads no pictures");
        };
        let (b, side) = (pixels.shape()[0], size / patch);
        // A convolution whose stride is its width multiplies each patch by one matrix.
        let x = pixels.reshape(&[b, channels, side, patch, side, patch]);
        let x = x.transpose(&[0, 2, 4, 1, 3, 5]);
        let x = x.reshape(&[b, side * side, channels * patch * patch]);
        let name = self.names.embedding;
        let shape = [c, channels, patch, patch];
        let weight = self.weights.weight(&format!("{name}.weight"), &shape);
        let weight = weight.reshape(&[c, channels * patch * patch]);
        let bias = self.weights.weight(&format!("{name}.bias"), &[c]);
        let x = layer::linear(&x, weight, Some(bias));
        let first = self.weights.weight("embeddings.cls_token", &[1, 1, c]);
        let first = first.broadcast_to(&[b, 1, c]);
        let positions = [1, side * side + 1, c];
        let positions = self.weights.weight("embeddings.position_embeddings", &positions);
        Tensor::concat(&[&first, &x], 1) + positions
    }

    /// Heads `[B, T, H, D]`, turned as the layer does.
    fn turned(&self, x: Tensor, rope: Option<usize>) -> Tensor {
        let Some(schedule) = rope.and_then(|r| self.config.ropes.get(r)) else {
            return x;
        };
        let (b, t) = (x.shape()[0], x.shape()[1]);
        let positions = Tensor::iota(Spec::new(DType::I64, [b, t]), 1);
        let given = match schedule.scale() {
            Some(_) => None,
            None => {
                let all: Vec<f32> = schedule.inv_freqs(t).iter().map(|&f| f as f32).collect();
                Some(match Value::new([all.len()], all) {
                    Ok(value) => Tensor::constant(value),
                    Err(e) => Tensor::poison("rope", e),
                })
            }
        };
        let options = nn::Rope {
            dims: schedule.dims,
            base: schedule.base,
            scale: schedule.scale().unwrap_or(1.0),
            amplitude: schedule.amplitude(),
            layout: RopeLayout::Split,
        };
        layer::rope(x, &positions, given.as_ref(), options)
    }

    fn attention(&self, x: &Tensor, i: usize, key_mask: Option<&Tensor>) -> Tensor {
        let (config, kind) = (self.config, self.config.layers[i]);
        let (b, t, c) = (x.shape()[0], x.shape()[1], config.hidden_size);
        let heads = config.num_attention_heads;
        let name = |part: &str| format!("{}.{i}.{part}", self.names.layers);
        let project = |part: &str, n| self.linear(x, &name(part), n, config.qkv_bias);
        let split = |x: Tensor| x.reshape(&[b, t, heads, c / heads]);
        let [q, k, v] = match *self.names.projections {
            [q, k, v] => [q, k, v].map(|part| split(project(part, c))),
            [all] => {
                let all = project(all, 3 * c);
                [0, 1, 2].map(|n| split(all.slice(-1, n * c..(n + 1) * c)))
            }
            _ => [(); 3].map(|()| Tensor::poison("encoder", "it has no projections")),
        };
        let (q, k) = (self.turned(q, kind.rope), self.turned(k, kind.rope));
        let [q, k, v] = [q, k, v].map(|x| x.transpose(&[0, 2, 1, 3]));
        let options = nn::Attention { window: kind.window, ..nn::Attention::default() };
        let key_mask = key_mask.cloned();
        let inputs = nn::AttentionInputs { q, k, v, key_length: None, key_mask };
        let y = Tensor::block(options, inputs);
        let y = y.transpose(&[0, 2, 1, 3]).reshape(&[b, t, c]);
        self.linear(&y, &name(self.names.output), c, config.output_bias)
    }

    fn feed_forward(&self, x: &Tensor, i: usize) -> Tensor {
        let (c, f) = (self.config, self.config.intermediate_size);
        let name = |part: &str| format!("{}.{i}.{part}", self.names.layers);
        let wide = if c.gated { 2 * f } else { f };
        let h = self.linear(x, &name(self.names.up), wide, c.mlp_bias);
        let h = match c.gated {
            true => {
                let activation = match c.activation {
                    GeluForm::Tanh => GateActivation::GeluTanh,
                    _ => GateActivation::Gelu,
                };
                layer::gate(h.slice(-1, 0..f), h.slice(-1, f..2 * f), activation)
            }
            false => layer::gelu_of(h, c.activation),
        };
        self.linear(&h, &name(self.names.down), c.hidden_size, c.mlp_bias)
    }

    /// The layers over embeddings `[B, T, C]`; `key_mask` `[B, T]` says which of them count.
    fn layers(&self, mut x: Tensor, key_mask: Option<&Tensor>) -> Tensor {
        let (c, names) = (self.config, self.names);
        if !names.embedding_norm.is_empty() {
            x = self.norm(&x, names.embedding_norm);
        }
        for i in 0..c.layers.len() {
            let norm =
                |x: &Tensor, part: &str| self.norm(x, &format!("{}.{i}.{part}", names.layers));
            x = match c.pre_norm {
                true => {
                    // The norm of the embeddings is the first layer's too, where there is one.
                    let normed = i == 0 && !names.embedding_norm.is_empty();
                    let h = if normed { x.clone() } else { norm(&x, names.attention_norm) };
                    let x = x + self.attention(&h, i, key_mask);
                    &x + self.feed_forward(&norm(&x, names.mlp_norm), i)
                }
                false => {
                    let h = self.attention(&x, i, key_mask);
                    let x = norm(&(x + h), names.attention_norm);
                    let h = self.feed_forward(&x, i);
                    norm(&(x + h), names.mlp_norm)
                }
            };
        }
        match names.final_norm {
            "" => x,
            name => self.norm(&x, name),
        }
    }

    /// Tokens `[B, T]` to hidden states `[B, T, C]`: `key_mask` says which tokens count, if not
    /// all, and `types` of what kind each is, if not all are of the first.
    pub fn text(&self, ids: &Tensor, key_mask: Option<&Tensor>, types: Option<&Tensor>) -> Tensor {
        self.layers(self.tokens(ids, types), key_mask)
    }

    /// Pictures `[B, channels, size, size]` to hidden states `[B, 1 + patches, C]`.
    pub fn image(&self, pixels: &Tensor) -> Tensor {
        self.layers(self.patches(pixels), None)
    }
}
