use frit_graph::DType;
use frit_ops::{Activation, Linear};
use half::{bf16, f16};

use super::super::linear::{linear_on, linear_scratch_bytes_on};
use super::super::{Epilogue, LinearShape, Packed, linear, linear_packed, linear_scratch_bytes};
use super::{ACTIVATIONS, Random, Scratch, activated, bits, compare, for_float, near, slice, wide};
use crate::Pool;
use crate::kernel::Combine;
use crate::simd::{Element, Isa, available};

struct Layer<T, W> {
    shape: LinearShape,
    x: Vec<T>,
    weight: Vec<W>,
    bias: Option<Vec<f32>>,
    activation: Activation,
    combine: Combine,
}

impl<T, W> Layer<T, W> {
    /// What the output holds before.
    fn before(&self) -> f32 {
        if self.combine == Combine::Replace { 77.0 } else { 1.5 }
    }
}

/// How the weight is given.
#[derive(Clone, Copy, Debug)]
enum Form {
    Stored,
    Packed,
    Wide,
}

impl<T: Element, W: Element> Layer<T, W> {
    fn new(m: usize, n: usize, k: usize, x_row: usize) -> Layer<T, W> {
        let mut random = Random((m * 1000 + n * 10 + k) as u64);
        Layer {
            shape: LinearShape { m, n, k, x_row },
            x: random.vec(m * x_row),
            weight: random.vec(n * k),
            bias: Some(random.vec(n)),
            activation: Activation::Identity,
            combine: Combine::Replace,
        }
    }

    /// With the weight as it is, or packed, or packed in f32.
    fn run(&self, isa: Isa, threads: usize, form: Form) -> Vec<T> {
        let pool = Pool::new(threads);
        let Layer { shape, x, weight, activation, .. } = self;
        let (bias, combine) = (self.bias.as_deref(), self.combine);
        let then = Epilogue { bias, activation: *activation, combine };
        let mut out = vec![T::from_f32(self.before()); shape.m * shape.n];
        let mut scratch = Scratch::new(linear_scratch_bytes_on::<T, W>(isa, shape));
        let scratch = scratch.bytes();
        match form {
            Form::Packed => {
                let weight = Packed::<W>::new_on(&pool, isa, weight, shape.n, shape.k);
                linear_packed(&pool, shape, x, &weight, then, &mut out, scratch);
            }
            Form::Wide => {
                let weight = Packed::<f32>::new_on(&pool, isa, weight, shape.n, shape.k);
                linear_packed(&pool, shape, x, &weight, then, &mut out, scratch);
            }
            Form::Stored => {
                linear_on(isa, &pool, shape, x, weight, then, &mut out, scratch);
            }
        }
        out
    }

    fn holds(&mut self) {
        self.gives(Combine::Replace);
        self.gives(Combine::Add);
        if self.activation == Activation::Identity {
            self.gives(Combine::Gate);
        }
    }

    fn gives(&mut self, combine: Combine) {
        self.combine = combine;
        let before = f64::from(self.before());
        let (plus, times) = match combine {
            Combine::Replace => (0.0, 1.0),
            Combine::Add => (before, 1.0),
            Combine::Gate => (0.0, before / (1.0 + (-before).exp())),
        };
        let LinearShape { m, n, k, x_row } = self.shape;
        let mut want = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let terms =
                    (0..k).map(|p| wide(self.x[i * x_row + p]) * wide(self.weight[j * k + p]));
                let (sum, size) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
                let bias = self.bias.as_ref().map_or(0.0, |b| f64::from(b[j]));
                // No activation here is steeper than 1.13.
                let (result, size) =
                    (activated(self.activation, sum + bias), 1.2 * (size + bias.abs()));
                want.push((plus + times * result, plus + times * size));
            }
        }
        for &isa in available() {
            for form in [Form::Stored, Form::Packed, Form::Wide] {
                let out = self.run(isa, 1, form);
                let name =
                    format!("{isa} {form:?} {:?} {:?} {combine:?}", self.shape, self.activation);
                assert_eq!(bits(&out), bits(&self.run(isa, 3, form)), "{name}: threads show");
                for (&got, &(want, size)) in out.iter().zip(&want) {
                    assert!(near(got, want, size), "{name}: {} instead of {want}", wide(got));
                }
            }
        }
    }
}

