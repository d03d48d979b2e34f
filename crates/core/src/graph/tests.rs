//! Tests of tracing, passes, printing, lowering and rewriting.

use crate::*;

fn f32s(shape: &[usize]) -> Spec {
    Spec::new(DType::F32, shape)
}

#[test]
fn a_shape_error_names_the_operation_and_the_callers_line() {
    let line = line!() + 2;
    let graph = Graph::trace(&[f32s(&[2, 3]), f32s(&[4])], |x| {
        let sum = &x[0] + &x[1];
        vec![(sum.exp() * 2.0).matmul(&x[0])]
    });
    let message = graph.expect_err("it does not broadcast").to_string();
    assert!(message.starts_with("[add] f32[2, 3] and f32[4] do not broadcast --> "), "{message}");
    assert!(message.contains(&format!("graph/tests.rs:{line}:")), "{message}");
}

#[test]
fn neutral_operations_disappear() {
    let graph = Graph::trace(&[f32s(&[2, 3])], |x| {
        let y = (&x[0] * 1.0) / 1.0 - 0.0;
        vec![y.transpose(&[1, 0]).transpose(&[1, 0]).reshape(&[6]).reshape(&[2, 3])]
    })
    .expect("a graph");
    let graph = graph.optimise().expect("optimised");
    assert_eq!(graph.nodes().len(), 1, "{graph}");
}

#[test]
fn adding_zero_stays_where_it_turns_minus_zero_into_zero() {
    let graph = Graph::trace(&[f32s(&[1])], |x| vec![&x[0] + 0.0]).expect("a graph");
    let program = compile(&graph, &Reference, &Params::new(), Policy::Allow).expect("compiled");
    let minus_zero = Value::new([1], vec![-0.0f32]).expect("a value");
    let out = program.run(vec![minus_zero]).expect("it runs");
    assert!(out[0].to_f64()[0].is_sign_positive());
}

#[test]
fn constants_are_folded_and_equal_nodes_are_shared() {
    let graph = Graph::trace(&[f32s(&[3])], |x| {
        let c = (Tensor::iota(f32s(&[3]), 0) + 1.0) * 2.0;
        vec![(&x[0] + &c).exp() * (&x[0] + &c).exp()]
    })
    .expect("a graph");
    let small = graph.optimise().expect("optimised");
    let names: Vec<&str> = small.nodes().iter().map(|t| t.name()).collect();
    assert_eq!(names, ["input", "constant", "add", "exp", "mul"], "{small}");
}

#[test]
fn a_graph_prints_as_text_and_as_graphviz() {
    let graph = Graph::trace(&[f32s(&[2])], |x| vec![x[0].exp()]).expect("a graph");
    let text = graph.to_string();
    assert!(text.contains("%1 = exp %0 : f32[2]  # "), "{text}");
    assert!(text.ends_with("return %1\n"), "{text}");
    let dot = graph.dot();
    assert!(dot.starts_with("digraph") && dot.contains("exp\\nf32[2]"), "{dot}");
}

#[test]
fn a_very_deep_graph_neither_overflows_nor_takes_long() {
    let graph = Graph::trace(&[f32s(&[1])], |x| {
        let mut t = x[0].clone();
        for _ in 0..100_000 {
            t = t.tanh();
        }
        vec![t]
    })
    .expect("a graph");
    assert_eq!(graph.optimise().expect("optimised").nodes().len(), 100_001);
}

#[test]
fn a_bitcast_reads_the_same_bytes_and_refuses_what_does_not_divide() {
    let graph = Graph::trace(&[Spec::new(DType::U8, [2, 4])], |x| {
        vec![x[0].bitcast(DType::F16), x[0].bitcast(DType::F32).bitcast(DType::I32)]
    })
    .expect("a graph");
    let program = compile(&graph, &Reference, &Params::new(), Policy::Deny).expect("compiled");
    // 1.0, -2.0 and 0.5, 2^-24 in half precision, low byte first.
    let bytes = vec![0x00u8, 0x3c, 0x00, 0xc0, 0x00, 0x38, 0x01, 0x00];
    let out = program.run(vec![Value::new([2, 4], bytes).expect("a value")]).expect("it runs");
    assert_eq!(out[0].to_f64(), [1.0, -2.0, 0.5, 2f64.powi(-24)]);
    assert_eq!(out[1].spec(), &Spec::new(DType::I32, [2, 1]));
    assert_eq!(out[1].to_i64(), [0xc000_3c00_u32 as i32 as i64, 0x0001_3800]);
    for (from, shape, to) in [
        (DType::U8, vec![2, 3], DType::F16),
        (DType::Bool, vec![4], DType::U8),
        (DType::U8, vec![4], DType::Bool),
        (DType::F32, vec![], DType::U8),
    ] {
        let error = Tensor::input_of(0, Spec::new(from, shape)).bitcast(to).check();
        assert!(error.expect_err("refused").to_string().starts_with("[bitcast] the bytes of "));
    }
    let scalar = Tensor::input_of(0, Spec::new(DType::F32, [])).bitcast(DType::U32);
    assert_eq!(scalar.spec(), &Spec::new(DType::U32, []));
}

