//! `frit fuse`: what is recognised in an ONNX file, and what that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use frit::cpu::Cpu;
use frit::graph::{Error, Graph, Op, Policy, Prim, RewriteReport, Tensor, compile, recognise};
use frit::load::OnnxModel;
use frit::ops::recognisers;
use serde::Serialize;

use super::bench::seconds;
use super::given::Given;
use super::out::{row, table};
use super::{Failure, Out, Threads, Verdict, count, plain};
use crate::bench::{Effort, in_turn, max_abs_diff, median};
use crate::html::{Kind, Operation, Report, Section, write};

const EXAMPLES: &str = "\
Exporters spell an operation out in small ones: a layer norm is about nine, an attention more. Here
they are found again, as formulas: the order of factors and terms, divisions or inverses, casts and
reshapes in between do not matter. What nearly is one and must stay is told with the reason. The
table counts operations before and after, constants aside and views by themselves; the difference
and the times are of the
file as it is written against the fused one, on the same inputs and threads.

Inputs that no file gives are random: floats from -1 to 1, integers 0 or 1; extents that the file
leaves open are 1, so give them by --dim.

Examples:
  frit fuse model.onnx                                   what is found, what it brings
  frit fuse model.onnx --dim batch=1 --dim sequence=64   at this size
  frit fuse model.onnx --input inputs.npz --json         on these inputs
  frit fuse model.onnx --html graph.html                 a picture of before and after";

/// Arguments of `frit fuse`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct FuseArgs {
    /// An ONNX file, opset 7 or later
    model: PathBuf,
    #[command(flatten)]
    given: Given,
    /// Begins the random numbers of the inputs that no file gives
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    random: u64,
    /// Measure for about so many seconds
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    #[command(flatten)]
    threads: Threads,
    /// Write a report with a picture of the graph before and after
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What one rule did.
#[derive(Serialize)]
struct Found {
    name: &'static str,
    recognised: usize,
    refused: BTreeMap<String, usize>,
}

#[derive(Serialize)]
struct Line {
    name: &'static str,
    before: usize,
    after: usize,
}

#[derive(Serialize)]
struct Difference {
    output: String,
    max_abs: f64,
    /// The largest number of the output.
    largest: f64,
}

#[derive(Serialize)]
struct Summary {
    model: String,
    threads: usize,
    recognised: Vec<Found>,
    operations: Vec<Line>,
    total: Line,
    /// Reshapes, transposes, slices and broadcasts: mostly no work at all.
    views: Line,
    fused: usize,
    composed: usize,
    steps: [usize; 2],
    made_for: Vec<String>,
    outputs: Vec<Difference>,
    unfused_seconds: f64,
    fused_seconds: f64,
    rounds: usize,
}

/// Runs the command.
///
/// # Errors
/// A file that is missing or damaged, inputs that do not fit, operators that are not supported.
pub fn run(args: &FuseArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let model = OnnxModel::open(&args.model)?;
    let mut inputs = args.given.values(&model, Some(args.random))?;
    let (graph, params, made_for) = model.graph_for(&inputs)?;
    // Without what changes nothing, so that only what is found makes the difference.
    let before = graph.simplify()?;
    let (after, report) = recognise(&graph, &recognisers())?;
    let pool = args.threads.pool();
    let cpu = Cpu::on(pool.clone());
    let unfused = compile(&graph, &cpu.clone().without_fused(), &params, Policy::Allow)?;
    let fused = compile(&after, &cpu, &params, Policy::Allow)?;
    let inputs: Vec<_> = model.inputs().iter().filter_map(|p| inputs.remove(&p.name)).collect();
    let (a, b) = (unfused.run(inputs.clone())?, fused.run(inputs.clone())?);
    let outputs = model.outputs().iter().zip(a.iter().zip(&b)).map(|(port, (a, b))| Difference {
        output: port.name.clone(),
        max_abs: max_abs_diff(a, b),
        largest: a.to_f64().iter().map(|n| n.abs()).filter(|n| n.is_finite()).fold(0.0, f64::max),
    });
    let mut one = || unfused.run(inputs.clone()).map(drop);
    let mut other = || fused.run(inputs.clone()).map(drop);
    let effort = Effort { seconds: args.seconds, ..Effort::default() };
    let times = in_turn::<Error>(&mut [&mut one, &mut other], effort)?;
    let (operations, views) = lines(&before, &after);
    let total = Line {
        name: "all",
        before: operations.iter().map(|l| l.before).sum(),
        after: operations.iter().map(|l| l.after).sum(),
    };
    let summary = Summary {
        model: args.model.display().to_string(),
        threads: pool.threads(),
        recognised: found(&report),
        operations,
        total,
        views,
        fused: fused.report().fused(),
        composed: fused.report().composed().count(),
        steps: [unfused.steps(), fused.steps()],
        made_for,
        outputs: outputs.collect(),
        unfused_seconds: median(&times[0]),
        fused_seconds: median(&times[1]),
        rounds: times[0].len(),
    };
    if let Some(path) = &args.html {
        let page = page(&summary, &report, &before, &after);
        write(&page, path).map_err(|e| Failure::io("write", path, e))?;
    }
    if args.json {
        out.json(&summary)?;
    } else {
        out.text(&text(&summary, &report))?;
    }
    Ok(Verdict::Passed)
}

