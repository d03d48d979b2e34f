//! Rewriting a graph by named rules: a layer of a model becomes a fused Block, with the same
//! parameters.
//!
//! A rule is pure: it looks at one node, whose operands are already rewritten, and says what
//! stands for it. Rules over a Block type are made by [`Rule::block`]; a rule that recognises a
//! composed sub-graph is made by [`Rule::new`] over any node. Every node is offered to the rules
//! in order, and the first that replaces it wins.

use crate::{Block, Error, Graph, Op, Operands, Tensor};
use std::{collections::HashMap, fmt, sync::Arc};

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

/// The node a rule looks at, and how often nodes are used.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    node: &'a Tensor,
    uses: &'a HashMap<u64, usize>,
}

impl<'a> Site<'a> {
    /// The node.
    pub fn node(&self) -> &'a Tensor {
        self.node
    }

    /// How many operands and outputs of the graph a node is. A rule that takes a node into what it
    /// makes must see that nobody else needs it.
    pub fn uses(&self, t: &Tensor) -> usize {
        self.uses.get(&t.id()).copied().unwrap_or(0)
    }
}

type Apply = dyn Fn(Site<'_>) -> Rewrite + Send + Sync;

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
        apply: impl Fn(Site<'_>) -> Rewrite + Send + Sync + 'static,
    ) -> Rule {
        Rule { name, apply: Arc::new(apply) }
    }

    /// A rule over Blocks of one type.
    pub fn block<B: Block>(
        name: &'static str,
        apply: impl Fn(&B, B::Inputs<Tensor>) -> Rewrite + Send + Sync + 'static,
    ) -> Rule {
        Rule::new(name, move |site| {
            let t = site.node();
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
    // Uses in the graph as it was; what stands for a node is used as often as the node.
    let mut old_uses: HashMap<u64, usize> = HashMap::new();
    let nodes = graph.nodes();
    for t in nodes.iter().flat_map(|t| t.inputs().iter().flatten()).chain(graph.outputs()) {
        *old_uses.entry(t.id()).or_default() += 1;
    }
    let mut order = nodes.iter();
    let mut uses: HashMap<u64, usize> = HashMap::new();
    let graph = graph.map(|t| {
        let count = order.next().and_then(|old| old_uses.get(&old.id())).copied().unwrap_or(0);
        let site = Site { node: t, uses: &uses };
        let new = apply_first(site, rules, &mut report, &mut failed);
        *uses.entry(new.id()).or_default() += count;
        new
    })?;
    failed.map_or(Ok((graph, report)), Err)
}

/// What stands for a node: what the first rule that replaces it makes, or itself.
fn apply_first(
    site: Site<'_>,
    rules: &[Rule],
    report: &mut RewriteReport,
    failed: &mut Option<Error>,
) -> Tensor {
    let t = site.node;
    for (rule, line) in rules.iter().zip(&mut report.rules) {
        match (rule.apply)(site) {
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
                return new.relocated(t.at());
            }
            Rewrite::Replaced(new) => {
                let (name, to, from) = (rule.name, new.spec(), t.spec());
                let message = format!("[{name}] makes {to} of {from} at {}", t.at());
                failed.get_or_insert(Error::Shape { message, at: t.at() });
            }
        }
    }
    t.clone()
}