#[derive(Clone, Debug, PartialEq)]
struct Twice;

operands!(/// Inputs of [`Twice`].
    OneInput { x } optional {});

impl Block for Twice {
    type Inputs<T> = OneInput<T>;
    const NAME: &'static str = "test.twice";
    fn infer(&self, i: OneInput<&Spec>) -> Result<Spec, ShapeError> {
        Ok(i.x.clone())
    }
    fn compose(&self, i: OneInput<Tensor>) -> Tensor {
        &i.x + &i.x
    }
}

#[derive(Clone, Debug, PartialEq)]
struct FourTimes;

impl Block for FourTimes {
    type Inputs<T> = OneInput<T>;
    const NAME: &'static str = "test.four_times";
    const CONTAINER: bool = true;
    fn infer(&self, i: OneInput<&Spec>) -> Result<Spec, ShapeError> {
        Ok(i.x.clone())
    }
    fn compose(&self, i: OneInput<Tensor>) -> Tensor {
        let x = Tensor::block(Twice, i);
        Tensor::block(Twice, OneInput { x })
    }
}

fn nested() -> Graph {
    Graph::trace(&[f32s(&[2])], |x| vec![Tensor::block(FourTimes, OneInput { x: x[0].clone() })])
        .expect("a graph")
}

#[test]
fn blocks_without_kernels_are_composed_all_the_way_and_reported() {
    let program = compile(&nested(), &Reference, &Params::new(), Policy::Allow).expect("compiled");
    let outcomes: Vec<(&str, usize)> =
        program.report().summary().iter().map(|l| (l.0, l.2)).collect();
    assert_eq!(outcomes, [("test.four_times", 1), ("test.twice", 2)]);
    assert_eq!(program.report().lines[0].outcome, Outcome::Opened);
    let out = program.run(vec![Value::new([2], vec![1.0f32, -3.0]).expect("a value")]);
    assert_eq!(out.expect("it runs")[0].to_f64(), [4.0, -12.0]);
}

#[test]
fn deny_refuses_composed_blocks_and_names_them() {
    let denied = compile(&nested(), &Reference, &Params::new(), Policy::Deny).map(|_| ());
    let message = denied.expect_err("the reference fuses nothing").to_string();
    assert!(message.contains("2 x test.twice"), "{message}");
    assert!(message.contains("composed (no kernel)"), "{message}");
}

#[test]
fn rules_replace_blocks_and_report_what_they_did() {
    let rules = [
        Rule::block::<FourTimes>("refuse", |_, _| Rewrite::Refused("not today".into())),
        Rule::block::<FourTimes>("open", |_, i| Rewrite::Replaced(&i.x * 4.0)),
        Rule::block::<Twice>("never", |_, _| Rewrite::NoEffect),
    ];
    let (graph, report) = rewrite(&nested(), &rules).expect("rewritten");
    assert_eq!(report.rules[0].refused.len(), 1);
    assert!(report.rules[0].refused[0].contains("FourTimes at "), "{report}");
    assert_eq!((report.rules[1].replaced, report.rules[2].no_effect), (1, 0));
    assert_eq!(graph.histogram().get("mul"), Some(&1));
}

#[test]
fn a_rule_that_changes_the_spec_is_an_error() {
    let bad = Rule::block::<FourTimes>("bad", |_, i| Rewrite::Replaced(i.x.slice(0, 0..1)));
    let message = rewrite(&nested(), &[bad]).map(|_| ()).expect_err("misshapen").to_string();
    assert!(message.starts_with("[bad] makes f32[1] of f32[2] at "), "{message}");
}

