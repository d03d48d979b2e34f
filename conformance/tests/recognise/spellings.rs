//! What exporters write for each operation, by hand, and the Block that it must become.

use crate::{blocks, differs, recognised, traced};
use frit_conformance::expect_none;
use frit_graph::{DType, Graph, Spec, Tensor, Value};
use frit_ops::{
    Operand,
    catalogue::{integers, mapped, normal},
    recognisers,
};
use std::f64::consts::{PI, SQRT_2};

pub(crate) struct Spelling {
    name: &'static str,
    operands: Vec<Operand>,
    build: fn(&[Tensor]) -> Tensor,
    want: &'static [&'static str],
}

pub(crate) fn spelling(
    name: &'static str,
    operands: &[Operand],
    want: &'static [&'static str],
    build: fn(&[Tensor]) -> Tensor,
) -> Spelling {
    Spelling { name, operands: operands.to_vec(), build, want }
}

fn scalar(n: f64) -> Tensor {
    Tensor::scalar(DType::F32, n)
}

pub(crate) fn constant(shape: &[usize], f: impl Fn(&[usize]) -> f64) -> Tensor {
    let spec = Spec::new(DType::F32, shape);
    let strides = frit_graph::row_major(shape);
    let at =
        |i: usize| -> Vec<usize> { strides.iter().zip(shape).map(|(s, d)| i / s % d).collect() };
    let numbers: Vec<f64> = (0..spec.numel()).map(|i| f(&at(i))).collect();
    Tensor::constant(Value::from_f64(spec, &numbers).expect("a constant"))
}

pub(crate) fn check(all: Vec<Spelling>) {
    let rules = recognisers();
    let mut complaints = Vec::new();
    for s in all {
        let (graph, values) = traced(&s.operands, |x| vec![(s.build)(x)]);
        let (found, report) = recognised(&graph, &rules);
        let got = blocks(&found);
        if got != s.want {
            complaints.push(format!("{}: {got:?}, not {:?}\n{report}{found}", s.name, s.want));
        }
        complaints.extend(differs(s.name, &graph, &found, &values, 2e-5));
    }
    expect_none(complaints);
}

#[test]
fn norms_of_exporters_are_found() {
    let (x, w) = (normal(&[2, 3, 8]), normal(&[8]));
    let rms: &[&str] = &["RmsNorm { eps: 1e-6 }"];
    let layer: &[&str] = &["LayerNorm { eps: 1e-5 }"];
    let both = [x.clone(), w.clone(), w.clone()];
    check(vec![
        spelling("TorchScript: Pow, ReduceMean, Sqrt, Div of one", &both[..2], rms, |x| {
            let v = x[0].pow(&scalar(2.0)).mean(&[-1]) + 1e-6;
            &x[1] * (&x[0] * (scalar(1.0) / v.sqrt()))
        }),
        spelling("newer torch: Mul, Rsqrt", &both[..2], rms, |x| {
            &x[0] * ((&x[0] * &x[0]).mean(&[-1]) + 1e-6).rsqrt() * &x[1]
        }),
        spelling("weight drawn into the inverse", &both[..2], rms, |x| {
            &x[0] * (&x[1] * ((&x[0] * &x[0]).mean(&[-1]) + 1e-6).rsqrt())
        }),
        spelling("sum and inverse extent", &both[..2], rms, |x| {
            &x[0] / ((&x[0] * &x[0]).sum(&[-1]) * 0.125 + 1e-6).sqrt() * &x[1]
        }),
        spelling("Gemma: one plus weight", &both[..2], rms, |x| {
            &x[0] * ((&x[0] * &x[0]).mean(&[-1]) + 1e-6).rsqrt() * (1.0 + &x[1])
        }),
        spelling("keepdims=0 and Unsqueeze", &both[..2], rms, |x| {
            let m = (&x[0] * &x[0]).sum(&[-1]).reshape(&[2, 3]) / 8.0;
            &x[0] * (m + 1e-6).rsqrt().unsqueeze(-1) * &x[1]
        }),
        spelling(
            "onnx's own: the mean of squares less the square of the mean",
            &both,
            layer,
            |x| {
                let m = x[0].mean(&[-1]);
                let v = (&x[0] * &x[0]).mean(&[-1]) - &m * &m;
                (&x[0] - m) / (v + 1e-5).sqrt() * &x[1] + &x[2]
            },
        ),
        spelling("torch: Pow, Sqrt, Div", &both, layer, |x| {
            let c = &x[0] - x[0].mean(&[-1]);
            let v = c.pow(&scalar(2.0)).mean(&[-1]) + 1e-5;
            c / v.sqrt() * &x[1] + &x[2]
        }),
        spelling("paddle2onnx: centred twice", &both, layer, |x| {
            let v = (&x[0] - x[0].mean(&[-1])).pow(&scalar(2.0)).mean(&[-1]) + 1e-5;
            &x[2] + &x[1] * ((&x[0] - x[0].mean(&[-1])) / v.sqrt())
        }),
        spelling("Keras: batch_normalization", &both, layer, |x| {
            let m = x[0].mean(&[-1]);
            let d = &m - &x[0];
            let inverse = ((&d * &d).mean(&[-1]) + 1e-5).rsqrt() * &x[1];
            &x[0] * &inverse + (&x[2] - m * inverse)
        }),
    ]);
}

