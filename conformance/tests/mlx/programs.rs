//! Programs on MLX: errors, state, memory, what goes in and out.

use frit_conformance::mlx::mlx;
use frit_graph::{
    Binary, DType, Graph, Jit, Params, Policy, Program, Reference, ShapeError, Spec, Tensor, Value,
    compile,
};
use frit_mlx::Mlx;
use frit_ops::{AttentionInputs, Rope, ScaledDotProductAttention, fast};
use std::sync::Arc;

fn f32s(shape: &[usize]) -> Spec {
    Spec::new(DType::F32, shape)
}

fn counting(shape: &[usize]) -> Value {
    let n: usize = shape.iter().product();
    Value::new(shape, (0..n).map(|i| i as f32).collect()).expect("a value")
}

fn program(mlx: &Mlx, specs: &[Spec], f: impl FnOnce(&[Tensor]) -> Vec<Tensor>) -> Program {
    let graph = Graph::trace(specs, f).expect("a graph");
    compile(&graph, mlx, &Params::new(), Policy::Allow).expect("compiled")
}

#[test]
fn an_index_out_of_range_is_an_error_and_the_next_run_is_well() {
    let Some(mlx) = mlx() else { return };
    let specs = [f32s(&[5, 3]), Spec::new(DType::I64, [2])];
    // Known before the run, and computed in it.
    let known = program(&mlx, &specs, |x| vec![x[0].gather(0, &x[1])]);
    let many = Spec::new(DType::F32, [2]);
    let computed = program(&mlx, &[specs[0].clone(), many], |x| {
        vec![x[0].gather(0, &(&x[1] * 2.0).cast(DType::I32))]
    });
    let index = |a: i64, b: i64| Value::new([2], vec![a, b]).expect("a value");
    let half = |a: f32, b: f32| Value::new([2], vec![a, b]).expect("a value");
    for _ in 0..3 {
        let error = known.run(vec![counting(&[5, 3]), index(4, 7)]).expect_err("outside");
        assert_eq!(error.to_string(), "[gather] index 7 is outside 0..5");
        let error = computed.run(vec![counting(&[5, 3]), half(0.0, -0.5)]).expect_err("outside");
        assert_eq!(error.to_string(), "[gather] index -1 is outside 0..5");
        let fine = known.run(vec![counting(&[5, 3]), index(4, 0)]).expect("it runs").remove(0);
        assert_eq!(fine.to_f64(), [12.0, 13.0, 14.0, 0.0, 1.0, 2.0]);
        let fine =
            computed.run(vec![counting(&[5, 3]), half(0.5, 2.0)]).expect("it runs").remove(0);
        assert_eq!(fine.to_f64(), [3.0, 4.0, 5.0, 12.0, 13.0, 14.0]);
    }
}

#[test]
fn a_full_cache_is_an_error_and_one_that_somebody_holds_stays_as_it_was() {
    let Some(mlx) = mlx() else { return };
    let specs = [f32s(&[1, 2, 8, 4]), f32s(&[1, 2, 1, 4]), Spec::new(DType::I64, [])];
    let program = program(&mlx, &specs, |x| vec![fast::cache_append(&x[0], &x[1], &x[2])]);
    let new = Value::new([1, 2, 1, 4], vec![-1f32; 8]).expect("a value");
    let run = |cache: Value, at: i64| program.run(vec![cache, new.clone(), Value::scalar(at)]);
    let full = run(counting(&[1, 2, 8, 4]), 8).expect_err("it is full").to_string();
    assert_eq!(full, "[update] 1 positions from 8 do not fit in 8");
    let early = run(counting(&[1, 2, 8, 4]), -1).expect_err("before the start").to_string();
    assert_eq!(early, "[update] 1 positions from -1 do not fit in 8");

    let mut cache = counting(&[1, 2, 8, 4]);
    let mut held = Vec::new();
    for at in 0..8i64 {
        held.push((cache.clone(), cache.to_f64()));
        cache = run(cache, at).expect("it runs").remove(0);
    }
    assert!(cache.to_f64().iter().all(|&x| x == -1.0));
    for (value, as_it_was) in held {
        assert_eq!(value.to_f64(), as_it_was);
    }
}

#[test]
fn a_cache_that_goes_round_stays_in_place() {
    let Some(mlx) = mlx() else { return };
    let specs = [f32s(&[1, 8, 4096, 64]), f32s(&[1, 8, 1, 64]), Spec::new(DType::I64, [])];
    let program = program(&mlx, &specs, |x| vec![fast::cache_append(&x[0], &x[1], &x[2])]);
    let new = counting(&[1, 8, 1, 64]);
    let mut cache = Value::zeros(&specs[0]).expect("a value");
    let mut places = Vec::new();
    for at in 0..20i64 {
        cache =
            program.run(vec![cache, new.clone(), Value::scalar(at)]).expect("it runs").remove(0);
        places.push(cache.bytes().as_ptr());
    }
    // The first run copies what came from outside.
    assert!(places.windows(2).all(|p| p[0] == p[1]), "it was copied: {places:?}");
    let numbers = cache.to_f64();
    assert_eq!(numbers[..64], numbers[19 * 64..20 * 64]);
    assert_eq!(numbers[20 * 64..4096 * 64], vec![0.0; (4096 - 20) * 64]);
}

