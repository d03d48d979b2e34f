//! The meaning of packed bytes in primitives, and the shapes that belong together.
//!
//! Bytes are taken apart by divisions and remainders of u8, which say the same as shifts and masks.

use super::Encoding;
use crate::check;
use frit_graph::{Binary, DType, ShapeError, Spec, Tensor, Value};

/// Powers of `base` from 1 on, as bytes.
fn powers(base: usize, count: usize, shape: &[usize]) -> Tensor {
    let numbers: Vec<u8> = (0..count as u32).map(|i| base.pow(i) as u8).collect();
    match Value::new(shape, numbers) {
        Ok(value) => Tensor::constant(value),
        Err(e) => Tensor::poison("constant", e),
    }
}

fn rem(x: &Tensor, by: usize) -> Tensor {
    x.binary(&Tensor::scalar(DType::U8, by as f64), Binary::Rem)
}

/// Fields of `bits` bits of each byte: `[.., c]` to `[.., parts, c]`, from the low bits on.
fn planes(x: &Tensor, bits: usize, parts: usize) -> Tensor {
    let base = 1 << bits;
    rem(&x.unsqueeze(-2).binary(&powers(base, parts, &[parts, 1]), Binary::Div), base)
}

/// Fields of `bits` bits of each byte, those of a byte side by side: `[.., c]` to `[.., c, 8 / bits]`.
fn fields(x: &Tensor, bits: usize) -> Tensor {
    let (base, parts) = (1 << bits, 8 / bits);
    match parts {
        1 => x.unsqueeze(-1),
        _ => rem(&x.unsqueeze(-1).binary(&powers(base, parts, &[parts]), Binary::Div), base),
    }
}

/// Bytes as signed numbers.
fn signed(x: &Tensor) -> Tensor {
    let x = x.cast(DType::F32);
    x.ge(&Tensor::scalar(DType::F32, 128.0)).select(&(&x - 256.0), &x)
}

/// The blocks of a packed operand: `[.., blocks, bytes of one]`.
struct Blocks(Tensor);

impl Blocks {
    fn bytes(&self, from: usize, count: usize) -> Tensor {
        self.0.slice(-1, from..from + count)
    }

    /// The f16 at a byte, `[.., blocks, 1]` in f32.
    fn half(&self, at: usize) -> Tensor {
        self.bytes(at, 2).bitcast(DType::F16).cast(DType::F32)
    }

    /// `[.., blocks, ..]` of these last extents.
    fn shaped(&self, x: &Tensor, last: &[usize]) -> Tensor {
        let lead = &self.0.shape()[..self.0.rank() - 1];
        x.reshape(&[lead, last].concat())
    }

    /// Nibbles in f32: of each `run` bytes the low ones, then the high ones.
    fn nibbles(&self, from: usize, count: usize, run: usize) -> Tensor {
        let runs = self.shaped(&self.bytes(from, count), &[count / run, run]);
        self.shaped(&planes(&runs, 4, 2), &[2 * count]).cast(DType::F32)
    }

    /// The 32 bits from a byte on, `[.., blocks, 32]` in f32.
    fn bits(&self, from: usize) -> Tensor {
        self.shaped(&fields(&self.bytes(from, 4), 1), &[32]).cast(DType::F32)
    }

    /// Scales and minima of 8 sub-blocks, `[.., blocks, 8, 1]` in f32.
    fn scales_and_minima(&self) -> (Tensor, Tensor) {
        // Bytes 0..4 hold the first scales and 4..8 the first minima, in 6 bits each; their upper
        // two bits belong to the last ones, whose lower nibbles are in bytes 8..12.
        let (first, low) = (self.bytes(4, 8), self.bytes(12, 4));
        let upper = first.binary(&Tensor::scalar(DType::U8, 64.0), Binary::Div);
        let upper = upper * 16.0;
        let low = self.shaped(&planes(&low, 4, 2), &[8]);
        let (first, last) = (rem(&first, 64), low + upper);
        let half = |from: usize| {
            let parts = [first.slice(-1, from..from + 4), last.slice(-1, from..from + 4)];
            let all = Tensor::concat(&parts.each_ref(), -1);
            self.shaped(&all.cast(DType::F32), &[8, 1])
        };
        (half(0), half(4))
    }
}