#[test]
fn norms_over_several_last_axes_are_norms_over_one() {
    let rms: &[&str] = &["RmsNorm { eps: 1e-6 }"];
    let x = normal(&[3, 2, 4, 6]);
    check(vec![
        spelling("two axes, a weight of two", &[x.clone(), normal(&[4, 6])], rms, |x| {
            &x[0] * ((&x[0] * &x[0]).mean(&[-1, -2]) + 1e-6).rsqrt() * &x[1]
        }),
        spelling("two axes, a weight along one", &[x.clone(), normal(&[4, 1])], rms, |x| {
            &x[0] / ((&x[0] * &x[0]).mean(&[-1, -2]) + 1e-6).sqrt() * &x[1]
        }),
        spelling("all but the first, what comes before stays", &[x.clone(), x.clone()], rms, |x| {
            let sum = &x[0] + &x[1];
            &sum * ((&sum * &sum).mean(&[1, 2, 3]) + 1e-6).rsqrt()
        }),
    ]);
}

#[test]
fn a_norm_in_f32_between_halves_becomes_one_norm_of_halves() {
    let specs = [Spec::new(DType::F16, [2, 8]), Spec::new(DType::F16, [8])];
    let graph = Graph::trace(&specs, |x| {
        // transformers: LlamaRMSNorm.
        let h = x[0].cast(DType::F32);
        let h = &h * (h.pow(&scalar(2.0)).mean(&[-1]) + 1e-5).rsqrt();
        vec![&x[1] * h.cast(DType::F16)]
    })
    .expect("a graph");
    let (found, _) = recognised(&graph, &recognisers());
    assert_eq!(blocks(&found), ["RmsNorm { eps: 1e-5 }"]);
    assert_eq!(found.nodes().len(), 3, "the casts are gone: {found}");
}

