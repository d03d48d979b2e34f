//! Quantised weights as exporters spell them, and what only looks like one.
//!
//! Each weight is a formula of its row and column, so that the product is known in float64 without
//! any of the graph.

use crate::{blocks, recognised, small_cases, spellings::constant};
use frit_conformance::{compare, judge_value};
use frit_cpu::{Cpu, Pool};
use frit_graph::{
    Backend, DType, Graph, Params, Policy, Reference, Spec, Tensor, Value, compile,
    reference::round_f16,
};
use frit_ops::{Encoding, QuantizedMatmul, catalogue::normal, recognisers};

/// A weight `[n, k]` of integers with a scale and a zero point for each group of a row.
#[derive(Clone, Copy)]
struct Weight {
    n: usize,
    k: usize,
    /// Columns that share a scale.
    group: usize,
    /// The smallest and the largest integer.
    range: (i64, i64),
    /// Rows have scales of their own.
    rows: bool,
    zero: bool,
}

const BYTES: (i64, i64) = (0, 255);
const SIGNED: (i64, i64) = (-128, 127);
const NIBBLES: (i64, i64) = (0, 15);
const SIGNED_NIBBLES: (i64, i64) = (-8, 7);

impl Weight {
    fn of(range: (i64, i64), k: usize, group: usize) -> Weight {
        Weight { n: 5, k, group, range, rows: true, zero: true }
    }

    fn symmetric(self) -> Weight {
        Weight { zero: false, ..self }
    }

    fn whole(self) -> Weight {
        Weight { rows: false, group: self.k, ..self }
    }

    fn integer(&self, row: usize, column: usize) -> i64 {
        let span = self.range.1 - self.range.0 + 1;
        self.range.0 + (row * 89 + column * column * 7 + column * 31) as i64 % span
    }

    fn scale(&self, row: usize, group: usize) -> f64 {
        let row = if self.rows { row } else { 0 };
        // What an f16 holds.
        round_f16(0.002 + 0.0007 * ((row * 5 + group * 3) % 11) as f64).to_f64()
    }

    fn zero(&self, row: usize, group: usize) -> i64 {
        let row = if self.rows { row } else { 0 };
        let middle = (self.range.0 + self.range.1 + 1) / 2;
        if self.zero { middle + ((row * 3 + group * 5) % 7) as i64 - 3 } else { 0 }
    }

    fn number(&self, row: usize, column: usize) -> f64 {
        let group = column / self.group;
        (self.integer(row, column) - self.zero(row, group)) as f64 * self.scale(row, group)
    }

    /// Integers by coordinates, as a constant.
    fn ints(dtype: DType, shape: &[usize], f: impl Fn(&[usize]) -> i64) -> Tensor {
        let wide = constant(shape, |at| f(at) as f64);
        let value = match wide.prim() {
            Some(frit_graph::Prim::Constant(v)) => v.cast(dtype),
            _ => unreachable!("a constant"),
        };
        Tensor::constant(value)
    }

    /// `[n, k]`
    fn rows(&self, dtype: DType) -> Tensor {
        Weight::ints(dtype, &[self.n, self.k], |at| self.integer(at[0], at[1]))
    }

    /// `[k, n]`
    fn columns(&self, dtype: DType) -> Tensor {
        Weight::ints(dtype, &[self.k, self.n], |at| self.integer(at[1], at[0]))
    }

    /// Scales of these extents, by row and group of each element.
    fn scales(&self, shape: &[usize], f: fn(&[usize]) -> (usize, usize)) -> Tensor {
        constant(shape, |at| self.scale(f(at).0, f(at).1))
    }

    fn zeros(&self, dtype: DType, shape: &[usize], f: fn(&[usize]) -> (usize, usize)) -> Tensor {
        Weight::ints(dtype, shape, |at| self.zero(f(at).0, f(at).1))
    }
}

fn f32(t: &Tensor) -> Tensor {
    t.cast(DType::F32)
}

