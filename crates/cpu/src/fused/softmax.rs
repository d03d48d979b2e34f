//! Over the last axis: each row is read once and gone over again in the cache.

use super::{for_float, in_out};
use crate::{
    kernel::{Context, CpuKernel, Out, View},
    kernels::softmax,
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Softmax, UnaryInputs};

impl CpuKernel for Softmax {
    fn accept(&self, i: &UnaryInputs<&Spec>) -> Result<(), Decline> {
        match self.axis_of(i.x.rank()) {
            Some(a) if a + 1 == i.x.rank() => Ok(()),
            _ => Err(Decline::Unsupported("the axis is not the last".into())),
        }
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }

    fn run(
        &self,
        i: UnaryInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let width = i.x.shape().last().copied().unwrap_or(1);
        for_float!(i.x.dtype(), T => softmax::softmax(c.pool(), in_out::<T>(&i.x, out)?, width));
        Ok(())
    }
}
