//! `mx::fast::rope`.
//!
//! MLX's call rotates axis -2 and knows one offset a row, after which positions follow one another.
//! Positions in any order are said by making every token a row of its own. MLX wants the
//! reciprocals of inverse frequencies.

use crate::{
    ffi::{Array, Call, Session},
    kernel::{Context, MlxKernel, Operand},
};
use frit_graph::{Binary, DType, Decline, Error, Spec};
use frit_ops::{Rope, RopeInputs, RopeLayout, SequenceAxis};

impl MlxKernel for Rope {
    fn accept(&self, _: &RopeInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn lower(
        &self,
        c: &mut Context<'_>,
        i: RopeInputs<&Operand>,
        out: &Spec,
    ) -> Result<Array, Error> {
        let s = c.session;
        let (shape, rank) = (&out.shape, out.rank());
        let (batch, size) = (shape[0], shape[rank - 1]);
        // As [B, N, T, M, D]: the sequence between the heads before and after it.
        let axis = match self.sequence_axis {
            SequenceAxis::SecondLast => rank - 2,
            SequenceAxis::ThirdLast => rank - 3,
        };
        let before: usize = shape[1..axis].iter().product();
        let (tokens, after) = (shape[axis], shape[axis + 1..rank - 1].iter().product::<usize>());
        let heads = before * after;

        let mut x = i.x.array(s)?;
        if self.amplitude != 1.0 {
            x = amplified(s, &s.cast(&x, DType::F32)?, self)?;
        }
        let x = s.reshape(&x, &[batch, before, tokens, after, size])?;
        let given = i.inv_freqs.map(|f| f.array(s)).transpose()?;
        let freqs = given.map(|f| s.binary(Binary::Div, &s.scalar(DType::F32, 1.0)?, &f)).transpose()?;
        let rotate = |x: &Array, offset: &Array| {
            let options = [self.dims as i64, (self.layout == RopeLayout::Interleaved).into()];
            let offset = s.cast(offset, DType::I32)?;
            let operands = [Some(x), Some(&offset), freqs.as_ref()];
            s.call(Call::Rope, &operands, &options, &[self.base, self.scale], "")
        };
        let y = match (i.position_ids, i.offset) {
            (Some(positions), _) => {
                let x = s.transpose(&x, &[0, 2, 1, 3, 4])?;
                let x = s.reshape(&x, &[batch * tokens, heads, 1, size])?;
                let at = s.reshape(&positions.array(s)?, &[batch * tokens])?;
                let y = s.reshape(&rotate(&x, &at)?, &[batch, tokens, before, after, size])?;
                s.transpose(&y, &[0, 2, 1, 3, 4])?
            }
            (None, offset) => {
                let x = s.transpose(&x, &[0, 1, 3, 2, 4])?;
                let x = s.reshape(&x, &[batch, heads, tokens, size])?;
                let at = match offset {
                    Some(offset) => offset.array(s)?,
                    None => s.scalar(DType::I32, 0.0)?,
                };
                let y = s.reshape(&rotate(&x, &at)?, &[batch, before, after, tokens, size])?;
                s.transpose(&y, &[0, 1, 3, 2, 4])?
            }
        };
        Ok(s.reshape(&y, shape)?)
    }
}

/// The elements that are rotated, times the amplitude: a rotation is linear.
fn amplified(s: &Session, x: &Array, rope: &Rope) -> Result<Array, Error> {
    let size = x.shape().last().copied().unwrap_or(0);
    let factor = |i: usize| if i < rope.dims { rope.amplitude as f32 } else { 1.0 };
    let factors = frit_graph::Value::new([size], (0..size).map(factor).collect::<Vec<f32>>())?;
    Ok(s.mul(x, &s.from_value(&factors)?)?)
}