/// What `x` times the weight is, in float64.
fn product(x: &Value, w: &Weight) -> Vec<f64> {
    let x = x.to_f64();
    let row = |x: &[f64], j| x.iter().enumerate().map(|(c, x)| x * w.number(j, c)).sum();
    x.chunks(w.k).flat_map(|x| (0..w.n).map(move |j| row(x, j)).collect::<Vec<f64>>()).collect()
}

struct Spelling {
    name: &'static str,
    weight: Weight,
    /// Bits and group size.
    want: (usize, usize),
    build: fn(&Tensor, &Weight) -> Tensor,
}

fn spelling(
    name: &'static str,
    weight: Weight,
    want: (usize, usize),
    build: fn(&Tensor, &Weight) -> Tensor,
) -> Spelling {
    Spelling { name, weight, want, build }
}

fn encodings(graph: &Graph) -> Vec<Encoding> {
    let nodes = graph.nodes();
    nodes.iter().filter_map(|t| t.block::<QuantizedMatmul>()).map(|b| b.encoding).collect()
}

fn run_on(backend: &dyn Backend, graph: &Graph, x: &Value, params: &Params) -> Vec<f64> {
    let program = compile(graph, backend, params, Policy::Allow).expect("compiled");
    program.run(vec![x.clone()]).expect("it runs")[0].to_f64()
}

fn check(all: Vec<Spelling>) {
    let rules = recognisers();
    let cpu = Cpu::on(Pool::new(2));
    for s in all {
        for rows in [1, 3, 12] {
            let x = normal(&[rows, s.weight.k]).value(DType::F32, rows as u64);
            let graph = Graph::trace(&[x.spec().clone()], |x| vec![(s.build)(&x[0], &s.weight)]);
            let (found, report) = recognised(&graph.expect("a graph"), &rules);
            let (bits, group_size) = s.want;
            let want = [Encoding::Affine { bits, group_size }];
            let name = s.name;
            assert_eq!(encodings(&found), want, "{name}:\n{report}{found}");
            let want = product(&x, &s.weight);
            let params = Params::new();
            for backend in [&Reference as &dyn Backend, &cpu] {
                let got = run_on(backend, &found, &x, &params);
                let d = compare(&got, &want, (2e-5, 2e-5));
                assert!(d.within, "{name}: abs {:.2e}, rel {:.2e}", d.max_abs, d.max_rel);
            }
        }
    }
}

