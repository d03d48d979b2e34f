//! Rotations by the same angles, as those of queries and keys in all layers of a model, share one
//! table of cosines and sines (of one position of 64 numbers about half a microsecond).

use super::{Builder, Layout, Place, Step};
use crate::fused::AngleTable;
use frit_graph::Spec;
use frit_ops::ApplyRope;

impl Builder<'_> {
    /// Finds rotations by the same angles.
    pub(super) fn share_angles(&mut self) {
        for n in 0.. {
            let Some(step) = self.steps.get(n) else { return };
            let Some((angles, _)) = angles_of(step) else { continue };
            let rest = self.steps.iter().enumerate().skip(n);
            let members: Vec<_> = rest
                .filter_map(|(at, other)| {
                    let (its, rotation) = angles_of(other)?;
                    let same = its == angles && other.inputs[1..] == step.inputs[1..];
                    same.then_some((at, rotation))
                })
                .collect();
            if members.len() > 1 {
                self.rotate_by_table(angles, &members);
            }
        }
    }

    /// Puts a step for the table before the first of these rotations, and lets them read it.
    fn rotate_by_table(&mut self, angles: AngleTable, members: &[(usize, ApplyRope)]) {
        let kernels: Option<Vec<_>> = members.iter().map(|(_, r)| self.cpu.make(r)).collect();
        let Some(kernels) = kernels else { return };
        let half = angles.half();
        let out_spec = Spec::new(half.dtype, [&[2], &half.shape[..]].concat());
        let out = self.buffer(&out_spec, Place::Nowhere);
        let first = members[0].0;
        let inputs = self.steps[first].inputs[1..].to_vec();
        let (kernel, label) = (Box::new(angles), self.steps[first].label);
        let cos = Layout::dense(out, &half);
        let sin = Layout { offset: half.numel(), ..cos.clone() };
        for ((at, _), kernel) in members.iter().zip(kernels) {
            let step = &mut self.steps[*at];
            step.inputs.truncate(1);
            step.inputs.extend([Some(cos.clone()), Some(sin.clone())]);
            let refs: Vec<_> = step.inputs.iter().map(Option::as_ref).collect();
            step.scratch = (0, kernel.scratch(&refs, self.cpu.pool().threads()));
            step.kernel = kernel;
        }
        self.steps.insert(first, Step { kernel, inputs, out, out_spec, scratch: (0, 0), label });
    }
}

fn angles_of(step: &Step) -> Option<(AngleTable, ApplyRope)> {
    AngleTable::of(step.kernel.block()?, &step.inputs)
}
