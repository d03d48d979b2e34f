//! Programs: memory, state and concurrency.

use frit_cpu::{Cpu, Pool};
use frit_graph::{
    DType, Graph, Jit, Params, Policy, Program, Reference, Spec, Tensor, Value, compile,
};
use frit_ops::{Activation, fast};

fn f32s(shape: &[usize]) -> Spec {
    Spec::new(DType::F32, shape)
}

fn counting(shape: &[usize]) -> Value {
    let n: usize = shape.iter().product();
    Value::new(shape, (0..n).map(|i| i as f32).collect()).expect("a value")
}

fn appending(fused: bool) -> Program {
    let specs = [f32s(&[1, 2, 8, 4]), f32s(&[1, 2, 1, 4]), Spec::new(DType::I64, [])];
    let graph = Graph::trace(&specs, |x| {
        let cache = fast::cache_append(&x[0], &x[1], &x[2]);
        vec![cache.sum(&[0, 1, 2, 3]), cache]
    })
    .expect("a graph");
    let cpu = Cpu::on(Pool::new(2));
    let cpu = if fused { cpu } else { cpu.without_fused() };
    compile(&graph, &cpu, &Params::new(), Policy::Allow).expect("compiled")
}

#[test]
fn a_cache_is_written_in_place_when_nobody_else_holds_it() {
    for fused in [true, false] {
        let program = appending(fused);
        let cache = counting(&[1, 2, 8, 4]);
        let memory = cache.id();
        let new = Value::new([1, 2, 1, 4], vec![-1f32; 8]).expect("a value");
        let mut cache = Some(cache);
        for position in 0..8i64 {
            let inputs = vec![cache.take().expect("a cache"), new.clone(), Value::scalar(position)];
            let mut out = program.run(inputs).expect("it runs");
            let updated = out.remove(1);
            assert_eq!(updated.id(), memory, "fused: {fused}");
            cache = Some(updated);
        }
        assert!(cache.expect("a cache").to_f64().iter().all(|&x| x == -1.0));
    }
}

#[test]
fn a_cache_that_somebody_else_holds_is_copied_and_theirs_stays() {
    for fused in [true, false] {
        let program = appending(fused);
        let cache = counting(&[1, 2, 8, 4]);
        let new = Value::new([1, 2, 1, 4], vec![-1f32; 8]).expect("a value");
        let out = program.run(vec![cache.clone(), new, Value::scalar(3i64)]).expect("it runs");
        assert_eq!(cache, counting(&[1, 2, 8, 4]));
        assert_ne!(out[1].id(), cache.id());
        assert_eq!(out[1].to_f64()[12..16], [-1.0; 4]);
        assert_eq!(out[1].to_f64()[16], 16.0);
    }
}

#[test]
fn a_full_cache_is_an_error_and_the_program_goes_on_working() {
    let program = appending(true);
    let new = Value::new([1, 2, 1, 4], vec![-1f32; 8]).expect("a value");
    let run = |at: i64| program.run(vec![counting(&[1, 2, 8, 4]), new.clone(), Value::scalar(at)]);
    let full = run(8).expect_err("it is full").to_string();
    assert_eq!(full, "[update] 1 positions from 8 do not fit in 8");
    let negative = run(-1).expect_err("before the start").to_string();
    assert_eq!(negative, "[update] 1 positions from -1 do not fit in 8");
    assert!(run(7).is_ok());
}

#[test]
fn the_peak_is_known_before_running_and_memory_is_used_again() {
    let megabyte = f32s(&[1 << 18]);
    let chain = Graph::trace(&[megabyte], |x| {
        let mut t = x[0].clone();
        for _ in 0..20 {
            t = (t.exp() + 1.0).log();
        }
        vec![t.sum(&[0])]
    })
    .expect("a graph");
    // Composed, every function is a step; else those in a row are one, up to 24 of them.
    let cpu = Cpu::on(Pool::new(2));
    for (cpu, steps) in [(cpu.clone(), 4), (cpu.without_fused(), 61)] {
        let program = compile(&chain, &cpu, &Params::new(), Policy::Allow).expect("compiled");
        assert_eq!(program.steps(), steps);
        // One megabyte, written over and over, and the sum.
        assert!(program.peak_bytes() <= (1 << 20) + 256, "{}", program.peak_bytes());
    }
}

