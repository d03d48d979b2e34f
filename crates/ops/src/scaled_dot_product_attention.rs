//! Scaled dot-product attention (Vaswani et al., 2017) with grouped heads, masks, windows and sinks.

mod bounds;
mod cases;
mod masks;
mod operands;
mod oracle;
mod recognise;

use crate::{Array, Case, Entry, Options, check};
use frit_graph::{Block, DType, Rule, ShapeError, Spec, Tensor, broadcast_shapes, operands};

/// `softmax(q k^T * scale + mask) v`, for each query head.
///
/// Query head h reads key head `h / (H/K)`. Query row t stands at key position `S - T + t`.
/// A row that keeps no key yields zeros.
///
/// # Inputs
/// - `q`: `[B, H, T, D]`
/// - `k`: `[B, K, S, D]`, K divides H
/// - `v`: `[B, K, S, Dv]`
/// - `mask` (optional): broadcasts to `[B, H, T, S]`; a boolean keeps where true, a float is added
///   after scaling and softcap
/// - `key_mask` (optional): `[B, S]`, boolean or integer; non-zero keeps
/// - `key_length` (optional): integer scalar or `[B]`; keys past it do not exist (they may hold
///   NaN), and it takes the place of S in the alignment
/// - `sinks` (optional): `[H]`, join the denominator of the softmax only
///
/// # Output
/// `[B, H, T, Dv]` in the type of `q`.
///
/// # Numerics
/// Scores, softmax and sums in f32; rounded once.
///
/// # Example
/// ```
/// use frit_graph::{DType, Graph, Spec};
/// use frit_ops::{ScaledDotProductAttention, fast};
/// let spec = |shape: &[usize]| Spec::new(DType::F32, shape);
/// let (q, kv) = (spec(&[1, 8, 5, 64]), spec(&[1, 2, 9, 64]));
/// let causal = ScaledDotProductAttention { causal: true, ..Default::default() };
/// let y = Graph::trace(&[q.clone(), kv.clone(), kv.clone()], |x| {
///     vec![fast::scaled_dot_product_attention(&x[0], &x[1], &x[2], None, causal.clone())]
/// })?;
/// assert_eq!(y.outputs()[0].spec(), &q);
///
/// let mask = Spec::new(DType::I64, [5, 9]);
/// let wrong = Graph::trace(&[q, kv.clone(), kv, mask], |x| {
///     vec![fast::scaled_dot_product_attention(&x[0], &x[1], &x[2], Some(&x[3]), causal)]
/// });
/// assert!(wrong.unwrap_err().to_string().starts_with(
///     "[scaled_dot_product_attention] mask must be boolean (true keeps) or float (added), got \
///      i64[5, 9]: convert an integer mask to a boolean one --> "
/// ));
/// # Ok::<(), frit_graph::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScaledDotProductAttention {
    /// Multiplies the scores; `1/sqrt(D)` if absent.
    pub scale: Option<f64>,
    /// Whether a row sees no key after its own position.
    pub causal: bool,
    /// How many keys a row sees to its left and to its right, besides its own position.
    pub window: Option<(usize, usize)>,
    /// Turns scores into `c * tanh(score / c)`.
    pub softcap: Option<f64>,
}

operands!(/// Inputs of [`ScaledDotProductAttention`].
    pub AttentionInputs { q, k, v } optional { mask, key_mask, key_length, sinks });

/// [`ScaledDotProductAttention`] with at most a mask; for the other operands use
/// [`Tensor::block`] with [`AttentionInputs`].
#[track_caller]
pub fn scaled_dot_product_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    options: ScaledDotProductAttention,
) -> Tensor {
    let inputs = AttentionInputs {
        q: q.clone(),
        k: k.clone(),
        v: v.clone(),
        mask: mask.cloned(),
        key_mask: None,
        key_length: None,
        sinks: None,
    };
    Tensor::block(options, inputs)
}

impl ScaledDotProductAttention {
    /// The scale for heads of `d` elements.
    pub fn scale_for(&self, d: usize) -> f64 {
        self.scale.unwrap_or(1.0 / (d as f64).sqrt())
    }
}

