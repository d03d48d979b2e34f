//! Products with weights of a few bits, as onnxruntime writes them (domain `com.microsoft`).

use super::{
    super::{
        call::{Answer, Call, Fault, one, sizes, takes_blocks, unsupported},
        narrow::fields,
    },
    Handler,
    matmul::matmul,
};
use frit_graph::{DType, Spec, Tensor};
use frit_ops::{Activations, Encoding, fast};

pub(super) const TABLE: &[(&str, Handler)] = &[("MatMulNBits", matmul_n_bits)];

/// Elements that share a scale, as the packed product takes them.
const GROUPS: [usize; 3] = [128, 64, 32];

/// The extents of a weight `[n, k]` whose rows are blocks of `size` elements.
struct Blocks {
    n: usize,
    k: usize,
    size: usize,
    bits: usize,
    /// Blocks of a row; the last may end behind k.
    count: usize,
}

impl Blocks {
    fn of(c: &Call<'_>) -> Result<Blocks, Fault> {
        let wanted =
            ["N", "K", "block_size", "bits"].map(|name| c.int(name, i64::from(name == "bits") * 4));
        let [n, k, size, bits] = sizes(&wanted)?[..] else { return unsupported("no sizes") };
        if !matches!(bits, 2 | 4 | 8) {
            return unsupported(format!("weights of {bits} bits"));
        }
        if n == 0 || k == 0 || size == 0 || !size.is_multiple_of(8 / bits) {
            return Err(format!("a weight [{n}, {k}] in blocks of {size} does not exist").into());
        }
        Ok(Blocks { n, k, size, bits, count: k.div_ceil(size) })
    }

    /// `t` as `[n, row]`; it may come with other extents.
    fn rows(&self, what: &str, t: &Tensor, row: Option<usize>) -> Result<Tensor, Fault> {
        match row.filter(|row| row.checked_mul(self.n) == Some(t.spec().numel())) {
            Some(row) => Ok(t.reshape(&[self.n, row])),
            None => {
                let &Blocks { n, count, size, bits, .. } = self;
                let place = format!("{n} rows of {count} blocks of {size}, of {bits} bits");
                Err(format!("{what} {} are not those of {place}", t.spec()).into())
            }
        }
    }

    /// The zero point of each block in f32, `[n, count]`.
    fn zeros(&self, zeros: Option<&Tensor>) -> Result<Tensor, Fault> {
        let Some(t) = zeros else {
            let middle = f64::from(1u32 << (self.bits - 1));
            return Ok(Tensor::full(Spec::new(DType::F32, [self.n, self.count]), middle));
        };
        if t.dtype() != DType::U8 {
            return Ok(self.rows("zero points", t, Some(self.count))?.cast(DType::F32));
        }
        let row = self.count.checked_mul(self.bits).map(|b| b.div_ceil(8));
        let packed = self.rows("zero points", t, row)?;
        Ok(fields(&packed, self.bits).slice(-1, 0..self.count).cast(DType::F32))
    }

    /// What stands for a block, for each of the `parts` that it is cut into.
    fn repeated(&self, t: &Tensor, parts: usize) -> Tensor {
        let wide = t.unsqueeze(-1).broadcast_to(&[self.n, self.count, parts]);
        wide.reshape(&[self.n, self.count * parts])
    }
}

fn matmul_n_bits(c: &Call<'_>) -> Answer {
    let (x, b) = (c.item(0)?, Blocks::of(c)?);
    if c.opt(4).is_some() {
        return unsupported("columns in another order (g_idx)");
    }
    if c.flag("weight_prepacked") {
        return unsupported("weights packed for one kind of machine");
    }
    if !takes_blocks(&x.t) || x.t.shape().last() != Some(&b.k) {
        return Err(format!("a weight of rows of {} for {}", b.k, x.t.spec()).into());
    }
    let bytes = c.t(1)?;
    if bytes.dtype() != DType::U8 {
        return Err(format!("the weight must be bytes, got {}", bytes.spec()).into());
    }
    let row = b.count.checked_mul(b.size).and_then(|w| w.checked_mul(b.bits)).map(|w| w / 8);
    let bytes = b.rows("weights", bytes, row)?;
    let scale = b.rows("scales", c.t(2)?, Some(b.count))?.cast(DType::F32);
    let zero = b.zeros(c.opt_t(3))?;

    // Blocks are whole: zeros stand behind the last element of x.
    let behind = b.count * b.size - b.k;
    let rows = if behind > 0 { x.t.pad(-1, 0, behind, 0.0) } else { x.t.clone() };
    let group = GROUPS.into_iter().find(|g| b.size.is_multiple_of(*g));
    let mut y = match group {
        Some(group_size) => {
            let parts = b.size / group_size;
            let biases = b.repeated(&-(&scale * &zero), parts);
            let scales = b.repeated(&scale, parts);
            let (encoding, words) =
                (Encoding::Affine { bits: b.bits, group_size }, bytes.bitcast(DType::U32));
            let (scales, biases) = (Some(&scales), Some(&biases));
            fast::quantized_matmul(
                &rows,
                &words,
                scales,
                biases,
                encoding,
                true,
                Activations::Exact,
            )
        }
        None => {
            let whole = fields(&bytes, b.bits).cast(DType::F32);
            let weight = (whole - b.repeated(&zero, b.size)) * b.repeated(&scale, b.size);
            matmul(&rows, &weight.cast(rows.dtype()).swap_axes(0, 1))?
        }
    };
    if let Some(bias) = c.opt_t(5) {
        y = y + bias;
    }
    one(x.with(y))
}
