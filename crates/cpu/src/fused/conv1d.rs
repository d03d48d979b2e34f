//! A convolution over one axis.

use super::conv;
use crate::kernel::{Context, CpuKernel, Out, View};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Conv, Conv1d, Conv1dInputs, ConvInputs};

impl CpuKernel for Conv1d {
    fn accept(&self, _: &Conv1dInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn scratch(&self, i: &Conv1dInputs<&Spec>, threads: usize) -> usize {
        conv::scratch(&Conv::from(self), i.x, i.weight, threads)
    }

    fn run(
        &self,
        i: Conv1dInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        let Conv1dInputs { x, weight, bias } = i;
        conv::run(&Conv::from(self), ConvInputs { x, weight, bias }, out, c)
    }
}
