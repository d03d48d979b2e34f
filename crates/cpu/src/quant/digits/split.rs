//! Activations as digits.

use super::lay::GROUP;
use crate::simd::{Element, Simd, WithSimd};

/// The largest whole number: a first digit of 127 in base 256.
const LARGEST: f32 = (127 << 16) as f32;
/// Groups whose largest number is smaller are left to f32, where they are still numbers.
const LEAST: f32 = 1e-30;
/// The base of two digits.
const HALF: f32 = 4096.0;

/// Bytes of the digits of a group: 32 first digits (i8), 32 second, 32 third; or, for weights of 8
/// bits (`wide`), 32 first digits of base 4096 (i16) and 32 second.
pub(super) const fn digit_bytes(wide: bool) -> usize {
    if wide { 2 * 2 * GROUP } else { 3 * GROUP }
}

/// Splits groups of 32 activations into digits, with the scale of each and the sum of its numbers.
/// Says whether all could be said.
pub(super) struct Split<T> {
    pub(super) x: *const T,
    pub(super) wide: bool,
    pub(super) digits: *mut u8,
    pub(super) scales: *mut f32,
    pub(super) sums: *mut f32,
    pub(super) groups: usize,
}

impl<T: Element> WithSimd for Split<T> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        /// Added to a number of less than 22 bits, its bits end in the whole number.
        const MAGIC: f32 = (3 << 22) as f32;
        let whole = |v| s.sub_i(s.bits(s.add(v, s.splat(MAGIC))), s.bits(s.splat(MAGIC)));
        let mut fine = true;
        for g in 0..self.groups {
            let mut numbers = [0f32; GROUP];
            let (mut largest, mut sum) = (s.zero(), s.zero());
            for at in (0..GROUP).step_by(S::LANES) {
                // SAFETY: x has this group.
                unsafe {
                    let v = T::load(s, self.x.add(g * GROUP + at));
                    largest = s.max(s.abs(v), largest);
                    sum = s.add(sum, v);
                    s.store(numbers.as_mut_ptr().add(at), v);
                }
            }
            // The sum is no finite number where one of x is none.
            let (largest, sum) = (s.reduce_max(largest), s.reduce_sum(sum));
            fine &= sum.is_finite() && (largest == 0.0 || largest >= LEAST);
            let by = if largest > 0.0 { LARGEST / largest } else { 0.0 };
            let mut digits = [[0i32; GROUP]; 3];
            for at in (0..GROUP).step_by(S::LANES) {
                // SAFETY: every array has GROUP numbers.
                unsafe {
                    let v = s.mul(s.load(numbers.as_ptr().add(at)), s.splat(by));
                    let high = s.round_even(s.mul(v, s.splat(1.0 / HALF)));
                    let low = whole(s.fnma(high, s.splat(HALF), v));
                    let mut store = |d: usize, digit| {
                        s.store(digits[d].as_mut_ptr().add(at).cast(), s.from_bits(digit));
                    };
                    if self.wide {
                        store(0, whole(high));
                        store(1, low);
                    } else {
                        let q = s.add_i(s.shl_i::<12>(whole(high)), low);
                        let last = |q| {
                            let up = s.and_i(s.add_i(q, s.splat_i(128)), s.splat_i(255));
                            s.sub_i(up, s.splat_i(128))
                        };
                        let third = last(q);
                        let q = s.sar_i::<8>(s.sub_i(q, third));
                        let second = last(q);
                        store(0, s.sar_i::<8>(s.sub_i(q, second)));
                        store(1, second);
                        store(2, third);
                    }
                }
            }
            // SAFETY: there is room for the digits, a scale and a sum of every group.
            unsafe {
                let to = self.digits.add(g * digit_bytes(self.wide));
                if self.wide {
                    let to = to.cast::<[[i16; GROUP]; 2]>();
                    for (d, digits) in digits.iter().take(2).enumerate() {
                        (*to)[d] = digits.map(|digit| digit as i16);
                    }
                } else {
                    let to = to.cast::<[[i8; GROUP]; 3]>();
                    for (d, digits) in digits.iter().enumerate() {
                        (*to)[d] = digits.map(|digit| digit as i8);
                    }
                }
                *self.scales.add(g) = largest / LARGEST;
                *self.sums.add(g) = sum;
            }
        }
        fine
    }
}
