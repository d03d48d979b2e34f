//! What is computed of weights alone, and views under another type.

use super::*;
use crate::Pool;
use frit_graph::{Backend, DType, Executable, Policy, Reference, compile, lower};
use frit_ops::{Activation, Activations, Encoding, fast};
use half::f16;

fn packed() -> (Params, Value) {
    // 64 rows of two blocks: d = 2^-4, m = -1/2, nibbles that count up.
    let row: Vec<u8> = (0..40u8)
        .map(|i| match i % 20 {
            1 => 0x2c,
            3 => 0xb8,
            0 | 2 => 0,
            _ => i.wrapping_mul(37),
        })
        .collect();
    let value = Value::new([64, 40], row.repeat(64)).expect("bytes");
    (Params::from_iter([("w".to_string(), value.clone())]), value)
}

/// A product of `m` rows with the packed weight, composed and lowered.
fn lowered(m: usize) -> Graph {
    Graph::trace(&[Spec::new(DType::F32, [m, 64])], |x| {
        let w = Tensor::param("w", Spec::new(DType::U8, [64, 40]));
        let (exact, q) = (Activations::Exact, Encoding::Q4_1);
        vec![fast::quantized_matmul(&x[0], &w, None, None, q, true, exact)]
    })
    .and_then(|g| g.composed()?.optimise())
    .expect("a graph")
}

#[test]
fn a_composed_program_dequantises_its_weight_once_and_drops_what_led_there() {
    let (params, weight) = packed();
    let cpu = Cpu::composed();
    let plan = build(&cpu, &lowered(3), &params).expect("planned");
    assert_eq!(plan.steps(), 1, "the product alone is left");
    let known = plan.known();
    assert_eq!(known.len(), 1, "only the numbers are held: {known:?}");
    assert_eq!((known[0].dtype(), known[0].spec().numel()), (DType::F32, 64 * 64));
    let mut wanted = vec![0.0; 64 * 64];
    Encoding::Q4_1.unpack(weight.bytes(), &mut wanted).expect("whole blocks");
    assert_eq!(known[0].slice::<f32>().expect("f32"), wanted);
    // The product needs no more than its output and some panels.
    assert!(plan.peak_bytes() < 64 << 10, "{}", plan.peak_bytes());
}

#[test]
fn programs_of_the_same_weights_share_what_is_computed_of_them() {
    let (params, _) = packed();
    let cpu = Cpu::composed();
    let first = build(&cpu, &lowered(3), &params).expect("planned");
    let second = build(&cpu, &lowered(50), &params).expect("planned");
    let id = first.known()[0].id();
    assert_eq!(second.known()[0].id(), id);
    // Another weight of the same bytes is another weight, and another backend has its own shelf.
    let (other, _) = packed();
    let third = build(&cpu, &lowered(3), &other).expect("planned");
    assert_ne!(third.known()[0].id(), id);
    let fourth = build(&Cpu::composed(), &lowered(3), &params).expect("planned");
    assert_ne!(fourth.known()[0].id(), id);
    // It lives as long as a program that uses it.
    drop(first);
    let again = build(&cpu, &lowered(7), &params).expect("planned");
    assert_eq!(again.known()[0].id(), id);
    drop((second, again));
    let anew = build(&cpu, &lowered(3), &params).expect("planned");
    assert_ne!(anew.known()[0].id(), id);
}

#[test]
fn a_view_of_a_weight_is_no_copy_and_a_result_of_weights_alone_can_be_an_output() {
    let (params, weight) = packed();
    let graph = Graph::trace(&[Spec::new(DType::F32, [64])], |x| {
        let w = Tensor::param("w", Spec::new(DType::U8, [64, 40]));
        let halves = w.bitcast(DType::F16).swap_axes(0, 1);
        let sum = halves.slice(0, 0..1).cast(DType::F32);
        vec![&sum * &x[0], w.bitcast(DType::F16), sum.clone(), w.slice(0, 0..0).cast(DType::F32)]
    })
    .expect("a graph");
    let plan = build(&Cpu::composed(), &graph, &params).expect("planned");
    assert!(plan.known().iter().any(|v| v.id() == weight.id()), "the view reads the weight");
    let x = Value::new([64], vec![2.0f32; 64]).expect("a value");
    let out = plan.run(vec![x]).expect("it runs");
    assert_eq!(out[0].to_f64(), [0.125; 64]);
    assert_eq!(out[1].spec(), &Spec::new(DType::F16, [64, 20]));
    assert_eq!(out[1].bytes(), weight.bytes());
    assert_eq!(out[2].to_f64(), [0.0625; 64]);
    assert_eq!(out[3].shape(), [0, 40]);
}

