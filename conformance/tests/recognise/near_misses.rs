//! What looks like an operation and is not, or must stay: it is left as it is or refused with a
//! reason, and in every case the numbers stay.

use crate::{blocks, differs, recognised, traced};
use frit_conformance::expect_none;
use frit_graph::{DType, Spec, Tensor};
use frit_ops::{
    Operand,
    catalogue::{integers, normal},
    recognisers,
};

pub(crate) struct Miss {
    name: &'static str,
    operands: Vec<Operand>,
    build: fn(&[Tensor]) -> Vec<Tensor>,
    /// Text of a Block that must not appear.
    never: &'static str,
    /// A part of the reason of a refusal; none where it is simply no match.
    why: Option<&'static str>,
}

pub(crate) fn miss(
    name: &'static str,
    operands: &[Operand],
    never: &'static str,
    why: Option<&'static str>,
    build: fn(&[Tensor]) -> Vec<Tensor>,
) -> Miss {
    Miss { name, operands: operands.to_vec(), build, never, why }
}

pub(crate) fn check(all: Vec<Miss>) {
    let rules = recognisers();
    let mut complaints = Vec::new();
    for m in all {
        let (graph, values) = traced(&m.operands, m.build);
        let (found, report) = recognised(&graph, &rules);
        if blocks(&found).iter().any(|b| b.starts_with(m.never)) {
            complaints.push(format!("{}: {} is claimed\n{found}", m.name, m.never));
        }
        let refused = || report.rules.iter().flat_map(|r| &r.refused);
        if let Some(why) = m.why
            && !refused().any(|r| r.contains(why) && r.contains("tests/recognise/"))
        {
            complaints.push(format!("{}: not refused because {why}:\n{report}", m.name));
        }
        complaints.extend(differs(m.name, &graph, &found, &values, 2e-5));
    }
    expect_none(complaints);
}

fn softmax(x: &Tensor) -> Tensor {
    let e = (x - x.max(&[-1])).exp();
    &e / e.sum(&[-1])
}

