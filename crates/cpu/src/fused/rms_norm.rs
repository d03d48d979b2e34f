//! One pass over each row.

use super::{for_float, in_out};
use crate::{
    kernel::{Context, CpuKernel, Out, View},
    kernels::norm,
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{RmsNorm, RmsNormInputs};

impl CpuKernel for RmsNorm {
    fn accept(&self, _: &RmsNormInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }

    fn run(
        &self,
        i: RmsNormInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let (width, eps) = (i.x.shape().last().copied().unwrap_or(1), self.eps as f32);
        for_float!(i.x.dtype(), T => {
            let io = in_out::<T>(&i.x, out)?;
            match i.weight {
                None => norm::rms_norm::<T, f32>(c.pool(), io, None, eps, width),
                Some(w) => for_float!(w.dtype(), W => {
                    norm::rms_norm::<T, W>(c.pool(), io, Some(w.slice::<W>()?), eps, width);
                }),
            }
        });
        Ok(())
    }
}