#[test]
fn bytes_from_outside_may_stand_anywhere() {
    // A window at an odd address of somebody else's memory, as a weight and as an input.
    let memory: Vec<u8> = (0..=64).collect();
    let memory: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(memory);
    let odd = (*memory).as_ref().as_ptr().addr() % 2 == 0;
    let range = odd as usize..odd as usize + 64;
    let spec = Spec::new(DType::U8, [64]);
    let value = Value::from_shared(spec.clone(), memory, range).expect("a window");
    let params = Params::from_iter([("w".to_string(), value.clone())]);
    let graph = Graph::trace(std::slice::from_ref(&spec), |x| {
        let w = Tensor::param("w", spec.clone());
        vec![x[0].bitcast(DType::I32).cast(DType::I64), w.bitcast(DType::U32) + 1.0]
    })
    .expect("a graph");
    let program = compile(&graph, &Cpu::default(), &params, Policy::Deny).expect("compiled");
    let out = program.run(vec![value.clone()]).expect("it runs");
    let words: Vec<i64> =
        value.bytes().as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect();
    assert_eq!(out[0].to_i64(), words);
    assert_eq!(out[1].to_i64(), words.iter().map(|w| w + 1).collect::<Vec<_>>());
}

#[test]
fn a_very_long_chain_on_weights_neither_overflows_nor_stays() {
    let params = Params::from_iter([("w".to_string(), Value::scalar(2.0f32))]);
    let graph = Graph::trace(&[], |_| {
        let mut t = Tensor::param("w", Spec::new(DType::F32, []));
        (0..50_000).for_each(|_| t = -&t);
        vec![t]
    })
    .expect("a graph");
    let plan = build(&Cpu::composed(), &graph, &params).expect("planned");
    assert_eq!(plan.steps(), 0);
    assert_eq!(plan.run(Vec::new()).expect("it runs")[0].to_f64(), [2.0]);
}

/// The steps and the outputs of a graph with elementwise chains and without.
fn both(graph: &Graph, inputs: &[Value]) -> [(usize, Vec<Value>); 2] {
    let chained = Cpu::on(crate::Pool::new(3));
    [chained, Cpu::composed()].map(|cpu| {
        let program = compile(graph, &cpu, &Params::new(), Policy::Allow).expect("compiled");
        (program.steps(), program.run(inputs.to_vec()).expect("it runs"))
    })
}

fn numbers(shape: &[usize], seed: u64) -> Value {
    let mut state = seed;
    let next = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let n: usize = shape.iter().product();
    Value::new(shape, (0..n).map(next).collect::<Vec<f32>>()).expect("a value")
}

/// Traces, runs both ways and compares bits; gives the steps.
fn chained(
    shapes: &[&[usize]],
    build: impl Fn(&[frit_graph::Tensor]) -> Vec<frit_graph::Tensor>,
) -> [usize; 2] {
    let specs: Vec<Spec> = shapes.iter().map(|s| Spec::new(DType::F32, *s)).collect();
    let graph = Graph::trace(&specs, |x| build(x)).expect("a graph");
    let inputs: Vec<Value> = shapes.iter().zip(1..).map(|(s, n)| numbers(s, n)).collect();
    let [(a, x), (b, y)] = both(&graph, &inputs);
    for (x, y) in x.iter().zip(&y) {
        assert_eq!(x.bytes(), y.bytes(), "a chain has other bits:\n{graph}");
    }
    [a, b]
}

