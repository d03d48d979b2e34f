//! MLX against the float64 oracles, the reference and golden numbers of other implementations.
//!
//! These tests are built with the feature `mlx` and want an MLX to be there: `frit setup mlx`
//! fetches one. Where there can be none, `FRIT_WITHOUT_MLX=1` makes each of them say that it was
//! not run. They run on the CPU, wherever MLX has another device too.

mod cases;
mod models;
mod programs;
mod threads;
