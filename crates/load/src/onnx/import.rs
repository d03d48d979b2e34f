//! Nodes to tensors: names, scopes, functions, and what is unsupported.

use super::{
    call::{Call, Fault},
    data::Files,
    elem::{Elem, Item},
    known::Known,
    narrow, operators,
    proto::{Attribute, Function, Graph, Node},
};
use crate::{LoadError, error::shown};
use frit_graph::{Error, Tensor, Value};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

/// Functions that call functions, and conditions inside conditions, go no deeper than this.
const DEPTH: usize = 32;
/// A model that expands to more nodes is refused: functions can double it again and again.
const MOST_NODES: usize = 1 << 20;
/// Integers up to this many are constants of the graph, not weights: they are shapes and indices.
pub(super) const FEW: usize = 1024;

/// A tensor of the file as a leaf of the graph: a constant where it is small, else a weight.
pub(super) fn leaf(name: &str, elem: Elem, value: &Value) -> Item {
    let small = match elem.is_float() {
        true => value.spec().numel() <= 1,
        false => value.spec().numel() <= FEW,
    };
    let t = match small {
        true => Tensor::constant(value.clone()),
        false => Tensor::param(name, value.spec().clone()),
    };
    Item { t: narrow::integers(elem, &t), e: elem }
}

/// What an operator set is called here: the standard one has two names.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// Whether these are the names of a constant of the file.
pub(super) fn is_constant(node: &Node) -> bool {
    node.operator == "Constant" && domain(&node.domain).is_empty()
}

/// Values by name; the innermost scope is the last.
pub(super) type Scope = HashMap<String, Item>;

/// Domain, name and overload.
pub(super) type FunctionKey<'a> = (&'a str, &'a str, &'a str);

/// The functions of a file by what they are called.
pub(super) fn by_name(all: &[Function]) -> HashMap<FunctionKey<'_>, &Function> {
    // Of two of one name the first counts.
    all.iter().rev().map(|f| ((domain(&f.domain), &*f.name, &*f.overload), f)).collect()
}

/// What a list of nodes stands in: the model itself, or a function.
struct Place<'a> {
    opsets: &'a [(String, i64)],
    /// The attributes of the function's call.
    arguments: &'a [Attribute],
    /// The defaults of the function's attributes.
    defaults: &'a [Attribute],
}

pub(super) struct Importer<'a> {
    pub(super) path: &'a Path,
    pub(super) files: &'a Files,
    pub(super) functions: HashMap<FunctionKey<'a>, &'a Function>,
    /// Functions whose operators were looked at.
    pub(super) seen: HashSet<FunctionKey<'a>>,
    pub(super) opsets: &'a [(String, i64)],
    pub(super) known: Known,
    pub(super) nodes: usize,
}

impl<'a> Importer<'a> {
    /// Imports the nodes of the model that `outputs` need, on top of `scope`.
    pub(super) fn model(
        &mut self,
        nodes: &[Node],
        outputs: &[&str],
        scope: Scope,
    ) -> Result<Vec<Item>, LoadError> {
        let place = Place { opsets: self.opsets, arguments: &[], defaults: &[] };
        self.list(nodes, outputs, &mut vec![scope], &place, 0)
    }

    fn list(
        &mut self,
        nodes: &[Node],
        outputs: &[&str],
        scopes: &mut Vec<Scope>,
        place: &Place<'_>,
        depth: usize,
    ) -> Result<Vec<Item>, LoadError> {
        if depth > DEPTH {
            let message = format!("functions and conditions are nested more than {DEPTH} deep");
            return Err(LoadError::format(self.path, message));
        }
        let needed = needed(nodes, outputs);
        let nodes: Vec<&Node> =
            nodes.iter().zip(needed).filter(|(_, n)| *n).map(|(n, _)| n).collect();
        self.refuse_unknown(&nodes)?;
        for node in nodes {
            self.nodes += 1;
            if self.nodes > MOST_NODES {
                let message = format!("the model has more than {MOST_NODES} nodes");
                return Err(LoadError::format(self.path, message));
            }
            let results = self.node(node, scopes, place, depth)?;
            let Some(scope) = scopes.last_mut() else { break };
            for (name, item) in node.outputs.iter().zip(results) {
                if !name.is_empty() && scope.insert(name.clone(), item).is_some() {
                    let message = format!("`{}` is made twice", shown(name));
                    return Err(self.wrong(node, message));
                }
            }
        }
        let find = |name: &&str| {
            lookup(scopes, name).cloned().ok_or_else(|| {
                LoadError::format(self.path, format!("no node makes the output `{}`", shown(name)))
            })
        };
        outputs.iter().map(find).collect()
    }

