//! Rewriting a graph by named rules: a layer of a model becomes a fused Block, with the same
//! parameters.
//!
//! A rule is pure: it looks at one node and says what stands for it. Rules over a Block type are
//! made by [`Rule::block`], rules that find a formula by [`Rule::formula`], any others by
//! [`Rule::new`]. A node is offered to the rules in order, and the first that replaces it wins.
//!
//! There are two walks. [`rewrite`] goes from the operands up, and a rule sees operands that are
//! rewritten already: layers become operations, and operations take in what follows them.
//! [`recognise`] goes from the outputs down over the graph as it was, so that the largest formula
//! is found first and nothing inside of it is offered again.

use crate::{
    Block, Error, Graph, Op, Operands, Tensor,
    pattern::{Attempt, Match, Pattern, attempt},
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::Arc,
};

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

impl Rewrite {
    /// What a recognised `node` becomes: refused where `new` is an error, left alone where it is
    /// of another type or shape, as under a cast that is no part of the formula.
    pub fn of(node: &Tensor, new: Tensor) -> Rewrite {
        match new.op() {
            Op::Poison(why) => Rewrite::Refused(why.clone()),
            _ if new.spec() == node.spec() => Rewrite::Replaced(new),
            _ => Rewrite::NoMatch,
        }
    }
}

/// The node a rule looks at, and how often nodes are used.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    node: &'a Tensor,
    uses: &'a HashMap<u64, usize>,
    outputs: &'a HashSet<u64>,
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

    /// Whether a node is an output of the graph.
    pub fn is_output(&self, t: &Tensor) -> bool {
        self.outputs.contains(&t.id())
    }

    /// Why one of the nodes inside a match is needed outside of it, if one is: an output, or an
    /// operand of a node that is not `inside`. The node of the site itself may be needed.
    pub fn leaks(&self, inside: &[Tensor]) -> Option<String> {
        crate::pattern::leaks(*self, inside)
    }
}

