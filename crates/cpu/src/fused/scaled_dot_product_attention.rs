//! Tiled over keys; the scores are never held. See `kernels/attention.rs`.

use super::for_float;
use crate::{
    kernel::{Context, CpuKernel, Out, View, Wants},
    kernels::attention::{Attention, Grid, GridMut, Mask, MaskData, Sizes},
};
use frit_graph::{DType, Decline, Error, Spec};
use frit_ops::{AttentionInputs, ScaledDotProductAttention};

fn four<T: Copy>(x: &[T]) -> [T; 4] {
    [0, 1, 2, 3].map(|i| x[i])
}

fn grid<'a, T: frit_graph::Element>(x: &View<'a>) -> Result<Grid<'a, T>, Error> {
    let strides = [0, 1, 2].map(|i| x.strides()[i] as usize);
    Ok(Grid::new(x.slice::<T>()?, four(x.shape()), strides))
}

fn mask<'a>(m: &View<'a>) -> Result<Mask<'a>, Error> {
    let data = match m.dtype() {
        DType::F16 => MaskData::F16(m.slice()?),
        DType::BF16 => MaskData::BF16(m.slice()?),
        DType::F32 => MaskData::F32(m.slice()?),
        _ => MaskData::Bool(m.slice()?),
    };
    // Leading axes that the mask lacks broadcast, and so do extents of 1.
    let skip = 4 - m.shape().len();
    let mut strides = [0; 4];
    for (i, (&d, &s)) in m.shape().iter().zip(m.strides()).enumerate() {
        strides[skip + i] = if d == 1 { 0 } else { s as usize };
    }
    Ok(Mask { data, strides })
}

/// `[B, S]` as bytes that are not zero where a key is kept.
fn kept(m: &View<'_>) -> Result<Vec<u8>, Error> {
    Ok(match m.dtype() {
        DType::Bool => m.slice::<u8>()?.to_vec(),
        _ => m.integers()?.into_iter().map(|k| (k != 0) as u8).collect(),
    })
}

impl CpuKernel for ScaledDotProductAttention {
    fn accept(&self, i: &AttentionInputs<&Spec>) -> Result<(), Decline> {
        match i.mask {
            Some(m) if m.dtype == DType::F64 => {
                Err(Decline::Unsupported("the mask is f64".into()))
            }
            _ => Ok(()),
        }
    }

    fn wants(&self, slot: usize) -> Wants {
        // q, k and v come as they are split into heads.
        if slot < 3 { Wants::Rows } else { Wants::Dense }
    }

    fn scratch(&self, i: &AttentionInputs<&Spec>, threads: usize) -> usize {
        let [batch, heads, queries, head] = four(&i.q.shape);
        let [_, key_heads, keys, value] = four(&i.v.shape);
        Sizes { batch, heads, key_heads, queries, keys, head, value }.scratch_bytes(threads)
    }

    fn run(
        &self,
        i: AttentionInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let mask = i.mask.as_ref().map(mask).transpose()?;
        let key_mask = i.key_mask.as_ref().map(kept).transpose()?;
        let key_length = i.key_length.as_ref().map(View::integers).transpose()?;
        let sinks = i.sinks.as_ref().map(View::floats).transpose()?;
        let shape = four(&out.spec().shape);
        for_float!(i.q.dtype(), T => {
            let attention = Attention {
                q: grid::<T>(&i.q)?,
                k: grid::<T>(&i.k)?,
                v: grid::<T>(&i.v)?,
                mask,
                key_mask: key_mask.as_deref(),
                key_length: key_length.as_deref(),
                sinks: sinks.as_deref(),
                scale: self.scale_for(i.q.shape()[3]) as f32,
                causal: self.causal,
                window: self.window,
                softcap: self.softcap.map(|c| c as f32),
            };
            attention.run(c.pool(), GridMut::dense(out.slice_mut::<T>()?, shape), c.scratch());
        });
        Ok(())
    }
}