#[test]
fn activations_of_exporters_are_found() {
    let x = [normal(&[3, 40])];
    let erf: &[&str] = &["Gelu { form: Erf }"];
    let tanh: &[&str] = &["Gelu { form: Tanh }"];
    let k = (2.0 / PI).sqrt();
    assert!((k - 0.7978845608).abs() < 1e-9);
    check(vec![
        spelling("torch: Div, Erf, Add, Mul, Mul", &x, erf, |x| {
            &x[0] * ((&x[0] / SQRT_2).erf() + 1.0) * 0.5
        }),
        spelling("paddle2onnx: half of it first", &x, erf, |x| {
            0.5 * (&x[0] * (1.0 + (&x[0] / SQRT_2).erf()))
        }),
        spelling("tf2onnx: the distribution function", &x, erf, |x| {
            (((&x[0] * 0.70710677).erf() + 1.0) * 0.5) * &x[0]
        }),
        spelling("multiplied out", &x, erf, |x| {
            let half = &x[0] * 0.5;
            &half + &half * (&x[0] / SQRT_2).erf()
        }),
        spelling("half in the denominator", &x, erf, |x| {
            &x[0] * ((&x[0] * 0.70710677).erf() + 1.0) / 2.0
        }),
        spelling("transformers: gelu_new", &x, tanh, |x| {
            let inner = (&x[0] + 0.044715 * x[0].pow(&scalar(3.0))) * 0.7978845608;
            0.5 * &x[0] * (1.0 + inner.tanh())
        }),
        spelling("transformers: gelu_fast", &x, tanh, |x| {
            let inner = &x[0] * 0.7978845608 * (1.0 + 0.044715 * &x[0] * &x[0]);
            0.5 * &x[0] * (1.0 + inner.tanh())
        }),
        spelling("CLIP: quick_gelu", &x, &["Gelu { form: Quick }"], |x| {
            &x[0] * (1.702 * &x[0]).sigmoid()
        }),
        spelling("silu with a sigmoid taken apart", &x, &["Silu"], |x| {
            &x[0] / (1.0 + (-&x[0]).exp())
        }),
        spelling("silu of one over", &x, &["Silu"], |x| &x[0] * (1.0 / (1.0 + (-&x[0]).exp()))),
        spelling("gate and up of one product", &x, &["SwiGlu"], |x| {
            let (gate, up) = (x[0].slice(-1, 0..20), x[0].slice(-1, 20..40));
            up * (&gate * gate.sigmoid())
        }),
        spelling("stable softmax", &x, &["Softmax { axis: -1 }"], |x| {
            let e = (&x[0] - x[0].max(&[-1])).exp();
            &e / e.sum(&[-1])
        }),
        spelling("plain softmax over rows", &x, &["Softmax { axis: 0 }"], |x| {
            x[0].exp() * (1.0 / x[0].exp().sum(&[0]))
        }),
    ]);
}

#[test]
fn affine_layers_of_exporters_are_found() {
    let xs = [normal(&[2, 3, 8]), normal(&[5, 8]), normal(&[5])];
    let plain: &[&str] = &["Linear { activation: Identity }"];
    check(vec![
        spelling("torch: Transpose, MatMul, Add", &xs, plain, |x| {
            &x[2] + x[0].matmul(&x[1].transpose(&[1, 0]))
        }),
        spelling("Gemm between Flatten and Reshape", &xs, plain, |x| {
            (x[0].reshape(&[6, 8]).matmul(&x[1].transpose(&[1, 0])) + &x[2]).reshape(&[2, 3, 5])
        }),
        spelling("onnx's MatMul: the weight as [k, n]", &xs, plain, |x| {
            let numbers: Vec<f32> = (0..40u8).map(|i| f32::from(i % 7) - 3.0).collect();
            let w = frit_graph::Value::new([8, 5], numbers).expect("a weight");
            let y = x[0].reshape(&[6, 8]).matmul(&Tensor::constant(w));
            y.reshape(&[2, 3, 5]) + &x[2]
        }),
        spelling("gelu behind it", &xs, &["Linear { activation: Gelu(Erf) }"], |x| {
            let y = x[0].matmul(&x[1].transpose(&[1, 0])) + &x[2];
            &y * 0.5 * ((&y / SQRT_2).erf() + 1.0)
        }),
        spelling("relu behind it", &xs, &["Linear { activation: Relu }"], |x| {
            scalar(0.0).maximum(&(x[0].matmul(&x[1].transpose(&[1, 0])) + &x[2]))
        }),
        spelling(
            "a gate between two",
            &[normal(&[4, 8]), normal(&[6, 8]), normal(&[6, 8])],
            &["Linear { activation: Identity }", "Linear { activation: Identity }", "SwiGlu"],
            |x| {
                let gate = x[0].matmul(&x[1].transpose(&[1, 0]));
                &gate * gate.sigmoid() * x[0].matmul(&x[2].transpose(&[1, 0]))
            },
        ),
    ]);
}

fn softmax(x: &Tensor) -> Tensor {
    let e = (x - x.max(&[-1])).exp();
    &e / e.sum(&[-1])
}

fn kt(k: &Tensor) -> Tensor {
    k.swap_axes(-1, -2)
}

