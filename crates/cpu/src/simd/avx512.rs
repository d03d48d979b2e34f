//! AVX-512 (F, BW, DQ, VL): 16 lanes.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Isa, Simd, WithSimd};

/// Exists only on a processor with AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Runs `work` with the instructions enabled.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL, and all that AVX2 kernels need.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[target_feature(enable = "avx,avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
pub(super) unsafe fn enter<W: WithSimd>(work: W) -> W::Output {
    work.run(Avx512(()))
}

/// Calls intrinsics that touch no memory.
macro_rules! lanes {
    ($e:expr) => {{
        // SAFETY: an Avx512 exists only on a processor that has these instructions.
        unsafe { $e }
    }};
}

/// The first `n` of 16 lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;
    const LANES: usize = 16;
    const ISA: Isa = Isa::Avx512;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        lanes!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller gives 16 readable elements.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: masked lanes are not read; the caller gives n readable elements.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller gives 16 writable elements.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: masked lanes are not written; the caller gives n writable elements.
        unsafe { _mm512_mask_storeu_ps(p, first(n), v) }
    }
    #[inline(always)]
    unsafe fn store_stream(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller gives 16 writable elements, aligned to 64 bytes.
        unsafe { _mm512_stream_ps(p, v) }
    }
    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        lanes!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
    }
    #[inline(always)]
    fn stream_fence(self) {
        lanes!(_mm_sfence())
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> __m512 {
        // SAFETY: the caller gives 16 readable elements.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16, v: __m512) {
        // SAFETY: the caller gives 16 writable elements.
        unsafe {
            let half = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v);
            _mm256_storeu_si256(p.cast(), half);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> __m512 {
        // SAFETY: the caller gives 16 readable elements.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, v: __m512) {
        let bits = self.bits(v);
        let odd = self.and_i(self.shr_i::<16>(bits), self.splat_i(1));
        let rounded = self.add_i(bits, self.add_i(odd, self.splat_i(0x7fff)));
        // A NaN keeps its upper bits and becomes quiet; rounding could carry it to infinity.
        let quiet = self.or_i(bits, self.splat_i(0x0040_0000));
        let number = self.select(self.eq(v, v), self.from_bits(rounded), self.from_bits(quiet));
        let upper = self.shr_i::<16>(self.bits(number));
        // SAFETY: the caller gives 16 writable elements.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(upper)) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        lanes!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        lanes!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        lanes!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        lanes!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        lanes!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        lanes!(_mm512_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        lanes!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn neg(self, a: __m512) -> __m512 {
        self.from_bits(self.xor_i(self.bits(a), self.splat_i(i32::MIN)))
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        self.from_bits(self.and_i(self.bits(a), self.splat_i(i32::MAX)))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        lanes!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        lanes!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn round_even(self, a: __m512) -> __m512 {
        lanes!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn floor(self, a: __m512) -> __m512 {
        lanes!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn lt(self, a: __m512, b: __m512) -> __mmask16 {
        lanes!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn le(self, a: __m512, b: __m512) -> __mmask16 {
        lanes!(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b))
    }
    #[inline(always)]
    fn eq(self, a: __m512, b: __m512) -> __mmask16 {
        lanes!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b))
    }
    #[inline(always)]
    fn and_m(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }
    #[inline(always)]
    fn any(self, m: __mmask16) -> bool {
        m != 0
    }
    #[inline(always)]
    fn select(self, m: __mmask16, yes: __m512, no: __m512) -> __m512 {
        lanes!(_mm512_mask_blend_ps(m, no, yes))
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> __m512i {
        lanes!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m512i {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m512i {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bits<const BITS: u32>(self, p: *const u8) -> __m512i {
        // SAFETY: the caller gives 2 * BITS readable bytes.
        unsafe {
            if BITS == 8 {
                return self.load_u8(p);
            }
            let (low, high) = match BITS {
                1 => (i32::from(*p), i32::from(*p.add(1))),
                2 => {
                    let both = p.cast::<u32>().read_unaligned();
                    ((both & 0xffff) as i32, (both >> 16) as i32)
                }
                _ => {
                    let both = p.cast::<u64>().read_unaligned();
                    (both as i32, (both >> 32) as i32)
                }
            };
            let all = _mm512_castsi256_si512(_mm256_set1_epi32(low));
            let all = _mm512_inserti64x4::<1>(all, _mm256_set1_epi32(high));
            let by = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
            let by = _mm512_mullo_epi32(by, _mm512_set1_epi32(BITS as i32));
            let mask = _mm512_set1_epi32((1 << BITS) - 1);
            _mm512_and_si512(_mm512_srlv_epi32(all, by), mask)
        }
    }
    #[inline(always)]
    unsafe fn dot_nibbles(self, q: *const u8, x: *const i8) -> __m512i {
        // SAFETY: the caller gives 16 and 32 readable bytes; whoever has AVX-512 has AVX2.
        unsafe { _mm512_zextsi256_si512(super::avx2::dot_nibbles(q, x)) }
    }
    #[inline(always)]
    unsafe fn dot_bytes(self, q: *const i8, x: *const i8) -> __m512i {
        // SAFETY: the caller gives 32 readable bytes of each; whoever has AVX-512 has AVX2.
        unsafe { _mm512_zextsi256_si512(super::avx2::dot_bytes(q, x)) }
    }
    #[inline(always)]
    unsafe fn nibble_digits(self, q: *const u8, x: *const i8) -> [__m512; 4] {
        // SAFETY: the caller's contract; whoever has AVX-512 has AVX2.
        let [a, b] = unsafe { super::avx2::nibble_digits(q, x) };
        let all = lanes!(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(a), b));
        [all, self.zero(), self.zero(), self.zero()]
    }
    #[inline(always)]
    unsafe fn byte_digits(self, q: *const i8, x: *const i16) -> [__m512; 4] {
        // SAFETY: the caller's contract; whoever has AVX-512 has AVX2.
        let [a, b] = unsafe { super::avx2::byte_digits(q, x) };
        let all = lanes!(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(a), b));
        [all, self.zero(), self.zero(), self.zero()]
    }
    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        lanes!(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits)))))
    }
    #[inline(always)]
    fn halves(self, bits: u32) -> (f32, f32) {
        lanes!({
            let both = _mm_cvtph_ps(_mm_cvtsi32_si128(bits as i32));
            (_mm_cvtss_f32(both), _mm_cvtss_f32(_mm_movehdup_ps(both)))
        })
    }
    #[inline(always)]
    fn shr_by(self, a: __m512i, by: u32) -> __m512i {
        lanes!(_mm512_srl_epi32(a, _mm_cvtsi32_si128(by as i32)))
    }
    #[inline(always)]
    fn add_i(self, a: __m512i, b: __m512i) -> __m512i {
        lanes!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn sub_i(self, a: __m512i, b: __m512i) -> __m512i {
        lanes!(_mm512_sub_epi32(a, b))
    }
    #[inline(always)]
    fn and_i(self, a: __m512i, b: __m512i) -> __m512i {
        lanes!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn or_i(self, a: __m512i, b: __m512i) -> __m512i {
        lanes!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn xor_i(self, a: __m512i, b: __m512i) -> __m512i {
        lanes!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn eq_i(self, a: __m512i, b: __m512i) -> __mmask16 {
        lanes!(_mm512_cmpeq_epi32_mask(a, b))
    }
    #[inline(always)]
    fn shl_i<const N: u32>(self, a: __m512i) -> __m512i {
        lanes!(_mm512_slli_epi32::<N>(a))
    }
    #[inline(always)]
    fn shr_i<const N: u32>(self, a: __m512i) -> __m512i {
        lanes!(_mm512_srli_epi32::<N>(a))
    }
    #[inline(always)]
    fn sar_i<const N: u32>(self, a: __m512i) -> __m512i {
        lanes!(_mm512_srai_epi32::<N>(a))
    }
    #[inline(always)]
    fn to_f(self, a: __m512i) -> __m512 {
        lanes!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn bits(self, a: __m512) -> __m512i {
        lanes!(_mm512_castps_si512(a))
    }
    #[inline(always)]
    fn from_bits(self, a: __m512i) -> __m512 {
        lanes!(_mm512_castsi512_ps(a))
    }

    #[inline(always)]
    fn swap_pairs(self, a: __m512) -> __m512 {
        lanes!(_mm512_permute_ps::<0b10_11_00_01>(a))
    }
    #[inline(always)]
    fn twice_low(self, a: __m512) -> __m512 {
        lanes!({
            let from = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            _mm512_permutexvar_ps(from, a)
        })
    }
    #[inline(always)]
    fn reduce_sum(self, a: __m512) -> f32 {
        lanes!({
            let high = _mm512_extractf32x8_ps::<1>(a);
            let eight = _mm256_add_ps(_mm512_castps512_ps256(a), high);
            let high = _mm256_extractf128_ps::<1>(eight);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), high);
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        lanes!(_mm512_reduce_max_ps(a))
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        for (i, j) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            // SAFETY: a quarter of the caller's block; whoever has AVX-512 has AVX2.
            unsafe {
                let (from, to) = (from.add(i * stride + j), to.add(j * to_stride + i));
                super::avx2::transpose8(from, stride, to, to_stride);
            }
        }
    }
    #[inline(never)]
    fn call<W: WithSimd>(self, work: W) -> W::Output {
        // SAFETY: an Avx512 exists only on a processor that has these instructions.
        unsafe { enter(work) }
    }
}
