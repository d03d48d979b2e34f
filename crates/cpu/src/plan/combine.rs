//! A step that only puts the result of a product together with something else becomes part of the
//! product: the residual sums of transformers, and the gates of their feed-forward networks. The
//! product does it with what is in memory already.

use super::{Builder, Layout, Place, Step};
use crate::kernel::{Combine, Context, Kernel, Out, View, Wants};
use frit_graph::Error;
use frit_ops::SwiGlu;

/// What a step makes of its two operands, and which of them may be the product.
fn combination(step: &Step) -> Option<(Combine, &'static [usize])> {
    if step.kernel.is_sum() {
        return Some((Combine::Add, &[0, 1]));
    }
    let gate = step.kernel.block().is_some_and(|b| b.downcast::<SwiGlu>().is_some());
    gate.then_some((Combine::Gate, &[1]))
}

impl Builder<'_> {
    /// Takes sums and gates into the products before them.
    pub(super) fn combine(&mut self) {
        let mut n = 0;
        while n < self.steps.len() {
            let (how, slots) = combination(&self.steps[n]).unwrap_or((Combine::Replace, &[]));
            match slots.iter().find_map(|&slot| Some((slot, self.product_of(n, slot, how)?))) {
                Some((slot, at)) => self.take_into(n, slot, at, how),
                None => n += 1,
            }
        }
    }

    /// The step whose result is operand `slot` of step `n` and that can combine it with the other.
    fn product_of(&self, n: usize, slot: usize, how: Combine) -> Option<usize> {
        let step = &self.steps[n];
        let [Some(product), Some(other)] = [step.inputs.get(slot)?, step.inputs.get(1 - slot)?]
        else {
            return None;
        };
        let mine = |l: &Layout| {
            let buffer = &self.buffers[l.buffer];
            let whole = l.is_dense() && l.offset == 0 && l.spec == step.out_spec;
            let whole = whole && buffer.spec.numel() == l.spec.numel();
            whole && buffer.spec.dtype == l.dtype() && matches!(buffer.place, Place::Nowhere)
        };
        let reads = |step: &Step, b: usize| step.inputs.iter().flatten().any(|l| l.buffer == b);
        let at = self.steps[..n].iter().position(|s| s.out == product.buffer)?;
        let fits = mine(product) && mine(other) && self.steps[at].kernel.combines(how);
        // The product goes where the step was and writes over the other operand: it must not read
        // it, and nothing may after it.
        let free = !reads(&self.steps[at], other.buffer) && product.buffer != other.buffer;
        let free = free && !self.steps[n + 1..].iter().any(|s| reads(s, other.buffer));
        let mut others = self.steps.iter().enumerate().filter(|(i, _)| *i != n);
        (fits && free && !others.any(|(_, s)| reads(s, product.buffer))).then_some(at)
    }

    fn take_into(&mut self, n: usize, slot: usize, at: usize, how: Combine) {
        let mut end = self.steps.remove(n);
        let Step { kernel, mut inputs, out_spec, scratch, label, .. } = self.steps.remove(at);
        let kernel = Box::new(Onto { kernel, held: inputs.len(), how });
        inputs.push(end.inputs[1 - slot].take());
        self.steps.insert(n - 1, Step { kernel, inputs, out: end.out, out_spec, scratch, label });
    }
}

/// A kernel that combines its results with the operand after its own.
struct Onto {
    kernel: Box<dyn Kernel>,
    held: usize,
    how: Combine,
}

impl Kernel for Onto {
    fn wants(&self, slot: usize) -> Wants {
        if slot == self.held { Wants::Dense } else { self.kernel.wants(slot) }
    }

    fn in_place(&self) -> Vec<usize> {
        vec![self.held]
    }

    fn scratch(&self, inputs: &[Option<&Layout>], threads: usize) -> usize {
        self.kernel.scratch(&inputs[..self.held], threads)
    }

    fn run(
        &self,
        inputs: &[Option<View<'_>>],
        out: &mut Out<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Error> {
        let (own, rest) = inputs.split_at(self.held);
        if let Some(Some(held)) = rest.first().filter(|r| r.is_some_and(|r| !r.is_out())) {
            out.bytes.copy_from_slice(held.bytes);
        }
        let Context { pool, scratch, .. } = context;
        self.kernel.run(own, out, &mut Context { pool, scratch, combine: self.how })
    }
}
