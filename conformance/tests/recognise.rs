//! Operations found in graphs of primitives that nobody annotated.

use frit_conformance::{expect_none, judge_value};
use frit_graph::{
    DType, Graph, Params, Policy, Reference, RewriteReport, Rule, Spec, Tensor, Value, compile,
    recognise,
};
use frit_ops::{CATALOGUE, DynCase, recognisers};

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

/// Operations whose composed form is no formula of their own.
const NOT_FOUND: &[(&str, &str)] = &[
    ("einsum", "its composed form is products, sums and transposes, as good as primitives"),
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
