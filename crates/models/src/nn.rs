//! Plain layers, as model libraries write them: Blocks made of small tensor operations that know
//! nothing of fused kernels.
//!
//! A model is written with these. Run as it is, every layer is composed of its primitives;
//! [`crate::fast_kernels`] are the rules that put the fused operation in the place of each.

mod attention;
mod decoder;
#[cfg(test)]
mod tests;

pub use attention::{Attention, AttentionInputs};
pub use decoder::{Gate, GateActivation, GateInputs, RmsNorm, RmsNormInputs, Rope, RopeInputs};

use frit_graph::{Block, DType, Params, ShapeError, Spec, Tensor, operands};
use frit_ops::GeluForm;

fn same(spec: &Spec) -> Result<Spec, ShapeError> {
    Ok(spec.clone())
}

/// A number as an axis size in a message.
fn axes(spec: &Spec, rank: usize, name: &str) -> Result<(), ShapeError> {
    match spec.rank() == rank {
        true => Ok(()),
        false => Err(format!("{name} must have {rank} axes, got {spec}").into()),
    }
}

/// The weight of this name as `dtype`, to which the graph widens it if it is stored as something
/// narrower. Kernels that can read it as it is.
#[track_caller]
pub(crate) fn stored(params: &Params, name: &str, shape: &[usize], dtype: DType) -> Tensor {
    let kept = params.get(name).map(|v| v.dtype()).filter(|&d| dtype.holds(d));
    Tensor::param(name, Spec::new(kept.unwrap_or(dtype), shape)).cast(dtype)
}

/// Layer normalisation over the last axis: `(x - mean) / sqrt(var + eps) * weight + bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
}

operands!(/// Inputs of [`LayerNorm`]: `x` `[.., C]`, `weight` and, if there is one, `bias` `[C]`.
    pub LayerNormInputs { x, weight } optional { bias });

impl Block for LayerNorm {
    type Inputs<T> = LayerNormInputs<T>;
    const NAME: &'static str = "nn.layer_norm";

    fn infer(&self, i: LayerNormInputs<&Spec>) -> Result<Spec, ShapeError> {
        let wanted: Vec<usize> = i.x.last().into_iter().collect();
        let weights = [("weight", Some(i.weight)), ("bias", i.bias)];
        for (name, w) in weights.into_iter().filter_map(|(name, w)| Some((name, w?))) {
            if w.shape != wanted {
                return Err(format!("{name} must be {wanted:?} for x {}, got {w}", i.x).into());
            }
        }
        same(i.x)
    }

    fn compose(&self, i: LayerNormInputs<Tensor>) -> Tensor {
        let mean = i.x.mean(&[-1]);
        let centred = i.x - mean;
        let variance = (&centred * &centred).mean(&[-1]);
        let y = centred / (variance + self.eps).sqrt() * i.weight;
        i.bias.map_or(y.clone(), |b| y + b)
    }
}

/// An affine map: `x weight^T + bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear;

operands!(/// Inputs of [`Linear`]: `x` `[.., k]`, `weight` `[n, k]`, `bias` `[n]`.
    pub LinearInputs { x, weight } optional { bias });

impl Block for Linear {
    type Inputs<T> = LinearInputs<T>;
    const NAME: &'static str = "nn.linear";

    fn infer(&self, i: LinearInputs<&Spec>) -> Result<Spec, ShapeError> {
        axes(i.weight, 2, "weight")?;
        if i.x.last() != Some(i.weight.shape[1]) {
            return Err(format!("weight {} does not fit x {}", i.weight, i.x).into());
        }
        let n = i.weight.shape[0];
        if let Some(b) = i.bias.filter(|b| b.shape != [n]) {
            return Err(format!("bias must be [{n}], got {b}").into());
        }
        let mut y = i.x.clone();
        y.shape[i.x.rank() - 1] = n;
        Ok(y)
    }

    fn compose(&self, i: LinearInputs<Tensor>) -> Tensor {
        let (shape, k) = (i.x.shape().to_vec(), i.weight.shape()[1]);
        let rows: usize = shape[..shape.len() - 1].iter().product();
        let y = i.x.reshape(&[rows, k]).matmul(&i.weight.swap_axes(0, 1));
        let y = i.bias.map_or(y.clone(), |b| y + b);
        let last = i.weight.shape()[0];
        y.reshape(&[&shape[..shape.len() - 1], &[last]].concat())
    }
}

