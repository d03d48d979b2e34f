//! Tests of the pattern language.

use super::*;
use crate::{DType, Graph, Rule, Spec, Tensor, Value, recognise};

fn f32s(shape: &[usize]) -> Tensor {
    Tensor::input_of(0, Spec::new(DType::F32, shape))
}

#[test]
fn a_product_is_found_in_every_order_and_with_its_inverse() {
    let (x, n) = (any("x"), number("n"));
    let p = x.exp() * &n * x.tanh();
    let t = f32s(&[3]);
    let (e, h) = (t.exp(), t.tanh());
    for found in [&e * 3.0 * &h, &h * (&e * 3.0), 3.0 * (&h * &e), &e * &h * 3.0] {
        let m = p.find(&found).expect("in every order");
        assert_eq!(m.number("n"), Some(3.0));
        assert!(m.tensor("x").is_some_and(|x| x.is(&t)));
    }
    assert!(p.find(&(&e * 3.0 * t.exp())).is_none(), "one factor is missing");
    assert!((&x / (1.0 + x.exp())).find(&(&t * (1.0 / (e + 1.0)))).is_some());
}

#[test]
fn one_name_is_one_value_even_where_it_is_computed_twice() {
    let p = any("x").exp() + any("x").tanh();
    let (a, b) = (f32s(&[3]), Tensor::input_of(1, Spec::new(DType::F32, [3])));
    assert!(p.find(&(a.exp() + a.tanh())).is_some());
    assert!(p.find(&((&a * 2.0).exp() + (&a * 2.0).tanh())).is_some(), "same computation");
    assert!(p.find(&(a.exp() + b.tanh())).is_none());
    assert!(p.find(&((&a * 2.0).exp() + (&a * 3.0).tanh())).is_none());
}

#[test]
fn axes_are_followed_through_broadcasts_and_reshapes() {
    let x = any("x");
    let p = &x - mean(&x, Axis::Last);
    let t = f32s(&[4, 4]);
    assert!(p.find(&(&t - t.mean(&[-1]))).is_some());
    assert!(p.find(&(&t - t.mean(&[-1]).reshape(&[4]).reshape(&[4, 1]))).is_some());
    assert!(p.find(&(&t - t.mean(&[0]))).is_none(), "another axis");
    assert!(p.find(&(&t - t.mean(&[-1]).reshape(&[1, 4]))).is_none(), "rows against columns");
    let named = Axis::Named("axis");
    let m = (&x - mean(&x, named)).find(&(&t - t.mean(&[0]))).expect("over any axis");
    assert_eq!(m.axis("axis"), Some(0));
}

#[test]
fn numbers_are_known_through_constant_expressions_as_near_as_their_type_holds_them() {
    let x = any("x");
    let p = &x * 0.044715;
    let t = f32s(&[3]);
    assert!(p.find(&(&t * 0.044715)).is_some());
    assert!(p.find(&(&t * 0.0448)).is_none());
    assert!(
        p.find(&(&t / Tensor::scalar(DType::F32, 1.0 / (0.044715 * 0.044715)).sqrt())).is_some()
    );
    assert!(p.find(&(&t.cast(DType::F16) * 0.044715)).is_some(), "as f16 rounds it");
    assert_eq!(tidy(f64::from(1e-6f32), DType::F32), 1e-6);
    assert_eq!(number_of(&t), None);
    let iota = Tensor::iota(Spec::new(DType::I64, [3]), 0).le(&Tensor::scalar(DType::I64, 1.0));
    assert_eq!(known(&iota, 8).map(|v| v.to_f64()), Some(vec![1.0, 1.0, 0.0]));
    assert!(known(&iota, 2).is_none(), "beyond the limit");
}

#[test]
fn casts_that_lose_nothing_are_looked_through_and_others_are_not() {
    let p = any("x").exp() + 1.0;
    let half = Tensor::input_of(0, Spec::new(DType::F16, [3]));
    let m = p.find(&(half.cast(DType::F32).exp() + 1.0)).expect("widened");
    assert!(m.tensor("x").is_some_and(|x| x.is(&half)));
    let narrow = f32s(&[3]).exp().cast(DType::F16).cast(DType::F32) + 1.0;
    assert!(p.find(&narrow).is_none(), "the rounding is meant");
}

#[test]
fn refusals_name_the_node_and_the_reason_and_replace_nothing() {
    let x = any("x");
    let rule =
        Rule::formula("test", [("centred", &x.exp() * 2.0 + (&x - mean(&x, Axis::Last)))], |m| {
            m.main("x")
        });
    let graph = Graph::trace(&[Spec::new(DType::F32, [2, 4])], |x| {
        let c = &x[0] - x[0].mean(&[-1]);
        vec![x[0].exp() * 2.0 + &c, c, x[0].exp() * 2.0 + (&x[0] - x[0].mean(&[0]))]
    })
    .expect("a graph");
    let (same, report) = recognise(&graph, &[rule]).expect("walked");
    assert_eq!(report.replaced(), 0);
    let refused = report.rules[0].refused.join("\n");
    assert!(refused.contains("is an output of the graph"), "{refused}");
    assert!(refused.contains("over axis [0]") && refused.contains("not the last"), "{refused}");
    assert!(refused.contains("pattern/tests.rs:"), "{refused}");
    assert_eq!(same.nodes().len(), graph.nodes().len());
}

#[test]
fn the_largest_formula_is_found_first_and_nothing_inside_it_again() {
    let x = any("x");
    let small = Rule::formula("small", [("exp", x.exp() + 1.0)], |m| Ok(m.main("x")?.tanh()));
    let large = Rule::formula("large", [("log exp", unary(Unary::Log, x.exp() + 1.0))], |m| {
        Ok(m.main("x")?.abs())
    });
    let graph = Graph::trace(&[Spec::new(DType::F32, [1])], |x| {
        vec![((x[0].exp() + 1.0).log().exp() + 1.0).log()]
    })
    .expect("a graph");
    let (found, report) = recognise(&graph, &[small, large]).expect("walked");
    assert_eq!(report.rules.iter().map(|r| r.replaced).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(found.histogram().get("abs"), Some(&2), "{found}");
    let value = Value::new([1], vec![-3.0f32]).expect("a value");
    let program =
        crate::compile(&found, &crate::Reference, &crate::Params::new(), crate::Policy::Allow);
    let out = program.expect("compiled").run(vec![value]).expect("it runs");
    assert_eq!(out[0].to_f64(), [3.0]);
}
