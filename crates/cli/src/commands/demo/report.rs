//! What the demo found, as text and as a page.

use super::super::count;
use super::super::out::{row, table};
use super::measure::Times;
use super::{Findings, Side};
use crate::html::{Group, Report, Section};

const EQUAL: [&str; 2] = ["different", "equal"];

/// Milliseconds with three digits or so.
fn ms(number: f64) -> String {
    let digits = if number >= 100.0 {
        0
    } else if number >= 10.0 {
        1
    } else {
        2
    };
    format!("{number:.digits$}")
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A row for each part of the work: composed, fused, ratio.
fn times(f: &Findings) -> Vec<Vec<String>> {
    let row = |(name, of): (&str, fn(&Times) -> f64)| {
        let (composed, fused) = (of(&f.composed.times), of(&f.fused.times));
        vec![name.into(), ms(composed), ms(fused), format!("{:.2}", composed / fused)]
    };
    Times::ROWS.into_iter().map(row).collect()
}

/// How often each operation occurs: composed, fused; the commonest first.
fn operations(f: &Findings) -> Vec<(&'static str, usize, usize)> {
    let of = |side: &Side, name| side.operations.get(name).copied().unwrap_or(0);
    let mut names: Vec<&'static str> =
        f.composed.operations.keys().chain(f.fused.operations.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    let mut rows: Vec<_> =
        names.into_iter().map(|name| (name, of(&f.composed, name), of(&f.fused, name))).collect();
    rows.sort_by_key(|&(name, composed, fused)| (std::cmp::Reverse(composed + fused), name));
    rows.push(("all", rows.iter().map(|row| row.1).sum(), rows.iter().map(|row| row.2).sum()));
    rows
}

fn title(f: &Findings) -> String {
    format!(
        "Whisper tiny.en hears {:.1} s of speech: cpu ({}), {}, median of {}",
        f.audio_seconds,
        f.isa,
        count(f.threads, "thread"),
        count(f.runs.into(), "run"),
    )
}

fn facts(f: &Findings) -> Vec<(String, String)> {
    let planned = |side: &Side| megabytes(side.planned_peak_bytes);
    let tokens = EQUAL[usize::from(f.tokens_equal)];
    [
        ("tokens", format!("{tokens} ({} and {})", f.composed.tokens.len(), f.fused.tokens.len())),
        ("largest encoder difference", format!("{:.1e}", f.max_encoder_difference)),
        ("speedup", format!("{:.2}", f.speedup)),
        (
            "times as fast as speech",
            format!("{:.1}", f.audio_seconds * 1e3 / f.fused.times.total_ms),
        ),
        ("peak memory of the process", megabytes(f.peak_memory_bytes)),
        ("planned memory, composed", planned(&f.composed)),
        ("planned memory, fused", planned(&f.fused)),
        ("Blocks fused", f.fused_blocks.to_string()),
        ("Blocks left composed", f.composed_blocks.to_string()),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .to_vec()
}

/// For a terminal.
pub(super) fn text(f: &Findings) -> String {
    let mut parts = vec![format!("{}\n", title(f))];
    parts.push(format!("composed  {}\nfused     {}\n", f.composed.text, f.fused.text));
    parts.push(table(2, &facts(f).into_iter().map(|(n, v)| vec![n, v]).collect::<Vec<_>>()));
    let mut rows = vec![row(["milliseconds", "composed", "fused", "ratio"])];
    rows.extend(times(f));
    parts.push(table(1, &rows));
    let mut rows = vec![row(["operations in the graphs", "composed", "fused"])];
    let counts = operations(f).into_iter();
    rows.extend(counts.map(|(n, c, f)| vec![n.into(), c.to_string(), f.to_string()]));
    parts.push(table(1, &rows));
    parts.push(format!("What was fused, and why the rest was not\n\n{}", reports(f)));
    parts.join("\n")
}

fn reports(f: &Findings) -> String {
    let (composed, fused) = (&f.composed.explained, &f.fused.explained);
    format!("-- composed --\n{composed}\n-- fused --\n{fused}")
}

/// For a browser.
pub(super) fn html(f: &Findings) -> Report {
    let pair = |composed: f64, fused: f64| {
        vec![("composed".to_string(), composed), ("fused".to_string(), fused)]
    };
    let bars = |names: &[&str]| -> Vec<Group> {
        let shown = Times::ROWS.into_iter().filter(|(name, _)| names.contains(name));
        shown.map(|(n, of)| (n.into(), pair(of(&f.composed.times), of(&f.fused.times)))).collect()
    };
    let chart = |title: &str, names: &[&str]| Section::Bars {
        title: title.into(),
        unit: "ms".into(),
        groups: bars(names),
    };
    let heading = |text: &str| Section::Heading(text.into());
    let head = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let counts = operations(f);
    let whole = |n: usize| n as f64;
    let sections = vec![
        Section::Text(title(f)),
        Section::Facts(facts(f)),
        heading("What was heard"),
        Section::Table {
            head: head(&["", "text"]),
            rows: vec![
                vec!["composed".into(), f.composed.text.clone()],
                vec!["fused".into(), f.fused.text.clone()],
            ],
        },
        heading("Time"),
        chart("The whole and its large parts", &["encoder", "decode", "total"]),
        chart("The small parts", &["mel", "first token", "per token"]),
        Section::Table {
            head: head(&["milliseconds", "composed", "fused", "ratio"]),
            rows: times(f),
        },
        heading("Memory"),
        Section::Bars {
            title: "Intermediate results that live at once, as planned".into(),
            unit: "MB".into(),
            groups: vec![(
                "largest program".into(),
                pair(
                    whole(f.composed.planned_peak_bytes) / 1e6,
                    whole(f.fused.planned_peak_bytes) / 1e6,
                ),
            )],
        },
        heading("Operations in the graphs"),
        Section::Text(
            "How often each operation occurs in the programs that ran: every one is a step over \
             memory, unless it only renames it."
                .into(),
        ),
        Section::Bars {
            title: "Operations".into(),
            unit: String::new(),
            groups: counts.iter().map(|&(n, c, f)| (n.into(), pair(whole(c), whole(f)))).collect(),
        },
        heading("What was fused, and why the rest was not"),
        Section::Pre(reports(f)),
    ];
    Report { title: "Frit: composed and fused".into(), sections }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::html::render;
    use std::collections::BTreeMap;

    fn findings() -> Findings {
        let side = |text: &str, total_ms, operations: &[(&'static str, usize)]| Side {
            text: text.into(),
            tokens: vec![1, 2],
            times: Times { total_ms, mel_ms: 2.0, ..Times::default() },
            planned_peak_bytes: 3_000_000,
            fused_blocks: 4,
            composed_blocks: 0,
            operations: operations.iter().copied().collect::<BTreeMap<_, _>>(),
            explained: format!("why {text}\n"),
        };
        Findings {
            tokens_equal: true,
            composed: side("one <b>", 900.0, &[("add", 7), ("matmul", 3)]),
            fused: side("two", 300.0, &[("linear", 5), ("add", 1)]),
            speedup: 3.0,
            peak_memory_bytes: 512_000_000,
            fused_blocks: 4,
            composed_blocks: 0,
            max_encoder_difference: 1.5e-5,
            audio_seconds: 11.0,
            runs: 5,
            threads: 2,
            isa: "avx2".into(),
            report: "demo.html".into(),
        }
    }

    #[test]
    fn operations_are_listed_from_both_sides_with_a_sum() {
        let wanted = [("add", 7, 1), ("linear", 0, 5), ("matmul", 3, 0), ("all", 10, 6)];
        assert_eq!(operations(&findings()), wanted);
    }

    #[test]
    fn the_text_tells_everything_that_was_found() {
        let text = text(&findings());
        for words in [
            "11.0 s of speech: cpu (avx2), 2 threads, median of 5 runs",
            "one <b>",
            "equal (2 and 2)",
            "1.5e-5",
            "512.0 MB",
            "why one <b>",
            "why two",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        let total = text.lines().find(|line| line.starts_with("total")).expect("a row");
        assert_eq!(total.split_whitespace().collect::<Vec<_>>(), ["total", "900", "300", "3.00"]);
    }

    #[test]
    fn the_page_has_charts_and_escapes_what_was_heard() {
        let page = render(&html(&findings()));
        assert!(page.contains("one &lt;b&gt;") && !page.contains("one <b>"));
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(page.contains("why two"));
    }

    #[test]
    fn the_json_has_the_promised_keys() {
        let json = serde_json::to_value(findings()).expect("it can be written");
        for key in
            ["tokens_equal", "speedup", "peak_memory_bytes", "fused_blocks", "composed_blocks"]
        {
            assert!(!json[key].is_null(), "{key}");
        }
        for side in ["composed", "fused"] {
            for key in ["text", "tokens", "encoder_ms", "decode_ms", "total_ms"] {
                assert!(!json[side][key].is_null(), "{side}.{key}");
            }
        }
    }
}