/// `column <= row + S - T`
fn lower(t: usize, s: usize) -> Tensor {
    let column = Tensor::iota(Spec::new(DType::I64, [1, s]), 1);
    let row = Tensor::iota(Spec::new(DType::I64, [t, 1]), 0);
    column.le(&(row + (s - t) as f64))
}

const PLAIN: &[&str] =
    &["ScaledDotProductAttention { scale: None, causal: false, window: None, softcap: None }"];
const CAUSAL: &[&str] =
    &["ScaledDotProductAttention { scale: None, causal: true, window: None, softcap: None }"];

#[test]
fn attention_of_exporters_is_found() {
    let (q, k) = (normal(&[2, 4, 5, 16]), normal(&[2, 4, 7, 16]));
    let qkv = [q.clone(), k.clone(), k.clone()];
    let with = |more: Operand| [q.clone(), k.clone(), k.clone(), more];
    let flat = [normal(&[8, 5, 16]), normal(&[8, 7, 16]), normal(&[8, 7, 16])];
    let bthd = [normal(&[2, 5, 4, 16]), normal(&[2, 7, 4, 16]), normal(&[2, 7, 4, 16])];
    let grouped = [q.clone(), normal(&[2, 2, 7, 16]), normal(&[2, 2, 7, 16])];
    let keep: fn(&[usize], f64) -> f64 =
        |at, _| ((at[at.len() - 1] * 3 + at[0]) % 4 != 0) as u8 as f64;
    check(vec![
        spelling("scores divided by the root", &qkv, PLAIN, |x| {
            softmax(&(x[0].matmul(&kt(&x[1])) / 4.0)).matmul(&x[2])
        }),
        spelling("query scaled", &qkv, PLAIN, |x| {
            softmax(&(&x[0] * 0.25).matmul(&kt(&x[1]))).matmul(&x[2])
        }),
        spelling("newer torch: both by a fourth root", &qkv, PLAIN, |x| {
            softmax(&(&x[0] * 0.5).matmul(&(kt(&x[1]) * 0.5))).matmul(&x[2])
        }),
        spelling("the root computed from a shape", &qkv, PLAIN, |x| {
            let scale = Tensor::scalar(DType::I64, 16.0).cast(DType::F32).sqrt();
            softmax(&(x[0].matmul(&kt(&x[1])) / scale)).matmul(&x[2])
        }),
        spelling(
            "onnx's own: weights of zero where a mask leaves no key",
            &with(normal(&[5, 7])),
            PLAIN,
            |x| {
                let low = scalar(f64::NEG_INFINITY);
                // Two rows keep nothing.
                let rows = Tensor::iota(Spec::new(DType::I64, [5, 1]), 0)
                    .lt(&Tensor::scalar(DType::I64, 2.0));
                let mask = rows.select(&low, &x[3]);
                let s = x[0].matmul(&kt(&x[1])) * 0.25 + &mask;
                let fast =
                    Tensor::block(frit_ops::Softmax { axis: -1 }, frit_ops::UnaryInputs { x: s });
                mask.max(&[-1]).eq(&low).select(&scalar(0.0), &fast).matmul(&x[2])
            },
        ),
        spelling("keys turned once, from [B, S, H, D]", &bthd, PLAIN, |x| {
            let [q, v] = [0, 2].map(|i: usize| x[i].transpose(&[0, 2, 1, 3]));
            let k = x[1].transpose(&[0, 2, 3, 1]);
            softmax(&(q.matmul(&k) * 0.25)).matmul(&v)
        }),
        spelling(
            "no scale",
            &qkv,
            &[
                "ScaledDotProductAttention { scale: Some(1.0), causal: false, window: None, softcap: None }",
            ],
            |x| softmax(&x[0].matmul(&kt(&x[1]))).matmul(&x[2]),
        ),
        spelling("BART: three axes", &flat, PLAIN, |x| {
            softmax(&(&x[0] * 0.25).matmul(&kt(&x[1]))).matmul(&x[2])
        }),
        spelling("OPT: three axes, masks of four", &flat, CAUSAL, |x| {
            let s = (&x[0] * 0.25).matmul(&kt(&x[1])).reshape(&[2, 4, 5, 7]);
            let s = lower(5, 7).select(&s, &scalar(f64::from(f32::MIN)));
            softmax(&s.reshape(&[8, 5, 7])).matmul(&x[2])
        }),
        spelling("BERT: one minus mask", &with(mapped(&[2, 1, 1, 7], keep)), PLAIN, |x| {
            let mask = (1.0 - &x[3]) * -10000.0;
            softmax(&(x[0].matmul(&kt(&x[1])) / 4.0 + mask)).matmul(&x[2])
        }),
        spelling(
            "a boolean mask chosen",
            &with(mapped(&[2, 1, 5, 7], keep).of(DType::Bool)),
            PLAIN,
            |x| {
                let s = x[0].matmul(&kt(&x[1])) / 4.0;
                softmax(&x[3].select(&s, &scalar(f64::NEG_INFINITY))).matmul(&x[2])
            },
        ),
        spelling("masked_fill", &with(mapped(&[2, 1, 5, 7], keep).of(DType::Bool)), PLAIN, |x| {
            let s = x[0].matmul(&kt(&x[1])) / 4.0;
            softmax(&x[3].logical_not().select(&scalar(-1e9), &s)).matmul(&x[2])
        }),
        spelling("causal by counting", &qkv, CAUSAL, |x| {
            let s = x[0].matmul(&kt(&x[1])) / 4.0;
            softmax(&lower(5, 7).select(&s, &scalar(f64::NEG_INFINITY))).matmul(&x[2])
        }),
        spelling("causal as a mask that is made and added", &qkv, CAUSAL, |x| {
            let low = scalar(f64::from(f32::MIN));
            let mask = lower(5, 7).logical_not().select(&low, &scalar(0.0));
            softmax(&(x[0].matmul(&kt(&x[1])) / 4.0 + mask)).matmul(&x[2])
        }),
        spelling("GPT-2: a triangle that is stored", &qkv, CAUSAL, |x| {
            let mask = constant(&[1, 1, 5, 7], |at| if at[3] <= at[2] + 2 { 0.0 } else { -1e4 });
            softmax(&(x[0].matmul(&kt(&x[1])) / 4.0 + mask)).matmul(&x[2])
        }),
        spelling(
            "causal and padded",
            &with(mapped(&[2, 1, 1, 7], keep).of(DType::Bool)),
            CAUSAL,
            |x| {
                let s = x[0].matmul(&kt(&x[1])) / 4.0;
                let keep = lower(5, 7).logical_and(&x[3].logical_or(&lower(5, 7).logical_not()));
                let keep = keep.logical_and(&lower(5, 7));
                softmax(&keep.select(&s, &scalar(f64::NEG_INFINITY))).matmul(&x[2])
            },
        ),
        spelling(
            "transformers: a mask of four axes, causal and padded",
            &with(mapped(&[2, 1, 1, 7], keep).of(DType::Bool)),
            PLAIN,
            |x| {
                let keep = lower(5, 7).logical_and(&x[3]);
                let mask = keep.select(&scalar(0.0), &scalar(f64::from(f32::MIN)));
                softmax(&(x[0].matmul(&kt(&x[1])) / 4.0 + mask)).matmul(&x[2])
            },
        ),
        spelling(
            "a window",
            &qkv,
            &[
                "ScaledDotProductAttention { scale: None, causal: true, window: Some((2, 0)), softcap: None }",
            ],
            |x| {
                let s = x[0].matmul(&kt(&x[1])) / 4.0;
                let column = Tensor::iota(Spec::new(DType::I64, [1, 7]), 1);
                let row = Tensor::iota(Spec::new(DType::I64, [5, 1]), 0) + 2.0;
                let near = column.gt(&(row - 3.0));
                let keep = lower(5, 7).logical_and(&near);
                softmax(&keep.select(&s, &scalar(f64::NEG_INFINITY))).matmul(&x[2])
            },
        ),
        spelling("transformers: repeat_kv", &grouped, PLAIN, |x| {
            let repeat =
                |t: &Tensor| t.unsqueeze(2).broadcast_to(&[2, 2, 2, 7, 16]).reshape(&[2, 4, 7, 16]);
            softmax(&(x[0].matmul(&kt(&repeat(&x[1]))) * 0.25)).matmul(&repeat(&x[2]))
        }),
        spelling(
            "Gemma 2: capped scores",
            &qkv,
            &[
                "ScaledDotProductAttention { scale: None, causal: false, window: None, softcap: Some(50.0) }",
            ],
            |x| {
                let s = x[0].matmul(&kt(&x[1])) * 0.25;
                softmax(&((s / 50.0).tanh() * 50.0)).matmul(&x[2])
            },
        ),
        spelling("gpt-oss: sinks as one more column", &with(normal(&[4])), PLAIN, |x| {
            let s = x[0].matmul(&kt(&x[1])) * 0.25;
            let z = x[3].reshape(&[1, 4, 1, 1]).broadcast_to(&[2, 4, 5, 1]);
            let all = Tensor::concat(&[&s, &z], -1);
            let all = &all - all.max(&[-1]);
            softmax(&all).slice(-1, 0..7).matmul(&x[2])
        }),
        spelling("a cache that is filled so far", &with(integers(&[], &[6])), CAUSAL, |x| {
            let column = Tensor::iota(Spec::new(DType::I64, [1, 7]), 1);
            let row = Tensor::iota(Spec::new(DType::I64, [5, 1]), 0) + &x[3];
            let s = x[0].matmul(&kt(&x[1])) * 0.25;
            let keep = column.le(&(row - 5.0));
            softmax(&keep.select(&s, &scalar(f64::NEG_INFINITY))).matmul(&x[2])
        }),
    ]);
}

