//! Vectors of f32 whose instruction set is chosen at run time.
//!
//! A kernel is written once against [`Simd`] (a token whose methods are the lane operations) as a
//! struct with [`WithSimd`]; [`dispatch`] runs it with the best token of this processor inside a
//! function that enables the instructions. Everything a kernel calls in between must be
//! `#[inline(always)]`: only then does it end up inside that function.
//!
//! ```text
//! struct Scale<'a> { x: &'a mut [f32], by: f32 }
//! impl WithSimd for Scale<'_> {
//!     type Output = ();
//!     #[inline(always)]
//!     fn run<S: Simd>(self, s: S) { let by = s.splat(self.by); ... }
//! }
//! dispatch(Scale { x, by });
//! ```
//!
//! [`Element`] adds the storage types: values are widened to f32 lanes at the load and rounded once
//! (to nearest, ties to even) at the store. `math` holds exp, tanh, erf, sin and their like.

mod element;
pub(crate) mod math;
mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod nibbles;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

use half::{bf16, f16};

pub(crate) use element::Element;

/// The widest vector of any instruction set, in f32 lanes: a size for small buffers.
pub(crate) const MAX_LANES: usize = 16;

/// So many bytes ahead products of few rows ask for packed weights: from 2 to 8 KB all are alike,
/// and 1 KB is late.
pub(crate) const AHEAD: usize = 4096;

/// Operands of [`Simd::nibble_row`].
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no way of its own here"))]
pub(crate) struct NibbleRow {
    /// For each group sixteen scales, sixteen offsets (f16), and 256 bytes of nibbles.
    pub(crate) weight: *const u8,
    /// One at least.
    pub(crate) groups: usize,
    /// For each group 96 bytes of digits, a scale, and the sum of its numbers.
    pub(crate) x: *const u8,
    pub(crate) scales: *const f32,
    pub(crate) sums: *const f32,
}

