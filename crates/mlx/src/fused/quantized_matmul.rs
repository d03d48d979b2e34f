//! `mx::quantized_matmul`, for affine groups, which have the same layout as ours, and for the blocks
//! of GGML that say the same ([`crate::repack`]).
//!
//! On a CPU, MLX sums in the type of `x`; narrow types are widened there.

use super::dequantize::{group, zeros_like};
use crate::{
    Device,
    ffi::{Array, Call},
    kernel::{Context, MlxKernel, Operand, declined},
    repack::is_simple,
};
use frit_graph::{DType, Decline, Error, Spec};
use frit_ops::{Activations, QuantizedMatmul, QuantizedMatmulInputs};

impl MlxKernel for QuantizedMatmul {
    fn accept(&self, i: &QuantizedMatmulInputs<&Spec>) -> Result<(), Decline> {
        // Simple blocks are repacked before this is lowered.
        if !is_simple(self.encoding) {
            group(self.encoding)?;
            if i.scales.is_none() {
                return declined("affine groups need scales");
            }
        }
        match self.activations {
            Activations::Exact => Ok(()),
            Activations::EightBit => declined("MLX has no activations of 8 bits"),
        }
    }

    fn lower(
        &self,
        c: &mut Context<'_>,
        i: QuantizedMatmulInputs<&Operand>,
        _: &Spec,
    ) -> Result<Array, Error> {
        let s = c.session;
        let Ok([bits, size]) = group(self.encoding) else {
            return Err(Error::Run(format!("{} is no affine encoding", self.encoding)));
        };
        let typed = |x: Array| match s.device() {
            Device::Cpu => s.cast(&x, DType::F32),
            Device::Gpu => Ok(x),
        };
        let (x, packed) = (typed(i.x.array(s)?)?, i.packed.array(s)?);
        let scales = i.scales.map(|a| typed(a.array(s)?)).transpose()?;
        let biases = typed(match i.biases {
            Some(b) => b.array(s)?,
            None => zeros_like(s, i.scales)?,
        })?;
        let options = [self.transposed.into(), size, bits];
        let operands = [Some(&x), Some(&packed), scales.as_ref(), Some(&biases)];
        Ok(s.call(Call::QuantizedMatmul, &operands, &options, &[], "")?)
    }
}
