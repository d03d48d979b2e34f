//! What happens to a block of sums: bias, activation, rounding, and the store to its place.

use frit_ops::{Activation, GeluForm};

use super::tile::NC;
use crate::kernels::activation;
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
        let activation = lanes(self.activation);
        for i in 0..self.rows {
            let of_row = match self.bias {
                Bias::Rows(b) => b[i],
                _ => 0.0,
            };
            let mut j = 0;
            while j < self.columns {
                let n = S::LANES.min(self.columns - j);
                // SAFETY: who makes a Finish vouches for its pointers; the bias slice is as long
                // as its axis, and no more than n elements are touched.
                unsafe {
                    let mut v = s.load_partial_or_whole(self.sums.add(i * NC + j), n);
                    v = match self.bias {
                        Bias::None => v,
                        Bias::Columns(b) => s.add(v, s.load_partial_or_whole(b.as_ptr().add(j), n)),
                        Bias::Rows(_) => s.add(v, s.splat(of_row)),
                    };
                    if let Some(f) = activation {
                        v = activation::activate(s, f, v);
                    }
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
                j += n;
            }
        }
    }
}

/// A partial load is slower than a whole one.
trait LoadUpTo: Simd {
    unsafe fn load_partial_or_whole(self, p: *const f32, n: usize) -> Self::F;
}

impl<S: Simd> LoadUpTo for S {
    #[inline(always)]
    unsafe fn load_partial_or_whole(self, p: *const f32, n: usize) -> S::F {
        // SAFETY: the caller gives n readable elements.
        unsafe { if n == S::LANES { self.load(p) } else { self.load_partial(p, n) } }
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
