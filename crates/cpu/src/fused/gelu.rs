//! One pass.

use super::{for_float, in_out};
use crate::{
    kernel::{Context, CpuKernel, Out, View},
    kernels::activation::{Activation, apply},
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Gelu, GeluForm, UnaryInputs};

impl CpuKernel for Gelu {
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
        let f = match self.form {
            GeluForm::Erf => Activation::GeluErf,
            GeluForm::Tanh => Activation::GeluTanh,
            GeluForm::Quick => Activation::QuickGelu,
        };
        for_float!(i.x.dtype(), T => apply(c.pool(), f, in_out::<T>(&i.x, out)?));
        Ok(())
    }
}
