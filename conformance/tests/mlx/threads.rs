//! Many threads at once: errors stay where they happen.

use frit_conformance::mlx::{block, inputs, mlx};
use frit_graph::Value;

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