#[test]
fn grouped_heads_and_lengths_become_operands_and_no_copies() {
    let operands = [normal(&[2, 4, 5, 16]), normal(&[2, 2, 7, 16]), integers(&[], &[6])];
    let (graph, _) = traced(&operands, |x| {
        let repeat = x[1].unsqueeze(2).broadcast_to(&[2, 2, 2, 7, 16]).reshape(&[2, 4, 7, 16]);
        let column = Tensor::iota(Spec::new(DType::I64, [1, 7]), 1);
        let row = Tensor::iota(Spec::new(DType::I64, [5, 1]), 0) + &x[2];
        let s = x[0].matmul(&kt(&repeat)) * 0.25;
        let keep = column.le(&(row - 5.0));
        vec![softmax(&keep.select(&s, &scalar(f64::NEG_INFINITY))).matmul(&repeat)]
    });
    let (found, _) = recognised(&graph, &recognisers());
    assert_eq!(found.nodes().len(), 4, "three operands and the attention: {found}");
}

/// `rotate_half` of transformers.
pub(crate) fn rotate_half(x: &Tensor) -> Tensor {
    let d = x.shape()[x.rank() - 1];
    Tensor::concat(&[&-x.slice(-1, d / 2..d), &x.slice(-1, 0..d / 2)], -1)
}

