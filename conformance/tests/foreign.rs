//! What a crate outside of Frit does: its own Block with its own kernel, and its own Block mapped
//! onto one of the catalogue. No file of the catalogue or of the backend knows of either.

use frit_cpu::{Context, Cpu, CpuKernel, Out, View};
use frit_graph::{
    Block, DType, Decline, Error, Graph, Outcome, Params, Policy, Reference, Rewrite, Rule,
    ShapeError, Spec, Tensor, Unary, Value, compile, operands,
    pattern::{any, unary},
    recognise, rewrite,
};
use frit_ops::{fast, recognisers};

/// `y = x * |x|`
#[derive(Clone, Debug, PartialEq)]
struct SignedSquare;

operands!(/// The operand.
    Operand { x } optional {});

impl Block for SignedSquare {
    type Inputs<T> = Operand<T>;
    const NAME: &'static str = "theirs.signed_square";

    fn infer(&self, i: Operand<&Spec>) -> Result<Spec, ShapeError> {
        Ok(i.x.clone())
    }

    fn compose(&self, i: Operand<Tensor>) -> Tensor {
        &i.x * i.x.abs()
    }
}

impl CpuKernel for SignedSquare {
    fn accept(&self, i: &Operand<&Spec>) -> Result<(), Decline> {
        match i.x.dtype {
            DType::F32 => Ok(()),
            other => Err(Decline::Unsupported(format!("{other} is not f32"))),
        }
    }

    fn run(
        &self,
        i: Operand<View<'_>>,
        out: &mut Out<'_>,
        _: &mut Context<'_>,
    ) -> Result<(), Error> {
        let pairs = i.x.slice::<f32>()?.iter().zip(out.slice_mut::<f32>()?);
        pairs.for_each(|(x, y)| *y = x * x.abs());
        Ok(())
    }
}

fn squared(dtype: DType) -> Graph {
    Graph::trace(&[Spec::new(dtype, [2, 3])], |x| {
        // The transpose is a view: the kernel is given a dense copy.
        let x = x[0].transpose(&[1, 0]);
        vec![Tensor::block(SignedSquare, Operand { x }) + 1.0]
    })
    .expect("a graph")
}

const WANTED: [f64; 6] = [2.0, 17.0, -3.0, -24.0, 10.0, 37.0];

fn numbers(dtype: DType) -> Value {
    let x = [1.0, -2.0, 3.0, 4.0, -5.0, 6.0];
    Value::from_f64(Spec::new(dtype, [2, 3]), &x).expect("a value")
}

#[test]
fn a_foreign_block_runs_by_its_foreign_kernel() {
    let cpu = Cpu::default().with::<SignedSquare>();
    let program = compile(&squared(DType::F32), &cpu, &Params::new(), Policy::Deny).expect("fused");
    assert_eq!(program.report().fused(), 1);
    assert_eq!(program.run(vec![numbers(DType::F32)]).expect("it runs")[0].to_f64(), WANTED);
}

#[test]
fn a_foreign_block_is_composed_where_its_kernel_declines_or_is_absent() {
    let with = Cpu::default().with::<SignedSquare>();
    let half =
        compile(&squared(DType::F16), &with, &Params::new(), Policy::Allow).expect("composed");
    let why = Decline::Unsupported("f16 is not f32".into());
    assert_eq!(half.report().lines[0].outcome, Outcome::Composed(why));
    assert_eq!(half.run(vec![numbers(DType::F16)]).expect("it runs")[0].to_f64(), WANTED);
    for backend in [&Cpu::default() as &dyn frit_graph::Backend, &Reference] {
        let program = compile(&squared(DType::F32), backend, &Params::new(), Policy::Allow)
            .expect("composed");
        assert_eq!(program.report().lines[0].outcome, Outcome::Composed(Decline::NoKernel));
        assert_eq!(program.run(vec![numbers(DType::F32)]).expect("it runs")[0].to_f64(), WANTED);
    }
}