impl Block for ScaledDotProductAttention {
    type Inputs<T> = AttentionInputs<T>;
    const NAME: &'static str = "scaled_dot_product_attention";

    fn infer(&self, i: AttentionInputs<&Spec>) -> Result<Spec, ShapeError> {
        for (name, spec) in [("q", i.q), ("k", i.k), ("v", i.v)] {
            check::float(name, spec)?;
            if spec.rank() != 4 {
                return Err(format!("{name} must have 4 axes, got {spec}").into());
            }
            check::same_dtype(name, spec, ("q", i.q))?;
        }
        let [b, h, t, d] = [0, 1, 2, 3].map(|a| i.q.shape[a]);
        let [kb, heads, s, kd] = [0, 1, 2, 3].map(|a| i.k.shape[a]);
        if (kb, kd) != (b, d) || h % heads != 0 {
            return Err(format!(
                "k must be [{b}, K, S, {d}] with K a divisor of {h} for q {:?}, got {:?}",
                i.q.shape, i.k.shape
            )
            .into());
        }
        if i.v.shape[..3] != i.k.shape[..3] {
            return Err(format!(
                "v must be [{b}, {heads}, {s}, Dv] like k {:?}, got {:?}",
                i.k.shape, i.v.shape
            )
            .into());
        }
        if let Some(m) = i.mask {
            if m.dtype != DType::Bool && !m.dtype.is_float() {
                return Err(format!(
                    "mask must be boolean (true keeps) or float (added), got {m}: convert an \
                     integer mask to a boolean one"
                )
                .into());
            }
            let full = [b, h, t, s];
            if broadcast_shapes(&m.shape, &full).as_deref() != Some(&full) {
                return Err(format!("mask must broadcast to {full:?}, got {m}").into());
            }
        }
        if let Some(m) = i.key_mask
            && (m.dtype.is_float() || m.shape != [b, s])
        {
            return Err(
                format!("key_mask must be boolean or integer [{b}, {s}], got {m}").into()
            );
        }
        if let Some(l) = i.key_length
            && (!l.dtype.is_integer() || !(l.shape.is_empty() || l.shape == [b]))
        {
            return Err(format!("key_length must be an integer scalar or [{b}], got {l}").into());
        }
        if let Some(z) = i.sinks
            && (!z.dtype.is_float() || z.shape != [h])
        {
            return Err(format!("sinks must be float [{h}], got {z}").into());
        }
        if let Some(c) = self.softcap {
            check::positive("softcap", c)?;
        }
        if !self.scale_for(d).is_finite() {
            return Err(format!("scale must be finite, got {:?}", self.scale).into());
        }
        Ok(i.q.with_shape([b, h, t, i.v.shape[3]]))
    }

