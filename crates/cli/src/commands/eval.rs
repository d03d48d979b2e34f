//! `frit eval`: runs conformance cases, and judges what comes out or writes it down.

mod case;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use frit::graph::{Backend, Value};
use serde::Serialize;

use self::case::Difference;
use super::out::{bar, row, table};
use super::{Failure, Machine, Out, Verdict, count, plain};

const EXAMPLES: &str = "\
A case is a safetensors file: operands by name and `expected`, and in its metadata `op`, `options`
(JSON), `rtol`, `atol` and `why`. A case passes if |out - expected| <= atol + rtol * |expected|
everywhere. The exit status is 1 if one does not.

Examples:
  frit eval cases/                       judge every case below a folder
  frit eval cases/rope --composed        the same without fused kernels
  frit eval one.safetensors --backend reference --json
  frit eval cases/ --out outputs/        write outputs/<op>/<name>.safetensors instead";

/// Folders are searched this deep.
const DEPTH: usize = 32;

/// Arguments of `frit eval`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct EvalArgs {
    /// Case files, and folders that are searched for *.safetensors
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    machine: Machine,
    /// Write the outputs below this folder instead of judging them
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What came of a case.
#[derive(Debug, Serialize)]
struct Finding {
    op: String,
    name: String,
    path: String,
    passed: bool,
    error: Option<String>,
    max_abs: Option<f64>,
    max_rel: Option<f64>,
    why: String,
    output: Option<String>,
}

/// How many cases of an operation passed.
#[derive(Clone, Debug, Default, Serialize)]
struct Tally {
    op: String,
    passed: usize,
    total: usize,
}

#[derive(Serialize)]
struct Summary<'a> {
    backend: &'a str,
    composed: bool,
    threads: usize,
    judged: bool,
    passed: usize,
    total: usize,
    operations: Vec<Tally>,
    cases: &'a [Finding],
}

/// Runs the command.
///
/// # Errors
/// A path that does not exist or holds no case, results that cannot be written. A case that is
/// broken or fails is no error but a [`Verdict`].
pub fn run(args: &EvalArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let mut files = Vec::new();
    for path in &args.paths {
        let found = cases(path)?;
        if found.is_empty() {
            let path = path.display();
            return Err(Failure::Input(format!("{path}: no .safetensors file in this folder")));
        }
        files.extend(found);
    }
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(file.clone()));

    let pool = args.machine.threads.pool();
    let backend = args.machine.backend(&pool)?;
    let bar = bar(files.len() as u64, "{pos} of {len} cases {wide_bar} {msg}");
    let mut written = HashSet::new();
    let findings: Vec<Finding> = files
        .iter()
        .map(|file| {
            bar.set_message(file.display().to_string());
            let finding = evaluate(file, &*backend, args.out.as_deref(), &mut written);
            bar.inc(1);
            finding
        })
        .collect();
    bar.finish_and_clear();

    let operations = tallies(&findings);
    let (passed, total) = (findings.iter().filter(|f| f.passed).count(), findings.len());
    if args.json {
        out.json(&Summary {
            backend: backend.name(),
            composed: args.machine.composed || backend.name() == "reference",
            threads: pool.threads(),
            judged: args.out.is_none(),
            passed,
            total,
            operations,
            cases: &findings,
        })?;
    } else {
        let did = if args.out.is_some() { "written" } else { "passed" };
        for finding in findings.iter().filter(|f| !f.passed) {
            let Finding { op, name, error, why, .. } = finding;
            let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
            let error = error.as_deref().unwrap_or_default();
            out.line(&plain(&format!("FAILED {op}/{name}{why}: {error}")))?;
        }
        let mut rows = vec![row(["operation", did, "of"])];
        for Tally { op, passed, total } in &operations {
            rows.push(vec![plain(op), passed.to_string(), total.to_string()]);
        }
        rows.push(vec!["all".into(), passed.to_string(), total.to_string()]);
        out.text(&table(1, &rows))?;
        out.line(&format!("{passed} of {total} {did} on {}", args.machine.words(&pool)))?;
    }
    if let Some(folder) = &args.out {
        super::note(&format!("{} in {}", count(passed, "output"), folder.display()));
    }
    Ok(if passed == total { Verdict::Passed } else { Verdict::Failed })
}

/// Runs one case and judges it, or writes its output below `folder`.
fn evaluate(
    path: &Path,
    backend: &dyn Backend,
    folder: Option<&Path>,
    written: &mut HashSet<PathBuf>,
) -> Finding {
    let (header, case) = case::read(path);
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (op, why) = header.map_or(("unreadable".into(), String::new()), |h| (h.op, h.why));
    let mut finding = Finding {
        op,
        name,
        path: path.display().to_string(),
        passed: false,
        error: None,
        max_abs: None,
        max_rel: None,
        why,
        output: None,
    };
    let got = case.and_then(|case| Ok((case.run(backend).map_err(|e| e.to_string())?, case)));
    let outcome = got.and_then(|(got, case)| match folder {
        Some(folder) => {
            // A name that the catalogue knows cannot lead out of the folder.
            let file = folder.join(&finding.op).join(format!("{}.safetensors", finding.name));
            if !written.insert(file.clone()) {
                return Err(format!("{}: an earlier case wrote this file", file.display()));
            }
            write(&file, &got)?;
            finding.output = Some(file.display().to_string());
            Ok(())
        }
        None => {
            let (difference, judgement) = case.judge(&got);
            if let Some(Difference { max_abs, max_rel }) = difference {
                (finding.max_abs, finding.max_rel) = (Some(max_abs), Some(max_rel));
            }
            judgement
        }
    });
    finding.passed = outcome.is_ok();
    finding.error = outcome.err();
    finding
}

fn write(file: &Path, value: &Value) -> Result<(), String> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    frit::load::write(file, &[("out", value)], &BTreeMap::new()).map_err(|e| e.to_string())
}

fn tallies(findings: &[Finding]) -> Vec<Tally> {
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    for Finding { op, passed, .. } in findings {
        let tally =
            tallies.entry(op).or_insert_with(|| Tally { op: op.clone(), ..Tally::default() });
        tally.total += 1;
        tally.passed += usize::from(*passed);
    }
    tallies.into_values().collect()
}

/// The case files of a path: itself, or what lies below it, in the order of the names.
fn cases(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let meta = fs::metadata(path).map_err(|e| Failure::io("open", path, e))?;
    if !meta.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    search(path, DEPTH, &mut found)?;
    found.sort();
    Ok(found)
}

fn search(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let refused = |e| Failure::io("list", folder, e);
    for entry in fs::read_dir(folder).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        let path = entry.path();
        // A link to a folder may lead in a circle, so it is not followed; one to a file is.
        if entry.file_type().map_err(refused)?.is_dir() {
            if depth > 0 {
                search(&path, depth - 1, found)?;
            }
        } else if path.extension().is_some_and(|e| e == "safetensors") && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}
