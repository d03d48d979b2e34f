//! What was measured, as a table and as a page.

use crate::bench::Comparison;
use crate::floor::Limits;
use crate::html::{Report, Section};
use frit::cpu::isa;

use super::super::count;
use super::super::out::{row, table};

/// Threads and limits in words.
pub(super) fn machine(threads: usize, l: &Limits) -> String {
    format!(
        "{}: reads {:.1} GB/s, copies {:.1} GB/s, multiplies and adds {:.0} GFLOP/s in registers \
         and {:.0} in a large f32 product",
        count(threads, "thread"),
        l.read / 1e9,
        l.copy / 1e9,
        l.multiply_add / 1e9,
        l.product / 1e9,
    )
}

/// Names of all peers that timed anything.
fn names(comparisons: &[Comparison]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (name, timed) in comparisons.iter().flat_map(|c| &c.peers) {
        if timed.is_ok() && !names.contains(name) {
            names.push(*name);
        }
    }
    names
}

fn number(x: f64, digits: usize) -> String {
    if x.is_finite() { format!("{x:.digits$}") } else { String::new() }
}

/// The rows with their head.
fn rows(comparisons: &[Comparison]) -> Vec<Vec<String>> {
    let names = names(comparisons);
    let mut head = row(["case", "type", "composed", "fused", "ratio"]);
    head.extend(names.iter().map(|n| n.to_string()));
    if !names.is_empty() {
        head.push("best peer".into());
    }
    head.extend(row(["floor", "rate", "", "max diff"]));
    let mut rows = vec![head];
    for c in comparisons {
        let (rate, unit) = match (c.gflops(), c.bytes) {
            (Some(rate), _) => (rate, "GFLOP/s"),
            (None, 0) => (f64::NAN, ""),
            (None, _) => (c.gigabytes(), "GB/s"),
        };
        let mut cells = vec![
            c.case.to_string(),
            c.dtype.to_string(),
            number(c.composed_us, 1),
            number(c.fused_us, 1),
            number(c.ratio(), 2),
        ];
        cells.extend(names.iter().map(|n| c.peer(n).map_or(String::new(), |us| number(us, 1))));
        if !names.is_empty() {
            cells.push(c.best_peer_ratio().map_or(String::new(), |r| number(r, 2)));
        }
        cells.push(match c.floor_fraction() {
            f if f.is_finite() => format!("{:.0}%", 100.0 * f),
            _ => String::new(),
        });
        cells.extend([number(rate, 1), format!("{unit:<7}")]);
        cells.push(if c.max_abs_diff.is_nan() {
            String::new()
        } else {
            format!("{:.1e}", c.max_abs_diff)
        });
        cells.extend(remark(c));
        rows.push(cells);
    }
    rows
}

/// What else there is to say of a case.
fn remark(c: &Comparison) -> Option<String> {
    let mut remarks: Vec<String> = Vec::new();
    remarks.extend(c.not_fused.as_ref().map(|why| format!("not fused: {why}")));
    for (name, timed) in &c.peers {
        match timed {
            Ok(timed) if timed.composed => remarks.push(format!("{name} composes it")),
            Err(why) if why.contains("differs") => remarks.push(format!("{name}: {why}")),
            _ => {}
        }
    }
    (!remarks.is_empty()).then(|| remarks.join(", "))
}

/// The geometric mean of the ratios to the best peer, and how many cases it is of.
fn mean(comparisons: &[Comparison]) -> Option<(f64, usize)> {
    let logs: Vec<f64> =
        comparisons.iter().filter_map(Comparison::best_peer_ratio).map(f64::ln).collect();
    let n = logs.len();
    (n > 0).then(|| ((logs.iter().sum::<f64>() / n as f64).exp(), n))
}

fn summary(comparisons: &[Comparison]) -> Option<String> {
    let (mean, n) = mean(comparisons)?;
    let behind: Vec<&str> = comparisons
        .iter()
        .filter(|c| c.best_peer_ratio().is_some_and(|r| r < 1.0))
        .map(|c| c.case)
        .collect();
    let behind = match behind.is_empty() {
        true => "behind it nowhere".to_string(),
        false => format!("behind it in {}", behind.join(", ")),
    };
    let cases = count(n, "case");
    Some(format!("{mean:.2} times as fast as the best peer (geometric mean of {cases}); {behind}"))
}

/// The table.
pub(super) fn text(comparisons: &[Comparison]) -> String {
    let mut out = table(2, &rows(comparisons));
    if let Some(line) = summary(comparisons) {
        out += &format!("\n{line}\n");
    }
    out
}

