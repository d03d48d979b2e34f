//! Attention over heads, in small operations.

use super::axes;
use frit_graph::{Block, DType, ShapeError, Spec, Tensor, operands};

/// Attention over heads: `softmax(q k^T * scale) v`. Query head h reads key head `h / (H/K)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attention {
    /// Whether a query sees no key after its own position.
    pub causal: bool,
    /// How near a key must be for a query to see it, if not all are seen: closer than this. A causal
    /// query so sees this many keys up to its own position, another one also those after it.
    pub window: Option<usize>,
    /// Multiplies the scores; `1/sqrt(D)` if absent.
    pub scale: Option<f64>,
    /// Turns scores into `c * tanh(score / c)`.
    pub softcap: Option<f64>,
}

operands!(/// Inputs of [`Attention`]: `q` `[B, H, T, D]`, `k` and `v` `[B, K, S, D]`; how many keys
    /// exist (an integer scalar), if not all; which keys count (booleans `[B, S]`), if not all.
    pub AttentionInputs { q, k, v } optional { key_length, key_mask });

impl Block for Attention {
    type Inputs<T> = AttentionInputs<T>;
    const NAME: &'static str = "nn.attention";

    fn infer(&self, i: AttentionInputs<&Spec>) -> Result<Spec, ShapeError> {
        for (name, x) in [("q", i.q), ("k", i.k), ("v", i.v)] {
            axes(x, 4, name)?;
        }
        let (q, k) = (&i.q.shape, &i.k.shape);
        let grouped = k[1] > 0 && q[1].is_multiple_of(k[1]);
        if q[0] != k[0] || !grouped || q[3] != k[3] || i.v != i.k {
            return Err(format!("q {}, k {} and v {} do not fit", i.q, i.k, i.v).into());
        }
        if let Some(m) = i.key_mask
            && (m.dtype != DType::Bool || m.shape != [k[0], k[2]])
        {
            return Err(format!("key_mask must be bool[{}, {}], got {m}", k[0], k[2]).into());
        }
        if self.window == Some(0) {
            return Err("window must be at least 1".into());
        }
        Ok(i.q.clone())
    }

    fn compose(&self, i: AttentionInputs<Tensor>) -> Tensor {
        let [b, h, t, d] = [0, 1, 2, 3].map(|a| i.q.shape()[a]);
        let (heads, s) = (i.k.shape()[1], i.k.shape()[2]);
        // The queries that share a key head stand below each other.
        let (together, apart) = ([b, heads, h / heads * t], [b, h, t]);
        let q = match self.scale {
            Some(scale) => i.q * scale,
            None => i.q / (d as f64).sqrt(),
        };
        let q = q.reshape(&[&together[..], &[d]].concat());
        let scores = q.matmul(&i.k.swap_axes(-1, -2));
        let mut scores = scores.reshape(&[&apart[..], &[s]].concat());
        if let Some(c) = self.softcap {
            scores = (scores / c).tanh() * c;
        }
        let i64 = DType::I64;
        let mut keep: Vec<Tensor> = Vec::new();
        if self.causal || self.window.is_some() || i.key_length.is_some() {
            let length = match &i.key_length {
                Some(l) => l.cast(i64),
                None => Tensor::scalar(i64, s as f64),
            };
            let column = Tensor::iota(Spec::new(i64, [1, s]), 1);
            let row = Tensor::iota(Spec::new(i64, [t, 1]), 0) + &length;
            let place = row - Tensor::scalar(i64, t as f64);
            keep.push(match self.causal {
                true => column.le(&place),
                false => column.lt(&length),
            });
            if let Some(w) = self.window {
                let w = Tensor::scalar(i64, w.min(1 << 40) as f64);
                keep.push(column.gt(&(&place - &w)));
                if !self.causal {
                    keep.push(column.lt(&(place + w)));
                }
            }
        }
        if let Some(m) = &i.key_mask {
            keep.push(m.reshape(&[b, 1, 1, s]));
        }
        let low = Tensor::scalar(scores.dtype(), f64::NEG_INFINITY);
        if let Some(keep) = keep.into_iter().reduce(|a, b| a.logical_and(&b)) {
            scores = keep.select(&scores, &low);
        }
        let mut top = scores.max(&[-1]);
        if i.key_mask.is_some() {
            // A padded row may keep no key at all: its weights are zeros.
            let least = if scores.dtype() == DType::F16 { -65504.0 } else { -3e38 };
            top = top.maximum(&Tensor::scalar(scores.dtype(), least));
        }
        let weights = (&scores - top).exp();
        let mut sum = weights.sum(&[-1]);
        if i.key_mask.is_some() {
            // The largest weight of any other row is 1.
            sum = sum.maximum(&Tensor::scalar(scores.dtype(), 1.0));
        }
        let weights = (&weights / sum).reshape(&[&together[..], &[s]].concat());
        weights.matmul(&i.v).reshape(&[b, h, t, d])
    }
}
