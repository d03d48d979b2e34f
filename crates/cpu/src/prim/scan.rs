//! Primitives that go along an axis in order.

use super::{
    LEAST, Primitive,
    number::{Number, for_dtype},
    walk::{Shared, address},
};
use crate::kernel::{Context, Out, View, Wants};
use frit_graph::{Binary, Error};

/// Index of the first largest element; the first NaN is larger than all.
pub(crate) struct Best(pub(crate) usize);

/// Running sum.
pub(crate) struct Running(pub(crate) usize);

/// First place, extent and stride of every line along `axis` of a dense operand.
fn lines(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    let inner = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    (outer * inner, shape[axis], inner)
}

impl Primitive for Best {
    fn wants(&self, _: usize) -> Wants {
        Wants::Dense
    }

    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        for_dtype!(x[0].dtype(), T => best::<T>(self.0, &x[0], out, c));
        Ok(())
    }
}

fn best<T: Number>(axis: usize, x: &View<'_>, out: &mut Out<'_>, c: &Context<'_>) {
    let (count, extent, inner) = lines(x.shape(), axis);
    let (from, to) = (Shared(address::<T>(x, out)), Shared(out.bytes.as_mut_ptr().cast::<i64>()));
    c.pool.run_chunks(count, LEAST.div_ceil(extent), &|range| {
        for l in range {
            let first = l / inner * inner * extent + l % inner;
            // SAFETY: the line is inside the operand; each result is written once.
            unsafe {
                let read = |i: usize| *from.get().add(first + i * inner);
                let (mut at, mut top) = (0, read(0));
                for i in 1..extent {
                    let v = read(i);
                    let is_nan = |v: T| v.partial_cmp(&v).is_none();
                    if v > top || (is_nan(v) && !is_nan(top)) {
                        (at, top) = (i, v);
                    }
                }
                *to.get().add(l) = at as i64;
            }
        }
    });
}

impl Primitive for Running {
    fn wants(&self, _: usize) -> Wants {
        Wants::Dense
    }

    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        for_dtype!(x[0].dtype(), T => running::<T>(self.0, &x[0], out, c));
        Ok(())
    }
}

fn running<T: Number>(axis: usize, x: &View<'_>, out: &mut Out<'_>, c: &Context<'_>) {
    let (count, extent, inner) = lines(x.shape(), axis);
    let (from, to) = (Shared(address::<T>(x, out)), Shared(out.bytes.as_mut_ptr().cast::<T>()));
    c.pool.run_chunks(count, LEAST.div_ceil(extent), &|range| {
        for l in range {
            let first = l / inner * inner * extent + l % inner;
            let (mut sum, mut integer) = (0.0, T::from_i64(0));
            for i in 0..extent {
                let at = first + i * inner;
                // SAFETY: the line is inside the operand; each result is written once.
                unsafe {
                    let v = *from.get().add(at);
                    sum += v.to_f64();
                    integer = integer.binary(v, Binary::Add);
                    *to.get().add(at) = if T::FLOAT { T::from_f64(sum) } else { integer };
                }
            }
        }
    });
}
