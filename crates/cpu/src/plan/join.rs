//! Products of one operand with several packed weights become one step: queries, keys and values,
//! or gate and up. A step of a few rows is short, and to begin and end it costs some microseconds
//! (2 of 19 for half a megabyte, two threads of a Zen 3, 2026-11).

use super::{Builder, Place, Step};
use crate::fused::Together;
use frit_graph::Spec;

impl Builder<'_> {
    /// Joins what can be joined.
    pub(super) fn join(&mut self) {
        for n in 0.. {
            let Some(first) = self.steps.get(n) else { return };
            let mut together = Together::default();
            let mut takes = |step: &Step| {
                self.stands_apart(step)
                    && step.kernel.block().is_some_and(|b| together.take(b, &step.inputs))
            };
            if !takes(first) {
                continue;
            }
            let mut members = vec![n];
            members.extend((n + 1..self.steps.len()).filter(|&other| {
                let step = &self.steps[other];
                step.inputs.first() == first.inputs.first() && takes(step)
            }));
            if members.len() > 1 {
                self.merge(&members, together);
            }
        }
    }

    /// Whether a step reads nothing but its first operand and weights, and its result is no output
    /// of the program.
    fn stands_apart(&self, step: &Step) -> bool {
        let known = |b: usize| self.recipes.contains_key(&b);
        let mut operands = step.inputs.iter().skip(1).flatten();
        operands.all(|l| known(l.buffer)) && matches!(self.buffers[step.out].place, Place::Nowhere)
    }

    /// Puts one step in the place of the first member.
    fn merge(&mut self, members: &[usize], together: Together) {
        let first = members[0];
        let mut inputs = vec![self.steps[first].inputs[0].clone()];
        let (mut parts, mut total) = (Vec::new(), 0);
        for &member in members {
            let step = &self.steps[member];
            inputs.extend(step.inputs[1..].iter().flatten().cloned().map(Some));
            parts.push((step.out, total));
            total += step.out_spec.numel();
        }
        let out_spec = Spec::new(self.steps[first].out_spec.dtype, [total]);
        let out = self.buffer(&out_spec, Place::Nowhere);
        let refs: Vec<_> = inputs.iter().map(Option::as_ref).collect();
        let kernel: Box<dyn crate::kernel::Kernel> = Box::new(together);
        let scratch = (0, kernel.scratch(&refs, self.cpu.pool().threads()));
        let label = self.steps[first].label;
        self.steps[first] = Step { kernel, inputs, out, out_spec, scratch, label };
        for &member in members[1..].iter().rev() {
            self.steps.remove(member);
        }
        for l in self.steps.iter_mut().flat_map(|s| s.inputs.iter_mut().flatten()) {
            if let Some(&(_, from)) = parts.iter().find(|(part, _)| *part == l.buffer) {
                let size = self.buffers[l.buffer].spec.dtype.size();
                l.offset += from * size / l.dtype().size();
                l.buffer = out;
            }
        }
    }
}
