//! Eight lanes in plain Rust that the compiler turns into the vectors that every processor of the
//! target has: two SSE2 registers on x86-64, two NEON registers on aarch64. On aarch64 this **is**
//! the NEON path, with fused multiply-add.

use half::{bf16, f16};

use super::{Isa, Simd, WithSimd};

/// Runs everywhere.
#[derive(Clone, Copy)]
pub(super) struct Portable;

const L: usize = 8;

/// Eight lanes, aligned so that the compiler keeps them in registers whole.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct Lanes<T>([T; L]);

/// Sixteen numbers in the first vectors.
#[inline(always)]
fn sixteen(number: impl Fn(usize) -> f32) -> [Lanes<f32>; 4] {
    let lane = |v: usize, i: usize| if v * L < 16 { number(v * L + i) } else { 0.0 };
    std::array::from_fn(|v| Lanes(std::array::from_fn(|i| lane(v, i))))
}

#[inline(always)]
fn map<A: Copy, B: Copy>(a: Lanes<A>, f: impl Fn(A) -> B) -> Lanes<B> {
    Lanes(std::array::from_fn(|i| f(a.0[i])))
}

#[inline(always)]
fn zip<A: Copy, B: Copy>(a: Lanes<A>, b: Lanes<A>, f: impl Fn(A, A) -> B) -> Lanes<B> {
    Lanes(std::array::from_fn(|i| f(a.0[i], b.0[i])))
}

/// A multiply-add that is fused only where that is one instruction, not a call into libm.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// Adding and taking away 2^23 leaves no fraction, with the processor's own ties to even.
#[inline(always)]
fn round_even(x: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "sse4.1")) {
        return x.round_ties_even();
    }
    let big = f32::from_bits(0x4b00_0000);
    let size = x.abs();
    let whole = (size + big) - big;
    // From 2^23 on every f32 is whole (and NaN compares false).
    let rounded = if size < big { whole } else { size };
    f32::from_bits(rounded.to_bits() | (x.to_bits() & 0x8000_0000))
}

#[inline(always)]
fn f16_to_f32(h: u16) -> f32 {
    let size = u32::from(h & 0x7fff) << 13;
    // The bias of f16 is 15, that of f32 is 127: times 2^112, exact for subnormals too.
    let finite = (f32::from_bits(size) * f32::from_bits(0x7780_0000)).to_bits();
    let special = size | 0x7f80_0000 | if size > 0x0f80_0000 { 0x0040_0000 } else { 0 };
    let bits = if size >= 0x0f80_0000 { special } else { finite };
    f32::from_bits(bits | (u32::from(h & 0x8000) << 16))
}

#[inline(always)]
fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let size = bits & 0x7fff_ffff;
    // Normal results: move the bias, add just under half (and one more if odd), cut.
    let odd = (size >> 13) & 1;
    let normal = (size.wrapping_sub(0x3800_0000).wrapping_add(0xfff + odd)) >> 13;
    // Subnormal results: adding 0.5 puts the last place at 2^-24 and rounds to even there.
    let small = (f32::from_bits(size) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let nan = 0x7e00 | ((size >> 13) & 0x3ff);
    // 65520 is half way from the largest f16 to the next power of two: it rounds to infinity.
    let finite = if size < 0x3880_0000 { small } else { normal };
    let number = if size >= 0x477f_f000 { 0x7c00 } else { finite };
    let half = if size > 0x7f80_0000 { nan } else { number };
    (half | ((bits >> 16) & 0x8000)) as u16
}

#[inline(always)]
fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // A NaN keeps its upper bits and becomes quiet; rounding could carry it to infinity.
    let number = if bits & 0x7fff_ffff > 0x7f80_0000 { bits | 0x0040_0000 } else { rounded };
    (number >> 16) as u16
}

#[inline(always)]
fn mask(yes: bool) -> u32 {
    if yes { u32::MAX } else { 0 }
}

