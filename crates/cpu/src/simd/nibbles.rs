//! The inner loop of products of a token with weights of 4 bits, in assembler.
//!
//! It is what [`Simd::nibble_digits`](super::Simd::nibble_digits) and the sums around it compute,
//! to the very same bits, but for two things that compilers do not do: the sums of digits stay in
//! registers without being taken apart (or the loop being kept one by force), and the scales of a
//! group are applied a group later, when its sums have long been there. 51 cycles for a group of
//! sixteen rows become 41 (Zen 3, 2026-11; the four pipes need 36).

use std::arch::asm;
use std::arch::x86_64::__m256;
use std::mem::MaybeUninit;

use super::NibbleRow;

/// What the loop reads beside its operands.
#[repr(C, align(64))]
struct Constants {
    low: [u8; 32],
    ones: [i16; 16],
    /// The second digit counts so many of the third.
    second: [i16; 16],
    /// The first digit counts so many of the third.
    first: [f32; 8],
}

static CONSTANTS: Constants =
    Constants { low: [15; 32], ones: [1; 16], second: [1 << 8; 16], first: [65536.0; 8] };

/// Where the sums of a group wait for its scales.
#[repr(align(64))]
#[expect(dead_code, reason = "only the loop reads it")]
struct Room(MaybeUninit<[f32; 16]>);

/// Adds the products of one digit with the nibbles of step `t` to the sums `a` and `b`, or begins
/// them. In all a sum has 16 products of at most 15 * 128: 16 bits hold them. ymm6 and ymm7 hold the low nibbles, ymm8 and ymm9 the high ones.
macro_rules! digit {
    (begin $t:literal $d:literal $a:literal $b:literal) => {
        concat!(
            concat!("vpbroadcastd ymm10, dword ptr [{x} + 32*", $d, " + 8*", $t, "]\n"),
            concat!("vpbroadcastd ymm11, dword ptr [{x} + 32*", $d, " + 8*", $t, " + 4]\n"),
            concat!("vpmaddubsw ", $a, ", ymm6, ymm10\n"),
            concat!("vpmaddubsw ", $b, ", ymm7, ymm10\n"),
            "vpmaddubsw ymm10, ymm8, ymm11\n",
            "vpmaddubsw ymm11, ymm9, ymm11\n",
            concat!("vpaddw ", $a, ", ", $a, ", ymm10\n"),
            concat!("vpaddw ", $b, ", ", $b, ", ymm11\n"),
        )
    };
    (add $t:literal $d:literal $a:literal $b:literal) => {
        concat!(
            concat!("vpbroadcastd ymm10, dword ptr [{x} + 32*", $d, " + 8*", $t, "]\n"),
            concat!("vpbroadcastd ymm11, dword ptr [{x} + 32*", $d, " + 8*", $t, " + 4]\n"),
            "vpmaddubsw ymm12, ymm6, ymm10\n",
            "vpmaddubsw ymm10, ymm7, ymm10\n",
            concat!("vpaddw ", $a, ", ", $a, ", ymm12\n"),
            concat!("vpaddw ", $b, ", ", $b, ", ymm10\n"),
            "vpmaddubsw ymm12, ymm8, ymm11\n",
            "vpmaddubsw ymm11, ymm9, ymm11\n",
            concat!("vpaddw ", $a, ", ", $a, ", ymm12\n"),
            concat!("vpaddw ", $b, ", ", $b, ", ymm11\n"),
        )
    };
}

/// Eight columns of sixteen rows: step `t` of four.
macro_rules! step {
    ($how:ident $t:literal) => {
        concat!(
            concat!("vmovdqu ymm6, ymmword ptr [{w} + 64 + 64*", $t, "]\n"),
            concat!("vmovdqu ymm7, ymmword ptr [{w} + 96 + 64*", $t, "]\n"),
            "vpsrlw ymm8, ymm6, 4\n",
            "vpsrlw ymm9, ymm7, 4\n",
            "vpand ymm6, ymm6, ymm15\n",
            "vpand ymm7, ymm7, ymm15\n",
            "vpand ymm8, ymm8, ymm15\n",
            "vpand ymm9, ymm9, ymm15\n",
            digit!($how $t 0 "ymm0" "ymm1"),
            digit!($how $t 1 "ymm2" "ymm3"),
            digit!($how $t 2 "ymm4" "ymm5"),
        )
    };
}

