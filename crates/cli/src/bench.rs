//! Timing one thing against another, so that the ratio means something on a busy machine.
//!
//! Speeds drift: other processes, frequency, temperature. So the contestants run in turn, A B A B,
//! in one process ([`in_turn`]), and the median of each is compared: what disturbs one round
//! disturbs both. A sample is a batch of runs where one alone is too short for the clock.
//! [`compare`] does this for a case of the catalogue: composed against fused on the same threads.

use std::time::{Duration, Instant};

use frit::cpu::Pool;
use frit::graph::{
    Backend, DType, Error, Graph, Outcome, Params, Policy, Program, Spec, Tensor, Value, compile,
};
use frit::ops::DynCase;

use crate::floor::{Limits, Traffic};
use crate::peers::Peer;

/// A sample lasts at least this long, so that the clock's own cost does not count.
const SAMPLE: Duration = Duration::from_millis(1);
/// What takes less runs before its sample, at least for [`WARM`]: the one before may have emptied
/// the caches and sent threads to sleep, and a system may wake them on one processor and part them
/// only some milliseconds later.
pub const SHORT: Duration = Duration::from_millis(50);
/// See [`SHORT`].
pub const WARM: Duration = Duration::from_millis(20);
/// No sample takes more runs than this.
const MOST_RUNS: u128 = 1000;

/// After a peer's turn: its threads may spin for a while (those of onnxruntime 1.31 for more than
/// 20 ms, in which everything else has one processor less).
pub const PAUSE: Duration = Duration::from_millis(60);
/// A peer that has used as many seconds as one of ours may takes no part in further rounds...
const PATIENCE: f64 = 3.0;
/// ... if it has taken part in so many.
const FEWEST: usize = 3;

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

/// A contestant that measures itself: the seconds of one run, or `None` when it has had enough.
pub type Sampler<'a, E> = &'a mut dyn FnMut() -> Result<Option<f64>, E>;

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
    let mut stopwatches = Vec::new();
    for contestant in contestants.iter_mut() {
        stopwatches.push(Stopwatch::warm(*contestant)?);
    }
    let mut samplers: Vec<_> =
        stopwatches.iter_mut().map(|s| move || s.sample().map(Some)).collect();
    let mut samplers: Vec<Sampler<'_, E>> =
        samplers.iter_mut().map(|s| s as Sampler<'_, E>).collect();
    rounds(&mut samplers, effort)
}

/// Takes a sample of each in turn, round by round, and gives the samples of each.
///
/// # Errors
/// What a sampler says.
pub fn rounds<E>(samplers: &mut [Sampler<'_, E>], effort: Effort) -> Result<Vec<Vec<f64>>, E> {
    let mut times = vec![Vec::new(); samplers.len()];
    let started = Instant::now();
    let mut round = 0;
    while round < effort.rounds || started.elapsed().as_secs_f64() < effort.seconds {
        for (sampler, times) in samplers.iter_mut().zip(&mut times) {
            times.extend(sampler()?);
        }
        round += 1;
    }
    Ok(times)
}

/// Times batches of runs of a contestant.
pub struct Stopwatch<'a, E> {
    contestant: Contestant<'a, E>,
    runs: u32,
    short: bool,
}

