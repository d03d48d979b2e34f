//! The encodings as groups of numbers with one scale and one offset.

use super::{Numbers, Weight};
use crate::simd::Simd;
use frit_ops::Encoding;
use half::{bf16, f16};

/// A packed matrix of one encoding: `w = scale q + offset` in each group.
///
/// # Safety
/// Of the methods: row and group exist, and so does vector `v` of the group.
pub(super) trait Format: Copy + Send + Sync {
    /// Numbers of a group, 16 or 32: one, two or four vectors.
    const GROUP: usize;
    /// Whether offsets may be other than 0.
    const OFFSET: bool;
    unsafe fn scale<S: Simd>(self, s: S, row: usize, group: usize) -> (f32, f32);
    /// Vector `v` of the whole numbers of a group.
    unsafe fn whole<S: Simd>(self, s: S, row: usize, group: usize, v: usize) -> S::F;
}

/// Blocks of GGML.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    at: *const u8,
    row: usize,
}

// SAFETY: only an address; who reads there vouches for it.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    #[inline(always)]
    pub(super) fn block(self, row: usize, block: usize, size: usize) -> *const u8 {
        self.at.wrapping_add(row * self.row + block * size)
    }
}

/// The f16 at an address.
///
/// # Safety
/// Two bytes can be read.
#[inline(always)]
unsafe fn half<S: Simd>(s: S, p: *const u8) -> f32 {
    // SAFETY: the caller's contract.
    s.half(u16::from_le_bytes(unsafe { p.cast::<[u8; 2]>().read() }))
}

/// The two f16 at an address.
///
/// # Safety
/// Four bytes can be read.
#[inline(always)]
unsafe fn halves<S: Simd>(s: S, p: *const u8) -> (f32, f32) {
    // SAFETY: the caller's contract.
    s.halves(u32::from_le_bytes(unsafe { p.cast::<[u8; 4]>().read() }))
}

/// Vector `v` of the nibbles of 16 bytes: the low ones, then the high ones.
///
/// # Safety
/// 16 bytes can be read.
#[inline(always)]
unsafe fn nibbles<S: Simd>(s: S, p: *const u8, v: usize) -> S::I {
    let from = v * S::LANES;
    // SAFETY: LANES bytes from there are within the 16.
    let bytes = unsafe { s.load_u8(p.add(from % 16)) };
    if from < 16 { s.and_i(bytes, s.splat_i(15)) } else { s.shr_i::<4>(bytes) }
}

/// Vector `v` of 32 bits, each moved to bit 4.
///
/// # Safety
/// 4 bytes can be read.
#[inline(always)]
unsafe fn fifth<S: Simd>(s: S, p: *const u8, v: usize) -> S::I {
    // SAFETY: the caller's contract; a vector has LANES / 8 bytes of them.
    s.shl_i::<4>(unsafe { s.load_bits::<1>(p.add(v * S::LANES / 8)) })
}

/// Blocks of 32 with a scale at byte 0.
macro_rules! simple {
    ($name:ident, $size:literal, $offset:expr,
     |$s:ident, $b:ident| $scale:expr, |$v:ident| $q:expr) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name(pub(super) Bytes);

        impl Format for $name {
            const GROUP: usize = 32;
            const OFFSET: bool = $offset;
            #[inline(always)]
            unsafe fn scale<S: Simd>(self, $s: S, row: usize, group: usize) -> (f32, f32) {
                let $b = self.0.block(row, group, $size);
                // SAFETY: the block exists.
                unsafe { $scale }
            }
            #[inline(always)]
            unsafe fn whole<S: Simd>(self, $s: S, row: usize, group: usize, $v: usize) -> S::F {
                let $b = self.0.block(row, group, $size);
                // SAFETY: the block exists.
                unsafe { $s.to_f($q) }
            }
        }
    };
}

simple!(Q4_0, 18, true, |s, b| below(half(s, b), 8.0), |v| nibbles(s, b.add(2), v));
simple!(Q4_1, 20, true, |s, b| halves(s, b), |v| nibbles(s, b.add(4), v));
simple!(Q5_0, 22, true, |s, b| below(half(s, b), 16.0), |v| s
    .or_i(nibbles(s, b.add(6), v), fifth(s, b.add(2), v)));
simple!(Q5_1, 24, true, |s, b| halves(s, b), |v| s
    .or_i(nibbles(s, b.add(8), v), fifth(s, b.add(4), v)));
