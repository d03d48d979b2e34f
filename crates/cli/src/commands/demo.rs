//! `frit demo`: one recording through one model, composed and fused, side by side.

pub(super) mod measure;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use frit::cpu::{Cpu, Pool, isa};
use frit::graph::Policy;
use frit::models::fast_kernels;
use frit::models::whisper::audio::SAMPLE_RATE;
use frit::models::whisper::model::Whisper;
use serde::Serialize;

use self::measure::{Heard, Times};
use super::out::bar;
use super::speech::{Checkpoint, explained, recordings};
use super::{Failure, Out, Threads, Verdict, note, peak_memory};
use crate::assets::{self, JFK, WHISPER_TINY_EN};
use crate::bench::max_abs_diff;
use crate::html;

const EXAMPLES: &str = "\
Whisper tiny.en transcribes 11 seconds of speech twice on this machine: once with every fused
kernel off, once rewritten to the fused ones. Model and recording are fetched once and kept. The
exit status is 1 if the tokens differ.

Examples:
  frit demo
  frit demo --threads 1 --runs 9 --html demo.html
  frit demo --json | python3 -m json.tool";

/// Arguments of `frit demo`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// Runs of each; times are medians
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    #[command(flatten)]
    threads: Threads,
    /// Where the report goes [default: demo.html in the cache folder]
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One of the two.
#[derive(Serialize)]
struct Side {
    text: String,
    tokens: Vec<u32>,
    #[serde(flatten)]
    times: Times,
    /// Bytes of intermediate results that live at once at most, in the largest program.
    planned_peak_bytes: usize,
    fused_blocks: usize,
    composed_blocks: usize,
    /// How often each operation occurs in the lowered graphs.
    operations: BTreeMap<&'static str, usize>,
    /// What was rewritten, fused and composed, and why.
    #[serde(skip)]
    explained: String,
}

/// What the demo found. `fused_blocks` and `composed_blocks` are those of the fused side.
#[derive(Serialize)]
struct Findings {
    tokens_equal: bool,
    composed: Side,
    fused: Side,
    speedup: f64,
    peak_memory_bytes: usize,
    fused_blocks: usize,
    composed_blocks: usize,
    max_encoder_difference: f64,
    audio_seconds: f64,
    runs: u16,
    threads: usize,
    isa: String,
    report: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Files that cannot be fetched or read, a Block that cannot be fused, a report that cannot be
/// written.
pub fn run(args: &DemoArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let recording = assets::ensure(&JFK, false)?.join(JFK.members[0].file);
    let folder = assets::ensure(&WHISPER_TINY_EN, false)?;
    let samples = recordings(std::slice::from_ref(&recording))?.concat();
    let checkpoint = Checkpoint::open(&folder)?;
    let demo = Demo { checkpoint, recording, samples, pool: args.threads.pool() };
    let findings = demo.findings(args)?;
    match args.json {
        true => out.json(&findings)?,
        false => out.text(&report::text(&findings))?,
    }
    html::write(&report::html(&findings), &findings.report)
        .map_err(|error| Failure::Input(error.to_string()))?;
    note(&format!("the report with charts: {}", findings.report.display()));
    Ok(if findings.tokens_equal { Verdict::Passed } else { Verdict::Failed })
}

/// What both sides share.
struct Demo {
    checkpoint: Checkpoint,
    recording: PathBuf,
    samples: Vec<f32>,
    pool: Pool,
}

impl Demo {
    fn findings(&self, args: &DemoArgs) -> Result<Findings, Failure> {
        let cpu = Cpu::on(self.pool.clone());
        let composed = Arc::new(cpu.clone().without_fused());
        let mut composed = self.checkpoint.model(composed, Vec::new(), Policy::Allow);
        let mut fused = self.checkpoint.model(Arc::new(cpu), fast_kernels(), Policy::Deny);

        let bar = bar(2 * (u64::from(args.runs) + 1), "{wide_bar} run {pos} of {len}");
        let (mut composed_runs, mut fused_runs) = (Vec::new(), Vec::new());
        // The first of each compiles, packs weights and touches memory: it does not count.
        for _ in 0..=args.runs {
            let turns = [(&mut composed, &mut composed_runs), (&mut fused, &mut fused_runs)];
            for (model, runs) in turns {
                runs.push(self.hear(model)?);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();

        let tokens = &composed_runs[0].tokens;
        let tokens_equal = composed_runs.iter().chain(&fused_runs).all(|run| run.tokens == *tokens);
        let hidden = measure::encoded(&mut composed, &self.samples)?;
        let max_encoder_difference =
            max_abs_diff(&hidden, &measure::encoded(&mut fused, &self.samples)?);
        let composed = Side::new(&composed, composed_runs);
        let fused = Side::new(&fused, fused_runs);
        let planned = composed.planned_peak_bytes.max(fused.planned_peak_bytes);
        let report = args.html.clone().unwrap_or_else(|| assets::home().join("demo.html"));
        Ok(Findings {
            tokens_equal,
            speedup: composed.times.total_ms / fused.times.total_ms,
            peak_memory_bytes: peak_memory().unwrap_or(planned),
            fused_blocks: fused.fused_blocks,
            composed_blocks: fused.composed_blocks,
            composed,
            fused,
            max_encoder_difference,
            audio_seconds: self.samples.len() as f64 / f64::from(SAMPLE_RATE),
            runs: args.runs,
            threads: self.pool.threads(),
            isa: isa().to_string(),
            report: std::path::absolute(&report).unwrap_or(report),
        })
    }

    fn hear(&self, model: &mut Whisper) -> Result<Heard, Failure> {
        measure::hear(model, &self.checkpoint, &self.samples, self.pool.threads())
            .map_err(|source| Failure::Speech { path: self.recording.clone(), source })
    }
}

impl Side {
    /// What `runs` heard, of which the first was to warm up.
    fn new(model: &Whisper, mut runs: Vec<Heard>) -> Side {
        let times: Vec<Times> = runs.iter().skip(1).map(|run| run.times).collect();
        let Heard { text, tokens, .. } = runs.swap_remove(0);
        let programs: Vec<_> = model.programs().map(|(_, compiled)| &compiled.program).collect();
        let mut operations = BTreeMap::new();
        for (name, n) in programs.iter().flat_map(|p| p.graph().histogram()) {
            *operations.entry(name).or_insert(0) += n;
        }
        // They are no work.
        operations.retain(|name, _| !["input", "param", "constant"].contains(name));
        Side {
            text,
            tokens,
            times: Times::median(&times),
            planned_peak_bytes: programs.iter().map(|p| p.peak_bytes()).max().unwrap_or(0),
            fused_blocks: programs.iter().map(|p| p.report().fused()).sum(),
            composed_blocks: programs.iter().map(|p| p.report().composed().count()).sum(),
            operations,
            explained: explained(model.programs()),
        }
    }
}