#[test]
fn outputs_may_be_inputs_weights_views_and_each_other() {
    let graph = Graph::trace(&[f32s(&[2, 3])], |x| {
        let w = Tensor::param("w", f32s(&[2]));
        let y = &x[0] + 1.0;
        vec![x[0].clone(), w, y.clone(), y.transpose(&[1, 0]), y.reshape(&[6]), y]
    })
    .expect("a graph");
    let mut params = Params::new();
    params.insert("w", Value::new([2], vec![7f32, 8.0]).expect("a value"));
    let cpu = Cpu::on(Pool::new(1));
    let program = compile(&graph, &cpu, &params, Policy::Allow).expect("compiled");
    let out = program.run(vec![counting(&[2, 3])]).expect("it runs");
    let shapes: Vec<&[usize]> = out.iter().map(Value::shape).collect();
    assert_eq!(shapes, [&[2, 3][..], &[2], &[2, 3], &[3, 2], &[6], &[2, 3]]);
    assert_eq!(out[1].to_f64(), [7.0, 8.0]);
    assert_eq!(out[3].to_f64(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(out[4].to_f64(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(out[5].to_f64(), out[2].to_f64());
}

#[test]
fn empty_tensors_pass_through_primitives() {
    let graph = Graph::trace(&[f32s(&[0, 3]), f32s(&[2, 3])], |x| {
        let all = Tensor::concat(&[&x[0], &x[1]], 0);
        vec![x[0].exp(), x[0].sum(&[0]), all, x[0].matmul(&x[1].swap_axes(0, 1))]
    })
    .expect("a graph");
    let cpu = Cpu::on(Pool::new(2));
    for backend in [&cpu as &dyn frit_graph::Backend, &Reference] {
        let program = compile(&graph, backend, &Params::new(), Policy::Allow).expect("compiled");
        let empty = Value::new([0, 3], Vec::<f32>::new()).expect("a value");
        let out = program.run(vec![empty, counting(&[2, 3])]).expect("it runs");
        assert_eq!(out[0].shape(), [0, 3]);
        assert_eq!(out[1].to_f64(), [0.0; 3]);
        assert_eq!(out[2].to_f64(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(out[3].shape(), [0, 2]);
    }
}

#[test]
fn one_program_runs_on_many_threads_at_once() {
    let graph = Graph::trace(&[f32s(&[40, 64])], |x| {
        let w = Tensor::param("w", f32s(&[96, 64]));
        let h = fast::linear(&fast::rms_norm(&x[0], None, 1e-6), &w, None, Activation::Silu);
        vec![fast::softmax(&h, -1)]
    })
    .expect("a graph");
    let mut params = Params::new();
    let w = (0..96 * 64).map(|i| ((i * 37) % 101) as f32 / 400.0 - 0.12).collect();
    params.insert("w", Value::new([96, 64], w).expect("a value"));
    let cpu = Cpu::on(Pool::new(2));
    let program = compile(&graph, &cpu, &params, Policy::Deny).expect("fused");
    let input = |k: usize| {
        let x = (0..40 * 64).map(|i| ((i * 29 + k * 7) % 53) as f32 / 9.0 - 2.0).collect();
        Value::new([40, 64], x).expect("a value")
    };
    let alone: Vec<Value> =
        (0..4).map(|k| program.run(vec![input(k)]).expect("it runs").remove(0)).collect();
    std::thread::scope(|s| {
        for (k, wanted) in alone.iter().enumerate() {
            let program = &program;
            s.spawn(move || {
                for _ in 0..50 {
                    let got = program.run(vec![input(k)]).expect("it runs").remove(0);
                    assert_eq!(&got, wanted);
                }
            });
        }
    });
}

#[test]
fn a_traced_function_is_compiled_once_a_set_of_specs() {
    let f = Jit::new(Cpu::on(Pool::new(1)), |x| vec![fast::gelu(&x[0], Default::default())])
        .with_policy(Policy::Deny);
    for n in [1, 2, 3, 2, 1] {
        let y = f.call(vec![counting(&[n])]).expect("it runs").remove(0);
        assert_eq!(y.shape(), [n]);
        assert_eq!(y.to_f64()[0], 0.0);
    }
    assert_eq!(f.compiled(), 3);
    assert!(f.call(vec![Value::scalar(1i64)]).is_err(), "gelu takes no integers");
}
