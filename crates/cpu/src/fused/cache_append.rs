//! Written into the cache's own memory where nobody else holds it.

use crate::{
    kernel::{Context, CpuKernel, Out, View, Wants},
    prim::write,
};
use frit_graph::{Decline, Error, Spec};
use frit_ops::{CacheAppend, CacheAppendInputs};

impl CpuKernel for CacheAppend {
    fn accept(&self, _: &CacheAppendInputs<&Spec>) -> Result<(), Decline> {
        Ok(())
    }

    fn wants(&self, slot: usize) -> Wants {
        if slot == 1 { Wants::Rows } else { Wants::Dense }
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }

    fn updates(&self) -> bool {
        true
    }

    fn run(
        &self,
        i: CacheAppendInputs<View<'_>>,
        out: &mut Out<'_>,
        c: &mut Context<'_>,
    ) -> Result<(), Error> {
        write(2, &i.cache, &i.new, &i.start, out, c)
    }
}