#[test]
fn elementwise_functions_in_a_row_are_one_step_with_the_same_bits() {
    let steps = chained(&[&[3, 5, 700]], |x| {
        let gate = (&x[0] + 3.0).maximum(&scalar(0.0)).minimum(&scalar(6.0));
        vec![&x[0] * gate / 6.0]
    });
    assert_eq!(steps, [1, 5]);
    // Operands that repeat, along every axis, and one that stands transposed.
    let steps = chained(&[&[4, 6, 33], &[6, 1], &[33], &[33, 6, 4]], |x| {
        let turned = x[3].transpose(&[2, 1, 0]);
        vec![((&x[0] * &x[1] + &x[2]).exp() - turned).tanh()]
    });
    assert_eq!(steps, [1, 5]);
}

#[test]
fn a_result_that_is_needed_elsewhere_is_written_out() {
    let steps = chained(&[&[40, 50]], |x| {
        let half = (&x[0] * 0.5).exp();
        let sum = half.sum(&[-1]);
        vec![(&half + 1.0) * 2.0, sum]
    });
    assert_eq!(steps, [3, 5], "what the sum reads is a chain, and what follows is another");
    let steps = chained(&[&[40, 50]], |x| {
        let first = (&x[0] * 0.5).exp();
        vec![(&first + 1.0).tanh(), first]
    });
    assert_eq!(steps, [2, 4], "an output is written out");
}

#[test]
fn a_chain_that_reads_too_much_at_a_time_is_cut() {
    // A sum of 20 operands, and products that are all alive until their sum.
    let shapes: Vec<&[usize]> = vec![&[7, 90]; 20];
    let [fused, composed] = chained(&shapes, |x| {
        let all = x[1..].iter().fold(x[0].clone(), |sum, x| sum * 0.5 + x);
        vec![all]
    });
    assert!(fused < composed / 3, "{fused} steps for {composed}");
    let [fused, composed] = chained(&[&[7, 90]], |x| {
        let mut row: Vec<_> = (1..=16).map(|n| (&x[0] * f64::from(n)).sin()).collect();
        while row.len() > 1 {
            row = row.chunks(2).map(|p| &p[0] + &p[1]).collect();
        }
        row
    });
    assert!(fused < composed / 2, "{fused} steps for {composed}");
}

fn scalar(n: f64) -> frit_graph::Tensor {
    frit_graph::Tensor::scalar(DType::F32, n)
}

#[test]
fn a_weight_that_the_graph_widens_is_read_as_it_is_stored() {
    let numbers: Vec<f16> = (0..8 * 16).map(|i| f16::from_f32(i as f32 / 64.0 - 1.0)).collect();
    let weight = Value::new([8, 16], numbers.clone()).expect("a weight");
    let params = Params::from_iter([("w".to_string(), weight.clone())]);
    let x: Vec<f32> = (0..12 * 16).map(|i| (i % 5) as f32 - 2.0).collect();
    let rows = |n: usize| Value::new([n, 16], x[..n * 16].to_vec()).expect("rows");
    let cpu = Cpu::default();
    for (n, m) in [(1, 1), (5, 2), (12, 3)] {
        let specs = [rows(n).spec().clone(), Spec::new(DType::I64, [m])];
        let graph = Graph::trace(&specs, |x| {
            let w = Tensor::param("w", Spec::new(DType::F16, [8, 16])).cast(DType::F32);
            let product = fast::linear(&x[0], &w, None, Activation::Identity);
            vec![product, fast::embedding(&w, &x[1])]
        })
        .expect("a graph");
        let plan = build(&cpu, &graph, &params).expect("planned");
        let ids: Vec<_> = plan.known().iter().map(|v| v.id()).collect();
        assert_eq!(ids, [weight.id()], "nothing is widened beforehand");
        let places = (0..m as i64).map(|i| 7 - 3 * i).collect::<Vec<_>>();
        let out = plan.run(vec![rows(n), Value::new([m], places.clone()).expect("ids")]);
        let out = out.expect("it runs");
        let number = |r: usize, c: usize| f64::from(numbers[r * 16 + c]);
        let mut want = Vec::new();
        for row in x[..n * 16].chunks(16) {
            let dot = |r| row.iter().enumerate().map(|(c, &x)| f64::from(x) * number(r, c)).sum();
            want.extend((0..8).map(dot).collect::<Vec<f64>>());
        }
        // All sums are short multiples of 1/64: exact in f32.
        assert_eq!(out[0].to_f64(), want);
        let row = |&r: &i64| (0..16).map(move |c| number(r as usize, c));
        assert_eq!(out[1].to_f64(), places.iter().flat_map(row).collect::<Vec<_>>());
    }
    // What a call brings is not looked into: it is widened by a step.
    let graph = Graph::trace(&[weight.spec().clone(), rows(1).spec().clone()], |x| {
        vec![fast::linear(&x[1], &x[0].cast(DType::F32), None, Activation::Identity)]
    });
    let plan = build(&cpu, &graph.expect("a graph"), &Params::new()).expect("planned");
    assert_eq!(plan.steps(), 2);
}