impl<'a, E> Stopwatch<'a, E> {
    /// Runs the contestant twice: to warm up, and to see how many runs make a sample.
    ///
    /// # Errors
    /// What the contestant says.
    pub fn warm(contestant: Contestant<'a, E>) -> Result<Stopwatch<'a, E>, E> {
        contestant()?;
        let started = Instant::now();
        contestant()?;
        let once = started.elapsed();
        let runs = SAMPLE.as_nanos().div_ceil(once.as_nanos().max(1)).clamp(1, MOST_RUNS) as u32;
        Ok(Stopwatch { contestant, runs, short: once < SHORT })
    }

    /// Seconds of one run.
    ///
    /// # Errors
    /// What the contestant says.
    pub fn sample(&mut self) -> Result<f64, E> {
        let waking = Instant::now();
        while self.short && waking.elapsed() < WARM {
            (self.contestant)()?;
        }
        let started = Instant::now();
        for _ in 0..self.runs {
            (self.contestant)()?;
        }
        Ok(started.elapsed().as_secs_f64() / f64::from(self.runs))
    }
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

/// Operands that are weights in models: where they are not the main operand they are given to the
/// backend as weights, which it may pack once.
const WEIGHTS: [&str; 5] = ["weight", "bias", "packed", "scales", "biases"];

/// A case of the catalogue as a program of one Block, with the values that it is run on.
///
/// # Errors
/// What the graph or the backend says.
pub fn program(
    case: &DynCase,
    dtype: DType,
    backend: &dyn Backend,
) -> Result<(Program, Vec<Value>), Error> {
    let slots = frit::ops::find(case.op).map(|line| (line.slots)()).unwrap_or_default();
    let (mut inputs, mut params, mut operands) = (Vec::new(), Params::new(), Vec::new());
    for (i, value) in case.values(dtype).into_iter().enumerate() {
        let weight = slots.get(i).filter(|slot| i > 0 && WEIGHTS.contains(&slot.name));
        operands.push(match (value, weight) {
            (None, _) => None,
            (Some(value), Some(slot)) => {
                let tensor = Tensor::param(slot.name, value.spec().clone());
                params.insert(slot.name, value);
                Some(tensor)
            }
            (Some(value), None) => {
                let tensor = Tensor::input_of(inputs.len(), value.spec().clone());
                inputs.push(value);
                Some(tensor)
            }
        });
    }
    let specs: Vec<Spec> = inputs.iter().map(|v| v.spec().clone()).collect();
    let block = Tensor::dyn_block(case.block.clone(), operands);
    let graph = Graph::trace(&specs, |_| vec![block])?;
    Ok((compile(&graph, backend, &params, Policy::Allow)?, inputs))
}

/// Composed against fused, and against others.
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
    /// What this machine needs for it at the least, in microseconds: the larger of moving its
    /// bytes, measured in the same rounds, and doing its arithmetic as fast as a large product.
    pub floor_us: f64,
    /// Peers: median microseconds, or why there are none.
    pub peers: Vec<(&'static str, Result<Timed, String>)>,
    /// The largest absolute difference of the two results.
    pub max_abs_diff: f64,
    /// Why the backend has not one kernel for it, if it has not.
    pub not_fused: Option<String>,
    /// Multiplications and additions of a run, where they bound its speed.
    pub flops: Option<f64>,
    /// Bytes that a run must read and write at least.
    pub bytes: usize,
}

/// A peer's time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// Median, in microseconds.
    pub us: f64,
    /// Whether it takes several calls.
    pub composed: bool,
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

    /// How near the fused program is to the floor; 1 is at it.
    #[must_use]
    pub fn floor_fraction(&self) -> f64 {
        self.floor_us / self.fused_us
    }

    /// A peer's microseconds.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<f64> {
        let at = self.peers.iter().find(|(peer, _)| *peer == name)?;
        at.1.as_ref().ok().map(|timed| timed.us)
    }

    /// How many times as fast as the fastest peer the fused program is.
    #[must_use]
    pub fn best_peer_ratio(&self) -> Option<f64> {
        let times = self.peers.iter().filter_map(|(_, timed)| timed.as_ref().ok());
        let best = times.map(|t| t.us).min_by(f64::total_cmp)?;
        Some(best / self.fused_us)
    }
}

