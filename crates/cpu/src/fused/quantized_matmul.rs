//! The product with a packed weight, which is read as it is: a few rows stream it once, many rows
//! unpack some panels at a time.

use super::{for_float, weight};
use crate::{
    gemm::LinearShape,
    kernel::{Context, CpuKernel, Out, View},
    quant,
    simd::isa,
};
use frit_graph::{Block, Decline, Error, Spec};
use frit_ops::{Activations, QuantizedMatmul, QuantizedMatmulInputs};

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
        let (isa, pool) = (isa(), c.pool());
        let by_digits = self.activations == Activations::Exact
            && self.transposed
            && shape.m <= quant::FEW
            && quant::Interleaved::takes(self.encoding);
        let interleaved = match by_digits {
            true => i.packed.prepacked(|_| quant::Interleaved::new(pool, &w)),
            false => None,
        };
        for_float!(i.x.dtype(), T => {
            let (x, y, scratch) = (i.x.slice::<T>()?, out.slice_mut::<T>()?, c.scratch());
            match self.activations {
                Activations::EightBit => quant::eight_bit(isa, pool, &shape, x, &w, y, scratch),
                Activations::Exact => {
                    let other = interleaved.as_deref();
                    quant::matmul(isa, pool, &shape, x, &w, other, self.transposed, y, scratch);
                }
            }
        });
        Ok(())
    }
}