simple!(Q8_0, 34, false, |s, b| (half(s, b), 0.0), |v| s.load_i8(b.add(2 + v * S::LANES).cast()));

/// A scale, and the offset of numbers that count from `-zero`.
#[inline(always)]
fn below(scale: f32, zero: f32) -> (f32, f32) {
    (scale, -zero * scale)
}

/// Scale and minimum of sub-block `j`, of 6 bits each.
///
/// # Safety
/// 12 bytes can be read.
#[inline(always)]
unsafe fn six_bits(p: *const u8, j: usize) -> (f32, f32) {
    // SAFETY: j < 8, so these are among the 12.
    unsafe {
        let (low, middle) = (*p.add(j & 3), *p.add(4 + (j & 3)));
        let (scale, minimum) = match j < 4 {
            true => (low & 63, middle & 63),
            false => {
                let last = *p.add(j + 4);
                (last & 15 | low >> 6 << 4, last >> 4 | middle >> 6 << 4)
            }
        };
        (f32::from(scale), f32::from(minimum))
    }
}

/// Super-blocks of 8 sub-blocks of 32: `FIVE` has a fifth bit.
#[derive(Clone, Copy)]
pub(super) struct Minima<const FIVE: bool>(pub(super) Bytes);

impl<const FIVE: bool> Minima<FIVE> {
    const SIZE: usize = if FIVE { 176 } else { 144 };
}

impl<const FIVE: bool> Format for Minima<FIVE> {
    const GROUP: usize = 32;
    const OFFSET: bool = true;
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, row: usize, group: usize) -> (f32, f32) {
        let b = self.0.block(row, group / 8, Self::SIZE);
        // SAFETY: the block exists.
        unsafe {
            let (scale, minimum) = six_bits(b.add(4), group % 8);
            (half(s, b) * scale, -(half(s, b.add(2)) * minimum))
        }
    }
    #[inline(always)]
    unsafe fn whole<S: Simd>(self, s: S, row: usize, group: usize, v: usize) -> S::F {
        let (b, j) = (self.0.block(row, group / 8, Self::SIZE), group % 8);
        let from = v * S::LANES;
        // SAFETY: the block exists; 32 bytes belong to two sub-blocks.
        unsafe {
            let low = s.load_u8(b.add(if FIVE { 48 } else { 16 } + j / 2 * 32 + from));
            let low = s.and_i(s.shr_by(low, 4 * (j as u32 & 1)), s.splat_i(15));
            if !FIVE {
                return s.to_f(low);
            }
            let high = s.shr_by(s.load_u8(b.add(16 + from)), j as u32);
            s.to_f(s.or_i(low, s.shl_i::<4>(s.and_i(high, s.splat_i(1)))))
        }
    }
}

/// Super-blocks of 16 sub-blocks of 16 with 6 bits.
#[derive(Clone, Copy)]
pub(super) struct Q6K(pub(super) Bytes);

impl Format for Q6K {
    const GROUP: usize = 16;
    const OFFSET: bool = true;
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, row: usize, group: usize) -> (f32, f32) {
        let b = self.0.block(row, group / 16, 210);
        // SAFETY: the block exists.
        let scale =
            unsafe { half(s, b.add(208)) * f32::from(*b.add(192 + group % 16).cast::<i8>()) };
        (scale, -32.0 * scale)
    }
    #[inline(always)]
    unsafe fn whole<S: Simd>(self, s: S, row: usize, group: usize, v: usize) -> S::F {
        let b = self.0.block(row, group / 16, 210);
        let (half, place) = (group % 16 / 8, group % 8 * 16);
        let from = v * S::LANES;
        // SAFETY: the block exists.
        unsafe {
            let low = s.load_u8(b.add(half * 64 + place % 64 + from));
            let high = s.load_u8(b.add(128 + half * 32 + place % 32 + from));
            let low = s.and_i(s.shr_by(low, place as u32 / 64 * 4), s.splat_i(15));
            let high = s.and_i(s.shr_by(high, place as u32 / 32 * 2), s.splat_i(3));
            s.to_f(s.or_i(low, s.shl_i::<4>(high)))
        }
    }
}

/// Where scales or biases are.
#[derive(Clone, Copy)]
enum At {
    Nowhere,
    F32(*const f32),
    F16(*const f16),
    BF16(*const bf16),
}

