//! A packed weight as the panels of a product, unpacked as they are asked for.

use super::Weight;
use super::format::{Format, with_format};
use super::rows::Unpack;
use crate::gemm::{Columns, on};
use crate::simd::{Isa, Simd, WithSimd};

/// Numbers of a row that are unpacked before they are transposed.
const STRIP: usize = 64;
/// The widest panel.
const WIDEST: usize = 32;

/// The columns of the product: rows of a weight of `[n, k]`, or columns of one of `[k, n]`.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    pub(super) isa: Isa,
    pub(super) weight: Weight<'a>,
    pub(super) transposed: bool,
}

impl Columns for Panels<'_> {
    type T = f32;

    unsafe fn pack(self, first: usize, width: usize, panel: *mut f32) {
        debug_assert!(width <= WIDEST);
        let Panels { isa, weight, transposed } = self;
        with_format!(&weight, format => match transposed {
            true => {
                let (rows, k) = (weight.rows, weight.width);
                on(isa, Across { format, rows, k, first, width, panel });
            }
            false => on(isa, Along { format, k: weight.rows, first, width, panel }),
        });
    }
}

/// Rows of the weight become columns of the panel.
struct Across<F> {
    format: F,
    rows: usize,
    k: usize,
    first: usize,
    width: usize,
    panel: *mut f32,
}

impl<F: Format> WithSimd for Across<F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Across { format, rows, k, first, width, panel } = self;
        let mut strip = [0f32; WIDEST * STRIP];
        let there = width.min(rows - first);
        for from in (0..k).step_by(STRIP) {
            let n = STRIP.min(k - from);
            for i in 0..there {
                let to = strip[i * STRIP..].as_mut_ptr();
                let (first_group, groups) = (from / F::GROUP, n / F::GROUP);
                Unpack { format, row: first + i, first: first_group, groups, to }.run(s);
            }
            for i in (0..width).step_by(S::LANES) {
                for j in (0..n).step_by(S::LANES) {
                    // SAFETY: widths of panels and groups are multiples of LANES; the panel has
                    // room for k rows of `width`.
                    unsafe {
                        let from_strip = strip.as_ptr().add(i * STRIP + j);
                        s.transpose(from_strip, STRIP, panel.add((from + j) * width + i), width);
                    }
                }
            }
        }
    }
}

/// Rows of the weight are rows of the panel.
struct Along<F> {
    format: F,
    k: usize,
    first: usize,
    width: usize,
    panel: *mut f32,
}

impl<F: Format> WithSimd for Along<F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Along { format, k, first, width, panel } = self;
        let mut group = [0f32; 32];
        for row in 0..k {
            let at = first / F::GROUP;
            Unpack { format, row, first: at, groups: 1, to: group.as_mut_ptr() }.run(s);
            for j in (0..width).step_by(S::LANES) {
                // SAFETY: a panel stands within a group of 32 columns.
                unsafe {
                    let v = s.load(group.as_ptr().add(first % F::GROUP + j));
                    s.store(panel.add(row * width + j), v);
                }
            }
        }
    }
}