#[test]
fn weights_with_one_scale_or_one_a_row_are_packed() {
    check(vec![
        spelling(
            "one scale, as DequantizeLinear",
            Weight::of(BYTES, 128, 128).whole(),
            (8, 128),
            |x, w| {
                let zero = Weight::ints(DType::U8, &[], |_| w.zero(0, 0));
                let scale = Tensor::scalar(DType::F32, w.scale(0, 0));
                x.matmul(&((f32(&w.columns(DType::U8)) - f32(&zero)) * scale))
            },
        ),
        spelling(
            "one scale, no zero point",
            Weight::of(SIGNED, 96, 96).whole().symmetric(),
            (8, 32),
            |x, w| x.matmul(&(f32(&w.columns(DType::I32)) * w.scale(0, 0))),
        ),
        spelling(
            "one a column of [k, n]: DequantizeLinear, axis 1",
            Weight::of(SIGNED, 64, 64),
            (8, 64),
            |x, w| {
                let zero = w.zeros(DType::I32, &[1, 5], |at| (at[1], 0));
                let scale = w.scales(&[1, 5], |at| (at[1], 0));
                x.matmul(&((f32(&w.columns(DType::I32)) - f32(&zero)) * scale))
            },
        ),
        spelling(
            "one a row of [n, k]: Gemm with transB",
            Weight::of(SIGNED, 256, 256),
            (8, 128),
            |x, w| {
                let zero = w.zeros(DType::I32, &[5, 1], |at| (at[0], 0));
                let scale = w.scales(&[5, 1], |at| (at[0], 0));
                let weight = (f32(&w.rows(DType::I32)) - f32(&zero)) * scale;
                x.matmul(&weight.swap_axes(0, 1))
            },
        ),
        spelling(
            "quanto: integers times a column of scales",
            Weight::of(SIGNED, 128, 128).symmetric(),
            (8, 128),
            |x, w| {
                let scale = w.scales(&[5, 1], |at| (at[0], 0));
                x.matmul(&(scale * f32(&w.rows(DType::I32))).transpose(&[1, 0]))
            },
        ),
        spelling(
            "torchao: the zero point taken off integers",
            Weight::of(BYTES, 128, 128),
            (8, 128),
            |x, w| {
                let zero = w.zeros(DType::I32, &[5, 1], |at| (at[0], 0));
                let whole = w.rows(DType::U8).cast(DType::I32) - zero;
                let weight = f32(&whole) * w.scales(&[5], |at| (at[0], 0)).unsqueeze(1);
                x.matmul(&weight.transpose(&[1, 0]))
            },
        ),
        spelling("a scale and a bias", Weight::of(BYTES, 128, 128), (8, 128), |x, w| {
            let scale = w.scales(&[5, 1], |at| (at[0], 0));
            let bias = -(f32(&w.zeros(DType::I32, &[5, 1], |at| (at[0], 0))) * &scale);
            x.matmul(&(bias + f32(&w.rows(DType::U8)) * scale).transpose(&[1, 0]))
        }),
        spelling("turned before the scale", Weight::of(BYTES, 64, 64), (8, 64), |x, w| {
            let zero = w.zeros(DType::U8, &[5, 1], |at| (at[0], 0));
            let centred = (f32(&w.rows(DType::U8)) - f32(&zero)).transpose(&[1, 0]);
            x.matmul(&(centred * w.scales(&[5], |at| (at[0], 0))))
        }),
        spelling("scales of half precision", Weight::of(BYTES, 64, 64), (8, 64), |x, w| {
            let zero = w.zeros(DType::U8, &[5, 1], |at| (at[0], 0));
            let scale = w.scales(&[5, 1], |at| (at[0], 0)).cast(DType::F16);
            let weight = (f32(&w.rows(DType::U8)) - f32(&zero)) * f32(&scale);
            x.matmul(&weight.transpose(&[1, 0]))
        }),
        spelling("repeated for a batch", Weight::of(BYTES, 64, 64), (8, 64), |x, w| {
            let zero = w.zeros(DType::U8, &[1, 5], |at| (at[1], 0));
            let weight =
                (f32(&w.columns(DType::U8)) - f32(&zero)) * w.scales(&[1, 5], |at| (at[1], 0));
            x.unsqueeze(1).matmul(&weight).squeeze(1)
        }),
    ]);
}

