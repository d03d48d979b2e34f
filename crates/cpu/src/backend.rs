//! The backend: which kernels it has, which threads it uses, what it keeps of weights.

use crate::{
    CpuKernel, Pool, Profile,
    fused::FUSED,
    kernel::{Entry, Kernel},
    plan,
    prepacked::Shelf,
};
use frit_graph::{Backend, Decline, DynBlock, Error, Executable, Graph, Params, Spec};
use std::sync::Arc;

/// The CPU.
///
/// [`Cpu::default`] fuses the whole catalogue; [`Cpu::composed`] is the same machine with every
/// fused kernel off. Cloning shares threads and prepacked weights.
///
/// ```
/// use frit_cpu::Cpu;
/// use frit_graph::{DType, Graph, Params, Policy, Spec, Value, compile};
/// use frit_ops::fast;
///
/// let graph = Graph::trace(&[Spec::new(DType::F32, [1, 4])], |x| {
///     vec![fast::rms_norm(&x[0], None, 0.0)]
/// })?;
/// let program = compile(&graph, &Cpu::default(), &Params::new(), Policy::Deny)?;
/// assert_eq!(program.report().fused(), 1);
/// let y = program.run(vec![Value::new([1, 4], vec![2.0f32, -2.0, 2.0, -2.0])?])?;
/// assert_eq!(y[0].to_f64(), [1.0, -1.0, 1.0, -1.0]);
///
/// let composed = compile(&graph, &Cpu::composed(), &Params::new(), Policy::Allow)?;
/// assert_eq!(composed.report().fused(), 0);
/// # Ok::<(), frit_graph::Error>(())
/// ```
#[derive(Clone)]
pub struct Cpu {
    pool: Pool,
    entries: Vec<Entry>,
    fused: bool,
    shelf: Arc<Shelf>,
    profile: Option<Profile>,
}

impl Default for Cpu {
    fn default() -> Cpu {
        Cpu::on(Pool::global().clone())
    }
}

impl Cpu {
    /// All fused kernels on these threads.
    pub fn on(pool: Pool) -> Cpu {
        Cpu { pool, entries: FUSED.to_vec(), fused: true, shelf: Arc::default(), profile: None }
    }

    /// No fused kernel: every Block is composed of primitives.
    pub fn composed() -> Cpu {
        Cpu::default().without_fused()
    }

    /// The same threads with every fused kernel off.
    pub fn without_fused(mut self) -> Cpu {
        self.fused = false;
        self
    }

    /// Adds a kernel for a Block, which wins over an earlier one.
    pub fn with<B: CpuKernel>(mut self) -> Cpu {
        self.entries.insert(0, Entry::of::<B>());
        self
    }

    /// Programs prepared from now on tell the profile what each step took.
    pub fn profiled(mut self, profile: Profile) -> Cpu {
        self.profile = Some(profile);
        self
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    pub(crate) fn is_fused(&self) -> bool {
        self.fused
    }

    pub(crate) fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    fn entry(&self, block: &dyn DynBlock) -> Option<&Entry> {
        let wanted = block.block_type();
        self.entries.iter().find(|e| (e.block)() == wanted)
    }

    pub(crate) fn make(&self, block: &dyn DynBlock) -> Option<Box<dyn Kernel>> {
        (self.entry(block)?.make)(block)
    }
}

impl Backend for Cpu {
    fn name(&self) -> &str {
        "cpu"
    }

    fn accept(&self, block: &dyn DynBlock, inputs: &[Option<&Spec>]) -> Result<(), Decline> {
        if !self.fused {
            return Err(Decline::Off);
        }
        let entry = self.entry(block).ok_or(Decline::NoKernel)?;
        (entry.accept)(block, inputs)
    }

    fn prepare(&self, graph: &Graph, params: &Params) -> Result<Box<dyn Executable>, Error> {
        Ok(Box::new(plan::build(self, graph, params)?))
    }
}
