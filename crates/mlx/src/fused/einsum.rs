//! `mx::einsum`.

use crate::{
    ffi::{Array, Call},
    kernel::{Context, MlxKernel, Operand},
};
use frit_graph::{Decline, Error, Many, Spec};
use frit_ops::Einsum;

impl MlxKernel for Einsum {
    fn accept(&self, _: &Many<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn lower(&self, c: &mut Context<'_>, i: Many<&Operand>, _: &Spec) -> Result<Array, Error> {
        let s = c.session;
        let arrays = i.0.iter().map(|x| x.array(s)).collect::<Result<Vec<_>, _>>()?;
        let operands: Vec<Option<&Array>> = arrays.iter().map(Some).collect();
        Ok(s.call(Call::Einsum, &operands, &[], &[], &self.equation)?)
    }
}