impl Simd for Portable {
    type F = Lanes<f32>;
    type I = Lanes<i32>;
    type M = Lanes<u32>;
    const LANES: usize = L;
    const ISA: Isa = Isa::Portable;

    #[inline(always)]
    fn splat(self, x: f32) -> Lanes<f32> {
        Lanes([x; L])
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Lanes<f32> {
        // SAFETY: the caller gives 8 readable elements.
        Lanes(unsafe { p.cast::<[f32; L]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Lanes<f32> {
        let mut out = [0.0; L];
        // SAFETY: the caller gives n <= 8 readable elements.
        unsafe { super::copy_few(p, out.as_mut_ptr(), n) };
        Lanes(out)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Lanes<f32>) {
        // SAFETY: the caller gives 8 writable elements.
        unsafe { p.cast::<[f32; L]>().write_unaligned(v.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Lanes<f32>) {
        // SAFETY: the caller gives n <= 8 writable elements.
        unsafe { super::copy_few(v.0.as_ptr(), p, n) }
    }
    #[inline(always)]
    unsafe fn store_stream(self, p: *mut f32, v: Lanes<f32>) {
        // SAFETY: the caller gives 8 writable elements.
        unsafe { self.store(p, v) }
    }
    #[inline(always)]
    fn stream_fence(self) {}

    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> Lanes<f32> {
        // SAFETY: the caller gives 8 readable elements, each two bytes of bits.
        let bits = Lanes(unsafe { p.cast::<[u16; L]>().read_unaligned() });
        map(bits, f16_to_f32)
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut f16, v: Lanes<f32>) {
        // SAFETY: the caller gives 8 writable elements, each two bytes of bits.
        unsafe { p.cast::<[u16; L]>().write_unaligned(map(v, f32_to_f16).0) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> Lanes<f32> {
        // SAFETY: the caller gives 8 readable elements, each two bytes of bits.
        let bits = Lanes(unsafe { p.cast::<[u16; L]>().read_unaligned() });
        map(bits, |b| f32::from_bits(u32::from(b) << 16))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16, v: Lanes<f32>) {
        // SAFETY: the caller gives 8 writable elements, each two bytes of bits.
        unsafe { p.cast::<[u16; L]>().write_unaligned(map(v, f32_to_bf16).0) }
    }

    #[inline(always)]
    fn add(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Lanes<f32>, b: Lanes<f32>, c: Lanes<f32>) -> Lanes<f32> {
        Lanes(std::array::from_fn(|i| mul_add(a.0[i], b.0[i], c.0[i])))
    }
    #[inline(always)]
    fn fnma(self, a: Lanes<f32>, b: Lanes<f32>, c: Lanes<f32>) -> Lanes<f32> {
        Lanes(std::array::from_fn(|i| mul_add(-a.0[i], b.0[i], c.0[i])))
    }
    #[inline(always)]
    fn sqrt(self, a: Lanes<f32>) -> Lanes<f32> {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    fn neg(self, a: Lanes<f32>) -> Lanes<f32> {
        map(a, |a| -a)
    }
    #[inline(always)]
    fn abs(self, a: Lanes<f32>) -> Lanes<f32> {
        map(a, f32::abs)
    }
    #[inline(always)]
    fn min(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<f32> {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn round_even(self, a: Lanes<f32>) -> Lanes<f32> {
        map(a, round_even)
    }
    #[inline(always)]
    fn floor(self, a: Lanes<f32>) -> Lanes<f32> {
        if cfg!(any(target_arch = "aarch64", target_feature = "sse4.1")) {
            return map(a, f32::floor);
        }
        map(a, |x| {
            let near = round_even(x);
            if near > x { near - 1.0 } else { near }
        })
    }

    #[inline(always)]
    fn lt(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<u32> {
        zip(a, b, |a, b| mask(a < b))
    }
    #[inline(always)]
    fn le(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<u32> {
        zip(a, b, |a, b| mask(a <= b))
    }
    #[inline(always)]
    fn eq(self, a: Lanes<f32>, b: Lanes<f32>) -> Lanes<u32> {
        zip(a, b, |a, b| mask(a == b))
    }
    #[inline(always)]
    fn and_m(self, a: Lanes<u32>, b: Lanes<u32>) -> Lanes<u32> {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn any(self, m: Lanes<u32>) -> bool {
        m.0.iter().fold(0, |any, &m| any | m) != 0
    }
    #[inline(always)]
    fn select(self, m: Lanes<u32>, yes: Lanes<f32>, no: Lanes<f32>) -> Lanes<f32> {
        Lanes(std::array::from_fn(|i| {
            let (yes, no) = (yes.0[i].to_bits(), no.0[i].to_bits());
            f32::from_bits((yes & m.0[i]) | (no & !m.0[i]))
        }))
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> Lanes<i32> {
        Lanes([x; L])
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Lanes<i32> {
        // SAFETY: the caller gives 8 readable bytes.
        map(Lanes(unsafe { p.cast::<[u8; L]>().read() }), i32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Lanes<i32> {
        // SAFETY: the caller gives 8 readable bytes.
        map(Lanes(unsafe { p.cast::<[i8; L]>().read() }), i32::from)
    }
    #[inline(always)]
    unsafe fn load_bits<const BITS: u32>(self, p: *const u8) -> Lanes<i32> {
        let per = 8 / BITS as usize;
        Lanes(std::array::from_fn(|i| {
            // SAFETY: the caller gives BITS readable bytes.
            let byte = unsafe { *p.add(i / per) };
            i32::from(byte) >> (i % per * BITS as usize) & ((1 << BITS) - 1)
        }))
    }
    #[inline(always)]
    unsafe fn dot_nibbles(self, q: *const u8, x: *const i8) -> Lanes<i32> {
        // SAFETY: the caller gives 16 and 32 readable bytes.
        let (q, x) = unsafe { (q.cast::<[u8; 16]>().read(), x.cast::<[i8; 32]>().read()) };
        Lanes(std::array::from_fn(|i| {
            let two = |at: usize| {
                let (low, high) = (i32::from(q[at] & 15), i32::from(q[at] >> 4));
                low * i32::from(x[at]) + high * i32::from(x[at + 16])
            };
            two(i) + two(i + L)
        }))
    }
    #[inline(always)]
    unsafe fn dot_bytes(self, q: *const i8, x: *const i8) -> Lanes<i32> {
        // SAFETY: the caller gives 32 readable bytes of each.
        let (q, x) = unsafe { (q.cast::<[i8; 32]>().read(), x.cast::<[i8; 32]>().read()) };
        Lanes(std::array::from_fn(|i| {
            (i..32).step_by(L).map(|at| i32::from(q[at]) * i32::from(x[at])).sum()
        }))
    }
    #[inline(always)]
    unsafe fn nibble_digits(self, q: *const u8, x: *const i8) -> [Lanes<f32>; 4] {
        // SAFETY: the caller gives 256 and 96 readable bytes.
        let (q, x) = unsafe { (&*q.cast::<[[[u8; 4]; 16]; 4]>(), &*x.cast::<[[i8; 32]; 3]>()) };
        let row = |row: usize| {
            let digit = |d: usize| -> i64 {
                let bytes = q.iter().map(|eight| eight[row]).enumerate();
                let pairs = bytes.flat_map(|(t, four)| (0..4).map(move |j| (8 * t + j, four[j])));
                pairs
                    .map(|(at, byte)| {
                        let (low, high) = (i64::from(byte & 15), i64::from(byte >> 4));
                        low * i64::from(x[d][at]) + high * i64::from(x[d][at + 4])
                    })
                    .sum()
            };
            ((digit(0) << 16) + (digit(1) << 8) + digit(2)) as f32
        };
        sixteen(row)
    }
    #[inline(always)]
    unsafe fn byte_digits(self, q: *const i8, x: *const i16) -> [Lanes<f32>; 4] {
        // SAFETY: the caller gives 512 and 128 readable bytes.
        let (q, x) = unsafe { (&*q.cast::<[[[i8; 2]; 16]; 16]>(), &*x.cast::<[[i16; 32]; 2]>()) };
        let row = |row: usize| {
            let digit = |d: usize| -> i64 {
                let bytes = q.iter().flat_map(|two| two[row]);
                bytes.zip(x[d]).map(|(byte, x)| i64::from(byte) * i64::from(x)).sum()
            };
            ((digit(0) << 12) + digit(1)) as f32
        };
        sixteen(row)
    }
    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        f16_to_f32(bits)
    }
    #[inline(always)]
    fn shr_by(self, a: Lanes<i32>, by: u32) -> Lanes<i32> {
        map(a, |a| ((a as u32) >> by) as i32)
    }
    #[inline(always)]
    fn add_i(self, a: Lanes<i32>, b: Lanes<i32>) -> Lanes<i32> {
        zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn sub_i(self, a: Lanes<i32>, b: Lanes<i32>) -> Lanes<i32> {
        zip(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    fn and_i(self, a: Lanes<i32>, b: Lanes<i32>) -> Lanes<i32> {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or_i(self, a: Lanes<i32>, b: Lanes<i32>) -> Lanes<i32> {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn xor_i(self, a: Lanes<i32>, b: Lanes<i32>) -> Lanes<i32> {
        zip(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn eq_i(self, a: Lanes<i32>, b: Lanes<i32>) -> Lanes<u32> {
        zip(a, b, |a, b| mask(a == b))
    }
    #[inline(always)]
    fn shl_i<const N: u32>(self, a: Lanes<i32>) -> Lanes<i32> {
        map(a, |a| a << N)
    }
    #[inline(always)]
    fn shr_i<const N: u32>(self, a: Lanes<i32>) -> Lanes<i32> {
        map(a, |a| ((a as u32) >> N) as i32)
    }
    #[inline(always)]
    fn sar_i<const N: u32>(self, a: Lanes<i32>) -> Lanes<i32> {
        map(a, |a| a >> N)
    }
    #[inline(always)]
    fn to_f(self, a: Lanes<i32>) -> Lanes<f32> {
        map(a, |a| a as f32)
    }
    #[inline(always)]
    fn bits(self, a: Lanes<f32>) -> Lanes<i32> {
        map(a, |a| a.to_bits() as i32)
    }
    #[inline(always)]
    fn from_bits(self, a: Lanes<i32>) -> Lanes<f32> {
        map(a, |a| f32::from_bits(a as u32))
    }

    #[inline(always)]
    fn swap_pairs(self, a: Lanes<f32>) -> Lanes<f32> {
        let a = a.0;
        Lanes([a[1], a[0], a[3], a[2], a[5], a[4], a[7], a[6]])
    }
    #[inline(always)]
    fn twice_low(self, a: Lanes<f32>) -> Lanes<f32> {
        let a = a.0;
        Lanes([a[0], a[0], a[1], a[1], a[2], a[2], a[3], a[3]])
    }
    #[inline(always)]
    fn reduce_sum(self, a: Lanes<f32>) -> f32 {
        let a = a.0;
        let four = [a[0] + a[4], a[1] + a[5], a[2] + a[6], a[3] + a[7]];
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    fn reduce_max(self, a: Lanes<f32>) -> f32 {
        a.0.into_iter().fold(f32::NEG_INFINITY, |top, x| if top > x { top } else { x })
    }

    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        for i in 0..L {
            for j in 0..L {
                // SAFETY: i and j are less than LANES, as the caller expects.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * stride + j) };
            }
        }
    }
    #[inline(never)]
    fn call<W: WithSimd>(self, work: W) -> W::Output {
        work.run(self)
    }
}