#[test]
fn outputs_may_be_inputs_weights_views_and_each_other() {
    let Some(mlx) = mlx() else { return };
    let graph = Graph::trace(&[f32s(&[2, 3])], |x| {
        let w = Tensor::param("w", f32s(&[2]));
        let y = &x[0] + 1.0;
        vec![x[0].clone(), w, y.clone(), y.transpose(&[1, 0]), y.reshape(&[6]), y]
    })
    .expect("a graph");
    let mut params = Params::new();
    params.insert("w", Value::new([2], vec![7f32, 8.0]).expect("a value"));
    let program = compile(&graph, &mlx, &params, Policy::Allow).expect("compiled");
    let out = program.run(vec![counting(&[2, 3])]).expect("it runs");
    let shapes: Vec<&[usize]> = out.iter().map(Value::shape).collect();
    assert_eq!(shapes, [&[2, 3][..], &[2], &[2, 3], &[3, 2], &[6], &[2, 3]]);
    assert_eq!(out[1].to_f64(), [7.0, 8.0]);
    assert_eq!(out[3].to_f64(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(out[4].to_f64(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(out[5].to_f64(), out[2].to_f64());
    // A result goes in again, in another shape and type too.
    let again = out[4].reshaped([2, 3]).expect("a value");
    let twice = program.run(vec![again]).expect("it runs");
    assert_eq!(twice[4].to_f64(), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
}

#[test]
fn empty_tensors_pass_through_primitives() {
    let Some(mlx) = mlx() else { return };
    let specs = [f32s(&[0, 3]), f32s(&[2, 3])];
    let program = program(&mlx, &specs, |x| {
        let all = Tensor::concat(&[&x[0], &x[1]], 0);
        let none = x[1].slice(1, 0..0);
        vec![
            x[0].exp(),
            x[0].sum(&[0]),
            x[0].max(&[0]),
            all,
            x[0].matmul(&x[1].swap_axes(0, 1)),
            none.matmul(&x[0].reshape(&[0, 3])),
        ]
    });
    let empty = Value::new([0, 3], Vec::<f32>::new()).expect("a value");
    let out = program.run(vec![empty, counting(&[2, 3])]).expect("it runs");
    assert_eq!(out[0].shape(), [0, 3]);
    assert_eq!(out[1].to_f64(), [0.0; 3]);
    assert_eq!(out[2].to_f64(), [f64::NEG_INFINITY; 3]);
    assert_eq!(out[3].to_f64(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(out[4].shape(), [0, 2]);
    assert_eq!(out[5].to_f64(), [0.0; 6]);
}

#[test]
fn integers_wrap_saturate_and_divide_as_everywhere() {
    let Some(mlx) = mlx() else { return };
    for dtype in [DType::I64, DType::I32, DType::U32, DType::U8] {
        let (low, high) = match dtype {
            DType::I64 => (i64::MIN as f64, i64::MAX as f64),
            DType::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
            DType::U32 => (0.0, f64::from(u32::MAX)),
            _ => (0.0, 255.0),
        };
        let minus = if low < 0.0 { -1.0 } else { 1.0 };
        let a = [low, low, low, high, 7.0 * minus, 7.0, 0.0, 5.0];
        let b = [minus, 0.0, 3.0, high, 2.0, 2.0 * minus, 0.0, 4.0];
        let whole = |x: &[f64]| Value::from_f64(Spec::new(dtype, [8]), x).expect("a value");
        // Made in the run, so that nothing is computed beforehand.
        let specs = [Spec::new(dtype, [8]), Spec::new(dtype, [8]), Spec::new(DType::I64, [2000])];
        let graph = Graph::trace(&specs, |x| {
            let zero = x[2].sum(&[0]).cast(dtype).broadcast_to(&[8]);
            let (a, b) = (&x[0] + &zero, &x[1] + &zero);
            let small = b.binary(&Tensor::scalar(dtype, 5.0), Binary::Rem);
            vec![&a / &b, a.binary(&b, Binary::Rem), &a + &b, &a * &b, a.pow(&small)]
        })
        .expect("a graph");
        let zeros = Value::zeros(&specs[2]).expect("a value");
        let inputs = vec![whole(&a), whole(&b), zeros];
        let run = |backend: &dyn frit_graph::Backend| {
            let program =
                compile(&graph, backend, &Params::new(), Policy::Allow).expect("compiled");
            program.run(inputs.clone()).expect("it runs")
        };
        for (n, (got, want)) in run(&mlx).iter().zip(run(&Reference)).enumerate() {
            assert_eq!(got.to_i64(), want.to_i64(), "{dtype}, output {n}");
        }
    }
    let odd = [f32::NAN, f32::INFINITY, -3e38, 3e9, -1.5, 2.5, 300.0, -0.0];
    for to in [DType::I64, DType::I32, DType::U32, DType::U8, DType::Bool] {
        let graph = Graph::trace(&[f32s(&[8])], |x| vec![x[0].cast(to)]).expect("a graph");
        let run = |backend: &dyn frit_graph::Backend| {
            let program =
                compile(&graph, backend, &Params::new(), Policy::Allow).expect("compiled");
            program
                .run(vec![Value::new([8], odd.to_vec()).expect("it")])
                .expect("it runs")
                .remove(0)
        };
        assert_eq!(run(&mlx).to_i64(), run(&Reference).to_i64(), "to {to}");
    }
}

#[test]
fn an_integer_mask_is_an_error_before_mlx_is_asked() {
    let q = f32s(&[1, 2, 4, 8]);
    let mask = Spec::new(DType::I32, [4, 4]);
    let wrong = Graph::trace(&[q.clone(), q.clone(), q, mask], |x| {
        let options = ScaledDotProductAttention::default();
        vec![fast::scaled_dot_product_attention(&x[0], &x[1], &x[2], Some(&x[3]), options)]
    });
    let text = wrong.expect_err("an integer mask").to_string();
    assert!(text.contains("convert an integer mask to a boolean one"), "{text}");
    let _: ShapeError = text.into();
}

#[test]
fn by_mx_compile_programs_give_the_same_and_those_that_look_at_numbers_run_as_they_are() {
    let Some(mlx) = mlx() else { return };
    let specs = [f32s(&[1, 6, 32]), Spec::new(DType::I64, [2]), Spec::new(DType::I64, [])];
    let turn =
        |x: &Tensor, at: &Tensor| fast::rope(&x.reshape(&[1, 6, 2, 16]), Some(at), Rope::new(16));
    for rotary in [false, true] {
        let graph = Graph::trace(&specs, |x| {
            let h = fast::rms_norm(&x[0], None, 1e-6);
            let h = if rotary { turn(&h, &x[2]) } else { h.reshape(&[1, 6, 2, 16]) };
            let q = fast::gelu(&h, Default::default()).transpose(&[0, 2, 1, 3]);
            let inputs = AttentionInputs {
                q: q.clone(),
                k: q.clone(),
                v: q,
                mask: None,
                key_mask: None,
                key_length: Some(x[2].clone()),
                sinks: None,
            };
            let causal = ScaledDotProductAttention { causal: true, ..Default::default() };
            let y = Tensor::block(causal, inputs);
            vec![y.gather(2, &x[1]), x[0].clone()]
        })
        .expect("a graph");
        let of = |mlx: Mlx| compile(&graph, &mlx, &Params::new(), Policy::Allow).expect("compiled");
        let (plain, compiled) = (of(mlx), of(mlx.compiled()));
        for n in 0..6i64 {
            let x = counting(&[1, 6, 32]);
            let at = Value::new([2], vec![n, 5 - n]).expect("a value");
            let inputs = vec![x, at, Value::scalar(n + 1)];
            let want = plain.run(inputs.clone()).expect("it runs");
            let got = compiled.run(inputs).expect("it runs");
            let d = frit_conformance::compare(&got[0].to_f64(), &want[0].to_f64(), (1e-6, 1e-6));
            assert!(d.within, "rotary {rotary}, {n}: {d:?}");
            assert_eq!(got[1], want[1]);
        }
        let outside = Value::new([2], vec![0i64, 6]).expect("a value");
        let inputs = vec![counting(&[1, 6, 32]), outside, Value::scalar(6i64)];
        let error = compiled.run(inputs).expect_err("there are six").to_string();
        assert_eq!(error, "[gather] index 6 is outside 0..6");
    }
}

#[test]
fn traced_functions_run_eagerly_on_mlx() {
    let Some(mlx) = mlx() else { return };
    let shared = Arc::new(mlx);
    let chain =
        Jit::shared(shared.clone(), |x| vec![fast::einsum("ij,jk,kl->il", &[&x[0], &x[1], &x[2]])])
            .with_policy(Policy::Deny);
    let (a, b) = (counting(&[2, 3]), counting(&[3, 2]));
    let y = chain.call(vec![a.clone(), b.clone(), a]).expect("it runs").remove(0);
    // [[0,1,2],[3,4,5]] [[0,1],[2,3],[4,5]] = [[10,13],[28,40]], times [[0,1,2],[3,4,5]].
    assert_eq!(y.to_f64(), [39.0, 62.0, 85.0, 120.0, 188.0, 256.0]);
    let norm =
        Jit::shared(shared, |x| vec![fast::rms_norm(&x[0], None, 0.0)]).with_policy(Policy::Deny);
    let y =
        norm.call(vec![Value::new([1, 2], vec![3f32, -3.0]).expect("it")]).expect("it").remove(0);
    assert_eq!(y.to_f64(), [1.0, -1.0]);
}
