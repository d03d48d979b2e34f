//! MLX against the float64 oracles, the reference and golden numbers of other implementations.
//!
//! These tests are built with the feature `mlx` and want an MLX to be there: `frit setup mlx`
//! fetches one. Where there can be none, `FRIT_WITHOUT_MLX=1` makes each of them say that it was
//! not run. They run on the CPU, wherever MLX has another device too.

mod cases;
mod models;
mod programs;
mod threads;

use frit_mlx::{Device, Mlx};

/// MLX on the CPU. `None` is said aloud and only where the environment allows it.
fn mlx() -> Option<Mlx> {
    match Mlx::on(Device::Cpu) {
        Ok(mlx) => Some(mlx),
        Err(e) if std::env::var_os("FRIT_WITHOUT_MLX").is_some_and(|v| v == "1") => {
            eprintln!("not run: {e}");
            None
        }
        Err(e) => panic!("these tests want MLX (FRIT_WITHOUT_MLX=1 goes without): {e}"),
    }
}
