//! Between which numbers integers lie, as far as their type and the arithmetic on them tell.

use frit_graph::{Binary, DType, Prim, Tensor, Value};
use std::collections::HashSet;

/// More operations than this are no weight.
const MOST: usize = 512;

/// The smallest and the largest integer that a tensor can hold.
pub(super) fn range(t: &Tensor) -> Option<(i64, i64)> {
    deep(t, &mut { MOST })
}

fn deep(t: &Tensor, left: &mut usize) -> Option<(i64, i64)> {
    *left = left.checked_sub(1)?;
    let mut of = |i: usize| deep(t.input(i)?, left);
    let limits = limits(t.dtype())?;
    let (low, high) = match t.prim()? {
        Prim::Constant(v) => extremes(v)?,
        // A wide type says nothing of what is in it.
        Prim::Param(_) | Prim::Input(_) if t.dtype() == DType::U8 => limits,
        // Floats are cut to what the type holds.
        Prim::Cast if t.dtype() == DType::U8 && t.input(0)?.dtype().is_float() => limits,
        Prim::Cast | Prim::Reshape | Prim::Transpose(_) | Prim::Broadcast | Prim::Slice { .. } => {
            of(0)?
        }
        Prim::Concat(_) => {
            let mut parts = (0..t.inputs().len()).map(of);
            let first = parts.next()??;
            parts.try_fold(first, |a, b| b.map(|b| (a.0.min(b.0), a.1.max(b.1))))?
        }
        Prim::Binary(f) => {
            let (a, b) = (of(0)?, of(1)?);
            match f {
                Binary::Add => (a.0.checked_add(b.0)?, a.1.checked_add(b.1)?),
                Binary::Sub => (a.0.checked_sub(b.1)?, a.1.checked_sub(b.0)?),
                Binary::Mul if a.0 >= 0 && b.0 >= 0 => {
                    (a.0.checked_mul(b.0)?, a.1.checked_mul(b.1)?)
                }
                Binary::Div if a.0 >= 0 && b.0 > 0 => (a.0 / b.1, a.1 / b.0),
                Binary::Rem if a.0 >= 0 && b.0 > 0 => (0, a.1.min(b.1 - 1)),
                Binary::Max => (a.0.max(b.0), a.1.max(b.1)),
                Binary::Min => (a.0.min(b.0), a.1.min(b.1)),
                _ => return None,
            }
        }
        _ => return None,
    };
    // What may wrap is not known.
    (limits.0 <= low && high <= limits.1).then_some((low, high))
}

fn limits(d: DType) -> Option<(i64, i64)> {
    Some(match d {
        DType::U8 => (0, 255),
        DType::U32 => (0, u32::MAX.into()),
        DType::I32 => (i32::MIN.into(), i32::MAX.into()),
        DType::I64 => (i64::MIN, i64::MAX),
        _ => return None,
    })
}

fn extremes(v: &Value) -> Option<(i64, i64)> {
    fn of<T: Copy + Ord + Into<i64>>(all: &[T]) -> Option<(i64, i64)> {
        Some(((*all.iter().min()?).into(), (*all.iter().max()?).into()))
    }
    match v.dtype() {
        DType::U8 => of(v.bytes()),
        DType::I32 => of(v.slice::<i32>().ok()?),
        DType::I64 => of(v.slice::<i64>().ok()?),
        DType::U32 => of(v.slice::<u32>().ok()?),
        _ => None,
    }
}

/// Whether no input of the call decides it.
pub(super) fn of_weights(t: &Tensor) -> bool {
    let (mut seen, mut open) = (HashSet::from([t.id()]), vec![t]);
    while let Some(t) = open.pop() {
        if matches!(t.prim(), Some(Prim::Input(_))) || seen.len() > MOST {
            return false;
        }
        open.extend(t.inputs().iter().flatten().filter(|x| seen.insert(x.id())));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use frit_graph::Spec;

    #[test]
    fn ranges_follow_types_constants_and_arithmetic() {
        let byte = Tensor::param("w", Spec::new(DType::U8, [4]));
        let word = Tensor::param("v", Spec::new(DType::I32, [4]));
        let number = |d, n| Tensor::scalar(d, n);
        assert_eq!(range(&byte), Some((0, 255)));
        assert_eq!(range(&word), None);
        assert_eq!(range(&(byte.cast(DType::I32) - 128.0)), Some((-128, 127)));
        let sixteen = number(DType::U8, 16.0);
        assert_eq!(range(&byte.binary(&sixteen, Binary::Rem)), Some((0, 15)));
        assert_eq!(range(&byte.binary(&sixteen, Binary::Div)), Some((0, 15)));
        let clipped = word.maximum(&number(DType::I32, -7.0)).minimum(&number(DType::I32, 8.0));
        assert_eq!(range(&clipped), None, "a parameter of 32 bits is not looked into");
        let float = Tensor::param("f", Spec::new(DType::F32, [4]));
        assert_eq!(range(&float.cast(DType::U8)), Some((0, 255)));
        assert_eq!(range(&float.cast(DType::I32)), None);
        // A byte of 100 more may wrap.
        assert_eq!(range(&(&byte + 100.0)), None);
        let known = Value::new([3], vec![-5i32, 0, 7]).expect("a value");
        assert_eq!(range(&Tensor::constant(known)), Some((-5, 7)));
        // Packed bytes are no integers of their own.
        let packed = Tensor::param("p", Spec::new(DType::U32, [2]));
        assert_eq!(range(&packed.bitcast(DType::U8)), None);
    }
}
