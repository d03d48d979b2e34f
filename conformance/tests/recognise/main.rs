//! Operations found in graphs of primitives that nobody annotated.

mod convolutions;
mod near_misses;
mod quantised;
mod random;
mod rotations;
mod spellings;

use frit_conformance::{compare, expect_none, judge_value};
use frit_graph::{
    DType, Graph, Op, Params, Policy, Reference, RewriteReport, Rule, Spec, Tensor, Value, compile,
    recognise,
};
use frit_ops::{CATALOGUE, DynCase, Operand, recognisers};

fn small_cases() -> impl Iterator<Item = DynCase> {
    CATALOGUE.iter().flat_map(|l| (l.cases)()).filter(|c| !c.bench)
}

/// A case as its composition alone.
fn composed(case: &DynCase, dtype: DType) -> Graph {
    let specs: Vec<Spec> = case.specs(dtype).into_iter().flatten().collect();
    let graph = Graph::trace(&specs, |x| {
        let mut x = x.iter().cloned();
        let slots = case.inputs.iter().map(|o| o.as_ref().and_then(|_| x.next())).collect();
        vec![Tensor::dyn_block(case.block.clone(), slots)]
    });
    graph.and_then(|g| g.composed()).expect("a composed graph")
}

fn run(graph: &Graph, inputs: &[Value]) -> Result<Vec<Value>, frit_graph::Error> {
    compile(graph, &Reference, &Params::new(), Policy::Allow)?.run(inputs.to_vec())
}

fn recognised(graph: &Graph, rules: &[Rule]) -> (Graph, RewriteReport) {
    recognise(graph, rules).expect("rules make no errors")
}

/// A graph of these operands in f32, and their values.
fn traced(operands: &[Operand], build: impl Fn(&[Tensor]) -> Vec<Tensor>) -> (Graph, Vec<Value>) {
    let specs: Vec<Spec> = operands.iter().map(|o| o.spec(DType::F32)).collect();
    let values = operands.iter().zip(0u64..).map(|(o, seed)| o.value(DType::F32, seed * 7 + 1));
    (Graph::trace(&specs, |x| build(x)).expect("a graph"), values.collect())
}

/// The Blocks of a graph as text, in order.
fn blocks(graph: &Graph) -> Vec<String> {
    let text = |t: &Tensor| match t.op() {
        Op::Block(b) => Some(format!("{b:?}")),
        _ => None,
    };
    graph.nodes().iter().filter_map(text).collect()
}

/// What differs between two graphs on the same values, if anything does.
fn differs(what: &str, a: &Graph, b: &Graph, values: &[Value], within: f64) -> Option<String> {
    let (a, b) = match (run(a, values), run(b, values)) {
        (Ok(a), Ok(b)) => (a, b),
        (a, b) => return Some(format!("{what}: {:?} {:?}", a.err(), b.err())),
    };
    a.iter().zip(&b).find_map(|(a, b)| {
        let d = compare(&b.to_f64(), &a.to_f64(), (within, within));
        (!d.within || a.spec() != b.spec())
            .then(|| format!("{what}: max abs {:.2e}, max rel {:.2e}", d.max_abs, d.max_rel))
    })
}

/// Operations whose composed form is no formula of their own.
const NOT_FOUND: &[(&str, &str)] = &[
    ("einsum", "its composed form is products, sums and transposes, as good as primitives"),
    ("dequantize", "packed weights are Blocks from the start; nobody else unpacks these bytes"),
    ("quantized_matmul", "as dequantize; other people's spellings are in quantised.rs"),
    ("conv", "pads, slices and a product; readers of files make the Block itself"),
    ("conv1d", "slices, a concatenation and a product; readers of files make the Block itself"),
];

#[test]
fn every_composed_form_is_recognised_as_its_operation_with_the_same_numbers() {
    let rules = recognisers();
    let mut complaints = Vec::new();
    for case in small_cases().filter(|c| NOT_FOUND.iter().all(|n| n.0 != c.op)) {
        for &dtype in case.dtypes {
            let what = format!("{}/{} {dtype}", case.op, case.name);
            let (graph, report) = recognised(&composed(&case, dtype), &rules);
            let found = graph.histogram();
            if found.get(case.op) != Some(&1) {
                complaints.push(format!("{what} is not found:\n{report}{graph}"));
                continue;
            }
            let values = case.values(dtype);
            let want = case.expected(&values).expect("an oracle");
            let inputs: Vec<Value> = values.into_iter().flatten().collect();
            match run(&graph, &inputs) {
                Ok(got) => complaints
                    .extend(judge_value(&what, &got[0], &want, case.tolerance(dtype)).err()),
                Err(e) => complaints.push(format!("{what}: {e}")),
            }
        }
    }
    expect_none(complaints);
}

#[test]
fn no_rule_claims_what_it_does_not_compute() {
    // What an operation may be found inside of another one, besides itself.
    let inside = |found: &str, of: &str| match found {
        "gelu" | "silu" => matches!(of, "linear" | "conv" | "conv1d" | "swiglu" | "gelu" | "silu"),
        // A layer norm is the norm of what is centred.
        "rms_norm" => of == "layer_norm",
        "linear" => matches!(of, "einsum" | "conv" | "conv1d"),
        // Angles that are known make tables too.
        "apply_rope" => of == "rope",
        _ => false,
    };
    let mut complaints = Vec::new();
    for line in CATALOGUE {
        let rules = (line.recognise)();
        for case in small_cases().filter(|c| c.op != line.name) {
            for &dtype in case.dtypes {
                let what = format!("{} in {}/{} {dtype}", line.name, case.op, case.name);
                let (graph, report) = recognised(&composed(&case, dtype), &rules);
                if report.replaced() == 0 {
                    continue;
                }
                if !inside(line.name, case.op) {
                    complaints.push(format!("{what}: claimed\n{graph}"));
                }
                let values = case.values(dtype);
                let want = case.expected(&values).expect("an oracle");
                let inputs: Vec<Value> = values.into_iter().flatten().collect();
                let got = run(&graph, &inputs).expect("it runs");
                let tolerance = case.tolerance(dtype);
                complaints.extend(judge_value(&what, &got[0], &want, tolerance).err());
            }
        }
    }
    expect_none(complaints);
}