    fn wrong(&self, node: &Node, message: impl Into<String>) -> LoadError {
        let (operator, node) = (title(node), name(node));
        LoadError::Node { path: self.path.into(), operator, node, message: message.into() }
    }

    fn fault(&self, node: &Node, fault: Fault) -> LoadError {
        match fault {
            Fault::Wrong(message) => self.wrong(node, message),
            Fault::Unsupported(what) => {
                let operators = vec![format!("{} ({}): {what}", title(node), name(node))];
                LoadError::Unsupported { path: self.path.into(), operators }
            }
        }
    }

    /// One error for all operators that nothing here can import.
    fn refuse_unknown(&mut self, nodes: &[&Node]) -> Result<(), LoadError> {
        let mut unknown: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut stack: Vec<&Node> = nodes.iter().rev().copied().collect();
        while let Some(node) = stack.pop() {
            if let Some(f) = self.function(node) {
                if self.seen.insert((domain(&f.domain), &f.name, &f.overload)) {
                    stack.extend(f.nodes.iter().rev());
                }
                continue;
            }
            let domain = domain(&node.domain);
            let own = domain.is_empty() && matches!(&*node.operator, "If" | "Constant");
            if !own && operators::find(domain, &node.operator).is_none() {
                unknown.entry(title(node)).or_default().push(name(node));
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let line =
            |(operator, nodes): (String, Vec<String>)| format!("{operator} ({})", nodes.join(", "));
        let operators = unknown.into_iter().map(line).collect();
        Err(LoadError::Unsupported { path: self.path.into(), operators })
    }

    fn function(&self, node: &Node) -> Option<&'a Function> {
        let key = (domain(&node.domain), &*node.operator, &*node.overload);
        self.functions.get(&key).copied()
    }

    fn node(
        &mut self,
        node: &Node,
        scopes: &mut Vec<Scope>,
        place: &Place<'_>,
        depth: usize,
    ) -> Result<Vec<Item>, LoadError> {
        // The constants of the model itself are in the scope from the start.
        if let ([output], true) = (&node.outputs[..], is_constant(node))
            && let Some(item) = scopes.last_mut().and_then(|s| s.remove(output))
        {
            return Ok(vec![item]);
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            let item = lookup(scopes, input).cloned();
            if item.is_none() && !input.is_empty() {
                let message = format!("nothing before it makes its input `{}`", shown(input));
                return Err(self.wrong(node, message));
            }
            inputs.push(item.filter(|_| !input.is_empty()));
        }
        let attributes = attributes(node, place);
        if let Some(function) = self.function(node) {
            return self.call(node, function, inputs, &attributes, depth);
        }
        let domain = domain(&node.domain);
        let opset = place.opsets.iter().find(|(d, _)| self::domain(d) == domain);
        let call = Call {
            operator: &node.operator,
            attributes: &attributes,
            inputs,
            wanted: node.outputs.iter().map(|o| !o.is_empty()).collect(),
            opset: opset.map_or(1, |(_, v)| *v),
            known: &self.known,
            files: self.files,
        };
        let answer = match (domain, &*node.operator) {
            ("", "Constant") => operators::constant(&call),
            ("", "If") => {
                let branch = match self.branch(&call) {
                    Ok(branch) => branch,
                    Err(fault) => return Err(self.fault(node, fault)),
                };
                return self.inside(node, &branch, scopes, place, depth);
            }
            (domain, operator) => match operators::find(domain, operator) {
                Some(handler) => handler(&call),
                None => Err(Fault::Unsupported("unknown operator".into())),
            },
        };
        let items = answer.map_err(|fault| self.fault(node, fault))?;
        if let Some(i) = (items.len()..node.outputs.len()).find(|&i| call.wants(i)) {
            return Err(self.fault(node, Fault::Unsupported(format!("output {i}"))));
        }
        for item in &items {
            if let Err(e) = item.t.check() {
                let message = match e {
                    Error::Shape { message, .. } => message,
                    other => other.to_string(),
                };
                return Err(self.wrong(node, message));
            }
        }
        Ok(items)
    }

    /// The branch that a known condition chooses.
    fn branch(&self, call: &Call<'_>) -> Result<std::sync::Arc<Graph>, Fault> {
        let condition = call.static_ints(0)?.and_then(|c| c.first().copied());
        let name = match condition {
            Some(0) => "else_branch",
            Some(_) => "then_branch",
            None => return Err("the condition has no element".into()),
        };
        let graph = call.attribute(name).and_then(|a| a.graph.clone());
        graph.ok_or_else(|| Fault::Wrong(format!("has no `{name}`")))
    }

    fn inside(
        &mut self,
        node: &Node,
        graph: &Graph,
        scopes: &mut Vec<Scope>,
        place: &Place<'_>,
        depth: usize,
    ) -> Result<Vec<Item>, LoadError> {
        let mut scope = Scope::new();
        for t in &graph.initializers {
            let (e, value) =
                self.files.value(t).map_err(|m| LoadError::tensor(self.path, &t.name, m))?;
            scope.insert(t.name.clone(), Item { t: Tensor::constant(value), e });
        }
        if !graph.inputs.is_empty() {
            return Err(self.wrong(node, "a branch has inputs"));
        }
        let outputs: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
        scopes.push(scope);
        let items = self.list(&graph.nodes, &outputs, scopes, place, depth + 1);
        scopes.pop();
        items
    }

    fn call(
        &mut self,
        node: &Node,
        function: &Function,
        inputs: Vec<Option<Item>>,
        arguments: &[Attribute],
        depth: usize,
    ) -> Result<Vec<Item>, LoadError> {
        if inputs.len() > function.inputs.len() || node.outputs.len() > function.outputs.len() {
            return Err(self.wrong(node, "the function has fewer inputs or outputs"));
        }
        let bound = function.inputs.iter().zip(inputs);
        let scope: Scope = bound.filter_map(|(n, i)| Some((n.clone(), i?))).collect();
        let place = Place { opsets: &function.opsets, arguments, defaults: &function.defaults };
        let outputs: Vec<&str> =
            function.outputs.iter().take(node.outputs.len()).map(String::as_str).collect();
        self.list(&function.nodes, &outputs, &mut vec![scope], &place, depth + 1)
    }
}

fn lookup<'s>(scopes: &'s [Scope], name: &str) -> Option<&'s Item> {
    scopes.iter().rev().find_map(|s| s.get(name))
}

