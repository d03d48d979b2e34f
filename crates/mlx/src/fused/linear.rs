//! `mx::matmul` and `mx::addmm`, with the activation in MLX's operations.

use crate::{
    ffi::{Array, Session},
    kernel::{Context, MlxKernel, Operand, declined},
};
use frit_graph::{Binary, DType, Decline, Error, Spec, Unary};
use frit_ops::{Activation, GeluForm, Linear, LinearInputs};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

impl MlxKernel for Linear {
    fn accept(&self, i: &LinearInputs<&Spec>) -> Result<(), Decline> {
        if i.x.dtype != i.weight.dtype {
            // Composed, a weight is widened once and kept.
            return declined(format!("x is {} and the weight {}", i.x.dtype, i.weight.dtype));
        }
        Ok(())
    }

    fn lower(
        &self,
        c: &mut Context<'_>,
        i: LinearInputs<&Operand>,
        out: &Spec,
    ) -> Result<Array, Error> {
        let s = c.session;
        let (n, k) = (i.weight.spec.shape[0], i.weight.spec.shape[1]);
        let rows: usize = out.shape[..out.rank() - 1].iter().product();
        if k == 0 || rows * n == 0 {
            let y = s.zeros(&Spec::new(DType::F32, [rows, n]))?;
            let y =
                i.bias.map_or(Ok(y.clone()), |b| s.add(&y, &s.cast(&b.array(s)?, DType::F32)?))?;
            return Ok(s.reshape(&activate(s, self.activation, &y)?, &out.shape)?);
        }
        let x = s.reshape(&i.x.array(s)?, &[rows, k])?;
        let w = s.transpose(&i.weight.array(s)?, &[1, 0])?;
        let bias = i.bias.map(|b| s.cast(&b.array(s)?, out.dtype)).transpose()?;
        let y = s.product(bias.as_ref(), &x, &w)?;
        let y = match self.activation {
            Activation::Identity => y,
            other => activate(s, other, &s.cast(&y, DType::F32)?)?,
        };
        Ok(s.reshape(&y, &out.shape)?)
    }
}

/// The function after a product, of f32.
pub(super) fn activate(s: &Session, f: Activation, x: &Array) -> Result<Array, Error> {
    let number = |n: f64| s.scalar(DType::F32, n);
    let half_of = |gate: &Array| -> Result<Array, Error> {
        Ok(s.mul(&s.scaled(x, 0.5)?, &s.add(gate, &number(1.0)?)?)?)
    };
    Ok(match f {
        Activation::Identity => x.clone(),
        Activation::Gelu(GeluForm::Erf) => {
            half_of(&s.unary(Unary::Erf, &s.scaled(x, FRAC_1_SQRT_2)?)?)?
        }
        Activation::Gelu(GeluForm::Tanh) => {
            let cube = s.mul(&s.mul(x, x)?, x)?;
            let inner = s.add(x, &s.scaled(&cube, 0.044715)?)?;
            half_of(&s.unary(Unary::Tanh, &s.scaled(&inner, (2.0 / PI).sqrt())?)?)?
        }
        Activation::Gelu(GeluForm::Quick) => {
            s.mul(x, &s.unary(Unary::Sigmoid, &s.scaled(x, 1.702)?)?)?
        }
        Activation::Silu => s.mul(x, &s.unary(Unary::Sigmoid, x)?)?,
        Activation::Relu => s.binary(Binary::Max, x, &number(0.0)?)?,
        Activation::Tanh => s.unary(Unary::Tanh, x)?,
        Activation::HardSwish => {
            let gate = s.binary(Binary::Max, &s.add(x, &number(3.0)?)?, &number(0.0)?)?;
            let gate = s.binary(Binary::Min, &gate, &number(6.0)?)?;
            s.scaled(&s.mul(x, &gate)?, 1.0 / 6.0)?
        }
    })
}
