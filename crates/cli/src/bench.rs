//! Timing one thing against another, so that the ratio means something on a busy machine.
//!
//! Speeds drift: other processes, frequency, temperature. So the contestants run in turn, A B A B,
//! in one process ([`in_turn`]), and the median of each is compared: what disturbs one round
//! disturbs both. A sample is a batch of runs where one alone is too short for the clock.
//! [`compare`] does this for a case of the catalogue: composed against fused on the same threads.

use std::time::{Duration, Instant};

use frit::cpu::{Cpu, Pool};
use frit::graph::{
    Backend, DType, Error, Graph, Outcome, Params, Policy, Program, Spec, Tensor, Value, compile,
};
use frit::ops::DynCase;

/// A sample lasts at least this long, so that the clock's own cost does not count.
const SAMPLE: Duration = Duration::from_micros(200);
/// No sample takes more runs than this.
const MOST_RUNS: u128 = 1000;

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// About this many seconds for all contestants together.
    pub seconds: f64,
    /// But at least this many rounds.
    pub rounds: usize,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { seconds: 1.0, rounds: 5 }
    }
}

/// A contestant: something that can be done again and again.
pub type Contestant<'a, E> = &'a mut dyn FnMut() -> Result<(), E>;

/// Runs the contestants in turn and gives the seconds that a run of each took, a number for each
/// round. Each runs once before to warm up.
///
/// ```
/// use frit_cli::bench::{Effort, in_turn, median};
/// use std::{convert::Infallible, thread::sleep, time::Duration};
/// let mut short = || Ok::<(), Infallible>(sleep(Duration::from_millis(1)));
/// let mut long = || Ok(sleep(Duration::from_millis(4)));
/// let Ok(times) = in_turn(&mut [&mut short, &mut long], Effort { seconds: 0.0, rounds: 5 });
/// assert_eq!((times[0].len(), times[1].len()), (5, 5));
/// assert!(median(&times[0]) >= 0.001 && median(&times[1]) >= 0.004);
/// ```
///
/// # Errors
/// What a contestant says.
pub fn in_turn<E>(
    contestants: &mut [Contestant<'_, E>],
    effort: Effort,
) -> Result<Vec<Vec<f64>>, E> {
    let mut runs = Vec::new();
    for contestant in contestants.iter_mut() {
        contestant()?;
        let started = Instant::now();
        contestant()?;
        let once = started.elapsed().as_nanos().max(1);
        runs.push(SAMPLE.as_nanos().div_ceil(once).clamp(1, MOST_RUNS) as u32);
    }
    let mut times = vec![Vec::new(); contestants.len()];
    let started = Instant::now();
    let mut round = 0;
    while round < effort.rounds || started.elapsed().as_secs_f64() < effort.seconds {
        for ((contestant, &runs), times) in contestants.iter_mut().zip(&runs).zip(&mut times) {
            let started = Instant::now();
            for _ in 0..runs {
                contestant()?;
            }
            times.push(started.elapsed().as_secs_f64() / f64::from(runs));
        }
        round += 1;
    }
    Ok(times)
}

/// The middle number, or the mean of the two in the middle; NaN of none.
///
/// ```
/// use frit_cli::bench::median;
/// assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
/// assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
/// ```
#[must_use]
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The largest absolute difference of two values of one shape; NaN where only one is a number.
#[must_use]
pub fn max_abs_diff(a: &Value, b: &Value) -> f64 {
    let (a, b) = (a.to_f64(), b.to_f64());
    if a.len() != b.len() {
        return f64::NAN;
    }
    // Equal infinities and two NaN do not differ.
    let same = |x: f64, y: f64| x == y || x.is_nan() && y.is_nan();
    let pairs = a.iter().zip(&b);
    pairs.fold(0.0, |most: f64, (&x, &y)| match same(x, y) {
        true => most,
        false if most.is_nan() => most,
        false if (x - y).is_nan() => f64::NAN,
        false => most.max((x - y).abs()),
    })
}

/// A case of the catalogue as a program of one Block.
///
/// # Errors
/// What the graph or the backend says.
pub fn program(case: &DynCase, dtype: DType, backend: &dyn Backend) -> Result<Program, Error> {
    let slots = case.specs(dtype);
    let specs: Vec<Spec> = slots.iter().flatten().cloned().collect();
    let graph = Graph::trace(&specs, |x| {
        let mut x = x.iter().cloned();
        let inputs = slots.iter().map(|s| s.as_ref().and_then(|_| x.next())).collect();
        vec![Tensor::dyn_block(case.block.clone(), inputs)]
    })?;
    compile(&graph, backend, &Params::new(), Policy::Allow)
}

/// Composed against fused.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The case.
    pub case: &'static str,
    /// Its operation.
    pub op: &'static str,
    /// The type it ran in.
    pub dtype: DType,
    /// Threads that shared the work.
    pub threads: usize,
    /// Median of the composed program, in microseconds.
    pub composed_us: f64,
    /// Median of the fused program, in microseconds.
    pub fused_us: f64,
    /// The largest absolute difference of the two results.
    pub max_abs_diff: f64,
    /// Why the backend has not one kernel for it, if it has not.
    pub not_fused: Option<String>,
    /// Multiplications and additions of a run, where they bound its speed.
    pub flops: Option<f64>,
    /// Bytes that a run must read and write at least.
    pub bytes: usize,
}