#[test]
fn products_of_one_operand_with_several_packed_weights_are_one_step() {
    let (params, weight) = packed();
    let mut numbers = vec![0.0; 64 * 64];
    Encoding::Q4_1.unpack(weight.bytes(), &mut numbers).expect("whole blocks");
    let exact = Activations::Exact;
    // What is an output itself stays apart, and so does the product of another operand.
    let graph = |m: usize| {
        Graph::trace(&[Spec::new(DType::F32, [m, 64])], |x| {
            let all = Tensor::param("w", Spec::new(DType::U8, [64, 40]));
            let some = Tensor::param("v", Spec::new(DType::U8, [48, 40]));
            let by = |x: &Tensor, w: &Tensor| {
                fast::quantized_matmul(x, w, None, None, Encoding::Q4_1, true, exact)
            };
            let (a, b, c) = (by(&x[0], &all), by(&x[0], &some), by(&x[0], &all));
            let other = by(&(&x[0] + 1.0), &some);
            vec![a * 2.0, b.reshape(&[m * 6, 8]) - 0.5, c, other]
        })
        .and_then(|g| Ok(lower(&g, &Cpu::default())?.0))
    };
    let part = Value::new([48, 40], weight.bytes()[..48 * 40].to_vec()).expect("bytes");
    let mut params = params;
    params.insert("v".to_string(), part);
    for threads in [1, 2] {
        let cpu = Cpu::on(Pool::new(threads));
        for (m, steps) in [(1, 6), (3, 6), (40, 7)] {
            let plan = build(&cpu, &graph(m).expect("a graph"), &params).expect("planned");
            assert_eq!(plan.steps(), steps, "{m} rows");
            let x: Vec<f32> = (0..m * 64).map(|i| (i * 37 % 101) as f32 * 0.02 - 1.0).collect();
            let out = plan.run(vec![Value::new([m, 64], x.clone()).expect("a value")]);
            let out: Vec<Vec<f64>> = out.expect("it runs").iter().map(Value::to_f64).collect();
            for (got, rows, plus, result) in [
                (&out[0], 64, 0.0, (|y| 2.0 * y) as fn(f64) -> f64),
                (&out[1], 48, 0.0, |y| y - 0.5),
                (&out[2], 64, 0.0, |y| y),
                (&out[3], 48, 1.0, |y| y),
            ] {
                assert_eq!(got.len(), m * rows);
                for (i, got) in got.iter().enumerate() {
                    let (row, column) = (i / rows, i % rows);
                    let pairs = x[row * 64..][..64].iter().zip(&numbers[column * 64..][..64]);
                    let sum: f64 = pairs.map(|(&x, &w)| (f64::from(x) + plus) * f64::from(w)).sum();
                    assert!((got - result(sum)).abs() < 2e-5, "{m} rows, {rows}: {i}");
                }
            }
            // What digits cannot say is left to floats, for each weight.
            let mut x = x;
            x[0] = f32::NAN;
            let out = plan.run(vec![Value::new([m, 64], x).expect("a value")]).expect("it runs");
            assert!(out[1].to_f64()[..48].iter().all(|y| y.is_nan()), "{m} rows");
            assert!(out[1].to_f64()[48..].iter().all(|y| y.is_finite()), "{m} rows");
        }
    }
}

