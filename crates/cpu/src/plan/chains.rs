//! Which elementwise functions become one step ([`crate::prim::Chain`]).
//!
//! A chain grows from its last function to the operands whose results nobody else needs.

use crate::{
    kernels::activation::Activation,
    prim::{ALIVE, Chain, Function, Link, OPERANDS, Source},
};
use frit_graph::{Binary, DType, Graph, Op, Prim, Tensor};
use frit_ops::{Gelu, GeluForm, Silu};
use std::collections::{HashMap, HashSet};

/// Functions of a chain, at most.
const LINKS: usize = 24;

/// The chains of a graph.
#[derive(Default)]
pub(super) struct Chains {
    /// By the node that a chain ends in: the chain and what it reads.
    ends: HashMap<u64, (Chain, Vec<Tensor>)>,
    /// Nodes whose results exist inside of a chain only.
    inside: HashSet<u64>,
}

impl Chains {
    /// Takes the chain that ends in a node.
    pub(super) fn take(&mut self, t: &Tensor) -> Option<(Chain, Vec<Tensor>)> {
        self.ends.remove(&t.id())
    }

    /// Whether a node needs no step, because a chain computes it on its way.
    pub(super) fn contain(&self, t: &Tensor) -> bool {
        self.inside.contains(&t.id())
    }

    /// Finds all chains.
    pub(super) fn of(graph: &Graph) -> Chains {
        let nodes = graph.nodes();
        let mut chains = Chains::default();
        let mut varying: HashSet<u64> = HashSet::new();
        let mut uses: HashMap<u64, usize> = HashMap::new();
        for t in &nodes {
            let input = matches!(t.prim(), Some(Prim::Input(_)));
            if input || t.inputs().iter().flatten().any(|x| varying.contains(&x.id())) {
                varying.insert(t.id());
            }
            t.inputs().iter().flatten().for_each(|x| *uses.entry(x.id()).or_default() += 1);
        }
        // What an output of the program is has a step of its own.
        graph.outputs().iter().for_each(|t| *uses.entry(t.id()).or_default() += 1);
        // What weights alone decide is computed once and in no chain.
        let fits = |t: &Tensor| varying.contains(&t.id()) && function(t).is_some();
        for t in nodes.iter().rev() {
            if !fits(t) || chains.contain(t) {
                continue;
            }
            let inner = |x: &Tensor, members: &[Tensor]| {
                let operands = members.iter().flat_map(|m| m.inputs().iter().flatten());
                let here = operands.filter(|o| o.is(x)).count();
                fits(x) && x.shape() == t.shape() && uses.get(&x.id()) == Some(&here)
            };
            let Some((chain, operands, members)) = grow(t, inner) else { continue };
            chains.inside.extend(members);
            chains.ends.insert(t.id(), (chain, operands));
        }
        chains
    }
}

/// The function that a node is, if a chain can have it.
fn function(t: &Tensor) -> Option<Function> {
    let narrow = t.inputs().iter().flatten().any(|x| x.dtype() != DType::F32);
    if t.dtype() != DType::F32 || t.spec().numel() == 0 || narrow {
        return None;
    }
    match t.op() {
        Op::Prim(Prim::Unary(f)) => Some(Function::Unary(*f)),
        Op::Prim(Prim::Binary(f)) => {
            let quick = matches!(
                f,
                Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Max | Binary::Min
            );
            quick.then_some(Function::Binary(*f))
        }
        Op::Block(_) => {
            let gelu = t.block::<Gelu>().map(|g| match g.form {
                GeluForm::Erf => Activation::GeluErf,
                GeluForm::Tanh => Activation::GeluTanh,
                GeluForm::Quick => Activation::QuickGelu,
            });
            let silu = t.block::<Silu>().map(|_| Activation::Silu);
            gelu.or(silu).map(Function::Activation)
        }
        _ => None,
    }
}

/// The largest chain that ends in `end`, what it reads, and the nodes inside of it; `None` where
/// that is one function.
fn grow(
    end: &Tensor,
    inner: impl Fn(&Tensor, &[Tensor]) -> bool,
) -> Option<(Chain, Vec<Tensor>, Vec<u64>)> {
    let mut members = vec![end.clone()];
    let mut best = None;
    let mut refused: HashSet<u64> = HashSet::new();
    while members.len() < LINKS {
        let candidates = members.iter().flat_map(|m| m.inputs().iter().flatten());
        let new = |x: &&Tensor| {
            let seen = refused.contains(&x.id()) || members.iter().any(|m| m.is(x));
            !seen && inner(x, &members)
        };
        let Some(next) = candidates.clone().find(new).cloned() else { break };
        members.push(next.clone());
        match linked(&members) {
            Some(found) => best = Some(found),
            None => {
                members.pop();
                refused.insert(next.id());
            }
        }
    }
    let (chain, operands) = best?;
    Some((chain, operands, members[1..].iter().map(|m| m.id()).collect()))
}

/// The members as a chain, if its operands and the results alive at a time are few enough.
fn linked(members: &[Tensor]) -> Option<(Chain, Vec<Tensor>)> {
    // Operands first: identities grow along a graph, but not surely, so members are sorted out.
    let mut order: Vec<&Tensor> = Vec::new();
    let is_member = |x: &Tensor| members.iter().any(|m| m.is(x));
    while order.len() < members.len() {
        let placed = |x: &Tensor| order.iter().any(|o| o.is(x));
        let ready = |m: &&Tensor| {
            !placed(m) && m.inputs().iter().flatten().all(|x| !is_member(x) || placed(x))
        };
        let next = members.iter().find(ready)?;
        order.push(next);
    }
    let mut operands: Vec<Tensor> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    let mut free: Vec<usize> = (0..ALIVE).rev().collect();
    let mut links = Vec::new();
    for (n, t) in order.iter().enumerate() {
        let mut from = [Source::Operand(0); 2];
        for (slot, x) in t.inputs().iter().flatten().enumerate() {
            from[slot] = match places.get(&x.id()) {
                Some(&p) => Source::Place(p),
                None => {
                    let known = operands.iter().position(|o| o.is(x));
                    Source::Operand(known.unwrap_or_else(|| {
                        operands.push(x.clone());
                        operands.len() - 1
                    }))
                }
            };
        }
        // A result goes where an operand stood that is read here for the last time.
        for x in t.inputs().iter().flatten() {
            let later = order[n + 1..].iter().any(|o| o.inputs().iter().flatten().any(|i| i.is(x)));
            if !later && let Some(p) = places.remove(&x.id()) {
                free.push(p);
            }
        }
        let to = if n + 1 == order.len() { 0 } else { free.pop()? };
        places.insert(t.id(), to);
        links.push(Link { function: function(t)?, from, to });
    }
    let chain = Chain { links, operands: operands.len() };
    (operands.len() <= OPERANDS).then_some((chain, operands))
}