fn frequencies(half: usize) -> Tensor {
    constant(&[half], |at| 10000f64.powf(-(at[0] as f64) / half as f64))
}

const ROPE: &[&str] = &[
    "Rope { dims: 16, base: 10000.0, scale: 1.0, amplitude: 1.0, layout: Split, sequence_axis: SecondLast }",
];

#[test]
fn rotations_of_exporters_are_found() {
    let x = normal(&[2, 3, 5, 16]);
    let ids = integers(&[2, 5], &[0, 1, 2, 3, 4, 7, 8, 9, 10, 11]);
    check(vec![
        spelling(
            "transformers: angles by a product of matrices",
            &[x.clone(), ids.clone()],
            ROPE,
            |x| {
                let inverse = frequencies(8).reshape(&[1, 8, 1]).broadcast_to(&[2, 8, 1]);
                let position = x[1].reshape(&[2, 1, 5]).cast(DType::F32);
                let f = inverse.matmul(&position).transpose(&[0, 2, 1]);
                let f = Tensor::concat(&[&f, &f], -1);
                let (cos, sin) = (f.cos().unsqueeze(1), f.sin().unsqueeze(1));
                &x[0] * cos + rotate_half(&x[0]) * sin
            },
        ),
        spelling("tables that are stored", std::slice::from_ref(&x), ROPE, |x| {
            let angle =
                |at: &[usize]| (at[2] as f64 * 10000f64.powf(-((at[3] % 8) as f64) / 8.0)) as f32;
            let cos = constant(&[1, 1, 5, 16], |at| f64::from(angle(at).cos()));
            let sin = constant(&[1, 1, 5, 16], |at| f64::from(angle(at).sin()));
            &x[0] * cos + rotate_half(&x[0]) * sin
        }),
        spelling("tables that positions choose from", &[x.clone(), ids], ROPE, |x| {
            let angle =
                |at: &[usize]| (at[0] as f64 * 10000f64.powf(-((at[1] % 8) as f64) / 8.0)) as f32;
            let cos = constant(&[32, 16], |at| f64::from(angle(at).cos())).gather(0, &x[1]);
            let sin = constant(&[32, 16], |at| f64::from(angle(at).sin())).gather(0, &x[1]);
            &x[0] * cos.unsqueeze(1) + rotate_half(&x[0]) * sin.unsqueeze(1)
        }),
        spelling("GPT-NeoX: a part of the head", &[normal(&[1, 3, 5, 20])], ROPE, |x| {
            let f = Tensor::iota(Spec::new(DType::F32, [5, 1]), 0) * frequencies(8);
            let f = Tensor::concat(&[&f, &f], -1);
            let turn = x[0].slice(-1, 0..16);
            let turned = &turn * f.cos() + rotate_half(&turn) * f.sin();
            Tensor::concat(&[&turned, &x[0].slice(-1, 16..20)], -1)
        }),
        spelling(
            "GPT-J: rotate_every_two, tables that are stored",
            std::slice::from_ref(&x),
            &[
                "Rope { dims: 16, base: 10000.0, scale: 1.0, amplitude: 1.0, layout: Interleaved, sequence_axis: SecondLast }",
            ],
            |x| {
                let angle = |at: &[usize]| {
                    (at[2] as f64 * 10000f64.powf(-((at[3] / 2) as f64) / 8.0)) as f32
                };
                let cos = constant(&[1, 1, 5, 16], |at| f64::from(angle(at).cos()));
                let sin = constant(&[1, 1, 5, 16], |at| f64::from(angle(at).sin()));
                let (a, b) = (x[0].slice_step(-1, 0, 2, 8), x[0].slice_step(-1, 1, 2, 8));
                let r = Tensor::concat(&[&(-b).unsqueeze(-1), &a.unsqueeze(-1)], -1);
                &x[0] * cos + r.reshape(&[2, 3, 5, 16]) * sin
            },
        ),
        spelling(
            "GPT-J: neighbours, by reshapes",
            &[normal(&[1, 5, 3, 16])],
            &[
                "Rope { dims: 16, base: 10000.0, scale: 1.0, amplitude: 1.0, layout: Interleaved, sequence_axis: ThirdLast }",
            ],
            |x| {
                let f = Tensor::iota(Spec::new(DType::F32, [5, 1, 1]), 0) * frequencies(8);
                let p = x[0].reshape(&[1, 5, 3, 8, 2]);
                let (a, b) = (p.slice(-1, 0..1).squeeze(-1), p.slice(-1, 1..2).squeeze(-1));
                let (u, v) = (&a * f.cos() - &b * f.sin(), &b * f.cos() + &a * f.sin());
                Tensor::concat(&[&u.unsqueeze(-1), &v.unsqueeze(-1)], -1).reshape(&[1, 5, 3, 16])
            },
        ),
    ]);
}

