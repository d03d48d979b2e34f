//! Memory and threads of the process stay as they are. These tests count what the whole process has,
//! so they are a program of their own and take turns.

use frit_conformance::mlx::{block, inputs, mlx};
use frit_graph::{DType, Graph, Params, Policy, Program, Spec, Tensor, Value, compile};
use frit_ops::{Activation, fast};
use std::sync::{Mutex, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

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
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
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
fn weights_cross_once_for_all_programs() {
    let Some(mlx) = mlx() else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut params = Params::new();
    let w = f32s(&[1024, 1024]);
    let half = Value::zeros(&w.with_dtype(DType::F16)).expect("a value");
    params.insert("w", Value::zeros(&w).expect("a value"));
    params.insert("half", half);
    let program = |rows: usize| {
        let graph = Graph::trace(&[f32s(&[rows, 1024])], |x| {
            let (w, half) =
                (Tensor::param("w", w.clone()), Tensor::param("half", w.with_dtype(DType::F16)));
            let y = fast::linear(&x[0], &w, None, Activation::Identity);
            // A weight of another type is widened once, when the program is made.
            vec![fast::linear(&y, &half, None, Activation::Identity)]
        })
        .expect("a graph");
        compile(&graph, &mlx, &params, Policy::Allow).expect("compiled")
    };
    let first = program(1);
    first.run(vec![counting(&[1, 1024])]).expect("it runs");
    let before = mlx.active_memory();
    let others: Vec<Program> = (2..8).map(program).collect();
    for (n, p) in others.iter().enumerate() {
        p.run(vec![counting(&[n + 2, 1024])]).expect("it runs");
    }
    let more = mlx.active_memory().saturating_sub(before);
    assert!(more < 1 << 20, "{more} bytes more for programs of the same weights");
}

fn f32s(shape: &[usize]) -> Spec {
    Spec::new(DType::F32, shape)
}

fn counting(shape: &[usize]) -> Value {
    let n: usize = shape.iter().product();
    Value::new(shape, (0..n).map(|i| i as f32).collect()).expect("a value")
}