/// The page.
pub(super) fn html(comparisons: &[Comparison], threads: usize, limits: &Limits) -> Report {
    let mut rows = rows(comparisons);
    let head = rows.remove(0);
    let bars = |title: &str, unit: &str, of: &dyn Fn(&Comparison) -> Vec<(String, f64)>| {
        let groups = comparisons.iter().map(|c| (format!("{} {}", c.case, c.dtype), of(c)));
        let groups = groups.filter(|(_, bars)| !bars.is_empty()).collect();
        Section::Bars { title: title.into(), unit: unit.into(), groups }
    };
    let mut sections = vec![Section::Text(format!("{}, {}", isa(), machine(threads, limits)))];
    sections.extend(summary(comparisons).map(Section::Text));
    sections.push(bars("Fused against composed", "times as fast", &|c| {
        vec![("fused".into(), c.ratio())]
    }));
    let peers = |c: &Comparison| -> Vec<(String, f64)> {
        let of = |name: &'static str| Some((name.to_string(), c.peer(name)? / c.fused_us));
        c.peers.iter().filter_map(|(name, _)| of(name)).collect()
    };
    if !names(comparisons).is_empty() {
        sections.push(bars("Fused against other libraries", "times as fast", &peers));
    }
    sections.push(bars("Share of what the machine can do at most", "%", &|c| {
        let share = 100.0 * c.floor_fraction();
        if share.is_finite() { vec![("fused".into(), share)] } else { Vec::new() }
    }));
    sections.push(Section::Heading("Times in microseconds".into()));
    sections.push(Section::Table { head, rows });
    Report { title: "frit bench".into(), sections }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Timed;
    use frit::graph::DType;

    fn memory() -> Comparison {
        Comparison {
            case: "copy",
            op: "copy",
            dtype: DType::F32,
            threads: 2,
            composed_us: 30.0,
            fused_us: 10.0,
            floor_us: 9.0,
            peers: Vec::new(),
            max_abs_diff: 0.0,
            not_fused: None,
            flops: None,
            bytes: 50_000,
        }
    }

    fn words(text: &str) -> Vec<Vec<&str>> {
        text.lines().map(|l| l.split_whitespace().collect()).collect()
    }

    #[test]
    fn the_table_has_rates_by_arithmetic_or_by_memory_and_says_what_is_not_fused() {
        let not_fused = Some("no kernel".to_string());
        let arithmetic = Comparison { case: "product", flops: Some(1e6), not_fused, ..memory() };
        let table = text(&[memory(), arithmetic]);
        let lines = words(&table);
        let copy = ["copy", "f32", "30.0", "10.0", "3.00", "90%", "5.0", "GB/s", "0.0e0"];
        assert_eq!(lines[1], copy);
        assert_eq!(lines[2][6..8], ["100.0", "GFLOP/s"]);
        assert!(table.ends_with("not fused: no kernel\n"));
    }

    #[test]
    fn peers_have_columns_and_the_best_of_them_makes_the_ratio() {
        let timed = |us| Ok(Timed { us, composed: false });
        let missing = Err("has no copy".to_string());
        let one = Comparison {
            peers: vec![("torch", timed(40.0)), ("ort", timed(20.0)), ("mlx", missing)],
            ..memory()
        };
        let other = Comparison { case: "other", peers: vec![("torch", timed(5.0))], ..memory() };
        let table = text(&[one.clone(), other]);
        let lines = words(&table);
        assert_eq!(lines[0][5..10], ["torch", "ort", "best", "peer", "floor"]);
        assert_eq!(lines[1][5..8], ["40.0", "20.0", "2.00"]);
        assert_eq!(lines[2][5..7], ["5.0", "0.50"]);
        let line = "1.00 times as fast as the best peer (geometric mean of 2 cases); behind it in \
                    other";
        assert!(table.ends_with(&format!("{line}\n")), "{table}");
        let entry = super::super::entry(&one);
        assert_eq!((entry.best_peer_ratio, entry.fused), (Some(2.0), true));
        let peers = serde_json::json!({"torch": 40.0, "ort": 20.0, "mlx": null});
        assert_eq!(serde_json::Value::Object(entry.peers), peers);
    }

    #[test]
    fn the_page_charts_ratios_and_shares() {
        let timed = Ok(Timed { us: 20.0, composed: true });
        let one = Comparison { peers: vec![("torch", timed)], ..memory() };
        let limits = Limits { read: 1e10, copy: 1e10, multiply_add: 1e11, product: 1e11 };
        let page = html(&[one], 2, &limits);
        let titles: Vec<&str> = page
            .sections
            .iter()
            .filter_map(|s| match s {
                Section::Bars { title, groups, .. } if groups.len() == 1 => Some(&**title),
                _ => None,
            })
            .collect();
        assert_eq!(titles.len(), 3, "{titles:?}");
    }
}
