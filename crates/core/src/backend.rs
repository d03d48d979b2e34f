//! What a backend is, and the program it makes.

use crate::{Decline, DynBlock, Error, Graph, Params, Report, Spec, Value};
use std::sync::Arc;

/// A machine that runs graphs.
pub trait Backend: Send + Sync {
    /// Its name: `cpu`, `reference`.
    fn name(&self) -> &str;

    /// Whether it runs this Block on operands of these specs as one kernel.
    ///
    /// # Errors
    /// Why not.
    fn accept(&self, block: &dyn DynBlock, inputs: &[Option<&Spec>]) -> Result<(), Decline>;

    /// Makes a lowered graph ready to run: it holds only primitives and accepted Blocks.
    ///
    /// # Errors
    /// A weight that is missing or misshapen, a limit of the machine.
    fn prepare(&self, graph: &Graph, params: &Params) -> Result<Box<dyn Executable>, Error>;
}

/// A prepared graph.
pub trait Executable: Send + Sync {
    /// Runs it. The inputs have the specs of the graph.
    ///
    /// # Errors
    /// What only the values show: an index out of range, a full cache.
    fn run(&self, inputs: Vec<Value>) -> Result<Vec<Value>, Error>;

    /// Bytes of intermediate results that live at the same time at most, known before running.
    /// Weights do not count, nor what a backend keeps of them between runs (packed for a product,
    /// or computed of them once).
    fn peak_bytes(&self) -> usize;

    /// How many steps it takes.
    fn steps(&self) -> usize;
}

/// A compiled graph: compile once, run many times, from any thread.
#[derive(Clone)]
pub struct Program(Arc<Inner>);

struct Inner {
    executable: Box<dyn Executable>,
    inputs: Vec<Spec>,
    outputs: Vec<Spec>,
    report: Report,
    graph: Graph,
}

impl Program {
    pub(crate) fn new(executable: Box<dyn Executable>, graph: Graph, report: Report) -> Program {
        let inputs = graph.inputs().to_vec();
        let outputs = graph.outputs().iter().map(|t| t.spec().clone()).collect();
        Program(Arc::new(Inner { executable, inputs, outputs, report, graph }))
    }

    /// Runs the program. An input that is handed over as the only reference to its memory may be
    /// updated in place and come back as an output: a KV cache is a value in and a value out.
    ///
    /// # Errors
    /// Inputs of the wrong number, type or shape; an index out of range; a full cache.
    pub fn run(&self, inputs: Vec<Value>) -> Result<Vec<Value>, Error> {
        let wanted = &self.0.inputs;
        if inputs.len() != wanted.len() {
            return Err(Error::InputCount { wanted: wanted.len(), got: inputs.len() });
        }
        for (index, (value, spec)) in inputs.iter().zip(wanted).enumerate() {
            if value.spec() != spec {
                let (wanted, got) = (spec.clone(), value.spec().clone());
                return Err(Error::InputSpec { index, wanted, got });
            }
        }
        self.0.executable.run(inputs)
    }

    /// Specs of the inputs.
    pub fn inputs(&self) -> &[Spec] {
        &self.0.inputs
    }

    /// Specs of the outputs.
    pub fn outputs(&self) -> &[Spec] {
        &self.0.outputs
    }

    /// What was fused, what not, and why.
    pub fn report(&self) -> &Report {
        &self.0.report
    }

    /// The lowered graph.
    pub fn graph(&self) -> &Graph {
        &self.0.graph
    }

    /// Bytes of intermediate results that live at the same time at most, without the weights and
    /// what is kept of them.
    pub fn peak_bytes(&self) -> usize {
        self.0.executable.peak_bytes()
    }

    /// How many steps it takes.
    pub fn steps(&self) -> usize {
        self.0.executable.steps()
    }
}
