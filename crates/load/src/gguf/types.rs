//! GGML's types of elements: what can be read, and how large the others are.

use frit_graph::DType;
use frit_ops::Encoding;
use std::fmt;

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// One number after the other.
    Plain(DType),
    /// Blocks that kernels read.
    Packed(Encoding),
    /// A type of GGML that nothing here reads: its name, elements and bytes of a block.
    Other(&'static str, usize, usize),
    /// A code that is not in the table.
    Unknown(u32),
}

/// By code.
const TYPES: &[(u32, Stored)] = &[
    (0, Stored::Plain(DType::F32)),
    (1, Stored::Plain(DType::F16)),
    (2, Stored::Packed(Encoding::Q4_0)),
    (3, Stored::Packed(Encoding::Q4_1)),
    (6, Stored::Packed(Encoding::Q5_0)),
    (7, Stored::Packed(Encoding::Q5_1)),
    (8, Stored::Packed(Encoding::Q8_0)),
    (9, Stored::Other("Q8_1", 32, 36)),
    (10, Stored::Other("Q2_K", 256, 84)),
    (11, Stored::Other("Q3_K", 256, 110)),
    (12, Stored::Packed(Encoding::Q4K)),
    (13, Stored::Packed(Encoding::Q5K)),
    (14, Stored::Packed(Encoding::Q6K)),
    (15, Stored::Other("Q8_K", 256, 292)),
    (16, Stored::Other("IQ2_XXS", 256, 66)),
    (17, Stored::Other("IQ2_XS", 256, 74)),
    (18, Stored::Other("IQ3_XXS", 256, 98)),
    (19, Stored::Other("IQ1_S", 256, 50)),
    (20, Stored::Other("IQ4_NL", 32, 18)),
    (21, Stored::Other("IQ3_S", 256, 110)),
    (22, Stored::Other("IQ2_S", 256, 82)),
    (23, Stored::Other("IQ4_XS", 256, 136)),
    (24, Stored::Other("I8", 1, 1)),
    (25, Stored::Other("I16", 1, 2)),
    (26, Stored::Plain(DType::I32)),
    (27, Stored::Plain(DType::I64)),
    (28, Stored::Plain(DType::F64)),
    (29, Stored::Other("IQ1_M", 256, 56)),
    (30, Stored::Plain(DType::BF16)),
    (34, Stored::Other("TQ1_0", 256, 54)),
    (35, Stored::Other("TQ2_0", 256, 66)),
    (39, Stored::Other("MXFP4", 32, 17)),
    (40, Stored::Other("NVFP4", 64, 36)),
];

impl Stored {
    pub(super) fn from_code(code: u32) -> Stored {
        TYPES.iter().find(|(c, _)| *c == code).map_or(Stored::Unknown(code), |(_, stored)| *stored)
    }

    /// Elements and bytes of a block; a number is a block of one.
    pub(super) fn block(self) -> Option<(usize, usize)> {
        match self {
            Stored::Plain(dtype) => Some((1, dtype.size())),
            Stored::Packed(encoding) => Some((encoding.block_len(), encoding.block_bytes())),
            Stored::Other(_, length, bytes) => Some((length, bytes)),
            Stored::Unknown(_) => None,
        }
    }
}

impl fmt::Display for Stored {
    /// The name that GGML gives it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stored::Plain(dtype) => f.write_str(&dtype.name().to_uppercase()),
            Stored::Packed(encoding) => encoding.fmt(f),
            Stored::Other(name, ..) => f.write_str(name),
            Stored::Unknown(code) => write!(f, "type {code} of GGML"),
        }
    }
}
