//! The product with a packed weight, which is read as it is: a few rows stream it once, many rows
//! unpack some panels at a time.

use super::{for_float, weight};
use crate::{
    gemm::LinearShape,
    kernel::{Combine, Context, CpuKernel, Kernel, Out, View, Wants},
    plan::Layout,
    quant,
    simd::isa,
};
use frit_graph::{Block, Decline, DynBlock, Error, Spec};
use frit_ops::{Activations, Encoding, QuantizedMatmul, QuantizedMatmulInputs};

fn geometry(x: &[usize], n: usize) -> LinearShape {
    let k = x[x.len() - 1];
    let m = x[..x.len() - 1].iter().product();
    LinearShape { m, n, k, x_row: k }
}

impl CpuKernel for QuantizedMatmul {
    fn accept(&self, _: &QuantizedMatmulInputs<&Spec>) -> Result<(), Decline> {
        let integers = quant::takes_eight_bit(self.encoding) && self.transposed;
        match self.activations {
            Activations::EightBit if !integers => {
                let why = format!("{} is not multiplied in integers", self.encoding);
                Err(Decline::Unsupported(why))
            }
            _ => Ok(()),
        }
    }

    fn combines(&self, how: Combine) -> bool {
        how == Combine::Replace || self.activations == Activations::Exact
    }

    fn scratch(&self, i: &QuantizedMatmulInputs<&Spec>, _: usize) -> usize {
        let n = self.infer(i.clone()).ok().and_then(|y| y.last()).unwrap_or(0);
        let shape = geometry(&i.x.shape, n);
        let (encoding, transposed) = (self.encoding, self.transposed);
        match self.activations {
            Activations::EightBit => quant::eight_bit_scratch_bytes(isa(), &shape),
            Activations::Exact => for_float!(i.x.dtype, T => {
                quant::matmul_scratch_bytes::<T>(isa(), &shape, encoding, transposed)
            }),
        }
    }

    fn run(
        &self,
        i: QuantizedMatmulInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let w = weight(self.encoding, &i.packed, i.scales.as_ref(), i.biases.as_ref())?;
        let shape = geometry(i.x.shape(), out.spec().last().unwrap_or(0));
        let (isa, pool, combine) = (isa(), c.pool(), c.combine());
        let interleaved = match by_digits(self, shape.m) {
            true => i.packed.prepacked(|_| quant::Interleaved::new(pool, &w)),
            false => None,
        };
        for_float!(i.x.dtype(), T => {
            let (x, y, scratch) = (i.x.slice::<T>()?, out.slice_mut::<T>()?, c.scratch());
            match self.activations {
                Activations::EightBit => quant::eight_bit(isa, pool, &shape, x, &w, y, scratch),
                Activations::Exact => {
                    let other = interleaved.as_deref();
                    let weight = (&w, other, self.transposed);
                    quant::matmul(isa, pool, &shape, x, weight, combine, y, scratch);
                }
            }
        });
        Ok(())
    }
}

/// Whether a product of `m` rows goes by digits.
fn by_digits(block: &QuantizedMatmul, m: usize) -> bool {
    block.activations == Activations::Exact
        && block.transposed
        && m <= quant::FEW
        && quant::Interleaved::takes(block.encoding)
}

/// Products of few rows with several weights of one encoding, one after the other in the output.
/// Operands: x, then the weights.
#[derive(Default)]
pub(crate) struct Together {
    encoding: Option<Encoding>,
    /// Rows of each weight.
    rows: Vec<usize>,
}

/// Weights that are taken together at most.
const MOST: usize = 4;

impl Together {
    /// Takes a product if it can be one of these.
    pub(crate) fn take(&mut self, block: &dyn DynBlock, inputs: &[Option<Layout>]) -> bool {
        let (Some(block), [Some(x), Some(packed), ..]) =
            (block.downcast::<QuantizedMatmul>(), inputs)
        else {
            return false;
        };
        let rows = packed.shape().first().copied().unwrap_or(0);
        let fits = by_digits(block, geometry(x.shape(), rows).m)
            && self.rows.len() < MOST
            && *self.encoding.get_or_insert(block.encoding) == block.encoding;
        if fits {
            self.rows.push(rows);
        }
        fits
    }
}

impl Kernel for Together {
    fn wants(&self, _: usize) -> Wants {
        Wants::Dense
    }

    fn in_place(&self) -> Vec<usize> {
        Vec::new()
    }

    fn scratch(&self, inputs: &[Option<&Layout>], _: usize) -> usize {
        let (Some(Some(x)), Some(encoding)) = (inputs.first(), self.encoding) else { return 0 };
        let bytes = |&n: &usize| {
            let shape = geometry(x.shape(), n);
            for_float!(x.dtype(), T => {
                quant::matmul_scratch_bytes::<T>(isa(), &shape, encoding, true)
            })
        };
        self.rows.iter().map(bytes).max().unwrap_or(0)
    }

    fn run(
        &self,
        inputs: &[Option<View<'_>>],
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let absent = || Error::Run("[quantized_matmul] a required operand is absent".into());
        let (Some(Some(x)), Some(encoding)) = (inputs.first(), self.encoding) else {
            return Err(absent());
        };
        let (isa, pool, shape) = (isa(), c.pool(), geometry(x.shape(), 0));
        let mut laid = [const { None }; MOST];
        for (view, laid) in inputs[1..].iter().flatten().zip(&mut laid) {
            let w = weight(encoding, view, None, None)?;
            *laid = view.prepacked(|_| quant::Interleaved::new(pool, &w));
        }
        let laid: [Option<&quant::Interleaved>; MOST] = laid.each_ref().map(Option::as_deref);
        let all = &laid[..self.rows.len()];
        for_float!(x.dtype(), T => {
            let (x, mut y) = (x.slice::<T>()?, out.slice_mut::<T>()?);
            if quant::few_together(isa, pool, shape.m, x, all, Combine::Replace, y, c.scratch()) {
                return Ok(());
            }
            for (view, &n) in inputs[1..].iter().flatten().zip(&self.rows) {
                let (w, shape) = (weight(encoding, view, None, None)?, LinearShape { n, ..shape });
                let (part, rest) = std::mem::take(&mut y).split_at_mut(shape.m * n);
                let (weight, combine) = ((&w, None, true), Combine::Replace);
                quant::matmul(isa, pool, &shape, x, weight, combine, part, c.scratch());
                y = rest;
            }
        });
        Ok(())
    }
}
