//! `frit bench`: every benched shape of the catalogue, composed against fused, against what this
//! machine needs at the least, and against other libraries.

mod models;
mod report;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use frit::cpu::{Pool, isa};
use frit::graph::{Backend, DType};
use frit::ops::{CATALOGUE, DynCase, FLOATS};
use serde::Serialize;

use self::models::{WORKS, Work};
use super::out::bar;
use super::{BackendName, Failure, Machine, Out, Threads, Verdict, note};
use crate::bench::{Comparison, Effort, compare};
use crate::floor::Limits;
use crate::html;
use crate::peers::{KERNELS, Peer, python};

const EXAMPLES: &str = "\
Programs run in turn in one process (A B A B ...), at least five rounds; times are medians.
Composed means the same backend with every fused kernel off. The rate is that of the fused program:
GFLOP/s where arithmetic bounds it, GB/s of operands and result where memory does. The floor is what
this machine needs at the least: the bytes copied, measured in the same rounds, or the arithmetic at
the speed of a large f32 product, whichever is longer.

With --peers other libraries take their turns in the same rounds, in Python processes of their own:
PyTorch (torch), onnxruntime (ort) and MLX (mlx) for the cases, and faster-whisper, llama-cpp-python
and onnxruntime for whole models. What is not installed does not take part. They run under the
interpreter that the environment variable FRIT_PYTHON names, else python3.

Examples:
  frit bench                       every case in f32
  frit bench --only norm           cases with `norm` in their name or operation
  frit bench --dtype all --threads 1 --json
  python3 -m venv peers && peers/bin/pip install torch onnx onnxruntime faster-whisper
  FRIT_PYTHON=peers/bin/python frit bench --peers --html bench.html";

/// Arguments of `frit bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Only cases and models with this text in their name or operation
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Type of the operands
    #[arg(long, value_enum, default_value_t)]
    dtype: Types,
    /// Measure each case for about so many seconds
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Time other libraries too, and whole models
    #[arg(long)]
    peers: bool,
    /// Time whole models, fetched once and kept
    #[arg(long)]
    models: bool,
    /// What runs the cases, composed and fused; whole models are timed on the cpu
    #[arg(long, value_enum, default_value = "cpu")]
    backend: BackendName,
    #[command(flatten)]
    threads: Threads,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// Write a report with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Types of operands.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Types {
    #[default]
    F32,
    F16,
    Bf16,
    All,
}

impl Types {
    fn list(self) -> &'static [DType] {
        match self {
            Types::F32 => &[DType::F32],
            Types::F16 => &[DType::F16],
            Types::Bf16 => &[DType::BF16],
            Types::All => FLOATS,
        }
    }
}

pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|s| (0.0..=3600.0).contains(s));
    number.ok_or_else(|| "it must be a number from 0 to 3600".into())
}

/// A line of the JSON. What is not known or no number is null.
#[derive(Serialize)]
struct Entry {
    case: &'static str,
    dtype: &'static str,
    threads: usize,
    composed_us: f64,
    fused_us: f64,
    ratio: f64,
    peers: serde_json::Map<String, serde_json::Value>,
    best_peer_ratio: Option<f64>,
    floor_fraction: f64,
    max_abs_diff: f64,
    fused: bool,
}

/// Runs the command.
///
/// # Errors
/// A text that no case has in its name; a case that does not run; a model that cannot be fetched.
pub fn run(args: &BenchArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let (cases, works) = chosen(args)?;
    if args.backend != BackendName::Cpu && !works.is_empty() {
        return Err(Failure::Usage("whole models are timed on the cpu only".into()));
    }
    let pool = args.threads.pool();
    let limits = Limits::measure(&pool)?;
    let machine = |composed| {
        let backend = Some(args.backend);
        Machine { backend, composed, threads: args.threads }.backend(&pool)
    };
    let backends = [machine(true)?, machine(false)?];
    let bench = Bench { backends, pool, limits, peers: args.peers, seconds: args.seconds };
    let comparisons = bench.run(&cases, args.dtype.list(), &works)?;
    if args.json {
        out.json(&comparisons.iter().map(entry).collect::<Vec<_>>())?;
    } else {
        let head = report::machine(bench.pool.threads(), &limits);
        out.line(&format!("{}, {head}; times in microseconds", isa()))?;
        out.text(&report::text(&comparisons))?;
    }
    if let Some(path) = &args.html {
        let page = report::html(&comparisons, bench.pool.threads(), &limits);
        html::write(&page, path).map_err(|e| Failure::io("write", path, e))?;
    }
    Ok(Verdict::Passed)
}

