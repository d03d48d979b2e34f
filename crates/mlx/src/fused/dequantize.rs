//! `mx::dequantize`, for affine groups.

use crate::{
    ffi::{Array, Call, Session},
    kernel::{Context, MlxKernel, Operand, declined},
};
use frit_graph::{DType, Decline, Error, Spec};
use frit_ops::{Dequantize, DequantizeInputs, Encoding};

/// Bits and size of the groups, if MLX has them.
pub(super) fn group(encoding: Encoding) -> Result<[i64; 2], Decline> {
    match encoding {
        Encoding::Affine { bits, group_size } => Ok([bits as i64, group_size as i64]),
        other => declined(format!("MLX has no {other}")),
    }
}

/// The biases that are not given.
pub(super) fn zeros_like(s: &Session, x: Option<&Operand>) -> Result<Array, Error> {
    let spec = x.map(|x| x.spec.clone()).unwrap_or(Spec::new(DType::F32, []));
    Ok(s.zeros(&spec)?)
}

impl MlxKernel for Dequantize {
    fn accept(&self, i: &DequantizeInputs<&Spec>) -> Result<(), Decline> {
        group(self.encoding)?;
        match i.scales {
            Some(_) => Ok(()),
            None => declined("affine groups need scales"),
        }
    }

    fn lower(
        &self,
        c: &mut Context<'_>,
        i: DequantizeInputs<&Operand>,
        out: &Spec,
    ) -> Result<Array, Error> {
        let s = c.session;
        let Ok([bits, size]) = group(self.encoding) else {
            return Err(Error::Run(format!("{} is no affine encoding", self.encoding)));
        };
        let packed = i.packed.array(s)?;
        let wide = |x: &Operand| s.cast(&x.array(s)?, DType::F32);
        let scales = i.scales.map(wide).transpose()?;
        let biases = match i.biases {
            Some(b) => wide(b)?,
            None => s.cast(&zeros_like(s, i.scales)?, DType::F32)?,
        };
        let operands = [Some(&packed), scales.as_ref(), Some(&biases)];
        let y = s.call(Call::Dequantize, &operands, &[size, bits], &[], "")?;
        Ok(s.cast(&y, out.dtype)?)
    }
}