/// The three rows of x in another order.
fn turned(x: &Tensor) -> Tensor {
    x.gather(0, &Tensor::constant(Value::new([3], vec![2i64, 0, 1]).expect("rows")))
}

/// `f` of an input and of a product with it, planned and held, on `x`, against the plain loops: the
/// steps of the plan.
fn planned(f: impl Fn(&Tensor, &dyn Fn(&Tensor) -> Tensor) -> Vec<Tensor>, x: &[f32]) -> usize {
    // Sums of whole numbers are the same in any order.
    planned_within(0.0, Activation::Identity, f, x)
}

/// The same with an activation of the product, and an error of each number.
fn planned_within(
    error: f64,
    activation: Activation,
    f: impl Fn(&Tensor, &dyn Fn(&Tensor) -> Tensor) -> Vec<Tensor>,
    x: &[f32],
) -> usize {
    let spec = Spec::new(DType::F32, [3, 4]);
    let weight = Value::new([4, 4], (0..16).map(|i| i as f32 - 7.5).collect::<Vec<_>>());
    let params = Params::from_iter([("w".to_string(), weight.expect("a weight"))]);
    let linear = |x: &Tensor| {
        let w = Tensor::param("w", Spec::new(DType::F32, [4, 4]));
        fast::linear(x, &w, None, activation)
    };
    let graph = Graph::trace(std::slice::from_ref(&spec), |i| f(&i[0], &linear)).expect("a graph");
    let value = Value::new([3, 4], x.to_vec()).expect("an input");
    let cpu = Cpu::on(Pool::new(2));
    let program = compile(&graph, &cpu, &params, Policy::Allow).expect("compiled");
    let out = program.run(vec![value.clone()]).expect("run");
    let (steps, out) = (program.steps(), out.iter().map(Value::to_f64).collect::<Vec<_>>());
    let truth = compile(&graph, &Reference, &params, Policy::Allow).expect("compiled");
    let truth = truth.run(vec![value.clone()]).expect("run");
    assert_eq!(out.len(), truth.len());
    for (out, truth) in out.iter().zip(truth.iter().map(Value::to_f64)) {
        assert_eq!(out.len(), truth.len());
        for (out, truth) in out.iter().zip(truth) {
            assert!((out - truth).abs() <= error * truth.abs(), "{out} and not {truth}");
        }
    }
    steps
}

#[test]
fn a_product_adds_to_what_it_is_added_to_where_nobody_else_needs_that() {
    let x: Vec<f32> = (0..12).map(|i| (i % 5) as f32).collect();
    // One step for the rows and one for the product, whichever way round the sum is. (What is
    // elementwise would make a chain with the sum.)
    assert_eq!(planned(|x, linear| vec![turned(x) + linear(x)], &x), 2);
    assert_eq!(planned(|x, linear| vec![linear(x) + turned(x)], &x), 2);
    let both = |x: &Tensor, linear: &dyn Fn(&Tensor) -> Tensor| {
        let y = turned(x) + linear(x);
        vec![turned(&y) + linear(&x.abs())]
    };
    assert_eq!(planned(both, &x), 5);
    // A step before the sum may read it.
    let before = |x: &Tensor, linear: &dyn Fn(&Tensor) -> Tensor| {
        let (product, y) = (linear(x), turned(x));
        let other = linear(&turned(&y));
        vec![other, y + product]
    };
    assert_eq!(planned(before, &x), 4);
    // The product reads what it would write over; so does a later step; or it is an output, or the
    // product is; or an input of the program, which belongs to the caller.
    let own = |x: &Tensor, linear: &dyn Fn(&Tensor) -> Tensor| {
        let y = turned(x);
        vec![&y + linear(&y)]
    };
    assert_eq!(planned(own, &x), 3);
    let later = |x: &Tensor, linear: &dyn Fn(&Tensor) -> Tensor| {
        let y = turned(x);
        vec![linear(&(&y + linear(x))) * &y]
    };
    assert_eq!(planned(later, &x), 5);
    let shown = |x: &Tensor, linear: &dyn Fn(&Tensor) -> Tensor| {
        let y = turned(x);
        vec![&y + linear(x), y]
    };
    assert_eq!(planned(shown, &x), 3);
    let product = |x: &Tensor, linear: &dyn Fn(&Tensor) -> Tensor| {
        let y = linear(x);
        vec![linear(&turned(x)) + &y, y]
    };
    assert_eq!(planned(product, &x), 4);
    assert_eq!(planned(|x, linear| vec![x + linear(x)], &x), 2);
}

