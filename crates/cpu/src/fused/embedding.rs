//! Rows copied by index.

use crate::{
    kernel::{Context, CpuKernel, Out, View},
    prim::pick,
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{Embedding, EmbeddingInputs};

impl CpuKernel for Embedding {
    fn accept(&self, _: &EmbeddingInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn run(
        &self,
        i: EmbeddingInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        pick(0, &i.weight, &i.ids, out, c)
    }
}