#[test]
fn products_with_a_number_are_not_nearly_an_activation() {
    // The learnt scale behind a hard swish, and a sum of products: no error function is near.
    let operands = [normal(&[2, 8])];
    let (graph, _) = traced(&operands, |x| {
        let number = |n| Tensor::scalar(DType::F32, n);
        let gate = (&x[0] + number(3.0)).maximum(&number(0.0)).minimum(&number(6.0));
        vec![&x[0] * gate / number(6.0) * number(2.5), &x[0] * number(0.45) * (&x[0] + number(1.0))]
    });
    let (_, report) = recognised(&graph, &recognisers());
    let refused: Vec<&String> = report.rules.iter().flat_map(|r| &r.refused).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn norms_that_are_none_stay() {
    let x = [normal(&[2, 8, 8]), normal(&[8])];
    check(vec![
        miss("eps outside of the root", &x, "RmsNorm", None, |x| {
            vec![&x[0] / ((&x[0] * &x[0]).mean(&[-1]).sqrt() + 1e-2)]
        }),
        miss("mean over another axis", &x, "RmsNorm", Some("not the last"), |x| {
            vec![&x[0] * ((&x[0] * &x[0]).mean(&[1]) + 1e-6).rsqrt() * &x[1]]
        }),
        miss("mean over two axes that do not join", &x, "RmsNorm", Some("not one"), |x| {
            vec![&x[0] * ((&x[0] * &x[0]).mean(&[0, -1]) + 1e-6).rsqrt() * &x[1]]
        }),
        miss("mean that is turned", &[normal(&[8, 8])], "RmsNorm", None, |x| {
            let m = (&x[0] * &x[0]).mean(&[-1]).reshape(&[1, 8]);
            vec![&x[0] * (m + 1e-6).rsqrt()]
        }),
        miss("sum and no mean", &x, "RmsNorm", Some("divided by 1"), |x| {
            vec![&x[0] * ((&x[0] * &x[0]).sum(&[-1]) / 1.0000001 + 1e-6).rsqrt() * &x[1]]
        }),
        miss(
            "another tensor is squared",
            &[normal(&[2, 8]), normal(&[2, 8])],
            "RmsNorm",
            None,
            |x| vec![&x[0] * ((&x[1] * &x[1]).mean(&[-1]) + 1e-6).rsqrt()],
        ),
        miss(
            "weight along rows",
            &[normal(&[8, 8]), normal(&[8, 1])],
            "RmsNorm { eps: 1e-6 }(w",
            None,
            |x| vec![&x[0] * ((&x[0] * &x[0]).mean(&[-1]) + 1e-6).rsqrt() * &x[1]],
        ),
        miss("sample variance", &x, "LayerNorm", Some("divided by 7"), |x| {
            let c = &x[0] - x[0].mean(&[-1]);
            let v = (&c * &c).sum(&[-1]) / 7.0;
            vec![c / (v + 1e-5).sqrt() * &x[1] + &x[1]]
        }),
        miss(
            "the centred tensor is used elsewhere",
            &x,
            "LayerNorm",
            Some("used elsewhere"),
            |x| {
                let c = &x[0] - x[0].mean(&[-1]);
                let y = &c / ((&c * &c).mean(&[-1]) + 1e-5).sqrt() * &x[1] + &x[1];
                vec![y + &c * 0.5]
            },
        ),
        miss("the variance is an output", &x, "LayerNorm", Some("output of the graph"), |x| {
            let c = &x[0] - x[0].mean(&[-1]);
            let v = (&c * &c).mean(&[-1]);
            vec![&c / (&v + 1e-5).sqrt() * &x[1] + &x[1], v]
        }),
        miss("rounded in the middle of a wide graph", &x, "RmsNorm", None, |x| {
            let square = (&x[0] * &x[0]).cast(DType::BF16).cast(DType::F32);
            vec![&x[0] * (square.mean(&[-1]) + 1e-6).rsqrt()]
        }),
    ]);
}

#[test]
fn activations_that_are_none_stay() {
    let x = [normal(&[3, 8]), normal(&[3, 8])];
    check(vec![
        miss("another constant under erf", &x, "Gelu", Some("not 0.7071"), |x| {
            vec![&x[0] * 0.5 * ((&x[0] * 0.72).erf() + 1.0)]
        }),
        miss("two tensors", &x, "Gelu", None, |x| {
            vec![&x[0] * 0.5 * ((&x[1] / std::f64::consts::SQRT_2).erf() + 1.0)]
        }),
        miss("a sigmoid of something else", &x, "Silu", None, |x| vec![&x[0] * x[1].sigmoid()]),
        miss("a scaled silu is no gate", &x, "SwiGlu", None, |x| {
            vec![&x[0] * x[0].sigmoid() * 0.5]
        }),
        miss(
            "max over another axis is no stable softmax of x",
            &x,
            "Softmax { axis: 0",
            None,
            |x| {
                let e = (&x[0] - x[0].max(&[0])).exp();
                vec![&e / e.sum(&[-1])]
            },
        ),
        miss("sum of other exponentials", &x, "Softmax", None, |x| {
            vec![x[0].exp() / x[1].exp().sum(&[-1])]
        }),
        miss("the exponentials are needed", &x, "Softmax", Some("used elsewhere"), |x| {
            let e = (&x[0] - x[0].max(&[-1])).exp();
            vec![&e / e.sum(&[-1]) + &e]
        }),
    ]);
}

#[test]
fn attention_that_is_none_stays_and_what_it_can_say_keeps_its_numbers() {
    let (q, k) = (normal(&[2, 2, 5, 8]), normal(&[2, 2, 5, 8]));
    let qkv = [q.clone(), k.clone(), k.clone()];
    let with = |more: Operand| [q.clone(), k.clone(), k.clone(), more];
    let never = "ScaledDotProductAttention";
    check(vec![
        miss("weights that are rounded in a wide graph", &qkv, never, None, |x| {
            let p = softmax(&x[0].matmul(&x[1].swap_axes(-1, -2)));
            vec![p.cast(DType::BF16).cast(DType::F32).matmul(&x[2])]
        }),
        miss(
            "a length and a row without keys, under a finite number",
            &with(integers(&[], &[3])),
            "Nothing",
            None,
            |x| {
                let column = Tensor::iota(Spec::new(DType::I64, [1, 5]), 1);
                let row = Tensor::iota(Spec::new(DType::I64, [5, 1]), 0);
                // Row 0 keeps nothing.
                let keep = column.lt(&x[3]).logical_and(&column.lt(&row));
                let s = x[0].matmul(&x[1].swap_axes(-1, -2));
                let s = keep.select(&s, &Tensor::scalar(DType::F32, -1e30));
                vec![softmax(&s).matmul(&x[2])]
            },
        ),
        miss("softmax over the queries", &qkv, never, None, |x| {
            let s = x[0].matmul(&x[1].swap_axes(-1, -2));
            let e = (&s - s.max(&[-2])).exp();
            vec![(&e / e.sum(&[-2])).matmul(&x[2])]
        }),
        miss("the weights are an output", &qkv, never, Some("output of the graph"), |x| {
            let p = softmax(&(x[0].matmul(&x[1].swap_axes(-1, -2)) * 0.35));
            vec![p.matmul(&x[2]), p]
        }),
        miss("the scores are used elsewhere", &qkv, never, Some("used elsewhere"), |x| {
            let s = x[0].matmul(&x[1].swap_axes(-1, -2));
            vec![softmax(&s).matmul(&x[2]) + s.sum(&[-1])]
        }),
        miss(
            "rows that another mask empties",
            &[q.clone(), k.clone(), k.clone(), normal(&[5, 5]), normal(&[5, 5])],
            never,
            Some("another mask"),
            |x| {
                let low = Tensor::scalar(DType::F32, f64::NEG_INFINITY);
                let empty = x[4].max(&[-1]).eq(&low);
                let p = softmax(&(x[0].matmul(&x[1].swap_axes(-1, -2)) + &x[3]));
                let p = empty.select(&Tensor::scalar(DType::F32, 0.0), &p);
                vec![p.matmul(&x[2])]
            },
        ),
        miss("a mask inside of the softcap", &with(normal(&[5, 5])), never, Some("softcap"), |x| {
            let s = x[0].matmul(&x[1].swap_axes(-1, -2)) + &x[3];
            vec![softmax(&((s / 5.0).tanh() * 5.0)).matmul(&x[2])]
        }),
        miss(
            "scale used twice is another scale",
            &qkv,
            "ScaledDotProductAttention { scale: None",
            None,
            |x| {
                let s = (&x[0] * 0.5).matmul(&(x[1].swap_axes(-1, -2) * 0.5)) * 0.25;
                vec![softmax(&s).matmul(&x[2])]
            },
        ),
        miss(
            "a mask that is broadcast over the keys",
            &with(normal(&[5, 1])),
            "Nothing",
            None,
            |x| {
                let s = x[0].matmul(&x[1].swap_axes(-1, -2)) + &x[3];
                vec![softmax(&s).matmul(&x[2])]
            },
        ),
        miss("a mask before the scale", &with(normal(&[5, 5])), "Nothing", None, |x| {
            let s = (x[0].matmul(&x[1].swap_axes(-1, -2)) + &x[3]) * 0.5;
            vec![softmax(&s).matmul(&x[2])]
        }),
        miss(
            "a diagonal that is not the last key's",
            &qkv,
            "ScaledDotProductAttention { scale: None, causal: true",
            None,
            |x| {
                let column = Tensor::iota(Spec::new(DType::I64, [1, 5]), 1);
                let row = Tensor::iota(Spec::new(DType::I64, [5, 1]), 0);
                let keep = column.le(&(row + 1.0));
                let s = x[0].matmul(&x[1].swap_axes(-1, -2)) * 0.35;
                let s = keep.select(&s, &Tensor::scalar(DType::F32, f64::NEG_INFINITY));
                vec![softmax(&s).matmul(&x[2])]
            },
        ),
        miss(
            "a finite mask over rows without keys",
            &with(integers(&[5], &[1, 1, 0, 1, 1])),
            "Nothing",
            None,
            |x| {
                // Row 2 keeps nothing: plain arithmetic gives the mean of all values.
                let keep = x[3].reshape(&[5, 1]).ne(&Tensor::scalar(DType::I64, 0.0));
                let s = x[0].matmul(&x[1].swap_axes(-1, -2)) * 0.35;
                let s = keep.select(&s, &Tensor::scalar(DType::F32, -1e30));
                vec![softmax(&s).matmul(&x[2])]
            },
        ),
        miss(
            "heads repeated in turn, not in groups",
            &[q, normal(&[2, 2, 5, 8])],
            "Nothing",
            None,
            |x| {
                let wide = Tensor::concat(&[&x[0], &x[0].slice(-2, 0..5)], 1);
                let k = x[1].unsqueeze(1).broadcast_to(&[2, 2, 2, 5, 8]).reshape(&[2, 4, 5, 8]);
                vec![softmax(&wide.matmul(&k.swap_axes(-1, -2))).matmul(&k)]
            },
        ),
    ]);
}

#[test]
fn affine_layers_that_are_none_stay() {
    let x = [normal(&[3, 8]), normal(&[8, 8]), normal(&[8])];
    check(vec![
        miss(
            "bias along rows",
            &[normal(&[8, 8]), normal(&[8, 8]), normal(&[8, 1])],
            "Nothing",
            None,
            |x| vec![x[0].matmul(&x[1].transpose(&[1, 0])) + &x[2]],
        ),
        miss("a weight that is quantised is another operation", &x, "Linear", None, |x| {
            let w = x[1].cast(DType::I32).cast(DType::F32) * x[2].unsqueeze(1);
            vec![x[0].matmul(&w.transpose(&[1, 0]))]
        }),
        miss("an input that is not transposed", &x, "Linear", None, |x| {
            vec![x[0].matmul(&x[1]) + &x[2]]
        }),
        miss("the product is needed too", &x, "Linear { activation: Silu", None, |x| {
            let y = x[0].matmul(&x[1].transpose(&[1, 0])) + &x[2];
            vec![&y * y.sigmoid() + &y]
        }),
    ]);
}

fn turned(x: &Tensor, f: &Tensor, g: &Tensor) -> Tensor {
    let half = x.shape()[x.rank() - 1] / 2;
    let r = Tensor::concat(&[&-x.slice(-1, half..2 * half), &x.slice(-1, 0..half)], -1);
    let (f, g) = (Tensor::concat(&[f, f], -1), Tensor::concat(&[g, g], -1));
    x * f.cos() + r * g.sin()
}

/// Angles of 5 positions and 4 pairs.
fn angles(base: f64) -> Tensor {
    let f = [0, 1, 2, 3].map(|i| base.powf(-(f64::from(i)) / 4.0) as f32);
    let f = frit_graph::Value::new([4], f.to_vec()).expect("a value");
    Tensor::iota(Spec::new(DType::F32, [5, 1]), 0) * Tensor::constant(f)
}

#[test]
fn rotations_that_are_none_stay() {
    let x = [normal(&[2, 3, 5, 8]), normal(&[5, 8]), normal(&[5, 8])];
    check(vec![
        miss("cosine and sine of different angles", &x, "Rope", None, |x| {
            vec![turned(&x[0], &angles(10000.0), &angles(1000.0))]
        }),
        miss("one half of the cosines is wrong", &x, "Rope", None, |x| {
            let f = angles(10000.0);
            let wrong = Tensor::concat(&[&f, &(&f * 1.01)], -1);
            let right = Tensor::concat(&[&f, &f], -1);
            let x = &x[0];
            let r = Tensor::concat(&[&-x.slice(-1, 4..8), &x.slice(-1, 0..4)], -1);
            vec![x * wrong.cos() + r * right.sin()]
        }),
        miss("the halves are not exchanged", &x, "Rope", None, |x| {
            let (f, x) = (angles(10000.0), &x[0]);
            let f = Tensor::concat(&[&f, &f], -1);
            let r = Tensor::concat(&[&-x.slice(-1, 0..4), &x.slice(-1, 4..8)], -1);
            vec![x * f.cos() + r * f.sin()]
        }),
        miss("tables that are not known", &x, "Rope", Some("not known"), |x| {
            let y = &x[0];
            let r = Tensor::concat(&[&-y.slice(-1, 4..8), &y.slice(-1, 0..4)], -1);
            vec![y * &x[1] + r * &x[2]]
        }),
        miss("the halves are pairs of another tensor", &x, "Rope", None, |x| {
            let (f, y) = (angles(10000.0), &x[0] * 2.0);
            let f = Tensor::concat(&[&f, &f], -1);
            let r = Tensor::concat(&[&-y.slice(-1, 4..8), &y.slice(-1, 0..4)], -1);
            vec![&x[0] * f.cos() + r * f.sin()]
        }),
    ]);
}
