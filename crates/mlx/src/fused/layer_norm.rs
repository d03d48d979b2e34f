//! `mx::fast::layer_norm`.

use crate::{
    ffi::{Array, Call},
    kernel::{Context, MlxKernel, Operand},
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{LayerNorm, LayerNormInputs};

impl MlxKernel for LayerNorm {
    fn accept(&self, _: &LayerNormInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn lower(
        &self,
        c: &mut Context<'_>,
        i: LayerNormInputs<&Operand>,
        _: &Spec,
    ) -> Result<Array, Error> {
        let s = c.session;
        let x = i.x.array(s)?;
        let (w, b) = (i.weight.map(|w| w.array(s)).transpose()?, i.bias.map(|b| b.array(s)).transpose()?);
        Ok(s.call(Call::LayerNorm, &[Some(&x), w.as_ref(), b.as_ref()], &[], &[self.eps], "")?)
    }
}
