//! The storage types of tensors: f32, f16 and bf16, widened at the load and rounded at the store.

use half::{bf16, f16};

use super::Simd;

/// A storage type that the kernels compute on in f32.
///
/// # Safety
/// Of the methods with a pointer: as for the methods of [`Simd`] that they stand for.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// Zero.
    const ZERO: Self;
    /// Whether this is f32 itself, so that loads and stores lose nothing.
    const IS_F32: bool;
    fn to_f32(self) -> f32;
    /// To nearest, ties to even.
    fn from_f32(x: f32) -> Self;
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F;
    unsafe fn load_partial<S: Simd>(s: S, p: *const Self, n: usize) -> S::F;
    unsafe fn store<S: Simd>(s: S, p: *mut Self, v: S::F);
    unsafe fn store_partial<S: Simd>(s: S, p: *mut Self, n: usize, v: S::F);
}

impl Element for f32 {
    const ZERO: f32 = 0.0;
    const IS_F32: bool = true;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F {
        // SAFETY: the caller's contract is this method's.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(s: S, p: *const f32, n: usize) -> S::F {
        // SAFETY: the caller's contract is this method's.
        unsafe { s.load_partial(p, n) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::F) {
        // SAFETY: the caller's contract is this method's.
        unsafe { s.store(p, v) }
    }
    #[inline(always)]
    unsafe fn store_partial<S: Simd>(s: S, p: *mut f32, n: usize, v: S::F) {
        // SAFETY: the caller's contract is this method's.
        unsafe { s.store_partial(p, n, v) }
    }
}

macro_rules! narrow {
    ($t:ident, $load:ident, $load_partial:ident, $store:ident, $store_partial:ident) => {
        impl Element for $t {
            const ZERO: $t = $t::ZERO;
            const IS_F32: bool = false;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                <$t>::to_f32(self)
            }
            #[inline(always)]
            fn from_f32(x: f32) -> $t {
                <$t>::from_f32(x)
            }
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, p: *const $t) -> S::F {
                // SAFETY: the caller's contract is this method's.
                unsafe { s.$load(p) }
            }
            #[inline(always)]
            unsafe fn load_partial<S: Simd>(s: S, p: *const $t, n: usize) -> S::F {
                // SAFETY: the caller's contract is this method's.
                unsafe { s.$load_partial(p, n) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(s: S, p: *mut $t, v: S::F) {
                // SAFETY: the caller's contract is this method's.
                unsafe { s.$store(p, v) }
            }
            #[inline(always)]
            unsafe fn store_partial<S: Simd>(s: S, p: *mut $t, n: usize, v: S::F) {
                // SAFETY: the caller's contract is this method's.
                unsafe { s.$store_partial(p, n, v) }
            }
        }
    };
}

narrow!(f16, load_f16, load_f16_partial, store_f16, store_f16_partial);
narrow!(bf16, load_bf16, load_bf16_partial, store_bf16, store_bf16_partial);