/// `x/2 (1 + erf(x / sqrt 2))`, or an approximation of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Gelu {
    /// Exact or one of two approximations.
    pub form: GeluForm,
}

operands!(/// The operand of an elementwise layer.
    pub UnaryInputs { x } optional {});

impl Block for Gelu {
    type Inputs<T> = UnaryInputs<T>;
    const NAME: &'static str = "nn.gelu";

    fn infer(&self, i: UnaryInputs<&Spec>) -> Result<Spec, ShapeError> {
        same(i.x)
    }

    fn compose(&self, i: UnaryInputs<Tensor>) -> Tensor {
        decoder::gelu(&i.x, self.form)
    }
}

/// Rows of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding;

operands!(/// Inputs of [`Embedding`]: `weight` `[V, C]` and integer `ids`.
    pub EmbeddingInputs { weight, ids } optional {});

impl Block for Embedding {
    type Inputs<T> = EmbeddingInputs<T>;
    const NAME: &'static str = "nn.embedding";

    fn infer(&self, i: EmbeddingInputs<&Spec>) -> Result<Spec, ShapeError> {
        axes(i.weight, 2, "weight")?;
        match i.ids.dtype.is_integer() {
            true => Ok(i.weight.with_shape([&i.ids.shape[..], &i.weight.shape[1..]].concat())),
            false => Err(format!("ids must be integers, got {}", i.ids).into()),
        }
    }

    fn compose(&self, i: EmbeddingInputs<Tensor>) -> Tensor {
        i.weight.gather(0, &i.ids)
    }
}

/// Convolution along the last axis, of odd width, padded to keep the length but for the stride.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv1d {
    /// Distance between outputs.
    pub stride: usize,
    /// Zeros put before and after.
    pub padding: usize,
}

operands!(/// Inputs of [`Conv1d`]: `x` `[B, Cin, L]`, `weight` `[Cout, Cin, k]`, `bias` `[Cout]`.
    pub Conv1dInputs { x, weight, bias } optional {});

impl Conv1d {
    fn length(&self, x: usize, taps: usize) -> Option<usize> {
        Some((x + 2 * self.padding).checked_sub(taps)?.checked_div(self.stride)? + 1)
    }
}

impl Block for Conv1d {
    type Inputs<T> = Conv1dInputs<T>;
    const NAME: &'static str = "nn.conv1d";

    fn infer(&self, i: Conv1dInputs<&Spec>) -> Result<Spec, ShapeError> {
        axes(i.x, 3, "x")?;
        axes(i.weight, 3, "weight")?;
        let [out, channels, taps] = [0, 1, 2].map(|a| i.weight.shape[a]);
        if channels != i.x.shape[1] || i.bias.shape != [out] {
            let (w, b) = (i.weight, i.bias);
            return Err(format!("weight {w} and bias {b} do not fit x {}", i.x).into());
        }
        match self.length(i.x.shape[2], taps) {
            Some(length) => Ok(i.x.with_shape([i.x.shape[0], out, length])),
            None => Err(format!("x {} is shorter than the weight {}", i.x, i.weight).into()),
        }
    }

    fn compose(&self, i: Conv1dInputs<Tensor>) -> Tensor {
        let [out, channels, taps] = [0, 1, 2].map(|a| i.weight.shape()[a]);
        let Some(length) = self.length(i.x.shape()[2], taps) else {
            return Tensor::poison(Self::NAME, "no output");
        };
        let x = i.x.pad(2, self.padding, self.padding, 0.0);
        // Every tap is a slice; together they are the matrix that the weight multiplies.
        let slices: Vec<Tensor> = (0..taps)
            .map(|j| x.slice_step(2, j, self.stride as isize, length).unsqueeze(2))
            .collect();
        let unfolded = Tensor::concat(&slices.iter().collect::<Vec<_>>(), 2);
        let unfolded = unfolded.reshape(&[x.shape()[0], channels * taps, length]);
        i.weight.reshape(&[out, channels * taps]).matmul(&unfolded) + i.bias.reshape(&[out, 1])
    }
}

