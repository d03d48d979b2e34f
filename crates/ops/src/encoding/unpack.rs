//! Packed rows to numbers, one block after the other: small, safe and slow. Readers of files and
//! oracles use it; kernels have their own.

use super::Encoding;
use frit_graph::ShapeError;

/// The number of two bytes in half precision.
fn half(bytes: &[u8]) -> f32 {
    let h = u32::from(bytes[0]) | u32::from(bytes[1]) << 8;
    let (sign, size) = ((h & 0x8000) << 16, (h & 0x7fff) << 13);
    // The bias of f16 is 15, that of f32 is 127: times 2^112, exact for subnormals too.
    let finite = f32::from_bits(size) * f32::from_bits(0x7780_0000);
    let number = if size >= 0x0f80_0000 { f32::from_bits(size | 0x7f80_0000) } else { finite };
    f32::from_bits(number.to_bits() | sign)
}

/// Nibble `i` of half a block: the low ones of all bytes, then the high ones.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    let byte = bytes[i % bytes.len()];
    if i < bytes.len() { byte & 15 } else { byte >> 4 }
}

/// Bit `i`, counted from the lowest of the first byte.
fn bit(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 8] >> (i % 8) & 1
}

/// Scale and minimum of sub-block `j` of 8: six bits each in twelve bytes.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = match j {
        0..4 => (packed[j] & 63, packed[j + 4] & 63),
        _ => {
            (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
        }
    };
    (f32::from(scale), f32::from(minimum))
}

impl Encoding {
    /// Unpacks the whole blocks of `bytes` into as many numbers.
    ///
    /// ```
    /// use frit_ops::Encoding;
    /// // d = 0.5, then 32 signed bytes.
    /// let mut block = vec![0x00, 0x38];
    /// block.extend((-16i8..16).map(|q| q as u8));
    /// let mut numbers = [0.0; 32];
    /// Encoding::Q8_0.unpack(&block, &mut numbers)?;
    /// assert_eq!((numbers[0], numbers[31]), (-8.0, 7.5));
    /// assert!(Encoding::Q8_0.unpack(&block[1..], &mut numbers).is_err());
    /// # Ok::<(), frit_graph::ShapeError>(())
    /// ```
    ///
    /// # Errors
    /// Bytes that are no whole number of blocks, an `out` of another length than they hold, and
    /// affine groups, whose scales are elsewhere: see [`Encoding::unpack_affine`].
    pub fn unpack(&self, bytes: &[u8], out: &mut [f32]) -> Result<(), ShapeError> {
        if let Encoding::Affine { .. } = self {
            return Err(format!("{self} has its scales in another operand").into());
        }
        self.check_lengths(bytes.len(), out.len())?;
        let blocks = bytes.chunks_exact(self.block_bytes());
        for (b, y) in blocks.zip(out.chunks_exact_mut(self.block_len())) {
            self.unpack_block(b, y);
        }
        Ok(())
    }

    /// Unpacks affine groups: `w = scale q + bias`, one scale (and bias) for each group in turn.
    /// `bytes` are the u32 words, little-endian.
    ///
    /// # Errors
    /// Lengths that do not belong together, and an encoding that is not affine.
    pub fn unpack_affine(
        &self,
        bytes: &[u8],
        scales: &[f32],
        biases: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        let &Encoding::Affine { bits, group_size } = self else {
            return Err(format!("{self} has its scales inside").into());
        };
        self.check_lengths(bytes.len(), out.len())?;
        let groups = out.len() / group_size;
        if scales.len() != groups || biases.is_some_and(|b| b.len() != groups) {
            return Err(format!("{self} wants {groups} scales, got {}", scales.len()).into());
        }
        let per = 8 / bits;
        for (i, y) in out.iter_mut().enumerate() {
            let q = bytes[i / per] >> (i % per * bits) & (((1u16 << bits) - 1) as u8);
            let bias = biases.map_or(0.0, |b| b[i / group_size]);
            *y = scales[i / group_size] * f32::from(q) + bias;
        }
        Ok(())
    }

    fn check_lengths(self, bytes: usize, numbers: usize) -> Result<(), ShapeError> {
        self.check()?;
        match self.row_bytes(numbers) {
            Some(wanted) if wanted == bytes => Ok(()),
            _ => Err(format!("{bytes} bytes of {self} are not {numbers} numbers").into()),
        }
    }

    /// One block of GGML; the slices have its lengths.
    fn unpack_block(self, b: &[u8], y: &mut [f32]) {
        let number = |i: usize| half(&b[i..]);
        let each = |y: &mut [f32], f: &dyn Fn(usize) -> f32| {
            y.iter_mut().enumerate().for_each(|(i, y)| *y = f(i));
        };
        match self {
            Encoding::Q4_0 => each(y, &|i| (f32::from(nibble(&b[2..], i)) - 8.0) * number(0)),
            Encoding::Q4_1 => each(y, &|i| f32::from(nibble(&b[4..], i)) * number(0) + number(2)),
            Encoding::Q5_0 => each(y, &|i| {
                let q = nibble(&b[6..], i) + 16 * bit(&b[2..], i);
                (f32::from(q) - 16.0) * number(0)
            }),
            Encoding::Q5_1 => each(y, &|i| {
                let q = nibble(&b[8..], i) + 16 * bit(&b[4..], i);
                f32::from(q) * number(0) + number(2)
            }),
            Encoding::Q8_0 => each(y, &|i| f32::from(b[2 + i] as i8) * number(0)),
            Encoding::Q4K | Encoding::Q5K => each(y, &|i| {
                let (scale, minimum) = scale_and_minimum(&b[4..16], i / 32);
                let five = self == Encoding::Q5K;
                let low = &b[if five { 48 } else { 16 }..][i / 64 * 32..][..32];
                // Bit j of high byte l belongs to element l of sub-block j.
                let high = if five { b[16 + i % 32] >> (i / 32) & 1 } else { 0 };
                let q = nibble(low, i % 64) + 16 * high;
                f32::from(q) * (number(0) * scale) - number(2) * minimum
            }),
            Encoding::Q6K => each(y, &|i| {
                let (half, place) = (i / 128, i % 128);
                let low = nibble(&b[half * 64..][..64], place);
                let high = b[128 + half * 32 + place % 32] >> (place / 32 * 2) & 3;
                let scale = f32::from(b[192 + i / 16] as i8);
                number(208) * scale * (f32::from(low + 16 * high) - 32.0)
            }),
            // Refused before.
            Encoding::Affine { .. } => {}
        }
    }
}