#[test]
fn the_plain_layers_of_models_are_found_in_their_primitives() {
    use frit_models::nn::layer;
    let x = normal(&[2, 3, 16]);
    let (w, b) = (normal(&[16, 16]), normal(&[16]));
    let (q, k) = (normal(&[1, 2, 3, 8]), normal(&[1, 2, 6, 8]));
    let operands = [x, w, b, q, k.clone(), k, integers(&[], &[5])];
    let (graph, values) = traced(&operands, |x| {
        let norm = layer::layer_norm(&x[0], x[2].clone(), x[2].clone(), 1e-5);
        let linear = layer::gelu(layer::linear(&norm, x[1].clone(), Some(x[2].clone())));
        let [q, k, v] = [3, 4, 5].map(|i: usize| x[i].clone());
        vec![linear, layer::attention(q, k, v, Some(x[6].clone()), true)]
    });
    let graph = graph.composed().expect("primitives");
    let (found, report) = recognised(&graph, &recognisers());
    assert_eq!(
        blocks(&found),
        [
            "LayerNorm { eps: 1e-5 }",
            "Linear { activation: Gelu(Erf) }",
            "ScaledDotProductAttention { scale: None, causal: true, window: None, softcap: None }",
        ]
    );
    assert_eq!(report.replaced(), 3, "{report}");
    expect_none(differs("layers", &graph, &found, &values, 2e-5).into_iter().collect());
}

