//! `frit bench`: every benched shape of the catalogue, composed against fused.

use clap::{Args, ValueEnum};
use frit::cpu::isa;
use frit::graph::DType;
use frit::ops::{CATALOGUE, DynCase, FLOATS};
use serde::Serialize;

use super::out::{bar, row, table};
use super::{Failure, Out, Threads, Verdict, count};
use crate::bench::{Comparison, Effort, compare};

const EXAMPLES: &str = "\
Both programs run in turn in one process (A B A B ...), at least five rounds; times are medians.
Composed means the same backend with every fused kernel off. The rate is that of the fused program:
GFLOP/s where arithmetic bounds it, GB/s of operands and result where memory does.

Examples:
  frit bench                       every case in f32
  frit bench --only norm           cases with `norm` in their name or operation
  frit bench --dtype all --threads 1 --json";

/// Arguments of `frit bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Only cases with this text in their name or operation
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Type of the operands
    #[arg(long, value_enum, default_value_t)]
    dtype: Types,
    /// Measure each case for about so many seconds
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    #[command(flatten)]
    threads: Threads,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
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

/// A line of the JSON. A difference that is no number is null.
#[derive(Serialize)]
struct Entry {
    case: &'static str,
    dtype: &'static str,
    threads: usize,
    composed_us: f64,
    fused_us: f64,
    ratio: f64,
    max_abs_diff: f64,
    fused: bool,
}

/// Runs the command.
///
/// # Errors
/// A text that no case has in its name; a case that does not run.
pub fn run(args: &BenchArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let only = args.only.as_deref().unwrap_or_default();
    let benched = || CATALOGUE.iter().flat_map(|line| (line.cases)()).filter(|case| case.bench);
    let cases: Vec<DynCase> =
        benched().filter(|case| case.name.contains(only) || case.op.contains(only)).collect();
    if cases.is_empty() {
        let names: Vec<&str> = benched().map(|case| case.name).collect();
        let names = names.join(", ");
        return Err(Failure::Input(format!(
            "no case has `{only}` in its name; there are: {names}"
        )));
    }
    let pool = args.threads.pool();
    let effort = Effort { seconds: args.seconds, ..Effort::default() };
    let bar = bar((cases.len() * args.dtype.list().len()) as u64, "{pos}/{len} {wide_bar} {msg}");
    let mut comparisons = Vec::new();
    for case in &cases {
        for &dtype in args.dtype.list() {
            bar.set_message(format!("{} {dtype}", case.name));
            comparisons.push(compare(case, dtype, &pool, effort)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    if args.json {
        out.json(&comparisons.iter().map(entry).collect::<Vec<_>>())?;
    } else {
        let threads = count(pool.threads(), "thread");
        out.line(&format!("{threads}, {}; times in microseconds", isa()))?;
        out.text(&text(&comparisons))?;
    }
    Ok(Verdict::Passed)
}

fn entry(c: &Comparison) -> Entry {
    Entry {
        case: c.case,
        dtype: c.dtype.name(),
        threads: c.threads,
        composed_us: c.composed_us,
        fused_us: c.fused_us,
        ratio: c.ratio(),
        max_abs_diff: c.max_abs_diff,
        fused: c.not_fused.is_none(),
    }
}

fn text(comparisons: &[Comparison]) -> String {
    let mut rows =
        vec![row(["case", "type", "composed", "fused", "ratio", "rate", "", "max diff"])];
    for c in comparisons {
        let (rate, unit) = match c.gflops() {
            Some(rate) => (rate, "GFLOP/s"),
            None => (c.gigabytes(), "GB/s"),
        };
        let why = c.not_fused.as_ref().map(|why| format!("not fused: {why}"));
        rows.push(vec![
            c.case.into(),
            c.dtype.to_string(),
            format!("{:.1}", c.composed_us),
            format!("{:.1}", c.fused_us),
            format!("{:.2}", c.ratio()),
            format!("{rate:.1}"),
            format!("{unit:<7}"),
            format!("{:.1e}", c.max_abs_diff),
            why.unwrap_or_default(),
        ]);
    }
    table(2, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_rates_by_arithmetic_or_by_memory_and_says_what_is_not_fused() {
        let memory = Comparison {
            case: "copy",
            op: "copy",
            dtype: DType::F32,
            threads: 2,
            composed_us: 30.0,
            fused_us: 10.0,
            max_abs_diff: 0.0,
            not_fused: None,
            flops: None,
            bytes: 50_000,
        };
        let not_fused = Some("no kernel".to_string());
        let arithmetic =
            Comparison { case: "product", flops: Some(1e6), not_fused, ..memory.clone() };
        let table = text(&[memory.clone(), arithmetic]);
        let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        let copy = ["copy", "f32", "30.0", "10.0", "3.00", "5.0", "GB/s", "0.0e0"];
        assert_eq!(lines[1], copy);
        assert_eq!(lines[2][5..7], ["100.0", "GFLOP/s"]);
        assert!(table.ends_with("not fused: no kernel\n"));
        assert!(entry(&memory).fused && entry(&memory).ratio == 3.0);
    }
}
