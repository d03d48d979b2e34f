//! Products with packed weights, and packed weights as plain numbers.
//!
//! Every encoding is a [`format::Format`]: groups of 16 or 32 numbers `scale q + offset`, whose `q`
//! become lanes of f32. All else is written once over that:
//!
//! - [`few`]: some rows of activations. The packed bytes are read once and where they are; a group
//!   adds `scale (q . x) + offset sum(x)`, lane by lane, with the sums of x made before.
//! - [`digits`]: the same for some weights of 4 and 8 bits, which are laid out anew once and
//!   multiplied in integers, as exactly as in f32.
//! - [`panels`]: many rows. Panels of the weight are unpacked for the product of `gemm/`, some
//!   megabytes at a time; the whole weight is never unpacked.
//! - [`rows`]: numbers in the type of the output.
//! - [`integer`]: activations of 8 bits, and products of integers.
//!
//! Results are the same bits on any number of threads: tasks are cut by shapes, and an element is
//! summed in one order by one task.

mod digits;
mod few;
mod format;
mod integer;
mod panels;
mod rows;
#[cfg(test)]
mod tests;

pub(crate) use digits::{Interleaved, few_together};
pub(crate) use few::FEW;
pub(crate) use integer::{eight_bit, eight_bit_scratch_bytes, takes_eight_bit};
pub(crate) use rows::dequantize;

use crate::Pool;
use crate::gemm::{self, Epilogue, LinearShape};
use crate::kernel::Combine;
use crate::simd::{Element, Isa};
use frit_ops::Encoding;
use half::{bf16, f16};

/// The scales or biases of affine groups, as they are stored.
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'a> {
    None,
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
}

impl Numbers<'_> {
    fn len(self) -> Option<usize> {
        match self {
            Numbers::None => None,
            Numbers::F32(x) => Some(x.len()),
            Numbers::F16(x) => Some(x.len()),
            Numbers::BF16(x) => Some(x.len()),
        }
    }
}

/// A packed matrix where it lies.
#[derive(Clone, Copy)]
pub(crate) struct Weight<'a> {
    encoding: Encoding,
    bytes: &'a [u8],
    scales: Numbers<'a>,
    biases: Numbers<'a>,
    rows: usize,
    width: usize,
}

impl<'a> Weight<'a> {
    /// A matrix of `rows` rows.
    ///
    /// # Panics
    /// If the slices do not belong together; the shape rules of the Blocks keep that away.
    pub(crate) fn new(
        encoding: Encoding,
        bytes: &'a [u8],
        scales: Numbers<'a>,
        biases: Numbers<'a>,
        rows: usize,
    ) -> Weight<'a> {
        let blocks = bytes.len() / encoding.block_bytes();
        let width = blocks / rows.max(1) * encoding.block_len();
        assert_eq!(encoding.row_bytes(width).map(|b| b * rows), Some(bytes.len()), "{encoding}");
        if let Encoding::Affine { .. } = encoding {
            assert_eq!(scales.len(), Some(blocks), "scales of {encoding}");
            assert!(biases.len().is_none_or(|n| n == blocks), "biases of {encoding}");
        }
        Weight { encoding, bytes, scales, biases, rows, width }
    }
}

/// Bytes of scratch that [`matmul`] needs for `m` rows.
pub(crate) fn matmul_scratch_bytes<T: Element>(
    isa: Isa,
    shape: &LinearShape,
    encoding: Encoding,
    transposed: bool,
) -> usize {
    match transposed && shape.m <= FEW {
        true => few::scratch_bytes::<T>(shape, encoding).max(digits::scratch_bytes(shape)),
        false => gemm::linear_from_scratch_bytes::<T>(isa, shape),
    }
}

/// `out = x W^T` of a `weight` of `[n, k]`, or `x W` of `[k, n]` where it is not `transposed`.
/// `scratch` is aligned to 64 bytes; the weight comes with the same one laid out for digits, and
/// with `transposed`. `combine` says what becomes of what `out` holds.
///
/// # Panics
/// If a slice does not fit the shape.
#[expect(clippy::too_many_arguments, reason = "the operands of the product")]
pub(crate) fn matmul<T: Element>(
    isa: Isa,
    pool: &Pool,
    shape: &LinearShape,
    x: &[T],
    (weight, interleaved, transposed): (&Weight<'_>, Option<&Interleaved>, bool),
    combine: Combine,
    out: &mut [T],
    scratch: &mut [u8],
) {
    let sides = if transposed { (shape.n, shape.k) } else { (shape.k, shape.n) };
    assert_eq!((weight.rows, weight.width), sides, "the weight is not {shape:?}");
    match transposed && shape.m <= FEW {
        true => {
            if !few_together(isa, pool, shape.m, x, &[interleaved], combine, out, scratch) {
                few::few(isa, pool, shape, x, weight, combine, out, scratch);
            }
        }
        false => {
            let columns = panels::Panels { isa, weight: *weight, transposed };
            let then = Epilogue { combine, ..Epilogue::default() };
            gemm::linear_from(isa, pool, shape, x, columns, then, out, scratch);
        }
    }
}