#[test]
fn weights_are_named_checked_and_shared() {
    let graph = Graph::trace(&[f32s(&[2])], |x| vec![&x[0] * &Tensor::param("w", f32s(&[2]))])
        .expect("a graph");
    let compile = |p: &Params| compile(&graph, &Reference, p, Policy::Allow);
    let missing = compile(&Params::new()).map(|_| ()).expect_err("missing").to_string();
    assert_eq!(missing, "missing tensor `w` (f32[2])");
    let mut params = Params::new();
    params.insert("w", Value::new([3], vec![1.0f32; 3]).expect("a value"));
    let wrong = compile(&params).map(|_| ()).expect_err("misshapen").to_string();
    assert_eq!(wrong, "tensor `w` must be f32[2], got f32[3]");
    params.insert("w", Value::new([2], vec![2.0f32, 3.0]).expect("a value"));
    let program = compile(&params).expect("compiled");
    let x = Value::new([2], vec![10.0f32, 10.0]).expect("a value");
    assert_eq!(program.run(vec![x]).expect("it runs")[0].to_f64(), [20.0, 30.0]);
}

#[test]
fn inputs_of_the_wrong_number_type_or_shape_are_errors() {
    let program = compile(&nested(), &Reference, &Params::new(), Policy::Allow).expect("compiled");
    let none = program.run(vec![]).expect_err("none given").to_string();
    assert_eq!(none, "program wants 1 inputs, got 0");
    let wrong = program.run(vec![Value::scalar(1i64)]).expect_err("wrong").to_string();
    assert_eq!(wrong, "input 0 must be f32[2], got i64[]");
}

#[test]
fn indices_out_of_range_are_errors_when_the_program_runs() {
    let graph = Graph::trace(&[f32s(&[4, 2]), Spec::new(DType::I64, [])], |x| {
        vec![x[0].gather(0, &x[1]), x[0].update(0, &x[0].slice(0, 0..2), &x[1])]
    })
    .expect("a graph");
    let program = compile(&graph, &Reference, &Params::new(), Policy::Allow).expect("compiled");
    let x = Value::zeros(&f32s(&[4, 2])).expect("zeros");
    assert!(program.run(vec![x.clone(), Value::scalar(2i64)]).is_ok());
    let gather = program.run(vec![x.clone(), Value::scalar(4i64)]).expect_err("outside");
    assert_eq!(gather.to_string(), "[gather] index 4 is outside 0..4");
    let update = program.run(vec![x, Value::scalar(3i64)]).expect_err("outside").to_string();
    assert_eq!(update, "[update] 2 positions from 3 do not fit in 4");
}

#[test]
fn narrow_floats_are_rounded_once_to_nearest_even() {
    // Halfway between two f16 numbers, and just above it by less than f32 shows.
    let (half_way, above) = (1.0 + 2f64.powi(-11), 1.0 + 2f64.powi(-11) + 2f64.powi(-40));
    let v = Value::from_f64(Spec::new(DType::F16, [2]), &[half_way, above]).expect("a value");
    assert_eq!(v.to_f64(), [1.0, 1.0 + 2f64.powi(-10)]);
    let (half_way, above) = (1.0 + 2f64.powi(-8), 1.0 + 2f64.powi(-8) + 2f64.powi(-40));
    let v = Value::from_f64(Spec::new(DType::BF16, [2]), &[half_way, above]).expect("a value");
    assert_eq!(v.to_f64(), [1.0, 1.0 + 2f64.powi(-7)]);
}

#[test]
fn what_is_repeated_is_cast_once() {
    let graph = Graph::trace(&[Spec::new(DType::I64, [2, 1])], |x| {
        vec![x[0].broadcast_to(&[4, 2, 3]).cast(DType::F32)]
    })
    .expect("a graph");
    let simple = graph.optimise().expect("optimised");
    let is_cast = |t: &&Tensor| matches!(t.prim(), Some(Prim::Cast));
    let nodes = simple.nodes();
    let casts: Vec<&[usize]> = nodes.iter().filter(is_cast).map(Tensor::shape).collect();
    assert_eq!(casts, [[1, 2, 1]]);
    let program = compile(&simple, &Reference, &Params::new(), Policy::Deny).expect("compiled");
    let x = Value::new([2, 1], vec![7i64, -2]).expect("a value");
    let out = program.run(vec![x]).expect("it runs");
    assert_eq!(out[0].to_f64(), [7., 7., 7., -2., -2., -2.].repeat(4));
}
