//! Sums with the result of a product become part of it, as the residual connections of transformers:
//! the product adds its results to what is in memory already.

use super::{Builder, Layout, Place, Step};
use crate::kernel::{Context, Kernel, Out, View, Wants};
use frit_graph::Error;

impl Builder<'_> {
    /// Takes sums into the products before them.
    pub(super) fn add_residuals(&mut self) {
        let mut n = 0;
        while n < self.steps.len() {
            match (0..2).find_map(|slot| self.product_of(n, slot).map(|at| (slot, at))) {
                Some((slot, at)) => self.accumulate(n, slot, at),
                None => n += 1,
            }
        }
    }

    /// The step whose result is operand `slot` of the sum `n` and that can add it to the other one.
    fn product_of(&self, n: usize, slot: usize) -> Option<usize> {
        let sum = &self.steps[n];
        if !sum.kernel.is_sum() {
            return None;
        }
        let [Some(product), Some(other)] = [sum.inputs.get(slot)?, sum.inputs.get(1 - slot)?]
        else {
            return None;
        };
        let mine = |l: &Layout| {
            let buffer = &self.buffers[l.buffer];
            let whole = l.is_dense() && l.offset == 0 && l.spec == sum.out_spec;
            let whole = whole && buffer.spec.numel() == l.spec.numel();
            whole && buffer.spec.dtype == l.dtype() && matches!(buffer.place, Place::Nowhere)
        };
        let reads = |step: &Step, b: usize| step.inputs.iter().flatten().any(|l| l.buffer == b);
        let at = self.steps[..n].iter().position(|s| s.out == product.buffer)?;
        let fits = mine(product) && mine(other);
        let fits = fits && self.steps[at].kernel.accumulates() && product.buffer != other.buffer;
        // What is added is there before the product and is needed by nothing after that, so that
        // the product may write over it.
        let made = self.steps.iter().position(|s| s.out == other.buffer)?;
        let later = |b: usize, from: usize| {
            let others = self.steps.iter().enumerate().skip(from).filter(|(i, _)| *i != n);
            others.into_iter().any(|(_, s)| reads(s, b))
        };
        (fits && made < at && !later(other.buffer, at) && !later(product.buffer, 0)).then_some(at)
    }

    fn accumulate(&mut self, n: usize, slot: usize, at: usize) {
        let mut sum = self.steps.remove(n);
        let Step { kernel, mut inputs, out_spec, scratch, label, .. } = self.steps.remove(at);
        let kernel = Box::new(Onto { kernel, residual: inputs.len() });
        inputs.push(sum.inputs[1 - slot].take());
        self.steps.insert(at, Step { kernel, inputs, out: sum.out, out_spec, scratch, label });
    }
}

/// A kernel that accumulates, onto the operand after its own.
struct Onto {
    kernel: Box<dyn Kernel>,
    residual: usize,
}

impl Kernel for Onto {
    fn wants(&self, slot: usize) -> Wants {
        if slot == self.residual { Wants::Dense } else { self.kernel.wants(slot) }
    }

    fn in_place(&self) -> Vec<usize> {
        vec![self.residual]
    }

    fn scratch(&self, inputs: &[Option<&Layout>], threads: usize) -> usize {
        self.kernel.scratch(&inputs[..self.residual], threads)
    }

    fn run(
        &self,
        inputs: &[Option<View<'_>>],
        out: &mut Out<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        let (own, rest) = inputs.split_at(self.residual);
        if let Some(Some(residual)) = rest.first().filter(|r| r.is_some_and(|r| !r.is_out())) {
            out.bytes.copy_from_slice(residual.bytes);
        }
        let Context { pool, scratch, .. } = context;
        self.kernel.run(own, out, &mut Context { pool, scratch, accumulates: true })
    }
}