#[test]
fn a_product_passes_its_gate_where_nobody_else_needs_that() {
    let x: Vec<f32> = (0..12).map(|i| (i % 5) as f32 - 2.0).collect();
    let twice = |x: &Tensor| x * 2.0;
    type Linear<'a> = &'a dyn Fn(&Tensor) -> Tensor;
    fn gate(f: impl Fn(&Tensor, Linear<'_>) -> Vec<Tensor>, x: &[f32]) -> usize {
        planned_within(1e-6, Activation::Identity, f, x)
    }
    let gated =
        |x: &Tensor, linear: &dyn Fn(&Tensor) -> Tensor| vec![fast::swiglu(&twice(x), &linear(x))];
    assert_eq!(gate(gated, &x), 2);
    // It is no matter which of them is made first.
    let first = |x: &Tensor, linear: &dyn Fn(&Tensor) -> Tensor| {
        let up = linear(x);
        vec![fast::swiglu(&turned(x), &up)]
    };
    assert_eq!(gate(first, &x), 2);
    // A gate that is the product itself stays a step; so does one that is needed elsewhere.
    let itself =
        |x: &Tensor, linear: &dyn Fn(&Tensor) -> Tensor| vec![fast::swiglu(&linear(x), &twice(x))];
    assert_eq!(gate(itself, &x), 3);
    let later = |x: &Tensor, linear: &dyn Fn(&Tensor) -> Tensor| {
        let gate = twice(x);
        vec![linear(&fast::swiglu(&gate, &linear(x))) * gate]
    };
    assert_eq!(gate(later, &x), 5);
    // A gate is for the sums: a product with an activation does not take it.
    assert_eq!(planned_within(1e-6, Activation::Relu, gated, &x), 3);
}

#[test]
fn gate_and_up_of_packed_weights_are_one_product_or_the_second_passes_the_first() {
    let (mut params, weight) = packed();
    let mut numbers = vec![0.0; 64 * 64];
    Encoding::Q4_1.unpack(weight.bytes(), &mut numbers).expect("whole blocks");
    // The rows of the other weight are those of this one from the second block on, then the first.
    let turned: Vec<u8> =
        weight.bytes().chunks(40).flat_map(|row| [&row[20..], &row[..20]].concat()).collect();
    params.insert("v".to_string(), Value::new([64, 40], turned).expect("bytes"));
    let graph = |m: usize, shown: bool, apart: bool| {
        Graph::trace(&[Spec::new(DType::F32, [m, 64])], |x| {
            let by = |x: &Tensor, w: &str| {
                let (w, exact) =
                    (Tensor::param(w, Spec::new(DType::U8, [64, 40])), Activations::Exact);
                fast::quantized_matmul(x, &w, None, None, Encoding::Q4_1, true, exact)
            };
            // Of operands of their own they are not one product: the doubling is a step.
            let apart = if apart { &x[0] * 2.0 } else { x[0].clone() };
            let (gate, up) = (by(&x[0], "w"), by(&apart, "v"));
            let y = fast::swiglu(&gate, &up);
            if shown { vec![y, up] } else { vec![y] }
        })
        .and_then(|g| Ok(lower(&g, &Cpu::default())?.0))
    };
    for (m, shown, apart, steps) in [
        (1, false, false, 2),
        (5, false, false, 2),
        (40, false, false, 2),
        (1, true, false, 3),
        (40, true, false, 3),
        (1, false, true, 3),
        (7, false, true, 3),
        (40, false, true, 3),
    ] {
        let cpu = Cpu::on(Pool::new(2));
        let plan =
            build(&cpu, &graph(m, shown, apart).expect("a graph"), &params).expect("planned");
        assert_eq!(plan.steps(), steps, "{m} rows");
        let x: Vec<f32> = (0..m * 64).map(|i| (i * 37 % 101) as f32 * 0.002 - 0.1).collect();
        let run = |x: Vec<f32>| {
            let out = plan.run(vec![Value::new([m, 64], x).expect("a value")]);
            out.expect("it runs").iter().map(Value::to_f64).collect::<Vec<_>>()
        };
        let product = |row: usize, column: usize, turn: usize| -> f64 {
            let weight = |p: usize| f64::from(numbers[column * 64 + (p + turn) % 64]);
            (0..64).map(|p| f64::from(x[row * 64 + p]) * weight(p)).sum()
        };
        let out = run(x.clone());
        for (i, got) in out[0].iter().enumerate() {
            let [gate, up] = [0, 32].map(|turn| product(i / 64, i % 64, turn));
            let up = if apart { 2.0 * up } else { up };
            let want = gate / (1.0 + (-gate).exp()) * up;
            assert!((got - want).abs() < 1e-5, "{m} rows: {got} and not {want}");
            if let Some(shown) = out.get(1) {
                assert!((shown[i] - up).abs() < 1e-5, "{m} rows: {} and not {up}", shown[i]);
            }
        }
        // What digits cannot say is left to floats, gate and up.
        let mut x = x.clone();
        x[0] = f32::NAN;
        let out = run(x).swap_remove(0);
        assert!(out[..64].iter().all(|y| y.is_nan()), "{m} rows");
        assert!(out[64..].iter().all(|y| y.is_finite()), "{m} rows");
    }
}

#[test]
fn a_product_is_added_to_a_copy_of_an_input_that_is_written_over() {
    let spec = Spec::new(DType::F32, [3, 4]);
    let weight = Value::new([4, 4], (0..16).map(|i| i as f32 - 7.5).collect::<Vec<_>>());
    let params = Params::from_iter([("w".to_string(), weight.expect("a weight"))]);
    let graph = Graph::trace(&[spec.clone(), spec], |i| {
        let row = Tensor::constant(Value::new([1, 4], vec![5.0f32; 4]).expect("a row"));
        let cache = i[0].update(0, &row, &Tensor::constant(Value::scalar(1i64)));
        let w = Tensor::param("w", Spec::new(DType::F32, [4, 4]));
        vec![&cache + fast::linear(&i[1], &w, None, Activation::Identity)]
    })
    .expect("a graph");
    let value = |from: f32| {
        Value::new([3, 4], (0..12).map(|i| from + (i % 5) as f32).collect::<Vec<_>>()).expect("3x4")
    };
    let run = |backend: &dyn Backend| {
        let program = compile(&graph, backend, &params, Policy::Allow).expect("compiled");
        let out = program.run(vec![value(0.0), value(1.0)]).expect("run");
        (program.steps(), out[0].to_f64())
    };
    let (steps, out) = run(&Cpu::on(Pool::new(2)));
    assert_eq!((steps, out), (2, run(&Reference).1));
}

#[test]
fn rotations_by_the_same_angles_share_a_table() {
    use frit_ops::{Rope, RopeLayout, SequenceAxis};
    let specs = [
        Spec::new(DType::F32, [2, 5, 3, 16]),
        Spec::new(DType::F32, [2, 4, 5, 16]),
        Spec::new(DType::I64, [2]),
        Spec::new(DType::I64, []),
        Spec::new(DType::I64, [2, 5]),
        Spec::new(DType::F32, [8]),
    ];
    let plain = || Rope::new(16);
    let third = Rope { sequence_axis: SequenceAxis::ThirdLast, ..plain() };
    let pairs = Rope { layout: RopeLayout::Interleaved, ..plain() };
    type Rotation<'a> = Box<dyn Fn(&[Tensor]) -> Tensor + 'a>;
    let with = |from: fn(&[Tensor]) -> Tensor, start: usize, rope: &Rope| -> Rotation<'_> {
        let rope = rope.clone();
        Box::new(move |x| fast::rope(&from(x), Some(&x[start]), rope.clone()))
    };
    let at = |from: fn(&[Tensor]) -> Tensor, rope: &Rope| -> Rotation<'_> {
        let rope = rope.clone();
        Box::new(move |x| fast::rope_at(&from(x), &x[4], Some(&x[5]), rope.clone()))
    };
    let q = |x: &[Tensor]| x[0].clone();
    let k = |x: &[Tensor]| x[1].clone();
    let rotations: Vec<Rotation<'_>> = vec![
        // Two on one table, whatever the axes, the pairs and the type.
        with(q, 2, &third),
        with(|x| x[1].cast(DType::F16), 2, &pairs),
        // Two of the whole batch at one place, the second in place.
        with(q, 3, &third),
        with(|x| &x[1] * 2.0, 3, &pairs),
        // Two at given positions with given frequencies.
        at(q, &third),
        at(k, &plain()),
        // Other angles each, or other lengths.
        with(k, 3, &Rope { dims: 8, ..plain() }),
        with(k, 3, &Rope { base: 500.0, ..plain() }),
        with(k, 3, &Rope { scale: 0.5, ..plain() }),
        with(k, 3, &Rope { amplitude: 1.5, ..plain() }),
        with(|x| x[1].slice(2, 0..4), 3, &plain()),
        Box::new(|x| fast::rope(&x[1], None, plain())),
    ];
    let inputs = vec![
        numbers(&[2, 5, 3, 16], 1),
        numbers(&[2, 4, 5, 16], 2),
        Value::new([2], vec![3i64, 40_000]).expect("rows"),
        Value::scalar(17i64),
        Value::new([2, 5], (0..10i64).map(|p| 90 - 7 * p).collect::<Vec<_>>()).expect("places"),
        Value::new([8], (0..8).map(|f| 0.5f32.powi(f)).collect::<Vec<_>>()).expect("frequencies"),
    ];
    let run = |backend: &dyn Backend, rotations: &[Rotation<'_>]| {
        let graph = Graph::trace(&specs, |x| rotations.iter().map(|r| r(x)).collect());
        let graph = graph.expect("a graph");
        let program = compile(&graph, backend, &Params::new(), Policy::Allow).expect("compiled");
        (program.steps(), program.run(inputs.clone()).expect("it runs"))
    };
    let cpu = Cpu::on(Pool::new(2));
    let (steps, out) = run(&cpu, &rotations);
    // Twelve rotations, a product, a cast, a dense slice and three tables.
    assert_eq!(steps, 12 + 3 + 3);
    let (_, truth) = run(&Reference, &rotations);
    for (n, (out, truth)) in out.iter().zip(&truth).enumerate() {
        let (_, alone) = run(&cpu, &rotations[n..=n]);
        assert_eq!(alone[0].bytes(), out.bytes(), "output {n} alone");
        let error = if out.dtype() == DType::F16 { 2e-3 } else { 5e-7 };
        for (got, want) in out.to_f64().into_iter().zip(truth.to_f64()) {
            assert!((got - want).abs() < error, "output {n}: {got} and not {want}");
        }
    }
}

#[test]
fn products_of_integers_add_nothing() {
    let (params, _) = packed();
    let x = numbers(&[3, 64], 7);
    let mut rows: Vec<Vec<f32>> = x.to_f32().chunks(64).map(<[f32]>::to_vec).collect();
    rows.rotate_right(1);
    let run = |sum: bool| {
        let graph = Graph::trace(std::slice::from_ref(x.spec()), |x| {
            let w = Tensor::param("w", Spec::new(DType::U8, [64, 40]));
            let (eight, q) = (Activations::EightBit, Encoding::Q4_1);
            let y = fast::quantized_matmul(&x[0], &w, None, None, q, true, eight);
            vec![if sum { turned(&x[0]) + y } else { y }]
        });
        let graph = graph.expect("a graph");
        let cpu = Cpu::on(Pool::new(2));
        let program = compile(&graph, &cpu, &params, Policy::Deny).expect("compiled");
        let out = program.run(vec![x.clone()]).expect("it runs");
        (program.steps(), out[0].to_f32())
    };
    let ((steps, sums), (_, products)) = (run(true), run(false));
    assert_eq!(steps, 3);
    for ((sum, product), x) in sums.iter().zip(&products).zip(rows.concat()) {
        assert_eq!(*sum, x + product);
    }
}