/// Lane operations of one instruction set. The token proves that the processor has it.
///
/// `load*` and `store*` need no alignment, except [`Simd::store_stream`]. `*_partial` touch only
/// the first `n` elements (`n <= LANES`; lanes past `n` load as zero).
///
/// # Safety
/// Of every method with a pointer: it must be valid for as many elements as the method touches.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// f32 lanes.
    type F: Copy + Send + Sync + 'static;
    /// i32 lanes.
    type I: Copy + Send + Sync + 'static;
    /// One truth value a lane.
    type M: Copy + Send + Sync + 'static;
    /// Lanes in `F`, `I` and `M`.
    const LANES: usize;
    /// Which instruction set this is.
    const ISA: Isa;

    fn splat(self, x: f32) -> Self::F;
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
    unsafe fn load(self, p: *const f32) -> Self::F;
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::F;
    unsafe fn store(self, p: *mut f32, v: Self::F);
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::F);
    /// Writes past the caches where the processor can. `p` must be aligned to `4 * LANES` bytes;
    /// end a run of these with [`Simd::stream_fence`] before another thread may read.
    unsafe fn store_stream(self, p: *mut f32, v: Self::F);
    fn stream_fence(self);

    /// Asks for the cache line of `p`, which need not exist, into L2.
    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        let _ = p;
    }

    unsafe fn load_f16(self, p: *const f16) -> Self::F;
    unsafe fn store_f16(self, p: *mut f16, v: Self::F);
    unsafe fn load_bf16(self, p: *const bf16) -> Self::F;
    unsafe fn store_bf16(self, p: *mut bf16, v: Self::F);
    #[inline(always)]
    unsafe fn load_f16_partial(self, p: *const f16, n: usize) -> Self::F {
        let mut whole = [f16::ZERO; MAX_LANES];
        // SAFETY: the caller gives n readable elements; n <= LANES <= MAX_LANES.
        unsafe {
            copy_few(p, whole.as_mut_ptr(), n);
            self.load_f16(whole.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_f16_partial(self, p: *mut f16, n: usize, v: Self::F) {
        let mut whole = [f16::ZERO; MAX_LANES];
        // SAFETY: the caller gives n writable elements; n <= LANES <= MAX_LANES.
        unsafe {
            self.store_f16(whole.as_mut_ptr(), v);
            copy_few(whole.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_partial(self, p: *const bf16, n: usize) -> Self::F {
        let mut whole = [bf16::ZERO; MAX_LANES];
        // SAFETY: the caller gives n readable elements; n <= LANES <= MAX_LANES.
        unsafe {
            copy_few(p, whole.as_mut_ptr(), n);
            self.load_bf16(whole.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_partial(self, p: *mut bf16, n: usize, v: Self::F) {
        let mut whole = [bf16::ZERO; MAX_LANES];
        // SAFETY: the caller gives n writable elements; n <= LANES <= MAX_LANES.
        unsafe {
            self.store_bf16(whole.as_mut_ptr(), v);
            copy_few(whole.as_ptr(), p, n);
        }
    }

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the processor can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once where the processor can.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    fn neg(self, a: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: where either is NaN, the **second** operand.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: where either is NaN, the **second** operand.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest whole number, ties to even.
    fn round_even(self, a: Self::F) -> Self::F;
    fn floor(self, a: Self::F) -> Self::F;
    /// The magnitude of `a` with the sign of `sign`.
    #[inline(always)]
    fn copysign(self, a: Self::F, sign: Self::F) -> Self::F {
        let bit = self.and_i(self.bits(sign), self.splat_i(i32::MIN));
        self.from_bits(self.or_i(self.bits(self.abs(a)), bit))
    }

    /// Comparisons are false where either is NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    fn le(self, a: Self::F, b: Self::F) -> Self::M;
    fn eq(self, a: Self::F, b: Self::F) -> Self::M;
    fn and_m(self, a: Self::M, b: Self::M) -> Self::M;
    fn any(self, m: Self::M) -> bool;
    /// `if m { yes } else { no }`.
    fn select(self, m: Self::M, yes: Self::F, no: Self::F) -> Self::F;

    fn splat_i(self, x: i32) -> Self::I;
    /// LANES bytes, each widened from 0..=255.
    unsafe fn load_u8(self, p: *const u8) -> Self::I;
    /// LANES bytes, each widened from -128..=127.
    unsafe fn load_i8(self, p: *const i8) -> Self::I;
    /// LANES fields of `BITS` bits (1, 2, 4 or 8) from as many bytes as hold them, the low bits of
    /// a byte first.
    unsafe fn load_bits<const BITS: u32>(self, p: *const u8) -> Self::I;
    /// Products of 32 nibbles and 32 bytes, summed in some lanes: the low nibbles of 16 bytes `q`
    /// belong to the first 16 of `x`, the high ones to the others. No `x` is -128.
    unsafe fn dot_nibbles(self, q: *const u8, x: *const i8) -> Self::I;
    /// Products of 32 bytes and 32 bytes, summed in some lanes. No `x` is -128.
    unsafe fn dot_bytes(self, q: *const i8, x: *const i8) -> Self::I;
    /// Sixteen rows of 32 nibbles times 32 numbers of three digits of base 256, summed, and rounded
    /// once to f32: a number a row, in the first `16 / LANES` vectors. `q` holds for each eight
    /// columns, and each row, four bytes: the first four columns in the low nibbles, the others in
    /// the high ones. `x` holds the 32 first digits, then the second and the third.
    unsafe fn nibble_digits(self, q: *const u8, x: *const i8) -> [Self::F; 4];
    /// All groups of sixteen rows of nibbles with scales and offsets, times one row: what comes of
    /// [`Simd::nibble_digits`] group by group, to the very same bits, if this instruction set has
    /// a faster way.
    #[inline(always)]
    unsafe fn nibble_row(self, row: &NibbleRow) -> Option<[Self::F; 4]> {
        let _ = row;
        None
    }
    /// Sixteen rows of 32 bytes times 32 numbers of two digits of base 4096, as above. `q` holds for
    /// each two columns, and each row, a byte each.
    unsafe fn byte_digits(self, q: *const i8, x: *const i16) -> [Self::F; 4];
    /// The f16 of these bits.
    fn half(self, bits: u16) -> f32;
    /// The two f16 of these bits, the low ones first.
    #[inline(always)]
    fn halves(self, bits: u32) -> (f32, f32) {
        (self.half(bits as u16), self.half((bits >> 16) as u16))
    }
    /// Wraps around, as all integer lane arithmetic here.
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn or_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn eq_i(self, a: Self::I, b: Self::I) -> Self::M;
    fn shl_i<const N: u32>(self, a: Self::I) -> Self::I;
    /// Shifts in zeros, by fewer than 32.
    fn shr_by(self, a: Self::I, by: u32) -> Self::I;
    /// Shifts in zeros.
    fn shr_i<const N: u32>(self, a: Self::I) -> Self::I;
    /// Shifts in copies of the sign.
    fn sar_i<const N: u32>(self, a: Self::I) -> Self::I;
    fn to_f(self, a: Self::I) -> Self::F;
    fn bits(self, a: Self::F) -> Self::I;
    #[expect(clippy::wrong_self_convention, reason = "the token is self; it converts nothing")]
    fn from_bits(self, a: Self::I) -> Self::F;

    /// Lanes 1, 0, 3, 2, and so on.
    fn swap_pairs(self, a: Self::F) -> Self::F;
    /// Lanes 0, 0, 1, 1, and so on: the lower half, each lane twice.
    fn twice_low(self, a: Self::F) -> Self::F;
    /// The sum of the lanes: lane `i` plus lane `i + LANES / 2`, and so on with the halves.
    fn reduce_sum(self, a: Self::F) -> f32;
    /// Four such sums, to the very same bits.
    #[inline(always)]
    fn reduce_sums(self, a: [Self::F; 4]) -> [f32; 4] {
        [self.reduce_sum(a[0]), self.reduce_sum(a[1]), self.reduce_sum(a[2]), self.reduce_sum(a[3])]
    }
    /// The largest lane; unspecified if one is NaN.
    fn reduce_max(self, a: Self::F) -> f32;

    /// Transposes LANES rows of LANES elements: `to[j * to_stride + i] = from[i * stride + j]`.
    unsafe fn transpose(self, from: *const f32, stride: usize, to: *mut f32, to_stride: usize);

    /// Runs `work` as a function of its own, with these instructions: for a large piece of code
    /// that would otherwise be compiled into each of its callers.
    fn call<W: WithSimd>(self, work: W) -> W::Output;
}

/// Copies `n` (few) elements.
///
/// # Safety
/// `from` and `to` are valid for `n` elements and do not overlap.
#[inline(always)]
unsafe fn copy_few<T: Copy>(from: *const T, to: *mut T, n: usize) {
    for i in 0..n {
        // SAFETY: i < n, which the caller vouches for.
        unsafe { *to.add(i) = *from.add(i) };
    }
}

/// Work that runs with whatever token [`dispatch`] picks.
pub(crate) trait WithSimd {
    /// What the work returns.
    type Output;
    /// The work. Implementations are `#[inline(always)]`, as is all that they call with `simd`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What every processor of the target has: SSE2 on x86-64, NEON on aarch64.
    Portable = 1,
    /// AVX2 with FMA and F16C, 8 lanes.
    Avx2 = 2,
    /// AVX-512 (F, BW, DQ, VL), 16 lanes.
    Avx512 = 3,
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        })
    }
}

/// The instruction sets of this processor, the best last.
pub(crate) fn available() -> &'static [Isa] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx2") && has!("fma") && has!("f16c") {
            let wide = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
            return match wide {
                true => &[Isa::Portable, Isa::Avx2, Isa::Avx512],
                false => &[Isa::Portable, Isa::Avx2],
            };
        }
    }
    &[Isa::Portable]
}

/// The instruction set that the kernels use: the best that this processor has, or the one that
/// the environment variable `FRIT_SIMD` (`portable`, `avx2`, `avx512`) names, if it has that.
#[inline]
pub fn isa() -> Isa {
    match CHOSEN.load(Ordering::Relaxed) {
        1 => Isa::Portable,
        2 => Isa::Avx2,
        3 => Isa::Avx512,
        _ => first_isa(),
    }
}

/// What [`isa`] has chosen, once it has.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

#[cold]
fn first_isa() -> Isa {
    let wanted = std::env::var("FRIT_SIMD").unwrap_or_default();
    let chosen = choose(&wanted, available());
    CHOSEN.store(chosen as u8, Ordering::Relaxed);
    chosen
}

fn choose(wanted: &str, available: &[Isa]) -> Isa {
    let named = available.iter().find(|isa| isa.to_string() == wanted);
    *named.or(available.last()).unwrap_or(&Isa::Portable)
}

/// Runs `work` with the instruction set of [`isa`].
#[inline]
pub(crate) fn dispatch<W: WithSimd>(work: W) -> W::Output {
    #[cfg(test)]
    if let Some(isa) = FORCED.get() {
        return dispatch_on(isa, work);
    }
    // SAFETY: isa() names only what this processor has.
    unsafe { enter(isa(), work) }
}

#[cfg(test)]
thread_local! {
    /// What [`with_isa`] wants [`dispatch`] to use on this thread.
    static FORCED: std::cell::Cell<Option<Isa>> = const { std::cell::Cell::new(None) };
}

/// Calls `f`, in which [`dispatch`] on this thread (not on the workers of a pool) uses `isa`.
#[cfg(test)]
pub(crate) fn with_isa<R>(isa: Isa, f: impl FnOnce() -> R) -> R {
    let before = FORCED.replace(Some(isa));
    let result = f();
    FORCED.set(before);
    result
}

/// Runs `work` with `isa` if this processor has it, else with the best that it has.
#[inline]
pub(crate) fn dispatch_on<W: WithSimd>(isa: Isa, work: W) -> W::Output {
    let available = available();
    let isa = match available.contains(&isa) {
        true => isa,
        false => *available.last().unwrap_or(&Isa::Portable),
    };
    // SAFETY: it is one of those available.
    unsafe { enter(isa, work) }
}

/// # Safety
/// The processor has `isa`.
#[inline]
unsafe fn enter<W: WithSimd>(isa: Isa, work: W) -> W::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller vouches for the instructions.
        Isa::Avx2 => unsafe { avx2::enter(work) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller vouches for the instructions.
        Isa::Avx512 => unsafe { avx512::enter(work) },
        _ => work.run(portable::Portable),
    }
}
