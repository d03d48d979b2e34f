//! Graphs as text and as Graphviz.

use super::Graph;
use crate::{Op, Tensor};
use std::{collections::HashMap, fmt};

fn label(t: &Tensor) -> String {
    match t.op() {
        Op::Prim(p) => p.to_string(),
        Op::Block(b) => format!("{} {b:?}", b.name()),
        Op::Poison(message) => message.clone(),
    }
}

impl fmt::Display for Graph {
    /// One line a node: `%2 = add %0 %1 : f32[2, 3]  # src/model.rs:7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers: HashMap<u64, usize> = HashMap::new();
        for (n, t) in self.nodes().iter().enumerate() {
            numbers.insert(t.id(), n);
            write!(f, "%{n} = {}", label(t))?;
            for i in t.inputs() {
                match i {
                    Some(i) => write!(f, " %{}", numbers[&i.id()])?,
                    None => f.write_str(" _")?,
                }
            }
            writeln!(f, " : {}  # {}:{}", t.spec(), t.at().file(), t.at().line())?;
        }
        f.write_str("return")?;
        for t in self.outputs() {
            write!(f, " %{}", numbers[&t.id()])?;
        }
        writeln!(f)
    }
}

impl Graph {
    /// The graph in the language of Graphviz: Blocks are boxes, primitives are ovals.
    pub fn dot(&self) -> String {
        let mut out = String::from("digraph frit {\n  rankdir=TB; node [fontsize=10];\n");
        for t in self.nodes() {
            let shape = if matches!(t.op(), Op::Block(_)) { "box" } else { "oval" };
            let text = format!("{}\n{}", label(&t), t.spec()).replace('\\', "\\\\");
            let text = text.replace('"', "\\\"").replace('\n', "\\n");
            out += &format!("  n{} [shape={shape}, label=\"{text}\"];\n", t.id());
            for i in t.inputs().iter().flatten() {
                out += &format!("  n{} -> n{};\n", i.id(), t.id());
            }
        }
        for (k, t) in self.outputs().iter().enumerate() {
            out += &format!("  out{k} [shape=plaintext];\n  n{} -> out{k};\n", t.id());
        }
        out + "}\n"
    }
}
