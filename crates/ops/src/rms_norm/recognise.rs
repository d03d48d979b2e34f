//! Norms in graphs of primitives, over the last axis or over several that are last.
//!
//! What is over several axes is looked at as if they were one: the formula is written again over
//! operands whose last axes are joined, and found in that.

use super::{RmsNorm, rms_norm};
use frit_graph::{
    Block, DType, Prim, Reduce, Rewrite, Rule, Site, Tensor,
    pattern::{Axis, Match, Pattern, any, mean, number, sqrt, vector},
};
use std::collections::HashMap;

/// How norms over the last axis are spelled.
fn spellings() -> Vec<(&'static str, Pattern)> {
    let (x, weight, eps) = (any("x"), vector("weight"), number("eps"));
    let square = mean(x.squared(), Axis::Last);
    let norm = &x / sqrt(&square + &eps);
    vec![
        // transformers and torch (Pow or Mul, Rsqrt and Mul), tf2onnx and paddle2onnx (Sqrt and
        // Div); a weight stored minus one (Gemma) is the sum of it and one.
        ("weight", &norm * &weight),
        ("plain", norm),
        ("weight, no eps", &x / sqrt(&square) * &weight),
        ("plain, no eps", &x / sqrt(&square)),
    ]
}

pub(super) fn rules() -> Vec<Rule> {
    let one = Rule::formula(RmsNorm::NAME, spellings(), |m| {
        let eps = m.number("eps").unwrap_or(0.0);
        Ok(rms_norm(&m.main("x")?, m.vector("weight").as_ref(), eps))
    });
    let spellings = spellings();
    let several = move |site: Site<'_>| {
        let root = site.node();
        let Some(axes) = joined_axes(root) else { return Rewrite::NoMatch };
        let mut join = Join::new(root, axes);
        let Some(flat) = join.of(root, DEPTH) else { return Rewrite::NoMatch };
        let Some(m) = spellings.iter().find_map(|(_, p)| p.find(&flat)) else {
            return Rewrite::NoMatch;
        };
        if let Some(why) = site.leaks(&join.before(m.interior())) {
            return Rewrite::Refused(why);
        }
        match block(&m, &join, root) {
            Ok(new) => Rewrite::of(root, new),
            Err(why) => Rewrite::Refused(why),
        }
    };
    vec![one, Rule::new(RmsNorm::NAME, several).at(["mul", "div"])]
}

/// The Block of a match over joined axes, in the shape that the root has.
fn block(m: &Match, join: &Join, root: &Tensor) -> Result<Tensor, String> {
    let x = m.tensor("x").ok_or("no x")?;
    // What x is computed of is not part of the formula and stays as it was.
    let x = join.old.get(&x.id()).map_or_else(|| x.clone(), |x| join.flat(x));
    let x = if x.dtype() == DType::F32 { x } else { m.main("x")? };
    let eps = m.number("eps").unwrap_or(0.0);
    Ok(rms_norm(&x, m.vector("weight").as_ref(), eps).reshape(root.shape()))
}

/// The formula is no deeper than this.
const DEPTH: usize = 10;
/// Nodes that are looked at for the sum of a norm.
const NEARBY: usize = 32;

/// How many last axes a sum below `root` is over, where they are several.
fn joined_axes(root: &Tensor) -> Option<usize> {
    let mut nearby = vec![root];
    let mut at = 0;
    while at < nearby.len() && nearby.len() < NEARBY {
        let t = nearby[at];
        if let (Some(Prim::Reduce(Reduce::Sum, axes)), Some(x)) = (t.prim(), t.input(0)) {
            let rank = x.rank();
            let last = axes.iter().copied().eq(rank - axes.len()..rank);
            return (axes.len() > 1 && last && x.shape() == root.shape()).then_some(axes.len());
        }
        nearby.extend(t.inputs().iter().flatten().filter(|t| t.prim().is_some()));
        at += 1;
    }
    None
}

/// A formula over joined axes.
struct Join {
    axes: usize,
    /// Extents of the axes that are joined.
    last: Vec<usize>,
    new: HashMap<u64, Tensor>,
    /// Of the nodes that were written again: what they stand for.
    old: HashMap<u64, Tensor>,
}

impl Join {
    fn new(root: &Tensor, axes: usize) -> Join {
        let last = root.shape()[root.rank() - axes..].to_vec();
        Join { axes, last, new: HashMap::new(), old: HashMap::new() }
    }

    /// The same numbers with the last axes joined.
    fn flat(&self, t: &Tensor) -> Tensor {
        let (lead, last) = t.shape().split_at(t.rank() - self.axes);
        t.reshape(&[lead, &[last.iter().product()]].concat())
    }

    /// The nodes of the graph that these stand for.
    fn before(&self, interior: &[Tensor]) -> Vec<Tensor> {
        interior.iter().filter_map(|t| self.old.get(&t.id())).cloned().collect()
    }

    /// `t` written again as far as it is a formula of elements and sums; `None` where its axes do
    /// not join.
    fn of(&mut self, t: &Tensor, depth: usize) -> Option<Tensor> {
        if let Some(new) = self.new.get(&t.id()) {
            return Some(new.clone());
        }
        let last = t.shape().get(t.rank().checked_sub(self.axes)?..)?;
        let repeats = last.iter().all(|&d| d == 1);
        if !repeats && last != self.last {
            return None;
        }
        let new = match (t.prim()?, depth) {
            (Prim::Binary(f), 1..) => {
                let a = self.of(t.input(0)?, depth - 1)?;
                a.binary(&self.of(t.input(1)?, depth - 1)?, *f)
            }
            (Prim::Unary(f), 1..) => self.of(t.input(0)?, depth - 1)?.unary(*f),
            (Prim::Cast, 1..) => self.of(t.input(0)?, depth - 1)?.cast(t.dtype()),
            (Prim::Reduce(f, axes), 1..) => {
                let x = t.input(0)?;
                let all = axes.iter().copied().eq(x.rank() - self.axes..x.rank());
                match all {
                    true => self.of(x, depth - 1)?.reduce(*f, &[-1]),
                    false => self.flat(t),
                }
            }
            (Prim::Broadcast, 1..) => {
                let mut x = t.input(0)?.clone();
                let (lead, own) = x.shape().split_at(x.rank().checked_sub(self.axes)?);
                if own != self.last && own.iter().any(|&d| d != 1) {
                    x = x.broadcast_to(&[lead, &self.last].concat());
                }
                let (lead, last) = t.shape().split_at(t.rank() - self.axes);
                let shape = [lead, &[last.iter().product()]].concat();
                self.of(&x, depth - 1)?.broadcast_to(&shape)
            }
            _ => self.flat(t),
        };
        self.new.insert(t.id(), new.clone());
        self.old.insert(new.id(), t.clone());
        Some(new)
    }
}