/// The cases and models that are asked for.
fn chosen(args: &BenchArgs) -> Result<(Vec<DynCase>, Vec<&'static Work>), Failure> {
    let only = args.only.as_deref().unwrap_or_default();
    let benched = || CATALOGUE.iter().flat_map(|line| (line.cases)()).filter(|case| case.bench);
    let cases: Vec<DynCase> =
        benched().filter(|case| case.name.contains(only) || case.op.contains(only)).collect();
    let models = WORKS.iter().filter(|_| args.peers || args.models);
    let works: Vec<&Work> =
        models.clone().filter(|w| w.name.contains(only) || "model" == only).collect();
    if cases.is_empty() && works.is_empty() {
        let names: Vec<&str> =
            benched().map(|case| case.name).chain(models.map(|w| w.name)).collect();
        let names = names.join(", ");
        return Err(Failure::Input(format!(
            "no case has `{only}` in its name; there are: {names}"
        )));
    }
    Ok((cases, works))
}

struct Bench {
    /// Composed and fused.
    backends: [Arc<dyn Backend>; 2],
    pool: Pool,
    limits: Limits,
    peers: bool,
    seconds: f64,
}

impl Bench {
    fn run(
        &self,
        cases: &[DynCase],
        dtypes: &[DType],
        works: &[&Work],
    ) -> Result<Vec<Comparison>, Failure> {
        let effort = Effort { seconds: self.seconds, ..Effort::default() };
        let all = cases.len() * dtypes.len() + works.len();
        let bar = bar(all as u64, "{pos}/{len} {wide_bar} {msg}");
        let mut comparisons = Vec::new();
        if !cases.is_empty() {
            let starts = KERNELS.into_iter().filter_map(|name| match self.start(name) {
                Ok(peer) => Some(peer),
                Err(why) => {
                    self.tell(name, &why);
                    None
                }
            });
            let mut peers: Vec<Peer> = starts.collect();
            let backends = [&*self.backends[0], &*self.backends[1]];
            for case in cases {
                for &dtype in dtypes {
                    bar.set_message(format!("{} {dtype}", case.name));
                    let c = compare(
                        case,
                        dtype,
                        backends,
                        &self.pool,
                        effort,
                        &self.limits,
                        &mut peers,
                    )?;
                    comparisons.push(c);
                    bar.inc(1);
                }
            }
        }
        for work in works {
            bar.set_message(work.name);
            let mut peer = self.start(work.peer);
            if let Err(why) = &peer {
                self.tell(work.peer, why);
            }
            let peer = peer.as_mut().map_err(|why| why.clone());
            comparisons.push(models::compare(work, &self.pool, effort, &self.limits, peer)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(comparisons)
    }

    fn start(&self, name: &'static str) -> Result<Peer, String> {
        if !self.peers {
            return Err("not asked for".into());
        }
        Peer::start(name, &python(), self.pool.threads()).map_err(|e| e.to_string())
    }

    fn tell(&self, name: &str, why: &str) {
        if self.peers {
            note(&format!("{name} does not take part: {why}"));
        }
    }
}

fn entry(c: &Comparison) -> Entry {
    // The three that run single operations are always there.
    let mut peers = serde_json::Map::new();
    for name in KERNELS.into_iter().chain(c.peers.iter().map(|p| p.0)) {
        peers.insert(name.into(), c.peer(name).into());
    }
    Entry {
        case: c.case,
        dtype: c.dtype.name(),
        threads: c.threads,
        composed_us: c.composed_us,
        fused_us: c.fused_us,
        ratio: c.ratio(),
        peers,
        best_peer_ratio: c.best_peer_ratio(),
        floor_fraction: c.floor_fraction(),
        max_abs_diff: c.max_abs_diff,
        fused: c.not_fused.is_none(),
    }
}
