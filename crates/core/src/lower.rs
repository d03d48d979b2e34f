//! From a traced graph to a program: optimise, replace each Block without a kernel by its
//! composition, optimise again, prepare.

use crate::{
    Backend, Decline, Error, Graph, Line, Op, Outcome, Params, Program, Report, Spec, Tensor,
    graph::topological,
};
use std::collections::HashMap;

/// What a Block that is left composed means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: the report says it.
    #[default]
    Allow,
    /// A warning in the log, once a Block and reason.
    Warn,
    /// An error, [`Error::Denied`], with the whole report.
    Deny,
}

/// Compiles a graph for a backend.
///
/// ```
/// use frit_graph::{DType, Graph, Params, Policy, Reference, Spec, Value, compile};
/// let graph = Graph::trace(&[Spec::new(DType::F32, [2])], |x| vec![&x[0] * 2.0])?;
/// let program = compile(&graph, &Reference, &Params::new(), Policy::Allow)?;
/// let out = program.run(vec![Value::new([2], vec![1.0f32, 4.0])?])?;
/// assert_eq!(out[0].to_f64(), [2.0, 8.0]);
/// # Ok::<(), frit_graph::Error>(())
/// ```
///
/// # Errors
/// Shape errors, missing or misshapen weights, Blocks that the policy denies, limits of the
/// backend.
pub fn compile(
    graph: &Graph,
    backend: &dyn Backend,
    params: &Params,
    policy: Policy,
) -> Result<Program, Error> {
    let (lowered, report) = lower(&graph.optimise()?, backend)?;
    match policy {
        Policy::Deny if report.composed().next().is_some() => {
            return Err(Error::Denied(Box::new(report)));
        }
        Policy::Warn => {
            for (block, outcome, n) in report.summary() {
                if let Outcome::Composed(why) = outcome {
                    tracing::warn!("{n} x {block} composed on {}: {why}", backend.name());
                }
            }
        }
        _ => {}
    }
    let lowered = lowered.optimise()?;
    for (name, wanted) in lowered.params()? {
        match params.get(&name) {
            None => return Err(Error::MissingParam { name, wanted }),
            Some(v) if *v.spec() != wanted => {
                return Err(Error::ParamSpec { name, wanted, got: v.spec().clone() });
            }
            Some(_) => {}
        }
    }
    let executable = backend.prepare(&lowered, params)?;
    Ok(Program::new(executable, lowered, report))
}

/// Replaces each Block that the backend does not accept by its composition, and goes on inside.
///
/// # Errors
/// A Block whose composition has another spec than its shape rule says.
pub fn lower(graph: &Graph, backend: &dyn Backend) -> Result<(Graph, Report), Error> {
    let mut walk = Walk { backend, done: HashMap::new(), lines: Vec::new() };
    let outputs =
        graph.outputs().iter().map(|t| walk.tensor(t)).collect::<Result<Vec<_>, Error>>()?;
    let report = Report { backend: backend.name().to_string(), lines: walk.lines };
    Ok((Graph::new(graph.inputs().to_vec(), outputs)?, report))
}

struct Walk<'a> {
    backend: &'a dyn Backend,
    done: HashMap<u64, Tensor>,
    lines: Vec<Line>,
}

impl Walk<'_> {
    /// What stands for `root`. It calls itself only for what a Block is composed of, so the depth
    /// is that of nested Blocks.
    fn tensor(&mut self, root: &Tensor) -> Result<Tensor, Error> {
        for node in topological(std::slice::from_ref(root)) {
            if self.done.contains_key(&node.id()) {
                continue;
            }
            let inputs =
                node.inputs().iter().map(|t| t.as_ref().map(|t| self.done[&t.id()].clone()));
            let node_now = node.with_inputs(inputs.collect());
            let new = match node_now.op() {
                Op::Block(_) => self.block(&node_now)?,
                _ => node_now.clone(),
            };
            new.check()?;
            self.done.insert(node.id(), new.clone());
            self.done.entry(new.id()).or_insert(new);
        }
        Ok(self.done[&root.id()].clone())
    }

    fn block(&mut self, node: &Tensor) -> Result<Tensor, Error> {
        let Op::Block(block) = node.op() else { return Ok(node.clone()) };
        let specs: Vec<Option<&Spec>> =
            node.inputs().iter().map(|t| t.as_ref().map(|t| t.spec())).collect();
        let taken = self.backend.accept(&**block, &specs);
        let outcome = match &taken {
            Ok(()) => Outcome::Fused,
            Err(_) if block.is_container() => Outcome::Opened,
            Err(why) => Outcome::Composed(why.clone()),
        };
        let (name, at) = (block.name(), node.at());
        self.lines.push(Line { block: name, spec: node.spec().clone(), at, outcome });
        if taken.is_ok() {
            return Ok(node.clone());
        }
        let inner = block
            .compose_list(node.inputs())
            .unwrap_or_else(|| Tensor::poison(name, "a required operand is absent"));
        inner.check()?;
        if inner.spec() != node.spec() {
            let (got, wanted) = (inner.spec(), node.spec());
            let message =
                format!("[{name}] is composed to {got}, but its shape rule says {wanted}");
            return Err(Error::Shape { message, at });
        }
        self.tensor(&inner)
    }
}

/// A backend that accepts nothing and prepares nothing: for reading what a graph is made of.
pub(crate) struct Nowhere;

impl Backend for Nowhere {
    fn name(&self) -> &str {
        "primitives"
    }
    fn accept(&self, _: &dyn crate::DynBlock, _: &[Option<&Spec>]) -> Result<(), Decline> {
        Err(Decline::NoKernel)
    }
    fn prepare(&self, _: &Graph, _: &Params) -> Result<Box<dyn crate::Executable>, Error> {
        let message = "this backend only lowers".into();
        Err(Error::Backend { backend: "primitives".into(), message })
    }
}

impl Graph {
    /// The graph with every Block replaced by its composition.
    ///
    /// # Errors
    /// As [`lower`].
    pub fn composed(&self) -> Result<Graph, Error> {
        Ok(lower(self, &Nowhere)?.0)
    }
}