fn found(report: &RewriteReport) -> Vec<Found> {
    let rules = report.rules.iter().filter(|r| r.replaced + r.refused.len() > 0);
    let mut all: Vec<Found> = Vec::new();
    for r in rules {
        let at = all.iter().position(|f| f.name == r.name).unwrap_or_else(|| {
            all.push(Found { name: r.name, recognised: 0, refused: BTreeMap::new() });
            all.len() - 1
        });
        all[at].recognised += r.replaced;
        for why in &r.refused {
            *all[at].refused.entry(why.clone()).or_default() += 1;
        }
    }
    all
}

fn is_operation(t: &Tensor) -> bool {
    !t.prim().is_some_and(Prim::is_leaf)
}

fn is_view(t: &Tensor) -> bool {
    let view = |p: &Prim| {
        matches!(p, Prim::Reshape | Prim::Broadcast | Prim::Transpose(_) | Prim::Slice { .. })
    };
    t.prim().is_some_and(view)
}

/// Operations by name, before and after, Blocks that are new first; and all views.
fn lines(before: &Graph, after: &Graph) -> (Vec<Line>, Line) {
    let views = |graph: &Graph| graph.nodes().iter().filter(|t| is_view(t)).count();
    let views = Line { name: "views", before: views(before), after: views(after) };
    let count = |graph: &Graph| {
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        for t in graph.nodes().iter().filter(|t| is_operation(t) && !is_view(t)) {
            *counts.entry(t.name()).or_default() += 1;
        }
        counts
    };
    let (before, after) = (count(before), count(after));
    let names: BTreeSet<&'static str> = before.keys().chain(after.keys()).copied().collect();
    let of = |counts: &BTreeMap<&str, usize>, name| counts.get(name).copied().unwrap_or(0);
    let mut lines: Vec<Line> = names
        .into_iter()
        .map(|name| Line { name, before: of(&before, name), after: of(&after, name) })
        .collect();
    lines.sort_by_key(|l| l.after <= l.before);
    (lines, views)
}

/// What was found and what was not, in words.
fn told(report: &RewriteReport) -> String {
    match report.replaced() {
        0 => format!("nothing was recognised\n{report}"),
        n => format!("{} recognised:\n{report}", count(n, "operation")),
    }
}

fn text(s: &Summary, report: &RewriteReport) -> String {
    let mut out = told(report) + "\n";
    let mut rows = vec![row(["operation", "before", "after"])];
    for l in s.operations.iter().chain([&s.total, &s.views]) {
        rows.push(vec![l.name.into(), l.before.to_string(), l.after.to_string()]);
    }
    out += &table(1, &rows);
    out += "\nlargest difference to the file as it is written\n";
    for d in &s.outputs {
        let (name, abs, most) = (plain(&d.output), d.max_abs, d.largest);
        out += &format!("  {name}: {abs:.2e}, numbers up to {most:.4}\n");
    }
    out + &times(s) + "\n"
}

fn times(s: &Summary) -> String {
    let (a, b) = (s.unfused_seconds, s.fused_seconds);
    let (ratio, threads) = (a / b, count(s.threads, "thread"));
    format!(
        "\ntime {:.3} ms unfused, {:.3} ms fused: {ratio:.2} times as fast (medians of {} rounds on \
         {threads})",
        a * 1e3,
        b * 1e3,
        s.rounds
    )
}

fn page(s: &Summary, report: &RewriteReport, before: &Graph, after: &Graph) -> Report {
    let facts = vec![
        ("recognised".to_string(), report.replaced().to_string()),
        ("operations before".to_string(), s.total.before.to_string()),
        ("operations after".to_string(), s.total.after.to_string()),
        ("unfused".to_string(), format!("{:.3} ms", s.unfused_seconds * 1e3)),
        ("fused".to_string(), format!("{:.3} ms", s.fused_seconds * 1e3)),
    ];
    let head = ["operation", "before", "after"].map(String::from).to_vec();
    let rows = s.operations.iter().chain([&s.total, &s.views]);
    let rows = rows.map(|l| vec![l.name.into(), l.before.to_string(), l.after.to_string()]);
    let differences = s
        .outputs
        .iter()
        .map(|d| vec![d.output.clone(), format!("{:.2e}", d.max_abs), format!("{:.4}", d.largest)]);
    let picture = |title: &str, graph: &Graph| Section::Graph {
        title: title.into(),
        operations: graph.nodes().iter().filter(|t| is_operation(t)).map(operation).collect(),
    };
    Report {
        title: format!("{}, fused", s.model),
        sections: vec![
            Section::Facts(facts),
            Section::Text(times(s).trim().to_string()),
            Section::Heading("The graph".into()),
            picture("before", before),
            picture("after", after),
            Section::Heading("Operations".into()),
            Section::Table { head, rows: rows.collect() },
            Section::Heading("Differences".into()),
            Section::Table {
                head: ["output", "largest difference", "largest number"].map(String::from).to_vec(),
                rows: differences.collect(),
            },
            Section::Heading("What was recognised, and what not".into()),
            Section::Pre(told(report)),
        ],
    }
}

fn operation(t: &Tensor) -> Operation {
    let (kind, detail) = match t.op() {
        Op::Block(b) => (Kind::Block, format!("{} {b:?}", t.spec())),
        _ if is_view(t) => (Kind::View, t.spec().to_string()),
        _ => (Kind::Primitive, t.spec().to_string()),
    };
    Operation { name: t.name().into(), detail, kind }
}