const SHAPES: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (1, 300, 384),
    (2, 70, 65),
    (3, 33, 7),
    (4, 131, 40),
    (5, 131, 40),
    (9, 64, 100),
    (17, 20, 33),
    (50, 130, 300),
    (100, 257, 64),
    (0, 3, 4),
    (3, 0, 4),
    (2, 20, 0),
    (30, 20, 0),
];

fn all_shapes<T: Element, W: Element>() {
    for (m, n, k) in SHAPES {
        Layer::<T, W>::new(m, n, k, k).holds();
        Layer::<T, W> { bias: None, ..Layer::new(m, n, k, k + 5) }.holds();
    }
}

#[test]
fn layers_of_f32_are_those_of_f64_loops() {
    all_shapes::<f32, f32>();
    all_shapes::<f32, f16>();
    all_shapes::<f32, bf16>();
}

#[test]
fn layers_of_f16_are_those_of_f64_loops() {
    all_shapes::<f16, f32>();
    all_shapes::<f16, f16>();
    all_shapes::<f16, bf16>();
}

#[test]
fn layers_of_bf16_are_those_of_f64_loops() {
    all_shapes::<bf16, f32>();
    all_shapes::<bf16, f16>();
    all_shapes::<bf16, bf16>();
}

#[test]
fn activations_follow_the_bias() {
    for activation in ACTIVATIONS {
        for m in [1, 7, 60] {
            Layer::<f32, f32> { activation, ..Layer::new(m, 45, 20, 20) }.holds();
            Layer::<bf16, f16> { activation, ..Layer::new(m, 45, 20, 21) }.holds();
        }
    }
}

#[test]
fn layers_with_more_rows_or_weights_than_the_budget_hold() {
    Layer::<f16, f32>::new(1100, 19, 1000, 1000).holds();
    Layer::<f32, f16>::new(20, 2200, 1000, 1000).holds();
}

#[test]
fn cases_of_the_catalogue_hold() {
    let pool = Pool::new(2);
    let line = frit_ops::find("linear").expect("it is in the catalogue");
    let mut cases = 0;
    for case in (line.cases)() {
        let layer = case.block.downcast::<Linear>().expect("cases are of their own operation");
        for &dtype in case.dtypes {
            let values = case.values(dtype);
            let want = case.expected(&values).expect("the operands are those of the case");
            let [Some(x), Some(weight), bias] = &values[..] else {
                panic!("{} has other operands", case.name);
            };
            let (n, k) = (weight.shape()[0], weight.shape()[1]);
            let m = x.spec().numel() / k;
            let shape = LinearShape { m, n, k, x_row: k };
            let bias = bias.as_ref().map(frit_graph::Value::to_f32);
            let bias = bias.as_deref();
            let name = format!("{} {dtype}", case.name);
            for_float!(dtype, T => for_float!(weight.dtype(), W => {
                let (x, weight) = (slice::<T>(x), slice::<W>(weight));
                let mut out = vec![<T as Element>::ZERO; m * n];
                let mut scratch = Scratch::new(linear_scratch_bytes::<T, W>(&shape));
                let activation = layer.activation;
                let then = Epilogue { bias, activation, combine: Combine::Replace };
                linear(&pool, &shape, x, weight, then, &mut out, scratch.bytes());
                compare(&name, &out, &want.data, case.tolerance(dtype));
                out.fill(<T as Element>::ZERO);
                let weight = Packed::<W>::new(&pool, weight, n, k);
                linear_packed(&pool, &shape, x, &weight, then, &mut out, scratch.bytes());
                compare(&name, &out, &want.data, case.tolerance(dtype));
            }));
            cases += 1;
        }
    }
    assert!(cases > 20);
}
