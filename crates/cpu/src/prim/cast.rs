//! Conversion between element types.

use super::{
    LEAST, Primitive,
    number::{Number, for_dtype},
    walk::{Shared, Walk, address},
};
use crate::{
    kernel::{Context, Out, View},
    simd::{Element, Simd, WithSimd, dispatch},
};
use frit_graph::{DType, Error};
use half::{bf16, f16};

/// To the type of the output.
pub(crate) struct Convert;

impl Primitive for Convert {
    fn run(&self, x: &[View<'_>], out: &mut Out<'_>, c: &mut Context<'_>) -> Result<(), Error> {
        let (from, to) = (x[0].dtype(), out.spec.dtype);
        match (from, to) {
            (DType::F16, DType::F32) => floats::<f16, f32>(&x[0], out, c),
            (DType::BF16, DType::F32) => floats::<bf16, f32>(&x[0], out, c),
            (DType::F32, DType::F16) => floats::<f32, f16>(&x[0], out, c),
            (DType::F32, DType::BF16) => floats::<f32, bf16>(&x[0], out, c),
            (DType::F16, DType::BF16) => floats::<f16, bf16>(&x[0], out, c),
            (DType::BF16, DType::F16) => floats::<bf16, f16>(&x[0], out, c),
            (_, DType::Bool) => for_dtype!(from, T => each::<T, u8>(&x[0], out, c, &|x| {
                (x.to_f64() != 0.0) as u8
            })),
            _ => for_dtype!(from, T => for_dtype!(to, U => {
                each::<T, U>(&x[0], out, c, &|x| match T::FLOAT {
                    true => U::from_f64(x.to_f64()),
                    false => U::from_i64(x.to_i64()),
                })
            })),
        }
        Ok(())
    }
}

fn each<T: Number, U: Copy>(
    x: &View<'_>,
    out: &mut Out<'_>,
    c: &Context<'_>,
    f: &(dyn Fn(T) -> U + Sync),
) {
    let (from, to) = (Shared(address::<T>(x, out)), Shared(out.bytes.as_mut_ptr().cast::<U>()));
    let walk = Walk::new(x.shape(), [x.strides()]);
    walk.run(c.pool, LEAST, &|first, n, [place]| {
        for i in 0..n {
            // SAFETY: the walk stays inside the operand and gives each output element once.
            unsafe {
                let v = *from.get().offset(place + i as isize * walk.step[0]);
                *to.get().add(first + i) = f(v);
            }
        }
    });
}

fn floats<T: Element + Number, U: Element + Number>(
    x: &View<'_>,
    out: &mut Out<'_>,
    c: &Context<'_>,
) {
    let walk = Walk::new(x.shape(), [x.strides()]);
    if walk.step[0] != 1 {
        return each::<T, U>(x, out, c, &|x| U::from_f32(Element::to_f32(x)));
    }
    let (from, to) = (Shared(address::<T>(x, out)), Shared(out.bytes.as_mut_ptr().cast::<U>()));
    walk.run(c.pool, LEAST, &|first, n, [place]| {
        // SAFETY: the walk stays inside the operand and gives each output element once.
        let (x, out) = unsafe { (from.get().offset(place), to.get().add(first)) };
        dispatch(Line { x, out, n });
    });
}

struct Line<T, U> {
    x: *const T,
    out: *mut U,
    n: usize,
}

impl<T: Element, U: Element> WithSimd for Line<T, U> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut at = 0;
        // SAFETY: `at + m <= n` elements of both exist.
        unsafe {
            while self.n - at >= S::LANES {
                U::store(s, self.out.add(at), T::load(s, self.x.add(at)));
                at += S::LANES;
            }
            if at < self.n {
                let m = self.n - at;
                U::store_partial(s, self.out.add(at), m, T::load_partial(s, self.x.add(at), m));
            }
        }
    }
}