#[test]
fn weights_with_scales_of_groups_are_packed() {
    check(vec![
        spelling(
            "groups as an axis of their own",
            Weight::of(NIBBLES, 192, 64),
            (4, 64),
            |x, w| {
                let (shape, of) = ([5, 3, 1], |at: &[usize]| (at[0], at[1]));
                let groups = f32(&w.rows(DType::U8)).reshape(&[5, 3, 64]);
                let weight = (groups - f32(&w.zeros(DType::U8, &shape, of))) * w.scales(&shape, of);
                x.matmul(&weight.reshape(&[5, 192]).transpose(&[1, 0]))
            },
        ),
        spelling(
            "torchao: groups of 256 integers",
            Weight::of(SIGNED, 512, 256),
            (8, 128),
            |x, w| {
                let (shape, of) = ([5, 2, 1], |at: &[usize]| (at[0], at[1]));
                let groups = w.rows(DType::I32).reshape(&[5, 2, 256]);
                let weight =
                    f32(&(groups - w.zeros(DType::I32, &shape, of))) * w.scales(&shape, of);
                x.matmul(&weight.reshape(&[5, 512]).swap_axes(0, 1))
            },
        ),
        spelling(
            "scales repeated: DequantizeLinear in blocks, axis 0",
            Weight::of(SIGNED_NIBBLES, 96, 32),
            (4, 32),
            |x, w| {
                let repeated = |t: Tensor| {
                    t.unsqueeze(1).broadcast_to(&[3, 32, 5]).reshape(&[96, 5]).slice(0, 0..96)
                };
                let of = |at: &[usize]| (at[1], at[0]);
                let zero = repeated(w.zeros(DType::I32, &[3, 5], of));
                let scale = repeated(w.scales(&[3, 5], of));
                x.matmul(&((f32(&w.columns(DType::I32)) - f32(&zero)) * scale))
            },
        ),
        spelling(
            "scales repeated: axis 1, transB",
            Weight::of(NIBBLES, 128, 32),
            (4, 32),
            |x, w| {
                let repeated =
                    |t: Tensor| t.unsqueeze(2).broadcast_to(&[5, 4, 32]).reshape(&[5, 128]);
                let of = |at: &[usize]| (at[0], at[1]);
                let (zero, scale) = (w.zeros(DType::U8, &[5, 4], of), w.scales(&[5, 4], of));
                let weight = (f32(&w.rows(DType::U8)) - f32(&repeated(zero))) * repeated(scale);
                x.matmul(&weight.transpose(&[1, 0]))
            },
        ),
        spelling("two integers a byte", Weight::of(NIBBLES, 128, 64), (4, 64), |x, w| {
            let bytes = Weight::ints(DType::U8, &[5, 64], |at| {
                w.integer(at[0], 2 * at[1]) + 16 * w.integer(at[0], 2 * at[1] + 1)
            });
            let sixteen = Tensor::scalar(DType::U8, 16.0);
            let low = bytes.binary(&sixteen, frit_graph::Binary::Rem);
            let high = bytes.binary(&sixteen, frit_graph::Binary::Div);
            let whole = Tensor::concat(&[&low.unsqueeze(2), &high.unsqueeze(2)], 2);
            let (shape, of) = ([5, 2, 1], |at: &[usize]| (at[0], at[1]));
            let groups = f32(&whole.reshape(&[5, 2, 64]));
            let weight = (groups - f32(&w.zeros(DType::U8, &shape, of))) * w.scales(&shape, of);
            x.matmul(&weight.reshape(&[5, 128]).transpose(&[1, 0]))
        }),
    ]);
}

#[test]
fn a_weight_of_parameters_is_packed_and_half_precision_stays() {
    let w = Weight::of(BYTES, 128, 128);
    let bytes: Vec<u8> = (0..5 * 128).map(|i| w.integer(i / 128, i % 128) as u8).collect();
    let scales: Vec<f32> = (0..5).map(|r| w.scale(r, 0) as f32).collect();
    let zeros: Vec<u8> = (0..5).map(|r| w.zero(r, 0) as u8).collect();
    let params: Params = [
        ("w".to_string(), Value::new([5, 128], bytes).expect("bytes")),
        ("scale".to_string(), Value::new([5, 1], scales).expect("scales")),
        ("zero".to_string(), Value::new([5, 1], zeros).expect("zeros")),
    ]
    .into_iter()
    .collect();
    for (dtype, within) in [(DType::F32, 2e-5), (DType::F16, 3e-3)] {
        let x = normal(&[3, 128]).value(dtype, 5);
        let graph = Graph::trace(&[x.spec().clone()], |x| {
            let param = |name, d, shape: [usize; 2]| Tensor::param(name, Spec::new(d, shape));
            let weight = param("w", DType::U8, [5, 128]).cast(dtype)
                - param("zero", DType::U8, [5, 1]).cast(dtype);
            let weight = weight * param("scale", DType::F32, [5, 1]).cast(dtype);
            vec![x[0].matmul(&weight.transpose(&[1, 0]))]
        })
        .expect("a graph");
        let (found, report) = recognised(&graph, &recognisers());
        assert_eq!(encodings(&found).len(), 1, "{report}{found}");
        let got = run_on(&Cpu::on(Pool::new(1)), &found, &x, &params);
        let d = compare(&got, &product(&x, &w), (within, within));
        assert!(d.within, "{dtype}: abs {:.2e}, rel {:.2e}", d.max_abs, d.max_rel);
    }
}

