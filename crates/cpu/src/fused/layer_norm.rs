//! A row is read from memory once and gone over again in the cache.

use super::{for_float, in_out};
use crate::{
    kernel::{Context, CpuKernel, Out, View},
    kernels::norm,
};
use frit_graph::{DType, Decline, Error, Spec};
use frit_ops::{LayerNorm, LayerNormInputs};

impl CpuKernel for LayerNorm {
    fn accept(&self, _: &LayerNormInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }

    fn run(
        &self,
        i: LayerNormInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let (width, eps) = (i.x.shape().last().copied().unwrap_or(1), self.eps as f32);
        let types: Vec<DType> = [i.weight, i.bias].iter().flatten().map(View::dtype).collect();
        // One loop for weights of one type; others are widened, which costs a row.
        let one = types.windows(2).all(|t| t[0] == t[1]);
        let dtype = types.first().copied().unwrap_or(DType::F32);
        for_float!(i.x.dtype(), T => {
            let io = in_out::<T>(&i.x, out)?;
            if one {
                for_float!(dtype, W => {
                    let w = i.weight.map(|w| w.slice::<W>()).transpose()?;
                    let b = i.bias.map(|b| b.slice::<W>()).transpose()?;
                    norm::layer_norm::<T, W>(c.pool(), io, w, b, eps, width);
                });
            } else {
                let w = i.weight.map(|w| w.floats()).transpose()?;
                let b = i.bias.map(|b| b.floats()).transpose()?;
                norm::layer_norm(c.pool(), io, w.as_deref(), b.as_deref(), eps, width);
            }
        });
        Ok(())
    }
}
