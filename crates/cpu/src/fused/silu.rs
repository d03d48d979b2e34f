//! One pass.

use super::{for_float, in_out};
use crate::{
    kernel::{Context, CpuKernel, Out, View},
    kernels::activation::{Activation, apply},
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Silu, UnaryInputs};

impl CpuKernel for Silu {
    fn accept(&self, _: &UnaryInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
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
        for_float!(i.x.dtype(), T => apply(c.pool(), Activation::Silu, in_out::<T>(&i.x, out)?));
        Ok(())
    }
}