struct Miss {
    name: &'static str,
    weight: Weight,
    /// A part of the reason; none where it is simply no match.
    why: Option<&'static str>,
    build: fn(&Tensor, &Weight) -> Vec<Tensor>,
}

#[test]
fn what_only_looks_like_a_quantised_weight_stays() {
    let (bytes, odd) = (Weight::of(BYTES, 64, 64), Weight::of(BYTES, 40, 40));
    let miss = |name, weight, why, build| Miss { name, weight, why, build };
    let all = [
        miss("a scale for each of k", bytes, Some("changes along k"), |x, w| {
            let scale = constant(&[1, 64], |at| 0.01 + at[1] as f64 * 0.001);
            vec![x.matmul(&(f32(&w.rows(DType::U8)) * scale).transpose(&[1, 0]))]
        }),
        miss("the wrong axis of [k, n]", bytes, Some("changes along k"), |x, w| {
            let scale = constant(&[64, 1], |at| 0.01 + at[0] as f64 * 0.001);
            vec![x.matmul(&((f32(&w.columns(DType::U8)) - 128.0) * scale))]
        }),
        miss("groups of 16", bytes, Some("changes along k"), |x, w| {
            let scale = constant(&[5, 4, 1], |at| 0.01 + at[1] as f64 * 0.001);
            let weight = f32(&w.rows(DType::U8)).reshape(&[5, 4, 16]) * scale;
            vec![x.matmul(&weight.reshape(&[5, 64]).transpose(&[1, 0]))]
        }),
        miss("scales that are tiled", bytes, Some("changes along k"), |x, w| {
            let scale = constant(&[5, 1, 2], |at| 0.01 + at[2] as f64 * 0.001);
            let scale = scale.broadcast_to(&[5, 32, 2]).reshape(&[5, 64]);
            vec![x.matmul(&(f32(&w.rows(DType::U8)) * scale).transpose(&[1, 0]))]
        }),
        miss("rows of 40", odd, Some("no whole groups"), |x, w| {
            vec![x.matmul(&((f32(&w.columns(DType::U8)) - 128.0) * 0.01))]
        }),
        miss("more than 8 bits", bytes, Some("from 0 to 10"), |x, w| {
            let wide = Weight::ints(DType::I32, &[5, 64], |at| w.integer(at[0], at[1]) * 4);
            vec![x.matmul(&(f32(&wide) * 0.01).transpose(&[1, 0]))]
        }),
        miss("the weight is needed elsewhere", bytes, Some("used elsewhere"), |x, w| {
            let weight = (f32(&w.rows(DType::U8)) - 128.0) * 0.01;
            vec![x.matmul(&weight.transpose(&[1, 0])), weight.sum(&[-1])]
        }),
        miss("the weight is an output", bytes, Some("is an output"), |x, w| {
            let weight = (f32(&w.rows(DType::U8)) - 128.0) * 0.01;
            vec![x.matmul(&weight.transpose(&[1, 0])), weight]
        }),
        miss("the scale is of the call", bytes, Some("an input of the call"), |x, w| {
            let weight = (f32(&w.rows(DType::U8)) - 128.0) * x.slice(0, 0..1).slice(1, 0..1);
            vec![x.matmul(&weight.transpose(&[1, 0]))]
        }),
        miss("the weight is of the call", bytes, Some("an input of the call"), |x, _| {
            let weight = (f32(&x.cast(DType::U8)) - 3.0) * 0.01;
            vec![x.matmul(&weight.transpose(&[1, 0]))]
        }),
        miss("no integers", bytes, None, |x, w| {
            let weight = (f32(&w.rows(DType::U8)).exp() - 3.0) * 0.01;
            vec![x.matmul(&weight.transpose(&[1, 0]))]
        }),
        miss("integers without a scale", bytes, None, |x, w| {
            vec![x.matmul(&(f32(&w.rows(DType::U8)) - 3.0).transpose(&[1, 0]))]
        }),
        miss("a quotient of the integers", bytes, None, |x, w| {
            let weight = (f32(&w.rows(DType::U8)) - 3.0) / 7.0;
            vec![x.matmul(&weight.transpose(&[1, 0]))]
        }),
        miss("bytes that wrap", bytes, None, |x, w| {
            let weight = f32(&(w.rows(DType::U8) * 3.0)) * 0.01;
            vec![x.matmul(&weight.transpose(&[1, 0]))]
        }),
        miss("integers rounded to half precision", bytes, None, |x, w| {
            let weight = (w.rows(DType::U8).cast(DType::F16) - 3.0) * 0.01;
            vec![x.matmul(&f32(&weight).transpose(&[1, 0]))]
        }),
    ];
    let rules = recognisers();
    for m in all {
        let x = normal(&[m.weight.n, m.weight.k]).value(DType::F32, 3);
        let graph = Graph::trace(&[x.spec().clone()], |x| (m.build)(&x[0], &m.weight));
        let (found, report) = recognised(&graph.expect("a graph"), &rules);
        assert!(encodings(&found).is_empty(), "{}: {:?}", m.name, blocks(&found));
        let mine: Vec<&String> = report
            .rules
            .iter()
            .filter(|r| r.name == "quantized_matmul")
            .flat_map(|r| &r.refused)
            .collect();
        match m.why {
            Some(why) => {
                let said = mine.iter().any(|r| r.contains(why) && r.contains("quantised.rs:"));
                assert!(said, "{}: {mine:?}", m.name);
            }
            None => assert!(mine.is_empty(), "{}: {mine:?}", m.name),
        }
    }
}

