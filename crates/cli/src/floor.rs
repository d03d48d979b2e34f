//! What the machine itself can do: the floors that kernels and models are held against.

use std::time::Instant;

use frit::cpu::floor::{Stores, copy, multiply_add, read};
use frit::cpu::{Cpu, Pool};
use frit::graph::{DType, Error, Graph, Params, Policy, Spec, Value, compile};
use frit::ops::{Activation, fast};

/// Numbers that are read: more than any cache holds.
const NUMBERS: usize = 64 << 20;
/// The best of so many rounds.
const ROUNDS: usize = 4;
/// Rows and columns of a large product.
const SIDE: usize = 1536;

/// What a machine does in a second at best, on the threads that it was measured on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes read from memory.
    pub read: f64,
    /// Bytes read and written by a copy in memory, both counted.
    pub copy: f64,
    /// Multiplications and additions in registers, in f32.
    pub multiply_add: f64,
    /// Multiplications and additions of a large product of f32 matrices.
    pub product: f64,
}

impl Limits {
    /// Measures them, in about a second.
    ///
    /// # Errors
    /// What the graph of the product says.
    pub fn measure(pool: &Pool) -> Result<Limits, Error> {
        let from = vec![1.0f32; NUMBERS / 2];
        let mut to = vec![0.0f32; NUMBERS / 2];
        let moved = (NUMBERS * size_of::<f32>()) as f64;
        let cached = best(|| {
            copy(pool, &from, &mut to, Stores::Cached);
            moved
        });
        let streamed = best(|| {
            copy(pool, &from, &mut to, Stores::Streamed);
            moved
        });
        Ok(Limits {
            read: read_bandwidth(pool),
            copy: cached.max(streamed),
            multiply_add: best(|| multiply_add(pool, 8 * pool.threads(), 200_000)),
            product: product(pool)?,
        })
    }
}

/// The most that a second gives, in the best of some rounds; `round` says how much one gave.
fn best(mut round: impl FnMut() -> f64) -> f64 {
    let rate = |_| {
        let started = Instant::now();
        round() / started.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(rate).fold(0.0, f64::max)
}

fn product(pool: &Pool) -> Result<f64, Error> {
    let square = Spec::new(DType::F32, [SIDE, SIDE]);
    let graph = Graph::trace(std::slice::from_ref(&square), |x| {
        let weight = frit::graph::Tensor::param("weight", square.clone());
        vec![fast::linear(&x[0], &weight, None, Activation::Identity)]
    })?;
    let ones = Value::new([SIDE, SIDE], vec![1.0f32; SIDE * SIDE])?;
    let params: Params = [("weight".to_string(), ones.clone())].into_iter().collect();
    let program = compile(&graph, &Cpu::on(pool.clone()), &params, Policy::Deny)?;
    program.run(vec![ones.clone()])?;
    let mut failure = None;
    let rate = best(|| {
        failure = program.run(vec![ones.clone()]).err().or(failure.take());
        2.0 * (SIDE * SIDE * SIDE) as f64
    });
    failure.map_or(Ok(rate), Err)
}

/// Bytes a second that these threads read from memory together, measured in about 0.1 s.
///
/// ```
/// use frit::cpu::Pool;
/// let one = frit_cli::floor::read_bandwidth(&Pool::new(1));
/// assert!(one > 1e8, "{one}");
/// ```
#[must_use]
pub fn read_bandwidth(pool: &Pool) -> f64 {
    // Not zeros, which would be one page many times.
    let block = vec![1.0f32; NUMBERS];
    best(|| {
        read(pool, &block);
        (NUMBERS * size_of::<f32>()) as f64
    })
}

/// The bytes that an operation moves, moved and nothing else.
pub struct Traffic<'a> {
    pool: &'a Pool,
    from: Vec<f32>,
    to: Vec<f32>,
    stores: Stores,
}

impl<'a> Traffic<'a> {
    /// So many bytes read and written; what is not read is written from what is. An operation that
    /// writes next to nothing is held against reading alone.
    #[must_use]
    pub fn new(pool: &'a Pool, read: usize, written: usize) -> Traffic<'a> {
        let numbers = read.saturating_add(written) / size_of::<f32>();
        let (from, to) = match written.saturating_mul(8) < read {
            true => (numbers, 0),
            false => (numbers / 2, numbers / 2),
        };
        let (from, to) = (vec![1.0; from], vec![0.0; to]);
        let mut traffic = Traffic { pool, from, to, stores: Stores::Cached };
        let mut seconds = |stores| {
            traffic.stores = stores;
            traffic.run();
            1.0 / best(|| {
                traffic.run();
                1.0
            })
        };
        let (cached, streamed) = (seconds(Stores::Cached), seconds(Stores::Streamed));
        traffic.stores = if streamed < cached { Stores::Streamed } else { Stores::Cached };
        traffic
    }

    /// Moves them.
    pub fn run(&mut self) {
        match self.to.is_empty() {
            true => read(self.pool, &self.from),
            false => copy(self.pool, &self.from, &mut self.to, self.stores),
        }
    }
}
