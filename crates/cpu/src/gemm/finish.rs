//! What happens to a block of sums: bias, activation, rounding, and the store to its place.

use frit_ops::{Activation, GeluForm};

use crate::kernel::Combine;
use crate::kernels::activation::{self, WithMap};
use crate::kernels::{Map1, SEVERAL, load};
use crate::simd::{Element, MAX_LANES, Simd, WithSimd, math};

/// What is added to the sums.
#[derive(Clone, Copy)]
pub(crate) enum Bias<'a> {
    /// Nothing.
    None,
    /// One number a column.
    Columns(&'a [f32]),
    /// One number a row.
    Rows(&'a [f32]),
}

impl<'a> Bias<'a> {
    /// The part that belongs to a block.
    pub(crate) fn of(self, row: usize, rows: usize, column: usize, columns: usize) -> Bias<'a> {
        match self {
            Bias::None => Bias::None,
            Bias::Columns(b) => Bias::Columns(&b[column..column + columns]),
            Bias::Rows(b) => Bias::Rows(&b[row..row + rows]),
        }
    }
}

/// `c[i][j] = activation(sums[i][j] + bias)`, or that together with `c[i][j]`.
pub(crate) struct Finish<'a, T> {
    pub(crate) sums: *const f32,
    /// From row to row of the sums.
    pub(crate) pitch: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// As many as there are rows or columns.
    pub(crate) bias: Bias<'a>,
    pub(crate) activation: Activation,
    /// With what is at their place: sums and gates take steps of 1 along columns, and a gate has no
    /// activation.
    pub(crate) combine: Combine,
    pub(crate) c: *mut T,
    pub(crate) c_row: isize,
    pub(crate) c_column: isize,
}

impl<T: Element> WithSimd for Finish<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.combine {
            Combine::Gate => {
                assert!(self.activation == Activation::Identity, "a gate has no activation");
                assert!(self.c_column == 1, "columns apart are not gates");
                for i in 0..self.rows {
                    // SAFETY: who makes a Finish vouches for its pointers.
                    unsafe { self.gate(s, i) };
                }
            }
            _ => activation::with(lanes(self.activation), On { finish: self, s }),
        }
    }
}

struct On<'a, T, S> {
    finish: Finish<'a, T>,
    s: S,
}

impl<T: Element, S: Simd> WithMap for On<'_, T, S> {
    type Output = ();
    #[inline(always)]
    fn run<M: Map1>(self, map: M) {
        let On { finish, s } = self;
        for i in 0..finish.rows {
            // SAFETY: who makes a Finish vouches for its pointers.
            unsafe { finish.row(s, map, i) };
        }
    }
}

impl<T: Element> Finish<'_, T> {
    /// What is added to all of a row, where that is no bias of columns. Adding -0 leaves every
    /// number as it is.
    #[inline(always)]
    fn of_row(&self, i: usize) -> [f32; MAX_LANES] {
        [if let Bias::Rows(b) = self.bias { b[i] } else { -0.0 }; MAX_LANES]
    }

    /// The bias of a row, and its step.
    #[inline(always)]
    fn bias(&self, of_row: &[f32; MAX_LANES]) -> (*const f32, usize) {
        match self.bias {
            Bias::Columns(b) => (b.as_ptr(), 1),
            Bias::None | Bias::Rows(_) => (of_row.as_ptr(), 0),
        }
    }

    /// `c = silu(c) (sums + bias)`
    ///
    /// # Safety
    /// The row is one of the block, and its columns are side by side.
    #[inline(always)]
    unsafe fn gate<S: Simd>(&self, s: S, i: usize) {
        let of_row = self.of_row(i);
        let (bias, step) = self.bias(&of_row);
        let sums = self.sums.wrapping_add(i * self.pitch);
        let c = self.c.wrapping_offset(i as isize * self.c_row);
        for j in (0..self.columns).step_by(S::LANES) {
            let n = S::LANES.min(self.columns - j);
            // SAFETY: the row has these n elements.
            unsafe {
                let v = s.add(load(s, sums.add(j), n), load(s, bias.add(j * step), n));
                let c = c.add(j);
                let v = s.mul(math::silu(s, load(s, c.cast_const(), n)), v);
                match n == S::LANES {
                    true => T::store(s, c, v),
                    false => T::store_partial(s, c, n, v),
                }
            }
        }
    }

    /// # Safety
    /// The row is one of the block.
    #[inline(always)]
    unsafe fn row<S: Simd, M: Map1>(&self, s: S, map: M, i: usize) {
        let of_row = self.of_row(i);
        let (bias, step) = self.bias(&of_row);
        let sums = self.sums.wrapping_add(i * self.pitch);
        let c = self.c.wrapping_offset(i as isize * self.c_row);
        let mut j = 0;
        // SAFETY: the sums, the results and a bias of columns have so many elements; no more than
        // n are touched.
        unsafe {
            while self.c_column == 1 && self.columns - j >= SEVERAL * S::LANES {
                let mut x = [s.zero(); SEVERAL];
                for (v, x) in x.iter_mut().enumerate() {
                    let j = j + v * S::LANES;
                    *x = s.add(s.load(sums.add(j)), s.load(bias.add(j * step)));
                }
                for (v, mut y) in map.several(s, x).into_iter().enumerate() {
                    let c = c.add(j + v * S::LANES);
                    if self.combine == Combine::Add {
                        y = s.add(T::load(s, c), y);
                    }
                    T::store(s, c, y);
                }
                j += SEVERAL * S::LANES;
            }
            while j < self.columns {
                let n = S::LANES.min(self.columns - j);
                let v = s.add(load(s, sums.add(j), n), load(s, bias.add(j * step), n));
                self.put(s, c, j, n, map.lanes(s, v));
                j += n;
            }
        }
    }

    /// Stores `n` results from column `j` on of the row at `c`.
    ///
    /// # Safety
    /// The row has these columns.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, s: S, c: *mut T, j: usize, n: usize, v: S::F) {
        // SAFETY: the caller's contract.
        unsafe {
            if self.c_column == 1 {
                let v = match self.combine {
                    Combine::Add => s.add(load(s, c.add(j).cast_const(), n), v),
                    _ => v,
                };
                match n == S::LANES {
                    true => T::store(s, c.add(j), v),
                    false => T::store_partial(s, c.add(j), n, v),
                }
                return;
            }
            assert!(self.combine == Combine::Replace, "columns apart are not added to");
            let mut each = [T::ZERO; MAX_LANES];
            T::store(s, each.as_mut_ptr(), v);
            for (l, &x) in each[..n].iter().enumerate() {
                *c.offset((j + l) as isize * self.c_column) = x;
            }
        }
    }
}

/// The lane function of an activation, if it is one.
fn lanes(activation: Activation) -> Option<activation::Activation> {
    Some(match activation {
        Activation::Identity => return None,
        Activation::Gelu(GeluForm::Erf) => activation::Activation::GeluErf,
        Activation::Gelu(GeluForm::Tanh) => activation::Activation::GeluTanh,
        Activation::Gelu(GeluForm::Quick) => activation::Activation::QuickGelu,
        Activation::Silu => activation::Activation::Silu,
        Activation::Relu => activation::Activation::Relu,
        Activation::Tanh => activation::Activation::Tanh,
        Activation::HardSwish => activation::Activation::HardSwish,
    })
}
