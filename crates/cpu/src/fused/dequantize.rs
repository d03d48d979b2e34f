//! Packed rows unpacked in registers and written once.

use super::{for_float, weight};
use crate::{
    kernel::{Context, CpuKernel, Out, View},
    quant,
    simd::isa,
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Dequantize, DequantizeInputs};

impl CpuKernel for Dequantize {
    fn accept(&self, _: &DequantizeInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn run(
        &self,
        i: DequantizeInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let w = weight(self.encoding, &i.packed, i.scales.as_ref(), i.biases.as_ref())?;
        for_float!(self.dtype, T => quant::dequantize::<T>(isa(), c.pool(), &w, out.slice_mut()?));
        Ok(())
    }
}
