//! AVX2 with FMA and F16C: 8 lanes.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Isa, NibbleRow, Simd, WithSimd, nibbles};

/// Exists only on a processor with AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Runs `work` with the instructions enabled.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx,avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt")]
pub(super) unsafe fn enter<W: WithSimd>(work: W) -> W::Output {
    work.run(Avx2(()))
}

/// Calls intrinsics that touch no memory.
macro_rules! lanes {
    ($e:expr) => {{
        // SAFETY: an Avx2 exists only on a processor that has these instructions.
        unsafe { $e }
    }};
}

/// The first `n` of 8 lanes all ones, as `MASKS[8 - n..]`.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Simd for Avx2 {
    type F = __m256;
    type I = __m256i;
    type M = __m256;
    const LANES: usize = 8;
    const ISA: Isa = Isa::Avx2;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        lanes!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the caller gives 8 readable elements.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m256 {
        debug_assert!(n <= 8);
        // SAFETY: n <= 8 keeps the mask inside MASKS; masked lanes of p are not read.
        unsafe {
            let mask = _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast());
            _mm256_maskload_ps(p, mask)
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller gives 8 writable elements.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: __m256) {
        debug_assert!(n <= 8);
        // A masked store is microcode on AMD; halving is a few plain stores.
        // SAFETY: the pieces written cover exactly the first n elements.
        unsafe {
            let (mut p, mut v) = (p, v);
            if n & 8 != 0 {
                return _mm256_storeu_ps(p, v);
            }
            if n & 4 != 0 {
                _mm_storeu_ps(p, _mm256_castps256_ps128(v));
                v = _mm256_castps128_ps256(_mm256_extractf128_ps::<1>(v));
                p = p.add(4);
            }
            let mut low = _mm256_castps256_ps128(v);
            if n & 2 != 0 {
                _mm_storel_epi64(p.cast(), _mm_castps_si128(low));
                low = _mm_movehl_ps(low, low);
                p = p.add(2);
            }
            if n & 1 != 0 {
                _mm_store_ss(p, low);
            }
        }
    }
    #[inline(always)]
    unsafe fn store_stream(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller gives 8 writable elements, aligned to 32 bytes.
        unsafe { _mm256_stream_ps(p, v) }
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
    unsafe fn load_f16(self, p: *const f16) -> __m256 {
        // SAFETY: the caller gives 8 readable elements.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16, v: __m256) {
        // SAFETY: the caller gives 8 writable elements.
        unsafe {
            let half = _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(v);
            _mm_storeu_si128(p.cast(), half);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> __m256 {
        // SAFETY: the caller gives 8 readable elements.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, v: __m256) {
        let bits = self.bits(v);
        let odd = self.and_i(self.shr_i::<16>(bits), self.splat_i(1));
        let rounded = self.add_i(bits, self.add_i(odd, self.splat_i(0x7fff)));
        // A NaN keeps its upper bits and becomes quiet; rounding could carry it to infinity.
        let quiet = self.or_i(bits, self.splat_i(0x0040_0000));
        let number = self.select(self.eq(v, v), self.from_bits(rounded), self.from_bits(quiet));
        let upper = self.shr_i::<16>(self.bits(number));
        // SAFETY: the caller gives 8 writable elements.
        unsafe {
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(upper, upper));
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed));
        }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        lanes!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        lanes!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        lanes!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        lanes!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        lanes!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        lanes!(_mm256_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        lanes!(_mm256_sqrt_ps(a))
    }
    #[inline(always)]
    fn neg(self, a: __m256) -> __m256 {
        lanes!(_mm256_xor_ps(a, _mm256_set1_ps(-0.0)))
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        lanes!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        lanes!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        lanes!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn round_even(self, a: __m256) -> __m256 {
        lanes!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn floor(self, a: __m256) -> __m256 {
        lanes!(_mm256_floor_ps(a))
    }

    #[inline(always)]
    fn lt(self, a: __m256, b: __m256) -> __m256 {
        lanes!(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
    }
    #[inline(always)]
    fn le(self, a: __m256, b: __m256) -> __m256 {
        lanes!(_mm256_cmp_ps::<_CMP_LE_OQ>(a, b))
    }
    #[inline(always)]
    fn eq(self, a: __m256, b: __m256) -> __m256 {
        lanes!(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b))
    }
    #[inline(always)]
    fn and_m(self, a: __m256, b: __m256) -> __m256 {
        lanes!(_mm256_and_ps(a, b))
    }
    #[inline(always)]
    fn any(self, m: __m256) -> bool {
        lanes!(_mm256_movemask_ps(m)) != 0
    }
    #[inline(always)]
    fn select(self, m: __m256, yes: __m256, no: __m256) -> __m256 {
        lanes!(_mm256_blendv_ps(no, yes, m))
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> __m256i {
        lanes!(_mm256_set1_epi32(x))
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m256i {
        // SAFETY: the caller gives 8 readable bytes.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m256i {
        // SAFETY: the caller gives 8 readable bytes.
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bits<const BITS: u32>(self, p: *const u8) -> __m256i {
        // SAFETY: the caller gives BITS readable bytes.
        unsafe {
            if BITS == 8 {
                return self.load_u8(p);
            }
            let all = match BITS {
                1 => i32::from(*p),
                2 => i32::from(p.cast::<u16>().read_unaligned()),
                _ => p.cast::<i32>().read_unaligned(),
            };
            let by = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let by = _mm256_mullo_epi32(by, _mm256_set1_epi32(BITS as i32));
            let fields = _mm256_srlv_epi32(_mm256_set1_epi32(all), by);
            _mm256_and_si256(fields, _mm256_set1_epi32((1 << BITS) - 1))
        }
    }
    #[inline(always)]
    unsafe fn dot_nibbles(self, q: *const u8, x: *const i8) -> __m256i {
        // SAFETY: the caller gives 16 and 32 readable bytes.
        unsafe { dot_nibbles(q, x) }
    }
    #[inline(always)]
    unsafe fn dot_bytes(self, q: *const i8, x: *const i8) -> __m256i {
        // SAFETY: the caller gives 32 readable bytes of each.
        unsafe { dot_bytes(q, x) }
    }
    #[inline(always)]
    unsafe fn nibble_digits(self, q: *const u8, x: *const i8) -> [__m256; 4] {
        // SAFETY: the caller gives 256 and 96 readable bytes.
        let [a, b] = unsafe { nibble_digits(q, x) };
        [a, b, self.zero(), self.zero()]
    }
    #[inline(always)]
    unsafe fn nibble_row(self, row: &NibbleRow) -> Option<[__m256; 4]> {
        // SAFETY: the caller's contract.
        let [a, b] = unsafe { nibbles::nibble_row(row) };
        Some([a, b, self.zero(), self.zero()])
    }
    #[inline(always)]
    unsafe fn byte_digits(self, q: *const i8, x: *const i16) -> [__m256; 4] {
        // SAFETY: the caller gives 512 and 128 readable bytes.
        let [a, b] = unsafe { byte_digits(q, x) };
        [a, b, self.zero(), self.zero()]
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
    fn shr_by(self, a: __m256i, by: u32) -> __m256i {
        lanes!(_mm256_srl_epi32(a, _mm_cvtsi32_si128(by as i32)))
    }
    #[inline(always)]
    fn add_i(self, a: __m256i, b: __m256i) -> __m256i {
        lanes!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn sub_i(self, a: __m256i, b: __m256i) -> __m256i {
        lanes!(_mm256_sub_epi32(a, b))
    }
    #[inline(always)]
    fn and_i(self, a: __m256i, b: __m256i) -> __m256i {
        lanes!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn or_i(self, a: __m256i, b: __m256i) -> __m256i {
        lanes!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn xor_i(self, a: __m256i, b: __m256i) -> __m256i {
        lanes!(_mm256_xor_si256(a, b))
    }
    #[inline(always)]
    fn eq_i(self, a: __m256i, b: __m256i) -> __m256 {
        lanes!(_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)))
    }
    #[inline(always)]
    fn shl_i<const N: u32>(self, a: __m256i) -> __m256i {
        lanes!(_mm256_sll_epi32(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn shr_i<const N: u32>(self, a: __m256i) -> __m256i {
        lanes!(_mm256_srl_epi32(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn sar_i<const N: u32>(self, a: __m256i) -> __m256i {
        lanes!(_mm256_sra_epi32(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn to_f(self, a: __m256i) -> __m256 {
        lanes!(_mm256_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn bits(self, a: __m256) -> __m256i {
        lanes!(_mm256_castps_si256(a))
    }
    #[inline(always)]
    fn from_bits(self, a: __m256i) -> __m256 {
        lanes!(_mm256_castsi256_ps(a))
    }

    #[inline(always)]
    fn swap_pairs(self, a: __m256) -> __m256 {
        lanes!(_mm256_permute_ps::<0b10_11_00_01>(a))
    }
    #[inline(always)]
    fn twice_low(self, a: __m256) -> __m256 {
        lanes!(_mm256_permutevar8x32_ps(a, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)))
    }
    #[inline(always)]
    fn reduce_sum(self, a: __m256) -> f32 {
        lanes!({
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }
    #[inline(always)]
    fn reduce_sums(self, [a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        lanes!({
            // a, then b, in four lanes each; likewise c, then d.
            let low = _mm256_permute2f128_ps::<0x20>(a, b);
            let ab = _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(a, b));
            let low = _mm256_permute2f128_ps::<0x20>(c, d);
            let cd = _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(c, d));
            let low = _mm256_shuffle_ps::<0x44>(ab, cd);
            // Two lanes of a, two of c; then of b and d.
            let two = _mm256_add_ps(low, _mm256_shuffle_ps::<0xee>(ab, cd));
            let one = _mm256_hadd_ps(two, two);
            let (ac, bd) = (_mm256_castps256_ps128(one), _mm256_extractf128_ps::<1>(one));
            std::mem::transmute::<__m128, [f32; 4]>(_mm_unpacklo_ps(ac, bd))
        })
    }
    #[inline(always)]
    fn reduce_max(self, a: __m256) -> f32 {
        lanes!({
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's contract is that of transpose8; there is AVX2.
        unsafe { transpose8(from, stride, to, to_stride) }
    }
    #[inline(never)]
    fn call<W: WithSimd>(self, work: W) -> W::Output {
        // SAFETY: an Avx2 exists only on a processor that has these instructions.
        unsafe { enter(work) }
    }
}

/// Sums of pairs of pairs of products: no sum of two leaves 16 bits, because a nibble is at most 15.
///
/// # Safety
/// The processor has AVX2; 16 and 32 bytes can be read.
#[inline(always)]
pub(super) unsafe fn dot_nibbles(q: *const u8, x: *const i8) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        let bytes = _mm_loadu_si128(q.cast());
        let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
        let q = _mm256_and_si256(both, _mm256_set1_epi8(15));
        let pairs = _mm256_maddubs_epi16(q, _mm256_loadu_si256(x.cast()));
        _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
    }
}

/// As [`dot_nibbles`]: sums of two products are at most 2 * 128 * 127.
///
/// # Safety
/// The processor has AVX2; 32 bytes of each can be read.
#[inline(always)]
pub(super) unsafe fn dot_bytes(q: *const i8, x: *const i8) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        let (q, x) = (_mm256_loadu_si256(q.cast()), _mm256_loadu_si256(x.cast()));
        // The instruction wants one side without signs: x takes those of q.
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q));
        _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
    }
}

/// Sums of pairs of a nibble and a digit, of all eight times four columns, are at most
/// 8 * 2 * 15 * 128 = 30720, so that they are summed in 16 bits.
///
/// # Safety
/// The processor has AVX2 and FMA; 256 bytes of `q` and 96 of `x` can be read.
#[inline(always)]
pub(super) unsafe fn nibble_digits(q: *const u8, x: *const i8) -> [__m256; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let (low, zero) = (_mm256_set1_epi8(15), _mm256_setzero_si256());
        // Of each digit, for the first and for the last eight rows.
        let mut sums = [[zero; 2]; 3];
        // A loop that stays one: unrolled, sums are taken apart, and most of it goes by the stack.
        for t in 0..std::hint::black_box(4) {
            let bytes = q.add(64 * t).cast::<__m256i>();
            let (a, b) = (_mm256_loadu_si256(bytes), _mm256_loadu_si256(bytes.add(1)));
            let (a0, b0) = (_mm256_and_si256(a, low), _mm256_and_si256(b, low));
            let a1 = _mm256_and_si256(_mm256_srli_epi16::<4>(a), low);
            let b1 = _mm256_and_si256(_mm256_srli_epi16::<4>(b), low);
            for (d, [first, last]) in sums.iter_mut().enumerate() {
                let x = x.add(32 * d + 8 * t).cast::<i32>();
                let x0 = _mm256_set1_epi32(x.read_unaligned());
                *first = _mm256_add_epi16(*first, _mm256_maddubs_epi16(a0, x0));
                *last = _mm256_add_epi16(*last, _mm256_maddubs_epi16(b0, x0));
                let x1 = _mm256_set1_epi32(x.add(1).read_unaligned());
                *first = _mm256_add_epi16(*first, _mm256_maddubs_epi16(a1, x1));
                *last = _mm256_add_epi16(*last, _mm256_maddubs_epi16(b1, x1));
            }
        }
        let mut dots = [_mm256_setzero_ps(); 2];
        for (half, dots) in dots.iter_mut().enumerate() {
            let a = _mm256_madd_epi16(sums[0][half], _mm256_set1_epi16(1));
            let b = _mm256_madd_epi16(sums[1][half], _mm256_set1_epi16(1 << 8));
            let c = _mm256_madd_epi16(sums[2][half], _mm256_set1_epi16(1));
            // Both are below 2^24, and so exact.
            let (a, b) = (_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(_mm256_add_epi32(b, c)));
            *dots = _mm256_fmadd_ps(a, _mm256_set1_ps(65536.0), b);
        }
        dots
    }
}

/// A product of a byte and a digit is at most 2^18, and 32 of them 2^23.
///
/// # Safety
/// The processor has AVX2 and FMA; 512 bytes of `q` and 64 numbers of `x` can be read.
#[inline(always)]
pub(super) unsafe fn byte_digits(q: *const i8, x: *const i16) -> [__m256; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; 2];
        // A loop that stays one, as above.
        for t in 0..std::hint::black_box(16) {
            let bytes = q.add(32 * t).cast::<__m128i>();
            let a = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes));
            let b = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.add(1)));
            for (d, [first, last]) in sums.iter_mut().enumerate() {
                let x = x.add(32 * d + 2 * t).cast::<i32>();
                let x = _mm256_set1_epi32(x.read_unaligned());
                *first = _mm256_add_epi32(*first, _mm256_madd_epi16(a, x));
                *last = _mm256_add_epi32(*last, _mm256_madd_epi16(b, x));
            }
        }
        let mut dots = [_mm256_setzero_ps(); 2];
        for (half, dots) in dots.iter_mut().enumerate() {
            let high = _mm256_cvtepi32_ps(sums[0][half]);
            let low = _mm256_cvtepi32_ps(sums[1][half]);
            *dots = _mm256_fmadd_ps(high, _mm256_set1_ps(4096.0), low);
        }
        dots
    }
}

/// Transposes 8 rows of 8 elements.
///
/// # Safety
/// The processor has AVX; 8 elements can be read at each `from + i * stride` and written at each
/// `to + i * to_stride`, `i < 8`.
#[inline(always)]
pub(super) unsafe fn transpose8(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
    for half in [0, 4] {
        // SAFETY: the caller's contract.
        unsafe {
            // Columns half .. half + 4 of row i in the lower half, of row i + 4 in the upper.
            let pair = |i: usize| {
                let low = _mm_loadu_ps(from.add(i * stride + half));
                let high = _mm_loadu_ps(from.add((i + 4) * stride + half));
                _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
            };
            let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3));
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let to = to.add(half * to_stride);
            _mm256_storeu_ps(to, _mm256_shuffle_ps::<0x44>(ab, cd));
            _mm256_storeu_ps(to.add(to_stride), _mm256_shuffle_ps::<0xee>(ab, cd));
            let (ab, cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            _mm256_storeu_ps(to.add(2 * to_stride), _mm256_shuffle_ps::<0x44>(ab, cd));
            _mm256_storeu_ps(to.add(3 * to_stride), _mm256_shuffle_ps::<0xee>(ab, cd));
        }
    }
}