/// A key or value cache with new entries written at a position.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache;

operands!(/// Inputs of [`Cache`]: `cache` `[B, H, S, D]`, `new` `[B, H, T, D]`, integer `start`.
    pub CacheInputs { cache, new, start } optional {});

impl Block for Cache {
    type Inputs<T> = CacheInputs<T>;
    const NAME: &'static str = "nn.cache";

    fn infer(&self, i: CacheInputs<&Spec>) -> Result<Spec, ShapeError> {
        axes(i.cache, 4, "cache")?;
        axes(i.new, 4, "new")?;
        match i.new.shape[2] <= i.cache.shape[2] {
            true => same(i.cache),
            false => Err(format!("new {} is longer than the cache {}", i.new, i.cache).into()),
        }
    }

    fn compose(&self, i: CacheInputs<Tensor>) -> Tensor {
        i.cache.update(2, &i.new, &i.start)
    }
}

/// The layers as functions, for models to read well.
pub mod layer {
    use super::*;

    /// [`LayerNorm`]
    #[track_caller]
    pub fn layer_norm(
        x: &Tensor,
        weight: Tensor,
        bias: impl Into<Option<Tensor>>,
        eps: f64,
    ) -> Tensor {
        let (x, bias) = (x.clone(), bias.into());
        Tensor::block(LayerNorm { eps }, LayerNormInputs { x, weight, bias })
    }

    /// [`Linear`]
    #[track_caller]
    pub fn linear(x: &Tensor, weight: Tensor, bias: Option<Tensor>) -> Tensor {
        Tensor::block(Linear, LinearInputs { x: x.clone(), weight, bias })
    }

    /// [`Gelu`] with erf
    #[track_caller]
    pub fn gelu(x: Tensor) -> Tensor {
        gelu_of(x, GeluForm::Erf)
    }

    /// [`Gelu`]
    #[track_caller]
    pub fn gelu_of(x: Tensor, form: GeluForm) -> Tensor {
        Tensor::block(Gelu { form }, UnaryInputs { x })
    }

    /// [`Embedding`]
    #[track_caller]
    pub fn embedding(weight: Tensor, ids: Tensor) -> Tensor {
        Tensor::block(Embedding, EmbeddingInputs { weight, ids })
    }

    /// [`Conv1d`]
    #[track_caller]
    pub fn conv1d(x: &Tensor, weight: Tensor, bias: Tensor, options: Conv1d) -> Tensor {
        Tensor::block(options, Conv1dInputs { x: x.clone(), weight, bias })
    }

    /// [`Cache`]
    #[track_caller]
    pub fn cache(cache: &Tensor, new: Tensor, start: &Tensor) -> Tensor {
        let (cache, start) = (cache.clone(), start.clone());
        Tensor::block(Cache, CacheInputs { cache, new, start })
    }

    /// [`Attention`]
    #[track_caller]
    pub fn attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_length: Option<Tensor>,
        causal: bool,
    ) -> Tensor {
        let inputs = AttentionInputs { q, k, v, key_length, key_mask: None };
        Tensor::block(Attention { causal, ..Attention::default() }, inputs)
    }

    /// [`RmsNorm`]
    #[track_caller]
    pub fn rms_norm(x: &Tensor, weight: Tensor, options: RmsNorm) -> Tensor {
        Tensor::block(options, RmsNormInputs { x: x.clone(), weight })
    }

    /// [`Rope`]
    #[track_caller]
    pub fn rope(
        x: Tensor,
        position_ids: &Tensor,
        inv_freqs: Option<&Tensor>,
        options: Rope,
    ) -> Tensor {
        let (position_ids, inv_freqs) = (position_ids.clone(), inv_freqs.cloned());
        Tensor::block(options, RopeInputs { x, position_ids, inv_freqs })
    }

    /// [`Gate`]
    #[track_caller]
    pub fn gate(gate: Tensor, up: Tensor, activation: GateActivation) -> Tensor {
        Tensor::block(Gate { activation }, GateInputs { gate, up })
    }
}
