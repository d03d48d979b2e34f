//! What stands around a convolution and becomes part of it.

use crate::{blocks, differs, recognised, spellings::constant, traced};
use frit_conformance::expect_none;
use frit_graph::{DType, Tensor};
use frit_ops::{Activation, Conv, Conv1d, GeluForm, Operand, catalogue::normal, fast, recognisers};

struct Around {
    name: &'static str,
    /// The convolutions that are left, by their activation, and nothing else of the formula.
    want: &'static [&'static str],
    build: fn(&Tensor) -> Tensor,
}

fn number(n: f64) -> Tensor {
    Tensor::scalar(DType::F32, n)
}

/// One number a channel of `[B, C, H, W]`.
fn channels(n: usize, seed: usize) -> Tensor {
    constant(&[1, n, 1, 1], |at| 0.5 + ((at[1] * 7 + seed) % 11) as f64 / 10.0)
}

fn weight(shape: &[usize]) -> Tensor {
    constant(shape, |at| (at.iter().fold(3, |n, i| n * 5 + i) % 17) as f64 / 17.0 - 0.5)
}

fn padded() -> Conv {
    Conv { pads: vec![(1, 1); 2], ..Conv::over(2) }
}

fn conv(x: &Tensor, options: Conv) -> Tensor {
    let inner = x.shape()[1] / options.groups;
    fast::conv(x, &weight(&[6, inner, 3, 3]), Some(&weight(&[6])), options)
}

fn hard_swish(x: &Tensor) -> Tensor {
    let gate = (x + number(3.0)).maximum(&number(0.0)).minimum(&number(6.0));
    x * gate / number(6.0)
}

fn check(x: &Operand, all: Vec<Around>) {
    let rules = recognisers();
    let mut complaints = Vec::new();
    for a in all {
        let (graph, values) = traced(std::slice::from_ref(x), |x| vec![(a.build)(&x[0])]);
        let (found, report) = recognised(&graph, &rules);
        let got = blocks(&found);
        let fits = got.len() == a.want.len()
            && got.iter().zip(a.want).all(|(g, w)| g.starts_with("Conv") && g.contains(w));
        // What is left besides depends on weights alone.
        let loose = found.nodes().into_iter().any(|t| {
            let binary = matches!(t.name(), "add" | "sub" | "mul" | "div" | "max" | "min");
            binary && t.shape() == found.outputs()[0].shape()
        });
        if !fits || loose {
            complaints.push(format!("{}: {got:?}\n{report}{found}", a.name));
        }
        complaints.extend(differs(a.name, &graph, &found, &values, 2e-5));
    }
    expect_none(complaints);
}

fn around(
    name: &'static str,
    want: &'static [&'static str],
    build: fn(&Tensor) -> Tensor,
) -> Around {
    Around { name, want, build }
}

const NONE: &[&str] = &["activation: Identity"];

#[test]
fn numbers_behind_a_convolution_are_in_its_weight() {
    check(
        &normal(&[2, 4, 7, 9]),
        vec![
            around("a factor", NONE, |x| conv(x, padded()) * number(1.5)),
            around("a factor in front", NONE, |x| number(0.5) * conv(x, padded())),
            around("a quotient", NONE, |x| conv(x, padded()) / channels(6, 1)),
            around("a term", NONE, |x| conv(x, padded()) + channels(6, 2)),
            around("a difference", NONE, |x| conv(x, padded()) - channels(6, 2)),
            around("a normalisation", NONE, |x| {
                let centred = conv(x, padded()) - channels(6, 3);
                let scale = channels(6, 1) / (channels(6, 4) + number(1e-5)).sqrt();
                centred * scale + channels(6, 5)
            }),
            around("without a bias", NONE, |x| {
                let y = fast::conv(x, &weight(&[6, 4, 3, 3]), None, padded());
                y * number(2.0) + number(1.0)
            }),
            around("channels by themselves", NONE, |x| {
                let w = weight(&[4, 1, 3, 3]);
                fast::conv(x, &w, None, Conv { groups: 4, ..padded() }) * channels(4, 1)
            }),
        ],
    );
}