#[test]
fn a_parameter_of_unknown_range_stays() {
    let spec = Spec::new(DType::F32, [2, 64]);
    let graph = Graph::trace(&[spec], |x| {
        let w = Tensor::param("w", Spec::new(DType::I32, [5, 64]));
        vec![x[0].matmul(&(f32(&w) * 0.01).transpose(&[1, 0]))]
    })
    .expect("a graph");
    let (_, report) = recognised(&graph, &recognisers());
    let text = report.to_string();
    assert!(text.contains("nobody knows the range of the weight, which is i32[5, 64]"), "{text}");
}

#[test]
fn packed_words_go_their_own_way_and_what_is_claimed_keeps_its_numbers() {
    let rules = recognisers();
    let mut claimed = 0;
    for case in small_cases().filter(|c| c.op == "quantized_matmul") {
        let values = case.values(DType::F32);
        let want = case.expected(&values).expect("an oracle");
        let x = values[0].clone().expect("x");
        let graph = Graph::trace(&[x.spec().clone()], |x| {
            let mut slots: Vec<_> =
                values.iter().cloned().map(|v| v.map(Tensor::constant)).collect();
            slots[0] = Some(x[0].clone());
            vec![Tensor::dyn_block(case.block.clone(), slots)]
        });
        let graph = graph.and_then(|g| g.composed()).expect("a composed graph");
        let (found, report) = recognised(&graph, &rules);
        let encodings = encodings(&found);
        claimed += encodings.len();
        // Affine groups are words, whose bytes are no integers of their own.
        let text = format!("{:?}", case.block);
        assert!(!text.contains("Affine") || encodings.is_empty(), "{}:\n{report}", case.name);
        let program = compile(&found, &Reference, &Params::new(), Policy::Allow).expect("compiled");
        let got = program.run(vec![x]).expect("it runs");
        let what = format!("{} as {encodings:?}", case.name);
        judge_value(&what, &got[0], &want, case.tolerance(DType::F32)).expect("the numbers");
    }
    // Blocks of GGML that somebody unpacks in primitives are groups with scales and offsets too.
    assert!(claimed > 3, "{claimed}");
}