impl Encoding {
    /// Checks the numbers of an affine encoding.
    pub(crate) fn check(self) -> Result<(), ShapeError> {
        match self {
            Encoding::Affine { bits, group_size }
                if !matches!(bits, 2 | 4 | 8) || !matches!(group_size, 32 | 64 | 128) =>
            {
                Err(format!("{self} does not exist: bits are 2, 4 or 8, groups 32, 64 or 128")
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// The elements of a row of packed operands, which must belong together.
    pub(crate) fn width(
        self,
        packed: &Spec,
        scales: Option<&Spec>,
        biases: Option<&Spec>,
    ) -> Result<usize, ShapeError> {
        self.check()?;
        check::not_empty("packed", packed)?;
        let Encoding::Affine { group_size, .. } = self else {
            if scales.or(biases).is_some() {
                return Err(format!("{self} takes no scales and no biases").into());
            }
            let unit = self.block_bytes();
            return match packed.last() {
                Some(bytes) if packed.dtype == DType::U8 && bytes % unit == 0 => {
                    Ok(bytes / unit * self.block_len())
                }
                _ => {
                    Err(format!("packed must be u8 [.., {unit} b] for {self}, got {packed}").into())
                }
            };
        };
        let unit = self.block_bytes() / 4;
        let groups = match packed.last() {
            Some(words) if packed.dtype == DType::U32 && words % unit == 0 => words / unit,
            _ => {
                let text = format!("packed must be u32 [.., {unit} g] for {self}, got {packed}");
                return Err(text.into());
            }
        };
        let Some(scales) = scales else {
            return Err(format!("{self} wants scales").into());
        };
        check::float("scales", scales)?;
        let lead = &packed.shape[..packed.rank() - 1];
        let wanted = [lead, &[groups]].concat();
        if scales.shape != wanted {
            return Err(format!("scales must be {wanted:?}, got {:?}", scales.shape).into());
        }
        if let Some(b) = biases.filter(|b| *b != scales) {
            return Err(format!("biases must be {scales} like scales, got {b}").into());
        }
        Ok(groups * group_size)
    }

    /// The numbers of packed operands, `[.., k]` in f32; `width` has accepted them.
    pub(crate) fn compose(
        self,
        packed: &Tensor,
        scales: Option<&Tensor>,
        biases: Option<&Tensor>,
    ) -> Tensor {
        let (lead, last) =
            (&packed.shape()[..packed.rank() - 1], packed.shape()[packed.rank() - 1]);
        if let Encoding::Affine { bits, group_size } = self {
            let k = last * 32 / bits;
            let groups = [lead, &[k / group_size, group_size]].concat();
            let q = fields(&packed.bitcast(DType::U8), bits).reshape(&groups).cast(DType::F32);
            let wide = |t: &Tensor| t.cast(DType::F32).unsqueeze(-1);
            let scaled = scales.map_or_else(|| q.clone(), |s| &q * wide(s));
            let y = biases.map_or_else(|| scaled.clone(), |b| &scaled + wide(b));
            return y.reshape(&[lead, &[k]].concat());
        }
        let blocks = last / self.block_bytes();
        let b = Blocks(packed.reshape(&[lead, &[blocks, self.block_bytes()]].concat()));
        let y = match self {
            Encoding::Q4_0 => (b.nibbles(2, 16, 16) - 8.0) * b.half(0),
            Encoding::Q4_1 => b.nibbles(4, 16, 16) * b.half(0) + b.half(2),
            Encoding::Q5_0 => (b.nibbles(6, 16, 16) + b.bits(2) * 16.0 - 16.0) * b.half(0),
            Encoding::Q5_1 => (b.nibbles(8, 16, 16) + b.bits(4) * 16.0) * b.half(0) + b.half(2),
            Encoding::Q4K => b.with_minima(&b.nibbles(16, 128, 32)),
            Encoding::Q5K => {
                let high = planes(&b.bytes(16, 32), 1, 8);
                let high = b.shaped(&high, &[256]).cast(DType::F32);
                b.with_minima(&(b.nibbles(48, 128, 32) + high * 16.0))
            }
            Encoding::Q6K => {
                let high = b.shaped(&b.bytes(128, 64), &[2, 32]);
                let high = b.shaped(&planes(&high, 2, 4), &[256]).cast(DType::F32);
                let q = b.nibbles(0, 128, 64) + high * 16.0 - 32.0;
                let scales = b.shaped(&signed(&b.bytes(192, 16)), &[16, 1]);
                let scales = b.half(208).unsqueeze(-1) * scales;
                scales * b.shaped(&q, &[16, 16])
            }
            _ => signed(&b.bytes(2, 32)) * b.half(0),
        };
        y.reshape(&[lead, &[blocks * self.block_len()]].concat())
    }
}

impl Blocks {
    /// `d s q - dmin m` of the sub-blocks of 32.
    fn with_minima(&self, q: &Tensor) -> Tensor {
        let (scales, minima) = self.scales_and_minima();
        let scales = self.half(0).unsqueeze(-1) * scales;
        let minima = self.half(2).unsqueeze(-1) * minima;
        self.shaped(q, &[8, 32]) * scales - minima
    }
}