impl Comparison {
    /// How many times as fast the fused program is.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.composed_us / self.fused_us
    }

    /// Billions of operations a second of the fused program, where they bound its speed.
    #[must_use]
    pub fn gflops(&self) -> Option<f64> {
        self.flops.map(|flops| flops / self.fused_us / 1e3)
    }

    /// Billions of bytes a second of the fused program.
    #[must_use]
    pub fn gigabytes(&self) -> f64 {
        self.bytes as f64 / self.fused_us / 1e3
    }
}

/// Times a case composed and fused on the same threads.
///
/// # Errors
/// What the graph or the backend says.
pub fn compare(
    case: &DynCase,
    dtype: DType,
    pool: &Pool,
    effort: Effort,
) -> Result<Comparison, Error> {
    let composed = program(case, dtype, &Cpu::on(pool.clone()).without_fused())?;
    let fused = program(case, dtype, &Cpu::on(pool.clone()))?;
    let inputs: Vec<Value> = case.values(dtype).into_iter().flatten().collect();
    let (a, b) = (composed.run(inputs.clone())?, fused.run(inputs.clone())?);
    let times = in_turn(
        &mut [&mut || composed.run(inputs.clone()).map(drop), &mut || {
            fused.run(inputs.clone()).map(drop)
        }],
        effort,
    )?;
    let why = |outcome: &Outcome| match outcome {
        Outcome::Fused => None,
        Outcome::Opened => Some("it only holds other Blocks".to_string()),
        Outcome::Composed(why) => Some(why.to_string()),
    };
    Ok(Comparison {
        case: case.name,
        op: case.op,
        dtype,
        threads: pool.threads(),
        composed_us: median(&times[0]) * 1e6,
        fused_us: median(&times[1]) * 1e6,
        max_abs_diff: max_abs_diff(&a[0], &b[0]),
        not_fused: fused.report().lines.first().and_then(|line| why(&line.outcome)),
        flops: case.flops(dtype),
        bytes: case.bytes(dtype),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contestants_run_in_turn_and_their_errors_stop_it() {
        let order = std::cell::RefCell::new(String::new());
        let pause = || std::thread::sleep(SAMPLE);
        let mut a = || {
            pause();
            order.borrow_mut().push('a');
            Ok(())
        };
        let mut b = || {
            pause();
            order.borrow_mut().push('b');
            if order.borrow().len() > 9 { Err("enough") } else { Ok(()) }
        };
        let got = in_turn(&mut [&mut a, &mut b], Effort { seconds: 9.0, rounds: 0 });
        assert_eq!(got, Err("enough"));
        assert_eq!(order.take(), "aabbababab");
    }

    #[test]
    fn differences_see_nan_and_equal_infinities() -> Result<(), Error> {
        let v = |x: [f32; 2]| Value::new([2], x.to_vec());
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        assert_eq!(max_abs_diff(&v([1.0, inf])?, &v([1.5, inf])?), 0.5);
        assert_eq!(max_abs_diff(&v([1.0, nan])?, &v([3.0, nan])?), 2.0);
        assert!(max_abs_diff(&v([nan, 1.0])?, &v([1.0, 2.0])?).is_nan());
        assert!(max_abs_diff(&v([1.0, 2.0])?, &Value::scalar(1.0f32)).is_nan());
        Ok(())
    }

    #[test]
    fn a_case_of_the_catalogue_is_compared() -> Result<(), Error> {
        let line = frit::ops::find("swiglu").expect("swiglu is in the catalogue");
        let cases = (line.cases)();
        let case = cases.iter().find(|c| c.name == "swiglu_decode").expect("a bench case");
        let effort = Effort { seconds: 0.0, rounds: 1 };
        let got = compare(case, DType::F32, &Pool::new(1), effort)?;
        assert_eq!((got.case, got.op, got.threads), ("swiglu_decode", "swiglu", 1));
        assert_eq!(got.bytes, 3 * 4 * 1536);
        assert_eq!(got.not_fused, None);
        assert!(got.composed_us > 0.0 && got.fused_us > 0.0 && got.max_abs_diff < 1e-5);
        Ok(())
    }
}
