//! Rewriting a graph by named rules: a layer of a model becomes a fused Block, with the same
//! parameters.
//!
//! A rule is pure: it looks at one node, whose operands are already rewritten, and says what
//! stands for it. Rules over a Block type are made by [`Rule::block`]; a rule that recognises a
//! composed sub-graph is made by [`Rule::new`] over any node. Every node is offered to the rules
//! in order, and the first that replaces it wins.

use crate::{Block, Error, Graph, Op, Operands, Tensor};
use std::{fmt, sync::Arc};

/// What a rule says of a node.
#[derive(Clone, Debug)]
pub enum Rewrite {
    /// It is not what the rule looks for.
    NoMatch,
    /// It is, and is already what the rule would make of it.
    NoEffect,
    /// It looks like it, but must stay as it is, for this reason.
    Refused(String),
    /// This stands for it from now on.
    Replaced(Tensor),
}

type Apply = dyn Fn(&Tensor) -> Rewrite + Send + Sync;

/// A named rule.
#[derive(Clone)]
pub struct Rule {
    name: &'static str,
    apply: Arc<Apply>,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({})", self.name)
    }
}

impl Rule {
    /// A rule over any node.
    pub fn new(
        name: &'static str,
        apply: impl Fn(&Tensor) -> Rewrite + Send + Sync + 'static,
    ) -> Rule {
        Rule { name, apply: Arc::new(apply) }
    }

    /// A rule over Blocks of one type.
    pub fn block<B: Block>(
        name: &'static str,
        apply: impl Fn(&B, B::Inputs<Tensor>) -> Rewrite + Send + Sync + 'static,
    ) -> Rule {
        Rule::new(name, move |t| {
            match (t.block::<B>(), B::Inputs::unflatten(t.inputs().to_vec())) {
                (Some(block), Some(inputs)) => apply(block, inputs),
                _ => Rewrite::NoMatch,
            }
        })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }
}

/// How often each rule replaced, had no effect, or refused and why.
#[derive(Clone, Debug, Default)]
pub struct RewriteReport {
    /// One entry a rule.
    pub rules: Vec<RuleReport>,
}

/// What one rule did.
#[derive(Clone, Debug)]
pub struct RuleReport {
    /// Its name.
    pub name: &'static str,
    /// Nodes it replaced.
    pub replaced: usize,
    /// Nodes that were already as it wanted.
    pub no_effect: usize,
    /// Nodes it refused: what they are, where they were made, and why.
    pub refused: Vec<String>,
}

impl RewriteReport {
    /// All replacements.
    pub fn replaced(&self) -> usize {
        self.rules.iter().map(|r| r.replaced).sum()
    }
}

impl fmt::Display for RewriteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for r in self.rules.iter().filter(|r| r.replaced + r.no_effect + r.refused.len() > 0) {
            writeln!(f, "{:>5} x {:<32} replaced", r.replaced, r.name)?;
            if r.no_effect > 0 {
                writeln!(f, "{:>5} x {:<32} no effect", r.no_effect, r.name)?;
            }
            for why in &r.refused {
                writeln!(f, "        {:<32} refused: {why}", r.name)?;
            }
        }
        Ok(())
    }
}

/// Applies rules to every node, operands first.
///
/// # Errors
/// A rule that makes a shape error, or something of another spec than it replaces.
pub fn rewrite(graph: &Graph, rules: &[Rule]) -> Result<(Graph, RewriteReport), Error> {
    let mut report = RewriteReport {
        rules: rules
            .iter()
            .map(|r| RuleReport { name: r.name, replaced: 0, no_effect: 0, refused: Vec::new() })
            .collect(),
    };
    let mut failed = None;
    let graph = graph.map(|t| {
        for (rule, line) in rules.iter().zip(&mut report.rules) {
            match (rule.apply)(t) {
                Rewrite::NoMatch => {}
                Rewrite::NoEffect => line.no_effect += 1,
                Rewrite::Refused(why) => {
                    let what = match t.op() {
                        Op::Block(b) => format!("{b:?}"),
                        _ => t.name().to_string(),
                    };
                    line.refused.push(format!("{what} at {}: {why}", t.at()));
                }
                Rewrite::Replaced(new) if new.is_poisoned() || new.spec() == t.spec() => {
                    line.replaced += 1;
                    return new;
                }
                Rewrite::Replaced(new) => {
                    let message = format!(
                        "[{}] makes {} of {} at {}",
                        rule.name,
                        new.spec(),
                        t.spec(),
                        t.at()
                    );
                    failed.get_or_insert(Error::Shape { message, at: t.at() });
                }
            }
        }
        t.clone()
    })?;
    failed.map_or(Ok((graph, report)), Err)
}