type Apply = dyn Fn(Site<'_>) -> Rewrite + Send + Sync;

/// A named rule.
#[derive(Clone)]
pub struct Rule {
    name: &'static str,
    /// Names of the nodes it is for; all where there are none.
    roots: Arc<BTreeSet<&'static str>>,
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
        Rule { name, roots: Arc::default(), apply: Arc::new(apply) }
    }

    /// The same over nodes of these names only ([`crate::Node::name`]).
    pub fn at(mut self, roots: impl IntoIterator<Item = &'static str>) -> Rule {
        self.roots = Arc::new(roots.into_iter().collect());
        self
    }

    /// A rule that finds a formula in one of several spellings, each by name. `build` makes what
    /// stands for it, or says why it must stay; so does a poisoned tensor.
    ///
    /// A formula whose inner results are needed elsewhere is refused.
    pub fn formula(
        name: &'static str,
        spellings: impl IntoIterator<Item = (&'static str, Pattern)>,
        build: impl Fn(&Match) -> Result<Tensor, String> + Send + Sync + 'static,
    ) -> Rule {
        let spellings: Vec<(&'static str, Pattern)> = spellings.into_iter().collect();
        let mut roots = BTreeSet::from(["cast"]);
        spellings.iter().for_each(|(_, p)| p.roots(&mut roots));
        let apply = move |site: Site<'_>| match attempt(site, &spellings) {
            Attempt::No => Rewrite::NoMatch,
            Attempt::Near(why) => Rewrite::Refused(why),
            Attempt::Found(m) => match build(&m) {
                Ok(new) => Rewrite::of(site.node(), new),
                Err(why) => Rewrite::Refused(why),
            },
        };
        Rule::new(name, apply).at(roots)
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
    fn of(rules: &[Rule]) -> RewriteReport {
        let line =
            |r: &Rule| RuleReport { name: r.name, replaced: 0, no_effect: 0, refused: Vec::new() };
        RewriteReport { rules: rules.iter().map(line).collect() }
    }

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
            // A model refuses the same in every layer.
            let mut seen: Vec<(&str, usize)> = Vec::new();
            for why in &r.refused {
                match seen.iter_mut().find(|s| s.0 == why) {
                    Some(s) => s.1 += 1,
                    None => seen.push((why, 1)),
                }
            }
            for (why, n) in seen {
                writeln!(f, "{n:>5} x {:<32} refused: {why}", r.name)?;
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
    let mut report = RewriteReport::of(rules);
    let mut failed = None;
    // Uses in the graph as it was; what stands for a node is used as often as the node.
    let nodes = graph.nodes();
    let old_uses = count_uses(&nodes, graph.outputs());
    let old_outputs: HashSet<u64> = graph.outputs().iter().map(|t| t.id()).collect();
    let mut order = nodes.iter();
    let mut uses: HashMap<u64, usize> = HashMap::new();
    let mut outputs: HashSet<u64> = HashSet::new();
    let graph = graph.map(|t| {
        let old = order.next().map(|old| old.id());
        let count = old.and_then(|id| old_uses.get(&id)).copied().unwrap_or(0);
        let site = Site { node: t, uses: &uses, outputs: &outputs };
        let new = apply_first(site, rules, &mut report, &mut failed).unwrap_or_else(|| t.clone());
        *uses.entry(new.id()).or_default() += count;
        if old.is_some_and(|id| old_outputs.contains(&id)) {
            outputs.insert(new.id());
        }
        new
    })?;
    failed.map_or(Ok((graph, report)), Err)
}

/// A graph is walked again after a walk that replaced something, this often at most.
const WALKS: usize = 4;

/// Applies rules from the outputs down, the largest formula first, until nothing changes. What
/// changes nothing is taken away before ([`Graph::simplify`]), so that spellings are fewer.
///
/// # Errors
/// A rule that makes a shape error, or something of another spec than it replaces.
pub fn recognise(graph: &Graph, rules: &[Rule]) -> Result<(Graph, RewriteReport), Error> {
    let mut graph = graph.simplify()?;
    let mut total = RewriteReport::of(rules);
    for _ in 0..WALKS {
        let (next, report) = walk_down(&graph, rules)?;
        let changed = report.replaced() > 0;
        for (line, new) in total.rules.iter_mut().zip(report.rules) {
            line.replaced += new.replaced;
            line.no_effect = new.no_effect;
            // Every walk refuses again what the one before refused.
            let more = new.refused.into_iter().filter(|r| !line.refused.contains(r));
            let more: Vec<String> = more.collect();
            line.refused.extend(more);
        }
        graph = next;
        if !changed {
            break;
        }
    }
    Ok((graph, total))
}

/// One walk over the graph as it is: first what stands for which node, then the graph of it.
fn walk_down(graph: &Graph, rules: &[Rule]) -> Result<(Graph, RewriteReport), Error> {
    let mut report = RewriteReport::of(rules);
    let mut failed = None;
    let nodes = graph.nodes();
    let uses = count_uses(&nodes, graph.outputs());
    let outputs: HashSet<u64> = graph.outputs().iter().map(|t| t.id()).collect();
    let known: HashSet<u64> = nodes.iter().map(|t| t.id()).collect();
    let mut needed = outputs.clone();
    let mut instead: HashMap<u64, Tensor> = HashMap::new();
    for t in nodes.iter().rev().filter(|t| !t.inputs().is_empty()) {
        if !needed.contains(&t.id()) {
            continue;
        }
        let site = Site { node: t, uses: &uses, outputs: &outputs };
        let before: Vec<usize> = report.rules.iter().map(|r| r.refused.len()).collect();
        match apply_first(site, rules, &mut report, &mut failed) {
            Some(new) => {
                // Why other rules refused a node that is replaced is of no interest.
                let lines = report.rules.iter_mut().zip(before);
                lines.for_each(|(line, n)| line.refused.truncate(n));
                // Nodes that are new lead to the nodes of the graph that are still needed.
                let mut fresh = vec![new.clone()];
                while let Some(f) = fresh.pop() {
                    match known.contains(&f.id()) {
                        true => drop(needed.insert(f.id())),
                        false => fresh.extend(f.inputs().iter().flatten().cloned()),
                    }
                }
                instead.insert(t.id(), new);
            }
            None => needed.extend(t.inputs().iter().flatten().map(|i| i.id())),
        }
    }
    if let Some(e) = failed {
        return Err(e);
    }
    if instead.is_empty() {
        return Ok((graph.clone(), report));
    }
    Ok((substituted(graph, &instead)?.simplify()?, report))
}

/// The graph with other tensors, over its own nodes, in the place of some of them.
fn substituted(graph: &Graph, instead: &HashMap<u64, Tensor>) -> Result<Graph, Error> {
    let mut done: HashMap<u64, Tensor> = HashMap::new();
    let mut open: HashSet<u64> = HashSet::new();
    let mut stack: Vec<Tensor> = graph.outputs().iter().rev().cloned().collect();
    while let Some(t) = stack.last().cloned() {
        if done.contains_key(&t.id()) {
            stack.pop();
            continue;
        }
        let first = open.insert(t.id());
        // A node that stands inside of what stands for it stays, or there would be no end.
        let other = instead.get(&t.id());
        let wanted: Vec<&Tensor> = match other {
            Some(new) => vec![new],
            None => t.inputs().iter().flatten().collect(),
        };
        if first {
            stack.extend(wanted.into_iter().filter(|w| !open.contains(&w.id())).cloned());
            continue;
        }
        let of = |t: &Tensor| done.get(&t.id()).unwrap_or(t).clone();
        let new = match other {
            Some(new) => of(new),
            None => t.with_inputs(t.inputs().iter().map(|i| i.as_ref().map(of)).collect()),
        };
        done.insert(t.id(), new);
        stack.pop();
    }
    let outputs = graph.outputs().iter().map(|t| done.get(&t.id()).unwrap_or(t).clone()).collect();
    Graph::new(graph.inputs().to_vec(), outputs)
}

fn count_uses(nodes: &[Tensor], outputs: &[Tensor]) -> HashMap<u64, usize> {
    let mut uses: HashMap<u64, usize> = HashMap::new();
    for t in nodes.iter().flat_map(|t| t.inputs().iter().flatten()).chain(outputs) {
        *uses.entry(t.id()).or_default() += 1;
    }
    uses
}

/// What the first rule makes of a node that replaces it, if one does.
fn apply_first(
    site: Site<'_>,
    rules: &[Rule],
    report: &mut RewriteReport,
    failed: &mut Option<Error>,
) -> Option<Tensor> {
    let t = site.node;
    for (n, rule) in rules.iter().enumerate() {
        if !rule.roots.is_empty() && !rule.roots.contains(t.name()) {
            continue;
        }
        match (rule.apply)(site) {
            Rewrite::NoMatch => {}
            Rewrite::NoEffect => report.rules[n].no_effect += 1,
            Rewrite::Refused(why) => {
                let what = match t.op() {
                    Op::Block(b) => format!("{b:?}"),
                    _ => t.name().to_string(),
                };
                report.rules[n].refused.push(format!("{what} at {}: {why}", t.at()));
            }
            Rewrite::Replaced(new) if new.is_poisoned() || new.spec() == t.spec() => {
                report.rules[n].replaced += 1;
                return Some(new.relocated(t.at()));
            }
            Rewrite::Replaced(new) => {
                let (name, to, from) = (rule.name, new.spec(), t.spec());
                let message = format!("[{name}] makes {to} of {from} at {}", t.at());
                failed.get_or_insert(Error::Shape { message, at: t.at() });
            }
        }
    }
    None
}
