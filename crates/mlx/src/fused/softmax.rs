//! `mx::softmax`, computed in f32.

use crate::{
    ffi::Array,
    kernel::{Context, MlxKernel, Operand, declined},
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Softmax, UnaryInputs};

impl MlxKernel for Softmax {
    fn accept(&self, i: &UnaryInputs<&Spec>) -> Result<(), Decline> {
        match self.axis_of(i.x.rank()) {
            Some(_) => Ok(()),
            None => declined("the axis does not exist"),
        }
    }

    fn lower(
        &self,
        c: &mut Context<'_>,
        i: UnaryInputs<&Operand>,
        out: &Spec,
    ) -> Result<Array, Error> {
        let axis = self.axis_of(out.rank()).unwrap_or(0);
        Ok(c.session.softmax(&i.x.array(c.session)?, axis)?)
    }
}
