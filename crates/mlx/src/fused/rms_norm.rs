//! `mx::fast::rms_norm`.

use crate::{
    ffi::{Array, Call},
    kernel::{Context, MlxKernel, Operand},
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{RmsNorm, RmsNormInputs};

impl MlxKernel for RmsNorm {
    fn accept(&self, _: &RmsNormInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn lower(
        &self,
        c: &mut Context<'_>,
        i: RmsNormInputs<&Operand>,
        _: &Spec,
    ) -> Result<Array, Error> {
        let s = c.session;
        let (x, w) = (i.x.array(s)?, i.weight.map(|w| w.array(s)).transpose()?);
        Ok(s.call(Call::RmsNorm, &[Some(&x), w.as_ref()], &[], &[self.eps], "")?)
    }
}