#[test]
fn activations_behind_a_convolution_are_its_own() {
    check(
        &normal(&[2, 4, 7, 9]),
        vec![
            around("relu", &["activation: Relu"], |x| conv(x, padded()).maximum(&number(0.0))),
            around("silu", &["activation: Silu"], |x| {
                let y = conv(x, padded()) * channels(6, 1) + channels(6, 2);
                &y * y.sigmoid()
            }),
            around("hard swish", &["activation: HardSwish"], |x| {
                hard_swish(&(conv(x, padded()) + number(0.25)))
            }),
            around("hard swish by its slope", &["activation: HardSwish"], |x| {
                let y = conv(x, padded());
                let gate = (&y * number(1.0 / 6.0) + number(0.5)).minimum(&number(1.0));
                &y * gate.maximum(&number(0.0))
            }),
            around("a Block", &["activation: Gelu(Tanh)"], |x| {
                fast::gelu(&conv(x, padded()), GeluForm::Tanh)
            }),
        ],
    );
}

#[test]
fn numbers_before_a_convolution_without_zeros_are_in_its_weight() {
    check(
        &normal(&[2, 4, 7, 9]),
        vec![
            around("an image", NONE, |x| {
                conv(&((x / number(255.0) - channels(4, 1)) / channels(4, 2)), Conv::over(2))
            }),
            around("two in a row", &["HardSwish", "activation: Relu"], |x| {
                let first = hard_swish(&conv(x, padded())) * number(1.25) + number(0.5);
                conv(&first, Conv::over(2)).maximum(&number(0.0))
            }),
        ],
    );
}

#[test]
fn convolutions_over_one_axis_take_them_too() {
    check(
        &normal(&[2, 4, 20]),
        vec![around("relu", &["activation: Relu"], |x| {
            let y = fast::conv1d(x, &weight(&[5, 4, 3]), None, Conv1d::default());
            let scale = constant(&[1, 5, 1], |at| at[1] as f64 + 0.5);
            (y * scale + number(0.1)).maximum(&number(0.0))
        })],
    );
}

#[test]
fn what_is_not_of_a_channel_or_needed_elsewhere_stays() {
    let rules = recognisers();
    let operands = [normal(&[2, 4, 7, 9]), normal(&[1, 6, 1, 1])];
    let stay = |name: &str, build: fn(&[Tensor]) -> Vec<Tensor>, why: Option<&str>| {
        let (graph, values) = traced(&operands, build);
        let (found, report) = recognised(&graph, &rules);
        let same =
            |t: &Tensor| t.block::<Conv>().is_none_or(|c| c.activation == Activation::Identity);
        assert!(found.nodes().iter().all(same), "{name} is claimed:\n{found}");
        assert_eq!(report.replaced(), 0, "{name}:\n{report}");
        let refused: Vec<&String> = report.rules.iter().flat_map(|r| &r.refused).collect();
        match why {
            Some(why) => assert!(refused.iter().any(|r| r.contains(why)), "{name}: {refused:?}"),
            None => assert!(refused.is_empty(), "{name}: {refused:?}"),
        }
        expect_none(differs(name, &graph, &found, &values, 1e-6).into_iter().collect());
    };
    let elsewhere = Some("output of the graph");
    stay("numbers at run time", |x| vec![conv(&x[0], padded()) * &x[1]], None);
    stay(
        "numbers along a row",
        |x| vec![conv(&x[0], padded()) * constant(&[9], |at| at[0] as f64)],
        None,
    );
    stay("zeros around", |x| vec![conv(&(&x[0] + number(1.0)), padded())], None);
    stay(
        "an output",
        |x| {
            let y = conv(&x[0], padded());
            vec![y.maximum(&number(0.0)), y]
        },
        elsewhere,
    );
    stay(
        "a sum with a residue",
        |x| vec![conv(&x[0], padded()) + conv(&x[0].tanh(), padded())],
        None,
    );
}
