//! One pass over both operands.

use super::{for_float, in_out};
use crate::{
    kernel::{Context, CpuKernel, Out, View},
    kernels::gate,
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{SwiGlu, SwiGluInputs};

impl CpuKernel for SwiGlu {
    fn accept(&self, _: &SwiGluInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }

    fn run(
        &self,
        i: SwiGluInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        for_float!(i.gate.dtype(), T => {
            gate::swiglu(c.pool(), in_out::<T>(&i.gate, out)?, i.up.slice::<T>()?);
        });
        Ok(())
    }
}
