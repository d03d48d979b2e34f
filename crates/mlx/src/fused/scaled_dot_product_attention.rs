//! `mx::fast::scaled_dot_product_attention`.
//!
//! MLX takes one mask, or the causal rule, and no window. So whatever keeps keys becomes one
//! boolean mask, or together with an additive mask one that is added; the causal rule stays a word
//! where it stands alone. A length that is known before the run cuts the keys off instead. Rows
//! that keep no key are zeros: MLX gives the mean of the values, or NaN, so they are chosen away.

use crate::{
    ffi::{Array, Call, Session},
    kernel::{Context, MlxKernel, Operand, declined},
};
use frit_graph::{Compare, DType, Decline, Error, Spec};
use frit_ops::{AttentionInputs, ScaledDotProductAttention};

impl MlxKernel for ScaledDotProductAttention {
    fn accept(&self, _: &AttentionInputs<&Spec>) -> Result<(), Decline> {
        match self.softcap {
            Some(_) => declined("MLX has no softcap"),
            None => Ok(()),
        }
    }

    fn lower(
        &self,
        c: &mut Context<'_>,
        i: AttentionInputs<&Operand>,
        out: &Spec,
    ) -> Result<Array, Error> {
        let s = c.session;
        let (b, t, d) = (i.q.spec.shape[0], i.q.spec.shape[2], i.q.spec.shape[3]);
        let mut keys = i.k.spec.shape[2];
        let (mut k, mut v) = (i.k.array(s)?, i.v.array(s)?);

        // One length for all that is known: what is behind it is not there.
        let one = i.key_length.and_then(|l| l.host()).map(|l| l.to_i64()).filter(|l| l.len() == 1);
        let cut = one.and_then(|l| usize::try_from(l[0]).ok()).filter(|&l| l <= keys);
        if let Some(length) = cut {
            if length == 0 {
                return Ok(s.zeros(out)?);
            }
            (k, v, keys) = (s.first(&k, 2, length)?, s.first(&v, 2, length)?, length);
        }
        let lengths = match (cut, i.key_length) {
            (None, Some(l)) => {
                let l = s.cast(&l.array(s)?, DType::I32)?;
                let rows = l.shape().first().copied().unwrap_or(1);
                Some(s.reshape(&l, &[rows, 1, 1, 1])?)
            }
            _ => None,
        };
        let mut masks = Masks { s, keep: None };
        let column = s.reshape(&s.count(keys, DType::I32)?, &[1, 1, 1, keys])?;
        if let Some(l) = &lengths {
            // What does not exist may be NaN, and zero times NaN is NaN.
            let exists = s.compare(Compare::Lt, &column, l)?;
            let rows = s.transpose(&exists, &[0, 1, 3, 2])?;
            let zero = s.scalar(k.dtype(), 0.0)?;
            (k, v) = (s.select(&rows, &k, &zero)?, s.select(&rows, &v, &zero)?);
            masks.also(exists)?;
        }
        let mask = i.mask.map(|m| masked(s, m, keys)).transpose()?;
        let key_mask = i.key_mask.map(|m| {
            let m = s.cast(&s.first(&m.array(s)?, 1, keys)?, DType::Bool)?;
            s.reshape(&m, &[b, 1, 1, keys])
        });
        // Without lengths, a single row sees all keys up to its own place: the last.
        let causal = self.causal && (t > 1 || lengths.is_some());
        let alone =
            lengths.is_none() && mask.is_none() && key_mask.is_none() && self.window.is_none();
        let word = causal && alone && t <= keys;
        if (causal && !word) || self.window.is_some() {
            let row = s.reshape(&s.count(t, DType::I32)?, &[1, 1, t, 1])?;
            let row = match &lengths {
                Some(l) => s.add(&s.add(&row, l)?, &s.scalar(DType::I32, -(t as f64))?)?,
                None => s.add(&row, &s.scalar(DType::I32, keys as f64 - t as f64)?)?,
            };
            if causal {
                masks.also(s.compare(Compare::Le, &column, &row)?)?;
            }
            if let Some((left, right)) = self.window {
                let bound =
                    |n: usize, sign: f64| s.scalar(DType::I32, sign * n.min(1 << 29) as f64);
                let (first, last) =
                    (s.add(&row, &bound(left, -1.0)?)?, s.add(&row, &bound(right, 1.0)?)?);
                masks.also(s.compare(Compare::Ge, &column, &first)?)?;
                masks.also(s.compare(Compare::Le, &column, &last)?)?;
            }
        }
        if let Some(m) = key_mask {
            masks.also(m?)?;
        }
        let mut added = None;
        match mask {
            Some(m) if m.dtype() == DType::Bool => masks.also(m)?,
            Some(m) => added = Some(m),
            None => {}
        }

        let sinks = i.sinks.map(|z| z.array(s)).transpose()?;
        let mut q = i.q.array(s)?;
        // MLX wants masks and sinks in the type of q; what is finer makes all of it f32.
        let finer = |m: &Option<Array>| m.as_ref().is_some_and(|m| m.dtype() != q.dtype());
        if finer(&added) || finer(&sinks) {
            let wide = |x: &Array| s.cast(x, DType::F32);
            (q, k, v) = (wide(&q)?, wide(&k)?, wide(&v)?);
        }
        let typed = |x: Option<Array>| x.map(|x| s.cast(&x, q.dtype())).transpose();
        let (added, sinks) = (typed(added)?, typed(sinks)?);
        let lowest = s.scalar(q.dtype(), f64::NEG_INFINITY)?;
        let mask = match (masks.keep, added) {
            (Some(keep), Some(added)) => Some(s.select(&keep, &added, &lowest)?),
            (keep, added) => keep.or(added),
        };
        let alive = match &mask {
            None => None,
            Some(m) if m.dtype() == DType::Bool => Some(s.any_last(m)?),
            Some(m) => Some(s.any_last(&s.compare(Compare::Gt, m, &lowest)?)?),
        };
        let operands = [Some(&q), Some(&k), Some(&v), mask.as_ref(), sinks.as_ref()];
        let y = s.call(Call::Attention, &operands, &[word.into()], &[self.scale_for(d)], "")?;
        match alive {
            Some(alive) => Ok(s.select(&alive, &y, &s.scalar(y.dtype(), 0.0)?)?),
            None => Ok(y),
        }
    }
}

/// A mask over the keys that are there, with four axes.
fn masked(s: &Session, m: &Operand, keys: usize) -> Result<Array, Error> {
    let mut shape = vec![1; 4 - m.spec.rank()];
    shape.extend_from_slice(&m.spec.shape);
    let m = s.reshape(&m.array(s)?, &shape)?;
    Ok(if shape[3] == 1 { m } else { s.first(&m, 3, keys)? })
}

/// What is kept so far.
struct Masks<'a> {
    s: &'a Session,
    keep: Option<Array>,
}

impl Masks<'_> {
    fn also(&mut self, more: Array) -> Result<(), Error> {
        self.keep = Some(match self.keep.take() {
            Some(keep) => self.s.and(&keep, &more)?,
            None => more,
        });
        Ok(())
    }
}