#[test]
fn a_foreign_block_is_found_by_its_foreign_pattern_among_those_of_the_catalogue() {
    let x = any("x");
    let formula = &x * unary(Unary::Abs, &x);
    let theirs = Rule::formula(SignedSquare::NAME, [("x |x|", formula)], |m| {
        Ok(Tensor::block(SignedSquare, Operand { x: m.main("x")? }))
    });
    let graph = Graph::trace(&[Spec::new(DType::F32, [2, 3])], |x| {
        let x = x[0].transpose(&[1, 0]);
        vec![1.0 + x.abs() * &x]
    })
    .expect("a graph");
    let rules: Vec<Rule> = [theirs].into_iter().chain(recognisers()).collect();
    let (found, report) = recognise(&graph, &rules).expect("recognised");
    assert_eq!((report.replaced(), report.rules[0].replaced), (1, 1), "{report}");
    let cpu = Cpu::default().with::<SignedSquare>();
    let program = compile(&found, &cpu, &Params::new(), Policy::Deny).expect("fused");
    assert_eq!(program.report().fused(), 1);
    assert_eq!(program.run(vec![numbers(DType::F32)]).expect("it runs")[0].to_f64(), WANTED);
}

/// A layer of a library that has its own root-mean-square norm, with a weight stored minus one.
#[derive(Clone, Debug, PartialEq)]
struct OffsetNorm {
    epsilon: f64,
}

operands!(/// Operands of the layer.
    OffsetNormInputs { x, offset } optional {});

impl Block for OffsetNorm {
    type Inputs<T> = OffsetNormInputs<T>;
    const NAME: &'static str = "theirs.offset_norm";

    fn infer(&self, i: OffsetNormInputs<&Spec>) -> Result<Spec, ShapeError> {
        Ok(i.x.clone())
    }

    fn compose(&self, i: OffsetNormInputs<Tensor>) -> Tensor {
        let root = ((&i.x * &i.x).mean(&[-1]) + self.epsilon).sqrt();
        i.x / root * (i.offset + 1.0)
    }
}

#[test]
fn a_foreign_block_is_mapped_onto_one_of_the_catalogue() {
    let specs = [Spec::new(DType::F32, [4, 32]), Spec::new(DType::F32, [32])];
    let graph = Graph::trace(&specs, |x| {
        let (x, offset) = (x[0].clone(), x[1].clone());
        vec![Tensor::block(OffsetNorm { epsilon: 1e-6 }, OffsetNormInputs { x, offset })]
    })
    .expect("a graph");
    let onto = Rule::block::<OffsetNorm>("theirs.offset_norm", |b, i| {
        Rewrite::Replaced(fast::rms_norm(&i.x, Some(&(i.offset + 1.0)), b.epsilon))
    });
    let (mapped, report) = rewrite(&graph, &[onto]).expect("rewritten");
    assert_eq!(report.replaced(), 1);

    let cpu = Cpu::default();
    let before = compile(&graph, &cpu, &Params::new(), Policy::Allow).expect("composed");
    let after = compile(&mapped, &cpu, &Params::new(), Policy::Deny).expect("fused");
    assert_eq!((before.report().fused(), after.report().fused()), (0, 1));

    let x: Vec<f32> = (0..128).map(|i| ((i * 29) % 31) as f32 / 7.0 - 2.0).collect();
    let offset: Vec<f32> = (0..32).map(|i| i as f32 / 64.0).collect();
    let inputs = || {
        let x = Value::new([4, 32], x.clone()).expect("a value");
        vec![x, Value::new([32], offset.clone()).expect("a value")]
    };
    let wanted: Vec<f64> = x
        .chunks(32)
        .flat_map(|row| {
            let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 32.0;
            let root = (mean + 1e-6).sqrt();
            let along = row.iter().zip(&offset);
            along
                .map(move |(&v, &o)| f64::from(v) / root * (f64::from(o) + 1.0))
                .collect::<Vec<_>>()
        })
        .collect();
    for program in [before, after] {
        let got = program.run(inputs()).expect("it runs")[0].to_f64();
        let d = frit_conformance::compare(&got, &wanted, (1e-5, 1e-6));
        assert!(d.within, "max abs {:.3e}", d.max_abs);
    }
}
