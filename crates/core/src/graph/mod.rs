//! A traced graph: its inputs, its outputs, and everything between.
//!
//! Tensors are the nodes, so a graph is only its outputs and the specs of its inputs. Passes are
//! functions from graph to graph; [`Graph::map`] is how they walk.

mod passes;
mod print;
#[cfg(test)]
mod tests;

use crate::{Error, Op, Prim, Spec, Tensor};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Outputs over inputs.
#[derive(Clone, Debug)]
pub struct Graph {
    inputs: Vec<Spec>,
    outputs: Vec<Tensor>,
}

impl Graph {
    /// Calls `f` on tensors of these specs and keeps what it returns.
    ///
    /// ```
    /// use frit_graph::{DType, Graph, Spec};
    /// let graph = Graph::trace(&[Spec::new(DType::F32, [2, 3])], |x| vec![(&x[0] + 1.0).exp()])?;
    /// assert_eq!(graph.outputs()[0].shape(), [2, 3]);
    /// println!("{graph}");
    /// # Ok::<(), frit_graph::Error>(())
    /// ```
    ///
    /// # Errors
    /// The first shape error among the outputs, with the line that made it.
    #[track_caller]
    pub fn trace(
        inputs: &[Spec],
        f: impl FnOnce(&[Tensor]) -> Vec<Tensor>,
    ) -> Result<Graph, Error> {
        let leaves: Vec<Tensor> =
            inputs.iter().enumerate().map(|(i, s)| Tensor::input_of(i, s.clone())).collect();
        Graph::new(inputs.to_vec(), f(&leaves))
    }

    /// A graph of these outputs, whose input nodes are of `inputs`.
    ///
    /// # Errors
    /// The first shape error among the outputs; an input node that `inputs` does not list.
    pub fn new(inputs: Vec<Spec>, outputs: Vec<Tensor>) -> Result<Graph, Error> {
        for t in leaves_and_inputs(&inputs, &outputs) {
            t?;
        }
        Ok(Graph { inputs, outputs })
    }

    /// Specs of the inputs.
    pub fn inputs(&self) -> &[Spec] {
        &self.inputs
    }

    /// The results.
    pub fn outputs(&self) -> &[Tensor] {
        &self.outputs
    }

    /// Every node that an output needs, operands before their users.
    pub fn nodes(&self) -> Vec<Tensor> {
        topological(&self.outputs)
    }

    /// Names and specs of the weights, in the order of the names.
    ///
    /// # Errors
    /// When one name is used with two specs.
    pub fn params(&self) -> Result<BTreeMap<String, Spec>, Error> {
        let mut found: BTreeMap<String, Spec> = BTreeMap::new();
        for t in self.nodes() {
            let Some(Prim::Param(name)) = t.prim() else { continue };
            let spec = t.spec().clone();
            if let Some(old) = found.insert(name.to_string(), spec.clone())
                && old != spec
            {
                return Err(Error::ParamSpec { name: name.to_string(), wanted: old, got: spec });
            }
        }
        Ok(found)
    }

    /// How often each operation occurs, by name.
    pub fn histogram(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for t in self.nodes() {
            *counts.entry(t.name()).or_insert(0) += 1;
        }
        counts
    }

    /// Rebuilds the graph from the leaves up: `f` gets each node with its new operands in place
    /// and gives what stands for it.
    ///
    /// # Errors
    /// The first shape error that `f` made.
    pub fn map(&self, mut f: impl FnMut(&Tensor) -> Tensor) -> Result<Graph, Error> {
        let mut done: HashMap<u64, Tensor> = HashMap::new();
        for node in self.nodes() {
            let inputs = node
                .inputs()
                .iter()
                .map(|t| t.as_ref().map(|t| done.get(&t.id()).unwrap_or(t).clone()))
                .collect();
            let new = f(&node.with_inputs(inputs));
            new.check()?;
            done.insert(node.id(), new);
        }
        let outputs = self.outputs.iter().map(|t| done.get(&t.id()).unwrap_or(t).clone()).collect();
        Ok(Graph { inputs: self.inputs.clone(), outputs })
    }
}

/// Nodes that `roots` need, operands before users. Iterative: graphs may be deep.
pub(crate) fn topological(roots: &[Tensor]) -> Vec<Tensor> {
    let (mut order, mut seen) = (Vec::new(), HashSet::new());
    let mut stack: Vec<(Tensor, bool)> = roots.iter().rev().map(|t| (t.clone(), false)).collect();
    while let Some((t, done)) = stack.pop() {
        if done {
            order.push(t);
        } else if seen.insert(t.id()) {
            stack.push((t.clone(), true));
            let operands = t.inputs().iter().rev().flatten();
            stack.extend(operands.filter(|o| !seen.contains(&o.id())).map(|o| (o.clone(), false)));
        }
    }
    order
}

fn leaves_and_inputs<'a>(
    inputs: &'a [Spec],
    outputs: &'a [Tensor],
) -> impl Iterator<Item = Result<(), Error>> + 'a {
    topological(outputs).into_iter().map(move |t| {
        t.check()?;
        if let Op::Prim(Prim::Input(i)) = t.op()
            && inputs.get(*i) != Some(t.spec())
        {
            return Err(Error::Value(format!(
                "the graph uses input {i} as {}, but has {:?} there",
                t.spec(),
                inputs.get(*i).map(ToString::to_string)
            )));
        }
        Ok(())
    })
}