/// Times a case composed and fused, by the two backends in this order, beside what the machine needs at the least
/// and the peers that can do it.
///
/// # Errors
/// What the graph or the backend says.
pub fn compare(
    case: &DynCase,
    dtype: DType,
    backends: [&dyn Backend; 2],
    pool: &Pool,
    effort: Effort,
    limits: &Limits,
    peers: &mut [Peer],
) -> Result<Comparison, Error> {
    let [composed, fused] = backends.map(|backend| program(case, dtype, backend));
    let ((composed, inputs), (fused, _)) = (composed?, fused?);
    let values = case.values(dtype);
    let (a, b) = (composed.run(inputs.clone())?, fused.run(inputs.clone())?);
    let written = b.iter().map(|v| v.bytes().len()).sum::<usize>();
    let mut bytes = Traffic::new(pool, case.bytes(dtype).saturating_sub(written), written);

    let mut one = || composed.run(inputs.clone()).map(drop);
    let mut other = || fused.run(inputs.clone()).map(drop);
    let mut least = || {
        bytes.run();
        Ok(())
    };
    let mut ours =
        [Stopwatch::warm(&mut one)?, Stopwatch::warm(&mut other)?, Stopwatch::warm(&mut least)?];
    let mut ready: Vec<Result<bool, String>> = peers
        .iter_mut()
        .map(|peer| peer.make(case, dtype, &values, &b[0]).map_err(|e| e.to_string()))
        .collect();
    let mut theirs: Vec<_> =
        peers.iter_mut().zip(&mut ready).map(|(p, r)| turns(p, r, effort)).collect();
    let mut own: Vec<_> = ours.iter_mut().map(|s| move || s.sample().map(Some)).collect();
    let mut samplers: Vec<Sampler<'_, Error>> = Vec::new();
    samplers.extend(own.iter_mut().map(|s| s as Sampler<'_, Error>));
    samplers.extend(theirs.iter_mut().map(|s| s as Sampler<'_, Error>));
    let times = rounds(&mut samplers, effort)?;
    drop(theirs);

    let us = |k: usize| median(&times[k]) * 1e6;
    let names: Vec<&'static str> = peers.iter().map(|p| p.name).collect();
    let timed = names.into_iter().zip(ready).enumerate().map(|(k, (name, ready))| {
        (name, ready.map(|composed| Timed { us: us(ours.len() + k), composed }))
    });
    let timed: Vec<_> = timed.collect();
    let flops = case.flops(dtype);
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
        composed_us: us(0),
        fused_us: us(1),
        floor_us: us(2).max(flops.map_or(0.0, |f| f / limits.product * 1e6)),
        peers: timed,
        max_abs_diff: max_abs_diff(&a[0], &b[0]),
        not_fused: fused.report().lines.first().and_then(|line| why(&line.outcome)),
        flops,
        bytes: case.bytes(dtype),
    })
}

/// The turns of a peer that is ready: not more than its share, and none after it failed.
pub fn turns<'a, T, E>(
    peer: &'a mut Peer,
    ready: &'a mut Result<T, String>,
    effort: Effort,
) -> impl FnMut() -> Result<Option<f64>, E> + 'a {
    let (mut taken, mut used) = (0, 0.0);
    move || {
        let enough = taken >= FEWEST && used > PATIENCE * effort.seconds;
        if enough || ready.is_err() {
            return Ok(None);
        }
        let started = Instant::now();
        let sample = peer.sample();
        taken += 1;
        used += started.elapsed().as_secs_f64();
        Ok(match sample {
            Ok(seconds) => Some(seconds),
            Err(e) => {
                *ready = Err(e.to_string());
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frit::cpu::Cpu;

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
            if order.borrow().len() > 100 { Err("enough") } else { Ok(()) }
        };
        let got = in_turn(&mut [&mut a, &mut b], Effort { seconds: 9.0, rounds: 0 });
        assert_eq!(got, Err("enough"));
        // Twice to see how long it takes, then turns: some runs to warm up, and the sample.
        let order = order.take();
        assert!(order.starts_with("aabb"), "{order}");
        let turns: Vec<&str> = order[4..].split_inclusive("ab").collect();
        assert!(turns.len() > 1 && turns.iter().all(|t| t.len() > 2), "{order}");
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
        let limits = Limits { read: 1e10, copy: 1e10, multiply_add: 1e11, product: 1e11 };
        let pool = Pool::new(1);
        let fused = Cpu::on(pool.clone());
        let composed = fused.clone().without_fused();
        let got = compare(case, DType::F32, [&composed, &fused], &pool, effort, &limits, &mut [])?;
        assert_eq!((got.case, got.op, got.threads), ("swiglu_decode", "swiglu", 1));
        assert_eq!(got.bytes, 3 * 4 * 1536);
        assert_eq!(got.not_fused, None);
        assert!(got.floor_us > 0.0 && got.best_peer_ratio().is_none());
        assert!(got.composed_us > 0.0 && got.fused_us > 0.0 && got.max_abs_diff < 1e-5);
        Ok(())
    }
}
