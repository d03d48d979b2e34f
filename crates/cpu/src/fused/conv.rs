//! The product of the weight with the unfolded input, of which only panels ever exist; channels
//! that do not mix go through a loop of their own. Bias and activation are applied on the way out.

use super::for_float;
use crate::{
    gemm::{self, ConvShape},
    kernel::{Context, CpuKernel, Out, View},
    kernels::depthwise::{depthwise, depthwise_scratch_bytes, is_depthwise},
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Conv, ConvInputs};

pub(super) fn scratch(options: &Conv, x: &Spec, weight: &Spec, threads: usize) -> usize {
    let shape = ConvShape::new(options, &x.shape, &weight.shape);
    if is_depthwise(&shape) {
        return depthwise_scratch_bytes(&shape, threads);
    }
    for_float!(x.dtype, T => for_float!(weight.dtype, W => {
        gemm::conv_scratch_bytes::<T, W>(&shape, threads)
    }))
}

pub(super) fn run(
    options: &Conv,
    i: ConvInputs<View<'_>>,
    out: &mut Out<'_>,
    c: &mut Context<'_>,
) -> Result<(), Error> {
    let shape = ConvShape::new(options, i.x.shape(), i.weight.shape());
    let bias = i.bias.as_ref().map(View::floats).transpose()?;
    let (bias, pool) = (bias.as_deref(), c.pool());
    for_float!(i.x.dtype(), T => for_float!(i.weight.dtype(), W => {
        let (x, w) = (i.x.slice::<T>()?, i.weight.slice::<W>()?);
        let (y, scratch) = (out.slice_mut::<T>()?, c.scratch());
        match is_depthwise(&shape) {
            true => depthwise::<T, W>(pool, &shape, x, w, bias, y, scratch),
            false => gemm::conv::<T, W>(pool, &shape, x, w, bias, y, scratch),
        }
    }));
    Ok(())
}

impl CpuKernel for Conv {
    fn accept(&self, _: &ConvInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn scratch(&self, i: &ConvInputs<&Spec>, threads: usize) -> usize {
        scratch(self, i.x, i.weight, threads)
    }

    fn run(
        &self,
        i: ConvInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        run(self, i, out, c)
    }
}