impl At {
    fn of(numbers: Numbers<'_>) -> At {
        match numbers {
            Numbers::None => At::Nowhere,
            Numbers::F32(x) => At::F32(x.as_ptr()),
            Numbers::F16(x) => At::F16(x.as_ptr()),
            Numbers::BF16(x) => At::BF16(x.as_ptr()),
        }
    }

    /// # Safety
    /// Number `i` exists.
    #[inline(always)]
    unsafe fn get<S: Simd>(self, s: S, i: usize) -> f32 {
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                At::Nowhere => 0.0,
                At::F32(p) => *p.add(i),
                At::F16(p) => s.half((*p.add(i)).to_bits()),
                At::BF16(p) => f32::from_bits(u32::from((*p.add(i)).to_bits()) << 16),
            }
        }
    }
}

/// Affine groups, in parts of 32.
#[derive(Clone, Copy)]
pub(super) struct Affine<const BITS: u32> {
    bytes: Bytes,
    scales: At,
    biases: At,
    /// Scales of a row.
    count: usize,
    /// Parts of a group, as a power of two.
    parts: u32,
}

// SAFETY: only addresses; who reads there vouches for them.
unsafe impl<const BITS: u32> Send for Affine<BITS> {}
// SAFETY: as above.
unsafe impl<const BITS: u32> Sync for Affine<BITS> {}

impl<const BITS: u32> Format for Affine<BITS> {
    const GROUP: usize = 32;
    const OFFSET: bool = true;
    #[inline(always)]
    unsafe fn scale<S: Simd>(self, s: S, row: usize, group: usize) -> (f32, f32) {
        let i = row * self.count + (group >> self.parts);
        // SAFETY: the group has a scale, and a bias if there are any.
        unsafe { (self.scales.get(s, i), self.biases.get(s, i)) }
    }
    #[inline(always)]
    unsafe fn whole<S: Simd>(self, s: S, row: usize, group: usize, v: usize) -> S::F {
        let bits = BITS as usize;
        let p = self.bytes.block(row, group, 4 * bits);
        // SAFETY: the group has 32 fields.
        unsafe { s.to_f(s.load_bits::<BITS>(p.add(v * S::LANES * bits / 8))) }
    }
}

impl Weight<'_> {
    pub(super) fn bytes(&self) -> Bytes {
        Bytes { at: self.bytes.as_ptr(), row: self.bytes.len() / self.rows.max(1) }
    }

    pub(super) fn affine<const BITS: u32>(&self, group_size: usize) -> Affine<BITS> {
        Affine {
            bytes: self.bytes(),
            scales: At::of(self.scales),
            biases: At::of(self.biases),
            count: self.width / group_size,
            parts: (group_size / 32).trailing_zeros(),
        }
    }
}

/// The numbers of a group of an encoding, [`Format::GROUP`].
pub(super) fn group(encoding: Encoding) -> usize {
    if encoding == Encoding::Q6K { 16 } else { 32 }
}

/// Calls with `$f` bound to the [`Format`] of a weight.
macro_rules! with_format {
    ($weight:expr, $f:ident => $body:expr) => {{
        use crate::quant::format;
        use frit_ops::Encoding;
        let weight: &crate::quant::Weight<'_> = $weight;
        macro_rules! call {
            ($format:expr) => {{
                let $f = $format;
                $body
            }};
        }
        match weight.encoding {
            Encoding::Affine { bits: 2, group_size } => call!(weight.affine::<2>(group_size)),
            Encoding::Affine { bits: 4, group_size } => call!(weight.affine::<4>(group_size)),
            Encoding::Affine { group_size, .. } => call!(weight.affine::<8>(group_size)),
            Encoding::Q4_0 => call!(format::Q4_0(weight.bytes())),
            Encoding::Q4_1 => call!(format::Q4_1(weight.bytes())),
            Encoding::Q5_0 => call!(format::Q5_0(weight.bytes())),
            Encoding::Q5_1 => call!(format::Q5_1(weight.bytes())),
            Encoding::Q8_0 => call!(format::Q8_0(weight.bytes())),
            Encoding::Q4K => call!(format::Minima::<false>(weight.bytes())),
            Encoding::Q5K => call!(format::Minima::<true>(weight.bytes())),
            Encoding::Q6K => call!(format::Q6K(weight.bytes())),
        }
    }};
}
pub(super) use with_format;
