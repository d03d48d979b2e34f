//! `mx::fast::layer_norm`.
//!
//! On a CPU, MLX adds up a row one number after the other, so that long rows, or rows far from zero,
//! lose the digits that matter. Rows may be moved as one likes: there, their mean is taken off first.

use crate::{
    Device,
    ffi::{Array, Call},
    kernel::{Context, MlxKernel, Operand},
};
use frit_graph::{Binary, DType, Decline, Error, Reduce, Spec};
use frit_ops::{LayerNorm, LayerNormInputs};

impl MlxKernel for LayerNorm {
    fn accept(&self, _: &LayerNormInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn lower(
        &self,
        c: &mut Context<'_>,
        i: LayerNormInputs<&Operand>,
        out: &Spec,
    ) -> Result<Array, Error> {
        let s = c.session;
        let mut x = i.x.array(s)?;
        if s.device() == Device::Cpu && out.dtype == DType::F32 && out.numel() > 0 {
            let last = out.rank() - 1;
            let sum = s.reduce(Reduce::Sum, &x, &[last])?;
            x = s.binary(Binary::Sub, &x, &s.scaled(&sum, 1.0 / out.shape[last] as f64)?)?;
        }
        let (w, b) = (i.weight.map(|w| w.array(s)), i.bias.map(|b| b.array(s)));
        let (w, b) = (w.transpose()?, b.transpose()?);
        Ok(s.call(Call::LayerNorm, &[Some(&x), w.as_ref(), b.as_ref()], &[], &[self.eps], "")?)
    }
}
