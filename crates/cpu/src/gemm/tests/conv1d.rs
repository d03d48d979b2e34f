use frit_graph::DType;
use frit_ops::{Activation, Conv1d};
use half::{bf16, f16};

use super::super::conv1d::{conv1d_on, conv1d_scratch_bytes_on};
use super::super::{ConvShape, conv1d, conv1d_scratch_bytes};
use super::{ACTIVATIONS, Random, Scratch, activated, bits, compare, for_float, near, slice, wide};
use crate::Pool;
use crate::simd::{Element, available};

fn shape(batch: usize, channels: usize, length: usize, out: usize, taps: usize) -> ConvShape {
    ConvShape { batch, channels, length, out, taps }
}

fn plain() -> Conv1d {
    Conv1d::default()
}

/// The definition: sums over the channels of the group and the taps that meet x.
fn holds<T: Element, W: Element>(s: ConvShape, o: &Conv1d) {
    let mut random = Random((s.channels * 100 + s.length) as u64);
    let (inner, filters) = (s.channels / o.groups, s.out / o.groups);
    let x = random.vec::<T>(s.batch * s.channels * s.length);
    let weight = random.vec::<W>(s.out * inner * s.taps);
    let bias = random.vec::<f32>(s.out);
    let outputs = o.length(s.length, s.taps).expect("the taps fit");
    for bias in [None, Some(&bias[..])] {
        let mut want = Vec::new();
        for (row, f, t) in (0..s.batch * s.out * outputs)
            .map(|i| (i / (s.out * outputs), i / outputs % s.out, i % outputs))
        {
            let (mut sum, mut size) = (0.0, 0.0);
            for (c, j) in (0..inner * s.taps).map(|i| (i / s.taps, i % s.taps)) {
                let at = (t * o.stride + j * o.dilation) as isize - o.padding as isize;
                if (0..s.length as isize).contains(&at) {
                    let channel = row * s.channels + f / filters * inner + c;
                    let term = wide(weight[(f * inner + c) * s.taps + j])
                        * wide(x[channel * s.length + at as usize]);
                    sum += term;
                    size += term.abs();
                }
            }
            let bias = bias.map_or(0.0, |b| f64::from(b[f]));
            want.push((activated(o.activation, sum + bias), 1.2 * (size + bias.abs())));
        }
        for &isa in available() {
            let run = |threads| {
                let mut out = vec![T::from_f32(77.0); want.len()];
                let bytes = conv1d_scratch_bytes_on::<T, W>(isa, &s, o);
                let (pool, mut scratch) = (Pool::new(threads), Scratch::new(bytes));
                conv1d_on(isa, &pool, &s, o, &x, &weight, bias, &mut out, scratch.bytes());
                out
            };
            let out = run(1);
            assert_eq!(bits(&out), bits(&run(3)), "{isa} {s:?} {o:?}: threads show");
            for (i, (&got, &(want, size))) in out.iter().zip(&want).enumerate() {
                let got_wide = wide(got);
                assert!(near(got, want, size), "{isa} {s:?} {o:?} [{i}]: {got_wide} for {want}");
            }
        }
    }
}

fn all_options<T: Element, W: Element>() {
    holds::<T, W>(shape(1, 3, 50, 5, 1), &plain());
    holds::<T, W>(shape(2, 8, 301, 60, 3), &Conv1d { padding: 1, ..plain() });
    holds::<T, W>(shape(1, 8, 301, 7, 3), &Conv1d { stride: 2, padding: 1, ..plain() });
    holds::<T, W>(shape(2, 4, 90, 6, 5), &Conv1d { stride: 3, padding: 4, dilation: 2, ..plain() });
    holds::<T, W>(shape(2, 6, 40, 9, 3), &Conv1d { groups: 3, padding: 2, ..plain() });
    // A filter for each channel.
    holds::<T, W>(shape(1, 10, 70, 10, 4), &Conv1d { groups: 10, padding: 3, ..plain() });
    // More padding than taps, a stride longer than the taps, and one output.
    holds::<T, W>(shape(1, 2, 3, 2, 2), &Conv1d { padding: 7, ..plain() });
    holds::<T, W>(shape(1, 2, 60, 2, 2), &Conv1d { stride: 5, padding: 1, ..plain() });
    holds::<T, W>(shape(1, 12, 16, 20, 16), &Conv1d { stride: 16, ..plain() });
    holds::<T, W>(shape(1, 2, 1, 3, 3), &Conv1d { stride: 4, padding: 5, dilation: 3, ..plain() });
}

#[test]
fn convolutions_are_their_definition() {
    all_options::<f32, f32>();
}

#[test]
fn convolutions_of_narrow_types_are_their_definition() {
    all_options::<f16, f16>();
    all_options::<bf16, bf16>();
    all_options::<f32, f16>();
    all_options::<f16, f32>();
}

#[test]
fn activations_follow_the_bias() {
    for activation in ACTIVATIONS {
        holds::<f32, f32>(shape(1, 5, 40, 7, 3), &Conv1d { activation, padding: 1, ..plain() });
    }
}

#[test]
fn an_input_that_unfolds_beyond_the_budget_holds() {
    let activation = Activation::Silu;
    // 300 * 5 rows of 900 floats are 5.4 MB.
    holds::<f32, f32>(shape(1, 300, 900, 3, 5), &Conv1d { padding: 2, activation, ..plain() });
}

#[test]
fn cases_of_the_catalogue_hold() {
    let pool = Pool::new(2);
    let line = frit_ops::find("conv1d").expect("it is in the catalogue");
    let mut cases = 0;
    for case in (line.cases)() {
        let options = case.block.downcast::<Conv1d>().expect("cases are of their own operation");
        for &dtype in case.dtypes {
            let values = case.values(dtype);
            let want = case.expected(&values).expect("the operands are those of the case");
            let [Some(x), Some(weight), bias] = &values[..] else {
                panic!("{} has other operands", case.name);
            };
            let shape = ConvShape {
                batch: x.shape()[0],
                channels: x.shape()[1],
                length: x.shape()[2],
                out: weight.shape()[0],
                taps: weight.shape()[2],
            };
            let bias = bias.as_ref().map(frit_graph::Value::to_f32);
            for_float!(dtype, T => for_float!(weight.dtype(), W => {
                let (x, weight) = (slice::<T>(x), slice::<W>(weight));
                let mut out = vec![<T as Element>::ZERO; want.data.len()];
                let bytes = conv1d_scratch_bytes::<T, W>(&shape, options);
                let mut scratch = Scratch::new(bytes);
                let scratch = scratch.bytes();
                conv1d(&pool, &shape, options, x, weight, bias.as_deref(), &mut out, scratch);
                let name = format!("{} {dtype}", case.name);
                compare(&name, &out, &want.data, case.tolerance(dtype));
            }));
            cases += 1;
        }
    }
    assert!(cases > 10);
}
