//! What happens to a block of sums: bias, activation, rounding, and the store to its place.

use frit_ops::{Activation, GeluForm};

use super::tile::NC;
use crate::kernels::activation::{self, WithActivation};
use crate::kernels::{Map1, load};
use crate::simd::{Element, MAX_LANES, Simd, WithSimd};

/// What is added to the sums.
#[derive(Clone, Copy)]
pub(super) enum Bias<'a> {
    /// Nothing.
    None,
    /// One number a column.
    Columns(&'a [f32]),
    /// One number a row.
    Rows(&'a [f32]),
}

impl<'a> Bias<'a> {
    /// The part that belongs to a block.
    pub(super) fn of(self, row: usize, rows: usize, column: usize, columns: usize) -> Bias<'a> {
        match self {
            Bias::None => Bias::None,
            Bias::Columns(b) => Bias::Columns(&b[column..column + columns]),
            Bias::Rows(b) => Bias::Rows(&b[row..row + rows]),
        }
    }
}

/// `c[i][j] = activation(sums[i][j] + bias)`.
pub(super) struct Finish<'a, T> {
    /// With a pitch of [`NC`].
    pub(super) sums: *const f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// As many as there are rows or columns.
    pub(super) bias: Bias<'a>,
    pub(super) activation: Activation,
    pub(super) c: *mut T,
    pub(super) c_row: isize,
    pub(super) c_column: isize,
}

impl<T: Element> WithSimd for Finish<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        activation::with(lanes(self.activation), OnLanes(s, self));
    }
}

struct OnLanes<'a, S, T>(S, Finish<'a, T>);

impl<S: Simd, T: Element> WithActivation for OnLanes<'_, S, T> {
    #[inline(always)]
    fn run<M: Map1>(self, map: M) {
        let OnLanes(s, finish) = self;
        let columns = finish.columns;
        for i in 0..finish.rows {
            let mut j = 0;
            // SAFETY: who makes a Finish vouches for its pointers, and the columns exist.
            unsafe {
                // Two vectors at a time: functions wait less.
                while columns - j >= 2 * S::LANES {
                    let a = map.lanes(s, finish.biased(s, i, j, S::LANES));
                    let b = map.lanes(s, finish.biased(s, i, j + S::LANES, S::LANES));
                    finish.put(s, i, j, S::LANES, a);
                    finish.put(s, i, j + S::LANES, S::LANES, b);
                    j += 2 * S::LANES;
                }
                while j < columns {
                    let n = S::LANES.min(columns - j);
                    let v = map.lanes(s, finish.biased(s, i, j, n));
                    finish.put(s, i, j, n, v);
                    j += n;
                }
            }
        }
    }
}

impl<T: Element> Finish<'_, T> {
    /// `n` sums from row `i`, column `j`, with their bias.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    unsafe fn biased<S: Simd>(&self, s: S, i: usize, j: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract; a bias is as long as its axis.
        unsafe {
            let v = load(s, self.sums.add(i * NC + j), n);
            match self.bias {
                Bias::None => v,
                Bias::Columns(b) => s.add(v, load(s, b.as_ptr().add(j), n)),
                Bias::Rows(b) => s.add(v, s.splat(b[i])),
            }
        }
    }

    /// Writes the first `n` lanes to row `i`, from column `j`.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, s: S, i: usize, j: usize, n: usize, v: S::F) {
        // SAFETY: the caller's contract.
        unsafe {
            let c = self.c.offset(i as isize * self.c_row);
            if self.c_column == 1 {
                match n == S::LANES {
                    true => T::store(s, c.add(j), v),
                    false => T::store_partial(s, c.add(j), n, v),
                }
            } else {
                let mut each = [T::ZERO; MAX_LANES];
                T::store(s, each.as_mut_ptr(), v);
                for (l, &x) in each[..n].iter().enumerate() {
                    *c.offset((j + l) as isize * self.c_column) = x;
                }
            }
        }
    }
}

/// The lane function of an activation, if it is one.
pub(crate) fn lanes(activation: Activation) -> Option<activation::Activation> {
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
