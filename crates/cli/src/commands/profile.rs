//! `--profile`: where the time of a command went, as a table and as a file for a trace viewer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use frit::cpu::{Cpu, Event, EventKind, Pool, Profile};
use frit::graph::Backend;
use serde_json::{Value as Json, json};

use super::out::{row, table};
use super::{BackendName, Failure, Machine, count, note};

/// Whether to measure every step.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Profiling {
    /// Print where the time went, by operation, and write every step to FILE, which the trace
    /// viewers of Chrome (chrome://tracing) and Perfetto (ui.perfetto.dev) open
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true,
        default_missing_value = "frit-trace.json")]
    profile: Option<PathBuf>,
}

/// A profile that is being collected, if one is wanted.
pub(super) struct Watch(Option<(Profile, PathBuf)>);

impl Profiling {
    /// Begins to watch.
    pub(super) fn watch(&self) -> Watch {
        Watch(self.profile.clone().map(|path| (Profile::new(), path)))
    }
}

impl Watch {
    /// The machine's backend, watched.
    pub(super) fn backend(
        &self,
        machine: Machine,
        pool: &Pool,
    ) -> Result<Arc<dyn Backend>, Failure> {
        match &self.0 {
            None => machine.backend(pool),
            Some((profile, _)) if machine.name() == BackendName::Cpu => {
                let cpu = Cpu::on(pool.clone()).profiled(profile.clone());
                Ok(Arc::new(if machine.composed { cpu.without_fused() } else { cpu }))
            }
            Some(_) => Err(Failure::Usage("--profile works with --backend cpu only".into())),
        }
    }

    /// Prints the table to the standard error and writes the file.
    pub(super) fn tell(&self) -> Result<(), Failure> {
        let Some((profile, path)) = &self.0 else { return Ok(()) };
        let (events, elapsed) = (profile.take(), profile.elapsed());
        write(&events, path)?;
        note(summary(&events, elapsed).trim_end());
        note(&format!("every step, for a trace viewer: {}", path.display()));
        Ok(())
    }
}

fn write(events: &[Event], path: &Path) -> Result<(), Failure> {
    let failed = |e| Failure::io("write", path, e);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Whole or not at all.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    serde_json::to_writer(std::io::BufWriter::new(&mut file), &trace(events))
        .map_err(|e| failed(e.into()))?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Events as Chrome's tracing tools read them: complete events, in microseconds.
fn trace(events: &[Event]) -> Json {
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    let line = |e: &Event| {
        let mut args = json!({ "bytes": e.bytes });
        if let Some(spec) = &e.spec {
            args["output"] = spec.to_string().into();
        }
        if let Some(at) = e.at {
            args["at"] = at.to_string().into();
        }
        let kind = kind(e.kind);
        json!({
            "name": e.name, "cat": kind, "ph": "X", "ts": us(e.start), "dur": us(e.took),
            "pid": 1, "tid": 1, "args": args,
        })
    };
    json!({ "displayTimeUnit": "ms", "traceEvents": events.iter().map(line).collect::<Vec<_>>() })
}

fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Program => "program",
        EventKind::Block => "Block",
        EventKind::Primitive => "primitive",
    }
}

/// The steps of one name.
#[derive(Default)]
struct Sum {
    times: usize,
    took: Duration,
    bytes: usize,
}

/// A table by operation, the longest first, and what passed outside of programs.
fn summary(events: &[Event], elapsed: Duration) -> String {
    let mut sums: BTreeMap<(&str, &str), Sum> = BTreeMap::new();
    let (mut programs, mut runs) = (Duration::ZERO, 0);
    for e in events {
        if e.kind == EventKind::Program {
            programs += e.took;
            runs += 1;
            continue;
        }
        let sum = sums.entry((e.name, kind(e.kind))).or_default();
        sum.times += 1;
        sum.took += e.took;
        sum.bytes += e.bytes;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.took));
    let ms = |d: Duration| format!("{:.2}", d.as_secs_f64() * 1e3);
    let share = |d: Duration| format!("{:.1}%", 100.0 * d.as_secs_f64() / elapsed.as_secs_f64());
    let mut rows = vec![row(["operation", "", "times", "ms", "of all", "us each", "GB/s"])];
    let mut steps = Duration::ZERO;
    for ((name, kind), sum) in &sums {
        steps += sum.took;
        let seconds = sum.took.as_secs_f64();
        rows.push(vec![
            name.to_string(),
            kind.to_string(),
            sum.times.to_string(),
            ms(sum.took),
            share(sum.took),
            format!("{:.1}", seconds * 1e6 / sum.times as f64),
            format!("{:.1}", sum.bytes as f64 / seconds / 1e9),
        ]);
    }
    let between = programs.saturating_sub(steps);
    let outside = elapsed.saturating_sub(programs);
    for (what, took) in [("between steps", between), ("outside of programs", outside)] {
        rows.push(vec![what.into(), String::new(), String::new(), ms(took), share(took)]);
    }
    let head = format!("{} in {} ms of {} ms\n", count(runs, "run"), ms(programs), ms(elapsed));
    head + &table(2, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, name: &'static str, start: u64, took: u64) -> Event {
        let ms = Duration::from_millis;
        Event {
            kind,
            name,
            spec: None,
            at: None,
            bytes: 1_000_000,
            start: ms(start),
            took: ms(took),
        }
    }

    fn events() -> Vec<Event> {
        vec![
            event(EventKind::Block, "linear", 1, 2),
            event(EventKind::Primitive, "add", 3, 1),
            event(EventKind::Block, "linear", 4, 4),
            event(EventKind::Program, "program", 1, 8),
        ]
    }

    #[test]
    fn the_table_adds_up_to_all_the_time_there_was() {
        let text = summary(&events(), Duration::from_millis(20));
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(text.lines().next(), Some("1 run in 8.00 ms of 20.00 ms"));
        assert_eq!(lines[2], ["linear", "Block", "2", "6.00", "30.0%", "3000.0", "0.3"]);
        assert_eq!(lines[3], ["add", "primitive", "1", "1.00", "5.0%", "1000.0", "1.0"]);
        assert_eq!(lines[4], ["between", "steps", "1.00", "5.0%"]);
        assert_eq!(lines[5], ["outside", "of", "programs", "12.00", "60.0%"]);
    }

    #[test]
    fn the_trace_is_a_list_of_complete_events_in_microseconds() -> Result<(), Failure> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("trace.json");
        write(&events(), &path)?;
        let text = std::fs::read_to_string(&path).expect("a file");
        let json: Json = serde_json::from_str(&text).expect("JSON");
        let first = &json["traceEvents"][0];
        assert_eq!(json["traceEvents"].as_array().map(Vec::len), Some(4));
        assert_eq!((first["name"].as_str(), first["ph"].as_str()), (Some("linear"), Some("X")));
        assert_eq!((first["ts"].as_f64(), first["dur"].as_f64()), (Some(1000.0), Some(2000.0)));
        assert!(write(&events(), &folder.path().join("no/such/folder")).is_err());
        Ok(())
    }
}