/// A block of a decoder as transformers writes it, over weights of one layer.
fn decoder_block(x: &Tensor, layer: usize) -> Tensor {
    let (b, t, h, kv, d) = (1, 6, 4, 2, 8);
    let c = h * d;
    let w = |name: &str, shape: &[usize]| {
        Tensor::param(&format!("{layer}.{name}"), Spec::new(DType::F32, shape))
    };
    let norm = |x: &Tensor, name: &str| {
        let inverse = (x.pow(&scalar(2.0)).mean(&[-1]) + 1e-5).rsqrt();
        w(name, &[c]) * (x * inverse)
    };
    let dense =
        |x: &Tensor, name: &str, n: usize, k: usize| x.matmul(&w(name, &[n, k]).transpose(&[1, 0]));
    let heads = |x: Tensor, n: usize| x.reshape(&[b, t, n, d]).transpose(&[0, 2, 1, 3]);
    let f = Tensor::iota(Spec::new(DType::F32, [t, 1]), 0) * frequencies(d / 2);
    let f = Tensor::concat(&[&f, &f], -1);
    let (cos, sin) = (f.cos(), f.sin());
    let rotate = |x: &Tensor| x * &cos + rotate_half(x) * &sin;
    let repeat =
        |x: Tensor| x.unsqueeze(2).broadcast_to(&[b, kv, h / kv, t, d]).reshape(&[b, h, t, d]);
    let n = norm(x, "attention_norm");
    let q = rotate(&heads(dense(&n, "q", c, c), h));
    let k = repeat(rotate(&heads(dense(&n, "k", kv * d, c), kv)));
    let v = repeat(heads(dense(&n, "v", kv * d, c), kv));
    let mask = lower(t, t).select(&scalar(0.0), &scalar(f64::from(f32::MIN)));
    let p = softmax(&(q.matmul(&kt(&k)) * (1.0 / (d as f64).sqrt()) + mask));
    let y = p.matmul(&v).transpose(&[0, 2, 1, 3]).reshape(&[b, t, c]);
    let x = x + dense(&y, "o", c, c);
    let n = norm(&x, "norm");
    let gate = dense(&n, "gate", 2 * c, c);
    let y = &gate * gate.sigmoid() * dense(&n, "up", 2 * c, c);
    x + dense(&y, "down", c, 2 * c)
}

#[test]
fn a_whole_decoder_is_found_layer_by_layer_and_nothing_is_left_composed() {
    let layers = 40;
    let graph = Graph::trace(&[Spec::new(DType::F32, [1, 6, 32])], |x| {
        vec![(0..layers).fold(x[0].clone(), |x, layer| decoder_block(&x, layer))]
    })
    .expect("a graph");
    let (found, report) = recognised(&graph, &recognisers());
    let counts = found.histogram();
    for (name, n) in [
        ("rms_norm", 2),
        ("linear", 7),
        ("rope", 2),
        ("scaled_dot_product_attention", 1),
        ("swiglu", 1),
        ("add", 2),
    ] {
        assert_eq!(counts.get(name), Some(&(n * layers)), "{name}: {report}");
    }
    let views = ["param", "input", "reshape", "transpose"];
    let other = counts.iter().filter(|(name, _)| views.contains(name)).map(|(_, n)| n);
    let known: usize = 15 * layers;
    assert_eq!(other.sum::<usize>() + known, found.nodes().len(), "{found}");
    assert!(report.rules.iter().all(|r| r.refused.is_empty()), "{report}");
}