/// Asks for the lines of a group that is read later, once a token: they should not push out of the
/// last cache what fits there (250 tokens/s of SmolLM2-135M, not 245; the head of 30 MB in 0.65 to
/// 0.79 ms, not 0.89). Weights that do fit are read no slower so (16 MB at 38.5 GB/s, Zen 3).
macro_rules! ask {
    () => {
        concat!(
            "prefetchnta byte ptr [{w} + {ahead}]\n",
            "prefetchnta byte ptr [{w} + {ahead} + 64]\n",
            "prefetchnta byte ptr [{w} + {ahead} + 128]\n",
            "prefetchnta byte ptr [{w} + {ahead} + 192]\n",
            "prefetchnta byte ptr [{w} + {ahead} + 256]\n",
        )
    };
}

/// Scales the sums of the group before this one and adds them, and its offsets, to the results.
macro_rules! scale {
    () => {
        concat!(
            "vcvtph2ps ymm6, xmmword ptr [{w} - 320]\n",
            "vcvtph2ps ymm7, xmmword ptr [{w} - 304]\n",
            "vbroadcastss ymm8, dword ptr [{scales} - 4]\n",
            "vmulps ymm6, ymm6, ymm8\n",
            "vmulps ymm7, ymm7, ymm8\n",
            "vfmadd231ps ymm13, ymm6, ymmword ptr [{room}]\n",
            "vfmadd231ps ymm14, ymm7, ymmword ptr [{room} + 32]\n",
            "vcvtph2ps ymm6, xmmword ptr [{w} - 288]\n",
            "vcvtph2ps ymm7, xmmword ptr [{w} - 272]\n",
            "vbroadcastss ymm8, dword ptr [{sums} - 4]\n",
            "vfmadd231ps ymm13, ymm6, ymm8\n",
            "vfmadd231ps ymm14, ymm7, ymm8\n",
        )
    };
}

/// See [`Simd::nibble_row`](super::Simd::nibble_row): eight rows a vector.
///
/// # Safety
/// The processor has AVX2, FMA and F16C, and all that the row says can be read; there is a group.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn nibble_row(row: &NibbleRow) -> [__m256; 2] {
    let mut room = Room(MaybeUninit::uninit());
    let (a, b): (__m256, __m256);
    // SAFETY: the caller's contract; the only memory written is `room`.
    unsafe {
        asm!(
            "vxorps xmm13, xmm13, xmm13",
            "vxorps xmm14, xmm14, xmm14",
            "vmovdqa ymm15, ymmword ptr [{constants}]",
            "jmp 4f",
            ".p2align 5",
            // The scales of the group before, between the first two steps of this one.
            "2:",
            ask!(),
            step!(begin 0),
            scale!(),
            "3:",
            step!(add 1),
            step!(add 2),
            step!(add 3),
            "vpmaddwd ymm0, ymm0, ymmword ptr [{constants} + 32]",
            "vpmaddwd ymm1, ymm1, ymmword ptr [{constants} + 32]",
            "vpmaddwd ymm2, ymm2, ymmword ptr [{constants} + 64]",
            "vpmaddwd ymm3, ymm3, ymmword ptr [{constants} + 64]",
            "vpmaddwd ymm4, ymm4, ymmword ptr [{constants} + 32]",
            "vpmaddwd ymm5, ymm5, ymmword ptr [{constants} + 32]",
            "vpaddd ymm2, ymm2, ymm4",
            "vpaddd ymm3, ymm3, ymm5",
            "vcvtdq2ps ymm0, ymm0",
            "vcvtdq2ps ymm1, ymm1",
            // Both are below 2^24, and so exact.
            "vcvtdq2ps ymm2, ymm2",
            "vcvtdq2ps ymm3, ymm3",
            "vfmadd132ps ymm0, ymm2, ymmword ptr [{constants} + 96]",
            "vfmadd132ps ymm1, ymm3, ymmword ptr [{constants} + 96]",
            "vmovaps ymmword ptr [{room}], ymm0",
            "vmovaps ymmword ptr [{room} + 32], ymm1",
            "add {w}, 320",
            "add {x}, 96",
            "add {scales}, 4",
            "add {sums}, 4",
            "dec {n}",
            "jnz 2b",
            "jmp 5f",
            // The first group has none before it.
            "4:",
            ask!(),
            step!(begin 0),
            "jmp 3b",
            "5:",
            scale!(),
            w = inout(reg) row.weight => _,
            x = inout(reg) row.x => _,
            scales = inout(reg) row.scales => _,
            sums = inout(reg) row.sums => _,
            n = inout(reg) row.groups => _,
            room = in(reg) &raw mut room,
            constants = in(reg) &CONSTANTS,
            ahead = const super::AHEAD,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
            out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            out("ymm12") _, out("ymm13") a, out("ymm14") b, out("ymm15") _,
            options(nostack),
        );
    }
    [a, b]
}
