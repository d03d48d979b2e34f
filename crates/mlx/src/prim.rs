//! The primitives on MLX.

use crate::{
    ffi::Array,
    kernel::{Context, Guard, GuardKind, Kernel, Operand},
};
use frit_graph::{Binary, Compare, DType, Error, Prim, Reduce, Spec, Value, row_major};

/// A primitive that is no leaf.
pub(crate) struct Primitive {
    pub(crate) prim: Prim,
    pub(crate) out: Spec,
}

impl Kernel for Primitive {
    fn lower(&self, c: &mut Context<'_>, x: &[Option<&Operand>]) -> Result<Array, Error> {
        let (s, out) = (c.session, &self.out);
        let operands: Vec<&Operand> = x.iter().flatten().copied().collect();
        let arrays = operands.iter().map(|o| o.array(s)).collect::<Result<Vec<_>, _>>()?;
        let a = |i: usize| {
            arrays.get(i).ok_or_else(|| Error::Run(format!("{} lacks an operand", self.prim)))
        };
        Ok(match &self.prim {
            Prim::Gather(axis) => {
                let extent = operands[0].spec.shape[*axis];
                let at = index(c, a(1)?, &operands[1].spec, GuardKind::Index { extent })?;
                if out.numel() == 0 { s.zeros(out)? } else { s.take(a(0)?, &at, *axis)? }
            }
            Prim::Update(axis) => {
                let (extent, length) = (out.shape[*axis], operands[1].spec.shape[*axis]);
                let at = index(c, a(2)?, &operands[2].spec, GuardKind::Start { length, extent })?;
                update(c, (a(0)?, a(1)?), &at, &operands[1].spec.shape, *axis)?
            }
            // MLX has no opinion, or an error, about nothing at all.
            _ if out.numel() == 0 => s.zeros(out)?,
            Prim::Unary(f) => s.unary(*f, a(0)?)?,
            Prim::Binary(f) => s.binary(*f, a(0)?, a(1)?)?,
            Prim::Compare(f) => s.compare(*f, a(0)?, a(1)?)?,
            Prim::Select => s.select(a(0)?, a(1)?, a(2)?)?,
            Prim::Cast => s.cast(a(0)?, out.dtype)?,
            Prim::Bitcast if operands[0].spec.rank() == 0 => {
                let one = s.reshape(a(0)?, &[1])?;
                s.reshape(&s.bitcast(&one, out.dtype)?, &out.shape)?
            }
            Prim::Bitcast => s.bitcast(a(0)?, out.dtype)?,
            Prim::Reduce(f, axes) => {
                if operands[0].spec.numel() == 0 {
                    let nothing = s.scalar(out.dtype, identity(*f, out.dtype))?;
                    return Ok(s.broadcast(&nothing, &out.shape)?);
                }
                s.reduce(*f, a(0)?, axes)?
            }
            Prim::ArgMax(axis) => s.argmax(a(0)?, *axis)?,
            Prim::CumSum(axis) => s.cumsum(a(0)?, *axis)?,
            Prim::MatMul if operands[0].spec.numel() == 0 => s.zeros(out)?,
            Prim::MatMul => s.matmul(a(0)?, a(1)?)?,
            Prim::Reshape => s.reshape(a(0)?, &out.shape)?,
            Prim::Transpose(perm) => s.transpose(a(0)?, perm)?,
            Prim::Broadcast => s.broadcast(a(0)?, &out.shape)?,
            Prim::Slice { start, step } => s.slice(a(0)?, start, step, &out.shape)?,
            Prim::Concat(axis) => s.concat(&arrays.iter().collect::<Vec<_>>(), *axis)?,
            Prim::Pad { low, high, value } => s.pad(a(0)?, low, high, value.0)?,
            Prim::Input(_) | Prim::Param(_) | Prim::Constant(_) | Prim::Iota(_) => {
                return Err(Error::Run(format!("{} is a leaf", self.prim)));
            }
        })
    }
}

/// What a reduction gives over nothing.
fn identity(f: Reduce, dtype: DType) -> f64 {
    let (low, high) = match dtype {
        DType::I64 => (i64::MIN as f64, i64::MAX as f64),
        DType::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
        DType::U32 => (0.0, f64::from(u32::MAX)),
        DType::U8 => (0.0, 255.0),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    };
    match f {
        Reduce::Sum => 0.0,
        Reduce::Prod => 1.0,
        Reduce::Max => low,
        Reduce::Min => high,
    }
}

/// Integers that are guarded, and brought into the range that exists.
pub(crate) fn index(
    c: &mut Context<'_>,
    at: &Array,
    spec: &Spec,
    kind: GuardKind,
) -> Result<Array, Error> {
    let s = c.session;
    let last = match kind {
        GuardKind::Index { extent } => extent as f64 - 1.0,
        GuardKind::Start { length, extent } => (extent - length) as f64,
    };
    let at = s.cast(at, DType::I64)?;
    let (zero, last) = (s.scalar(DType::I64, 0.0)?, s.scalar(DType::I64, last)?);
    let kept = s.binary(Binary::Max, &s.binary(Binary::Min, &at, &last)?, &zero)?;
    if spec.numel() > 0 {
        let wrong = s.any(&s.compare(Compare::Ne, &kept, &at)?)?;
        c.guards.push(Guard { wrong, numbers: s.contiguous(&at)?, kind });
    }
    Ok(s.cast(&kept, DType::I32)?)
}

/// `x` with `part` written over it from `at`, a scalar or one for each row of axis 0.
fn update(
    c: &Context<'_>,
    (x, part): (&Array, &Array),
    at: &Array,
    shape: &[usize],
    axis: usize,
) -> Result<Array, Error> {
    let s = c.session;
    if shape.contains(&0) {
        return Ok(x.clone());
    }
    let rows = at.shape();
    if rows.is_empty() || rows == [1] {
        return Ok(s.update(x, part, &s.reshape(at, &[1])?, axis)?);
    }
    // The places of a row's part along the axis.
    let mut by_row = vec![1; shape.len()];
    by_row[0] = rows[0];
    let mut along = vec![1; shape.len()];
    along[axis] = shape[axis];
    let steps = s.reshape(&s.count(shape[axis], DType::I32)?, &along)?;
    let places = s.add(&s.reshape(at, &by_row)?, &steps)?;
    Ok(s.put_along(x, &s.broadcast(&places, shape)?, part, axis)?)
}

/// 0, 1, 2, ... along an axis.
pub(crate) fn iota(axis: usize, spec: &Spec) -> Result<Value, Error> {
    let (stride, extent) = (row_major(&spec.shape)[axis], spec.shape[axis].max(1));
    let data: Vec<f64> = (0..spec.numel()).map(|i| ((i / stride) % extent) as f64).collect();
    Value::from_f64(spec.clone(), &data)
}
