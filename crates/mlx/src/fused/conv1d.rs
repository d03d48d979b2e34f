//! `mx::conv1d`, which has the channels last.

use super::linear::activate;
use crate::{
    ffi::{Array, Call},
    kernel::{Context, MlxKernel, Operand, declined},
};
use frit_graph::{DType, Decline, Error, Spec};
use frit_ops::{Activation, Conv1d, Conv1dInputs};

impl MlxKernel for Conv1d {
    fn accept(&self, i: &Conv1dInputs<&Spec>) -> Result<(), Decline> {
        if i.x.dtype != i.weight.dtype {
            return declined(format!("x is {} and the weight {}", i.x.dtype, i.weight.dtype));
        }
        if i.x.numel() * i.weight.numel() == 0 {
            return declined("there is nothing to convolve");
        }
        Ok(())
    }

    fn lower(
        &self,
        c: &mut Context<'_>,
        i: Conv1dInputs<&Operand>,
        _: &Spec,
    ) -> Result<Array, Error> {
        let s = c.session;
        let x = s.transpose(&i.x.array(s)?, &[0, 2, 1])?;
        let w = s.transpose(&i.weight.array(s)?, &[0, 2, 1])?;
        let options = [self.stride, self.padding, self.dilation, self.groups].map(|n| n as i64);
        let mut y = s.call(Call::Conv1d, &[Some(&x), Some(&w)], &options, &[], "")?;
        if i.bias.is_some() || self.activation != Activation::Identity {
            y = s.cast(&y, DType::F32)?;
        }
        if let Some(b) = i.bias {
            y = s.add(&y, &s.cast(&b.array(s)?, DType::F32)?)?;
        }
        if self.activation != Activation::Identity {
            y = activate(s, self.activation, &y)?;
        }
        Ok(s.transpose(&y, &[0, 2, 1])?)
    }
}
