//! Many runs, many threads: memory and threads stay as they are, errors stay where they happen.

use super::mlx;
use frit_graph::{DType, Graph, Params, Policy, Program, Spec, Tensor, Value, compile};
use frit_mlx::Mlx;
use frit_ops::{Activation, Rope, ScaledDotProductAttention, fast};

/// A small block: a norm, a product, a turn, attention, a lookup that can fail.
fn block(mlx: &Mlx) -> Program {
    let specs = [Spec::new(DType::F32, [1, 6, 32]), Spec::new(DType::I64, [1])];
    let graph = Graph::trace(&specs, |x| {
        let w = Tensor::param("w", Spec::new(DType::F32, [32, 32]));
        let h = fast::rms_norm(&x[0], None, 1e-6);
        let h = fast::linear(&h, &w, None, Activation::Silu);
        let q = h.reshape(&[1, 6, 2, 16]).transpose(&[0, 2, 1, 3]);
        let q = fast::rope(&q, None, Rope::new(16));
        let causal = ScaledDotProductAttention { causal: true, ..Default::default() };
        let y = fast::scaled_dot_product_attention(&q, &q, &q, None, causal);
        vec![y.transpose(&[0, 2, 1, 3]).reshape(&[1, 6, 32]).gather(1, &x[1])]
    })
    .expect("a graph");
    let w = (0..32 * 32).map(|i| ((i * 37) % 101) as f32 / 400.0 - 0.12).collect();
    let mut params = Params::new();
    params.insert("w", Value::new([32, 32], w).expect("a value"));
    compile(&graph, mlx, &params, Policy::Deny).expect("by MLX's own calls")
}

fn inputs(k: usize, at: i64) -> Vec<Value> {
    let x = (0..6 * 32).map(|i| ((i * 29 + k * 7) % 53) as f32 / 9.0 - 2.0).collect();
    vec![Value::new([1, 6, 32], x).expect("it"), Value::new([1], vec![at]).expect("it")]
}

/// Memory in kilobytes and threads of this process, as Linux counts them.
fn counted() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let of = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).expect(name);
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect(name)
    };
    (of("VmRSS:"), of("Threads:"))
}

/// How many threads there are, once those that have ended are gone.
fn threads_now(wanted: usize) -> usize {
    for _ in 0..100 {
        if counted().1 <= wanted {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    counted().1
}

#[cfg(target_os = "linux")]
#[test]
fn memory_and_threads_stay_the_same_over_ten_thousand_runs_and_two_hundred_threads() {
    let Some(mlx) = mlx() else { return };
    let program = block(&mlx);
    let wanted = program.run(inputs(1, 2)).expect("it runs").remove(0);
    let run = |n: usize| {
        for _ in 0..n {
            assert_eq!(program.run(inputs(1, 2)).expect("it runs").remove(0), wanted);
        }
    };
    run(500);
    let (memory, threads) = counted();
    run(10_000);
    let (after, now) = counted();
    println!("10,000 runs: {memory} kB and {threads} threads before, {after} kB and {now} after");
    assert!(after < memory + 8 * 1024, "{memory} kB before, {after} kB after 10,000 runs");
    assert_eq!(now, threads, "threads were left behind");
    for _ in 0..200 {
        std::thread::scope(|s| {
            s.spawn(|| run(2));
        });
    }
    let now = threads_now(threads);
    let (after, _) = counted();
    println!("200 threads: {after} kB and {now} threads after");
    assert!(after < memory + 16 * 1024, "{memory} kB before, {after} kB after 200 threads");
    assert_eq!(now, threads, "each thread left one behind");
}

#[test]
fn one_program_runs_on_many_threads_at_once_and_errors_stay_with_their_run() {
    let Some(mlx) = mlx() else { return };
    let program = block(&mlx);
    let alone: Vec<Value> =
        (0..4).map(|k| program.run(inputs(k, 3)).expect("it runs").remove(0)).collect();
    std::thread::scope(|s| {
        for (k, wanted) in alone.iter().enumerate() {
            let program = &program;
            s.spawn(move || {
                for n in 0..50 {
                    if (n + k) % 5 == 0 {
                        let error = program.run(inputs(k, 6)).expect_err("there are six");
                        assert_eq!(error.to_string(), "[gather] index 6 is outside 0..6");
                    }
                    let got = program.run(inputs(k, 3)).expect("it runs").remove(0);
                    assert_eq!(&got, wanted);
                }
            });
        }
    });
}

#[test]
fn results_and_programs_may_end_on_other_threads() {
    let Some(mlx) = mlx() else { return };
    for k in 0..20 {
        let program = block(&mlx);
        let value =
            std::thread::spawn(move || program.run(inputs(k, 1)).expect("it runs").remove(0))
                .join()
                .expect("a thread");
        let again = value.to_f64();
        std::thread::spawn(move || drop(value)).join().expect("a thread");
        assert!(again.iter().all(|x| x.is_finite()));
    }
}
