//! A packed weight as the panels of a product, unpacked as they are asked for.

use super::Weight;
use super::format::group;
use super::rows::unpack;
use crate::gemm::{Columns, on};
use crate::simd::{Isa, Simd, WithSimd};

/// Numbers of a row that are unpacked before they are transposed.
const STRIP: usize = 128;
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
        let group = group(self.weight.encoding);
        // SAFETY: the caller's contract: the columns exist, and the panel has room for them.
        unsafe {
            match self.transposed {
                true => self.across(group, first, width, panel),
                false => self.along(group, first, width, panel),
            }
        }
    }
}

impl Panels<'_> {
    /// Rows of the weight become columns of the panel.
    ///
    /// # Safety
    /// Row `first` exists, and the panel has room for k rows of `width`.
    unsafe fn across(&self, group: usize, first: usize, width: usize, panel: *mut f32) {
        let &Panels { isa, weight, .. } = self;
        let mut strip = [0f32; WIDEST * STRIP];
        let there = width.min(weight.rows - first);
        for from in (0..weight.width).step_by(STRIP) {
            let n = STRIP.min(weight.width - from);
            for i in 0..there {
                let to = strip[i * STRIP..].as_mut_ptr();
                // SAFETY: these groups exist, and a line of the strip has room for them.
                unsafe { unpack(isa, &weight, first + i, from / group, n / group, to) };
            }
            on(isa, Transpose { strip: &strip, n, width, to: panel.wrapping_add(from * width) });
        }
    }

    /// Rows of the weight are rows of the panel.
    ///
    /// # Safety
    /// As for [`Panels::across`], with columns in the place of rows.
    unsafe fn along(&self, group: usize, first: usize, width: usize, panel: *mut f32) {
        let mut numbers = [0f32; WIDEST];
        for row in 0..self.weight.rows {
            // SAFETY: a panel stands within a group, which has 32 columns.
            unsafe {
                unpack(self.isa, &self.weight, row, first / group, 1, numbers.as_mut_ptr());
                let from = numbers[first % group..][..width].as_ptr();
                std::ptr::copy_nonoverlapping(from, panel.add(row * width), width);
            }
        }
    }
}

/// Lines of a strip to columns of a panel.
struct Transpose<'a> {
    strip: &'a [f32; WIDEST * STRIP],
    n: usize,
    width: usize,
    to: *mut f32,
}

impl WithSimd for Transpose<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.width).step_by(S::LANES) {
            for j in (0..self.n).step_by(S::LANES) {
                // SAFETY: widths of panels and groups are multiples of LANES, and both are inside.
                unsafe {
                    let from = self.strip.as_ptr().add(i * STRIP + j);
                    s.transpose(from, STRIP, self.to.add(j * self.width + i), self.width);
                }
            }
        }
    }
}
