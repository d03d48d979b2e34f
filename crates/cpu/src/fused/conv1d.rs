//! The product of the weight with the unfolded input, of which only panels ever exist; bias and
//! activation are applied on the way out.

use super::for_float;
use crate::{
    gemm::{self, ConvShape},
    kernel::{Context, CpuKernel, Out, View},
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Conv1d, Conv1dInputs};

fn geometry(x: &[usize], weight: &[usize]) -> ConvShape {
    let (batch, channels, length) = (x[0], x[1], x[2]);
    ConvShape { batch, channels, length, out: weight[0], taps: weight[2] }
}

impl CpuKernel for Conv1d {
    fn accept(&self, _: &Conv1dInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn scratch(&self, i: &Conv1dInputs<&Spec>, _: usize) -> usize {
        let shape = geometry(&i.x.shape, &i.weight.shape);
        for_float!(i.x.dtype, T => for_float!(i.weight.dtype, W => {
            gemm::conv1d_scratch_bytes::<T, W>(&shape, self)
        }))
    }

    fn run(
        &self,
        i: Conv1dInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let shape = geometry(i.x.shape(), i.weight.shape());
        let bias = i.bias.as_ref().map(View::floats).transpose()?;
        let (bias, pool) = (bias.as_deref(), c.pool());
        for_float!(i.x.dtype(), T => for_float!(i.weight.dtype(), W => {
            let (x, w) = (i.x.slice::<T>()?, i.weight.slice::<W>()?);
            let (y, scratch) = (out.slice_mut::<T>()?, c.scratch());
            gemm::conv1d::<T, W>(pool, &shape, self, x, w, bias, y, scratch);
        }));
        Ok(())
    }
}