fn title(node: &Node) -> String {
    match domain(&node.domain) {
        "" => shown(&node.operator),
        domain => format!("{}.{}", shown(domain), shown(&node.operator)),
    }
}

/// The name of a node, or of what it makes where it has none.
fn name(node: &Node) -> String {
    let named = [&node.name].into_iter().chain(&node.outputs).find(|n| !n.is_empty());
    named.map_or("unnamed".into(), |n| shown(n))
}

/// The attributes of a node, with those of the function around it in place.
fn attributes<'n>(node: &'n Node, place: &Place<'_>) -> Cow<'n, [Attribute]> {
    if node.attributes.iter().all(|a| a.refers_to.is_empty()) {
        return Cow::Borrowed(&node.attributes);
    }
    let resolved = node.attributes.iter().filter_map(|a| {
        if a.refers_to.is_empty() {
            return Some(a.clone());
        }
        let mut all = place.arguments.iter().chain(place.defaults);
        let found = all.find(|b| b.name == a.refers_to)?;
        Some(Attribute { name: a.name.clone(), ..found.clone() })
    });
    Cow::Owned(resolved.collect())
}

/// Which nodes the outputs need.
fn needed(nodes: &[Node], outputs: &[&str]) -> Vec<bool> {
    let mut names: HashSet<&str> = outputs.iter().copied().collect();
    let mut needed = vec![false; nodes.len()];
    for (i, node) in nodes.iter().enumerate().rev() {
        if node.outputs.iter().any(|o| names.contains(o.as_str())) {
            needed[i] = true;
            uses(node, &mut names);
        }
    }
    needed
}

/// Every name that a node reads, its branches included.
pub(super) fn uses<'n>(node: &'n Node, names: &mut HashSet<&'n str>) {
    names.extend(node.inputs.iter().map(String::as_str));
    for graph in node.attributes.iter().filter_map(|a| a.graph.as_ref()) {
        names.extend(graph.outputs.iter().map(|o| o.name.as_str()));
        graph.nodes.iter().for_each(|n| uses(n, names));
    }
}
