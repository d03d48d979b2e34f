//! Random graphs that mix operations, spelled in several ways, with small operations between them:
//! whatever the rules make of them, the numbers stay.

use crate::{blocks, differs, recognised, traced};
use frit_graph::{DType, Spec, Tensor};
use frit_ops::{catalogue::normal, recognisers};
use proptest::prelude::*;

/// One step of a random graph over `[2, 4, 8]`: what it does, on which earlier tensors.
#[derive(Clone, Debug)]
struct Step {
    what: u8,
    spelling: u8,
    on: usize,
    and: usize,
}

fn steps() -> impl Strategy<Value = (Vec<Step>, Vec<usize>)> {
    let step = (0u8..16, 0u8..4, 0usize..64, 0usize..64)
        .prop_map(|(what, spelling, on, and)| Step { what, spelling, on, and });
    (proptest::collection::vec(step, 1..14), proptest::collection::vec(0usize..64, 0..2))
}

fn mean_square(x: &Tensor, axis: isize, spelling: u8) -> Tensor {
    match spelling {
        0 => (x * x).mean(&[axis]),
        1 => x.pow(&Tensor::scalar(DType::F32, 2.0)).mean(&[axis]),
        _ => (x * x).sum(&[axis]) * (1.0 / x.shape()[(3 + axis) as usize] as f64),
    }
}

fn over_root(x: &Tensor, v: Tensor, spelling: u8) -> Tensor {
    match spelling {
        0 => x / v.sqrt(),
        1 => x * v.rsqrt(),
        2 => v.rsqrt() * x,
        _ => x * (1.0 / v.sqrt()),
    }
}

fn apply(s: &Step, known: &[Tensor], weights: &[Tensor]) -> Tensor {
    let x = &known[s.on % known.len()];
    let y = &known[s.and % known.len()];
    let w = &weights[s.and % 4];
    // Axes and constants are wrong now and then: that must be seen.
    let axis = if s.and.is_multiple_of(5) { -2 } else { -1 };
    match s.what {
        0 => over_root(x, mean_square(x, axis, s.spelling) + 1e-5, s.spelling) * w,
        1 => {
            let c = x - x.mean(&[-1]);
            over_root(&c, mean_square(&c, axis, s.spelling) + 1e-5, s.spelling) * w + w
        }
        2 => {
            let top = if s.spelling == 0 { x.max(&[axis]) } else { x.max(&[-1]) };
            let e = (x - top).exp();
            &e / e.sum(&[axis])
        }
        3 => {
            let k = if s.and.is_multiple_of(3) { 0.75 } else { std::f64::consts::FRAC_1_SQRT_2 };
            let f = (x * k).erf();
            match s.spelling {
                0 => x * 0.5 * (f + 1.0),
                1 => x * ((f + 1.0) * 0.5),
                2 => x * (0.5 + 0.5 * f),
                _ => 0.5 * ((f + 1.0) * y),
            }
        }
        4 => x * x.sigmoid(),
        5 => x * x.sigmoid() * y,
        6 => x * (x * 1.702).sigmoid(),
        7 => x + y,
        8 => (x * 0.5).tanh(),
        9 => x.cast(DType::F16).cast(DType::F32),
        10 => x.matmul(&weights[4].transpose(&[1, 0])) + w,
        11 => {
            let scores = x.matmul(&y.swap_axes(-1, -2)) * 0.25;
            let column = Tensor::iota(Spec::new(DType::I64, [1, 4]), 1);
            let row = Tensor::iota(Spec::new(DType::I64, [4, 1]), 0);
            let low = Tensor::scalar(DType::F32, f64::NEG_INFINITY);
            let scores = match s.spelling {
                0 => scores,
                1 => column.le(&row).select(&scores, &low),
                2 => column.le(&(row + 1.0)).select(&scores, &low),
                _ => scores + column.cast(DType::F32),
            };
            let e = (&scores - scores.max(&[-1])).exp();
            (&e / e.sum(&[-1])).matmul(x)
        }
        12 => {
            let f = Tensor::iota(Spec::new(DType::F32, [4, 1]), 0) * &weights[5];
            let f = Tensor::concat(&[&f, &f], -1);
            let of = if s.spelling == 0 { y } else { x };
            let r = Tensor::concat(&[&-of.slice(-1, 4..8), &of.slice(-1, 0..4)], -1);
            x * f.cos() + r * f.sin()
        }
        // Tables of every row, of the first one, of one token; they may be parts of x itself.
        13 | 14 => {
            let part = |t: &Tensor, i: usize| t.slice(-1, 4 * i..4 * i + 4);
            let [c, z] = [0, 1].map(|i: usize| match s.and % 3 {
                0 => part(y, i),
                n => part(y, i).slice(n as isize - 1, 0..1),
            });
            let (a, b) = (part(x, 0), part(x, 1));
            if s.what == 14 {
                let (t, o) = (Tensor::concat(&[&c, &c], -1), &z.unsqueeze(-1));
                let mut wide = z.shape().to_vec();
                wide[2] = 8;
                let twice = Tensor::concat(&[o, o], -1).reshape(&wide);
                let r = Tensor::concat(&[&-&b, &a], -1);
                return match s.spelling {
                    0 => x * t + r * twice,
                    1 => x * &t + r * &t,
                    2 => r * Tensor::concat(&[&z, &z], -1) + x * t,
                    _ => x * t + r * Tensor::concat(&[&c, &z], -1),
                };
            }
            let (u, v) = match s.spelling {
                0 => (&a * &c - &b * &z, &z * &a + &c * &b),
                1 => (&c * &a - &z * &b, &b * &c + &a * &z),
                2 => (&a * &z - &b * &c, &a * &c + &b * &z),
                _ => (&a * &c - &b * &z, &a * &z + &b * &z),
            };
            Tensor::concat(&[&u, &v], -1)
        }
        _ => x.swap_axes(-1, -2).reshape(&[2, 4, 8]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_rewritten_graph_gives_the_numbers_of_the_graph_as_it_was((steps, outputs) in steps()) {
        let operands =
            [normal(&[2, 4, 8]), normal(&[2, 4, 8]), normal(&[8]), normal(&[8]), normal(&[8, 8])];
        let (graph, values) = traced(&operands, |x| {
            let f = [1.0f32, 0.1, 0.01, 0.001];
            let f = frit_graph::Value::new([4], f.to_vec()).expect("a value");
            let [a, b, c] = [2, 3, 2].map(|i: usize| x[i].clone());
            let weights = [a, b, c, x[2].clone(), x[4].clone(), Tensor::constant(f)];
            let mut known = vec![x[0].clone(), x[1].clone()];
            for s in &steps {
                known.push(apply(s, &known, &weights));
            }
            let mut out = vec![known[known.len() - 1].clone()];
            out.extend(outputs.iter().map(|o| known[o % known.len()].clone()));
            out
        });
        let (found, report) = recognised(&graph, &recognisers());
        let complaint = differs("random", &graph, &found, &values, 2e-3);
        prop_assert!(complaint.is_none(), "{complaint:?}\n{report}\n{graph}\n{:?}", blocks(&found));
    }
}