    fn compose(&self, i: AttentionInputs<Tensor>) -> Tensor {
        let [b, h, t, d] = [0, 1, 2, 3].map(|a| i.q.shape()[a]);
        let (heads, s, dv) = (i.k.shape()[1], i.k.shape()[2], i.v.shape()[3]);
        let group = h / heads;
        let (f32, i64) = (DType::F32, DType::I64);
        // Everything is [B, K, H/K, T, S]: grouped heads are an axis, keys are never copied.
        let per_row = |l: &Tensor| {
            let l = l.cast(i64);
            if l.rank() == 1 { l.reshape(&[b, 1, 1, 1, 1]) } else { l.reshape(&[1; 5]) }
        };
        let column = Tensor::iota(Spec::new(i64, [1, 1, 1, 1, s]), 4);
        let length = match &i.key_length {
            Some(l) => per_row(l),
            None => Tensor::scalar(i64, s as f64).reshape(&[1; 5]),
        };
        let exists = i.key_length.as_ref().map(|_| column.lt(&length));

        let q = i.q.cast(f32).reshape(&[b, heads, group, t, d]);
        let (mut k, mut v) = (i.k.cast(f32).unsqueeze(2), i.v.cast(f32).unsqueeze(2));
        if let Some(e) = &exists {
            // What does not exist may be NaN, and zero times NaN is NaN.
            let (e, zero) = (e.swap_axes(-1, -2), Tensor::scalar(f32, 0.0));
            (k, v) = (e.select(&k, &zero), e.select(&v, &zero));
        }
        let mut scores = q.matmul(&k.swap_axes(-1, -2)) * self.scale_for(d);
        if let Some(c) = self.softcap {
            scores = (scores / c).tanh() * c;
        }

        let mut keep = exists;
        let mut also = |more: Tensor| {
            keep = Some(match keep.take() {
                Some(k) => k.logical_and(&more),
                None => more,
            });
        };
        if self.causal || self.window.is_some() {
            let row = Tensor::iota(Spec::new(i64, [1, 1, 1, t, 1]), 3);
            let row = row + &length - Tensor::scalar(i64, t as f64);
            if self.causal {
                also(column.le(&row));
            }
            if let Some((left, right)) = self.window {
                let bound = |n: usize| Tensor::scalar(i64, n.min(1 << 40) as f64);
                also(column.ge(&(&row - bound(left))).logical_and(&column.le(&(&row + bound(right)))));
            }
        }
        if let Some(m) = &i.mask {
            let lead = 4 - m.rank();
            let mut shape = vec![1; lead];
            shape.extend_from_slice(m.shape());
            // The head axis becomes two.
            let split = if shape[1] == 1 { [1, 1] } else { [heads, group] };
            let m = m.reshape(&[&shape[..1], &split, &shape[2..]].concat());
            if m.dtype() == DType::Bool {
                also(m);
            } else {
                let m = m.cast(f32);
                also(m.gt(&Tensor::scalar(f32, f64::NEG_INFINITY)));
                scores = scores + m;
            }
        }
        if let Some(m) = &i.key_mask {
            let zero = Tensor::scalar(m.dtype(), 0.0);
            let m = if m.dtype() == DType::Bool { m.clone() } else { m.ne(&zero) };
            also(m.reshape(&[b, 1, 1, 1, s]));
        }

        let lowest = Tensor::scalar(f32, f64::NEG_INFINITY);
        if let Some(keep) = &keep {
            scores = keep.select(&scores, &lowest);
        }
        let mut top = scores.max(&[-1]);
        let sinks = i.sinks.as_ref().map(|z| z.cast(f32).reshape(&[1, heads, group, 1, 1]));
        if let Some(z) = &sinks {
            top = top.maximum(z);
        }
        // A row without keys has no largest score; any number serves.
        let top = top.gt(&lowest).select(&top, &Tensor::scalar(f32, 0.0));
        let weights = (scores - &top).exp();
        let mut sum = weights.sum(&[-1]);
        if let Some(z) = &sinks {
            sum = sum + (z - &top).exp();
        }
        let sum = sum.gt(&Tensor::scalar(f32, 0.0)).select(&sum, &Tensor::scalar(f32, 1.0));
        let y = (weights / sum).matmul(&v);
        y.reshape(&[b, h, t, dv]).cast(i.q.dtype())
    }
}

impl Entry for ScaledDotProductAttention {
    const FORMULA: &'static str = "softmax(q k^T * scale + mask) v";
    const MAIN: &'static str = "q";

    fn parse(o: &mut Options) -> Result<ScaledDotProductAttention, String> {
        Ok(ScaledDotProductAttention {
            scale: o.maybe_number("scale")?,
            causal: o.flag("causal", false)?,
            window: o.pair("window")?,
            softcap: o.maybe_number("softcap")?,
        })
    }

    fn oracle(&self, i: AttentionInputs<&Array>) -> Array {
        oracle::attention(self, i)
    }

    fn flops(&self, i: AttentionInputs<&Spec>) -> Option<f64> {
        let [b, h, t, d] = [0, 1, 2, 3].map(|a| i.q.shape[a]);
        let (s, dv) = (i.k.shape[2], i.v.shape[3]);
        // Only what the causal rule keeps is counted.
        let kept = |r: usize| if self.causal { (s + r + 1).saturating_sub(t).min(s) } else { s };
        let pairs: usize = (0..t).map(kept).sum();
        Some(2.0 * (b * h * pairs * (d + dv)) as f64)
    }

    fn recognise() -> Vec<Rule> {
        recognise::rules()
    }

    fn cases() -> Vec<Case<ScaledDotProductAttention>> {
        cases::cases()
    }
}
