//! Packed weights: how the elements of a quantised matrix lie in memory.
//!
//! A packed weight is an encoding of a matrix `[n, k]`, row by row, and never a second model: the
//! rows are bytes, and [`Encoding`] says what they mean. Two families are known: the affine groups
//! of MLX, which keep scales and biases in operands of their own, and the blocks of GGML, which
//! carry them inside.

mod compose;
#[cfg(test)]
mod tests;
mod unpack;

use crate::Options;
use std::fmt;

/// How the elements of a packed matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encoding {
    /// `w = scale q + bias` for each group along a row; `q` of 2, 4 or 8 bits, packed from the low
    /// bits of u32 words. Scales and biases are operands `[n, k / group_size]`.
    Affine {
        /// Bits of an element: 2, 4 or 8.
        bits: usize,
        /// Elements that share a scale: 32, 64 or 128.
        group_size: usize,
    },
    /// Blocks of 32: f16 `d`, 16 bytes of nibbles; `w = d (q - 8)`.
    Q4_0,
    /// Blocks of 32: f16 `d`, f16 `m`, 16 bytes of nibbles; `w = d q + m`.
    Q4_1,
    /// Blocks of 32: f16 `d`, 32 high bits, 16 bytes of nibbles; `w = d (q - 16)`.
    Q5_0,
    /// Blocks of 32: f16 `d`, f16 `m`, 32 high bits, 16 bytes of nibbles; `w = d q + m`.
    Q5_1,
    /// Blocks of 32: f16 `d`, 32 signed bytes; `w = d q`.
    Q8_0,
    /// Super-blocks of 256: f16 `d`, f16 `dmin`, 12 bytes of 6-bit scales and minima of 8
    /// sub-blocks, 128 bytes of nibbles; `w = d s q - dmin m`.
    Q4K,
    /// As [`Encoding::Q4K`], with 32 bytes of high bits before the nibbles.
    Q5K,
    /// Super-blocks of 256: 128 bytes of nibbles, 64 bytes of high pairs, 16 signed scales, f16
    /// `d`; `w = d s (q - 32)`.
    Q6K,
}

impl Encoding {
    /// The encodings of GGML.
    pub const GGML: &'static [Encoding] = &[
        Encoding::Q4_0,
        Encoding::Q4_1,
        Encoding::Q5_0,
        Encoding::Q5_1,
        Encoding::Q8_0,
        Encoding::Q4K,
        Encoding::Q5K,
        Encoding::Q6K,
    ];

    /// The encoding of GGML of this name, such as `Q4_1` or `Q6_K`.
    pub fn named(name: &str) -> Option<Encoding> {
        Encoding::GGML.iter().copied().find(|e| e.to_string() == name)
    }

    /// From the options `encoding` (a name of GGML), or `bits` and `group_size`.
    pub(crate) fn parse(o: &mut Options) -> Result<Encoding, String> {
        if let Some(name) = o.text("encoding")?.filter(|name| name != "affine") {
            return Encoding::named(&name).ok_or_else(|| {
                let known: Vec<String> = Encoding::GGML.iter().map(|e| e.to_string()).collect();
                format!("option `encoding` must be affine, {}, got {name}", known.join(", "))
            });
        }
        let (bits, group_size) = (o.count("bits", Some(4))?, o.count("group_size", Some(64))?);
        let encoding = Encoding::Affine { bits, group_size };
        encoding.check().map_err(|e| e.0)?;
        Ok(encoding)
    }

    /// Elements of a block: rows are whole numbers of blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Encoding::Affine { group_size, .. } => group_size,
            Encoding::Q4K | Encoding::Q5K | Encoding::Q6K => 256,
            _ => 32,
        }
    }

    /// Bytes of a block in the packed operand; scales and biases of other operands do not count.
    pub const fn block_bytes(self) -> usize {
        match self {
            Encoding::Affine { bits, group_size } => bits * group_size / 8,
            Encoding::Q4_0 => 18,
            Encoding::Q4_1 => 20,
            Encoding::Q5_0 => 22,
            Encoding::Q5_1 => 24,
            Encoding::Q8_0 => 34,
            Encoding::Q4K => 144,
            Encoding::Q5K => 176,
            Encoding::Q6K => 210,
        }
    }

    /// Bytes of a row of `k` elements; `None` if `k` is no whole number of blocks.
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        match k.checked_rem(self.block_len()) {
            Some(0) => (k / self.block_len()).checked_mul(self.block_bytes()),
            _ => None,
        }
    }
}

impl fmt::Display for Encoding {
    /// The name that GGML gives it; of affine groups `affine(4 bits, groups of 64)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Encoding::Affine { bits, group_size } => {
                return write!(f, "affine({bits} bits, groups of {group_size})");
            }
            Encoding::Q4_0 => "Q4_0",
            Encoding::Q4_1 => "Q4_1",
            Encoding::Q5_0 => "Q5_0",
            Encoding::Q5_1 => "Q5_1",
            Encoding::Q8_0 => "Q8_0",
            Encoding::Q4K => "Q4_K",
            Encoding::Q5K => "Q5_K",
            Encoding::Q6K => "Q6_K",
        })
    }
}
