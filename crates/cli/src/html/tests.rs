//! Tests of the report, read back as text.

use super::*;

fn page(section: Section) -> String {
    render(&Report { title: "A report".to_owned(), sections: vec![section] })
}

fn bars(values: &[(&str, &[(&str, f64)])]) -> String {
    let group = |(label, bars): &(&str, &[(&str, f64)])| {
        let bars = bars.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        ((*label).to_owned(), bars)
    };
    let groups = values.iter().map(group).collect();
    page(Section::Bars { title: "Time".to_owned(), unit: "ms".to_owned(), groups })
}

/// Every value of `name="..."` in the bars of a page.
fn of_bars(page: &str, name: &str) -> Vec<String> {
    let start = format!(" {name}=\"");
    page.match_indices("<rect ")
        .filter_map(|(at, _)| page[at..].split_once('>'))
        .filter_map(|(tag, _)| tag.split_once(&start))
        .filter_map(|(_, rest)| rest.split_once('"'))
        .map(|(value, _)| value.to_owned())
        .collect()
}

fn widths(page: &str) -> Vec<f64> {
    of_bars(page, "width").iter().map(|text| text.parse().expect("a number")).collect()
}

#[test]
fn all_text_is_escaped_wherever_it_stands() {
    let evil = "<script>&\"'\u{1b}";
    let text = || evil.to_owned();
    let report = Report {
        title: text(),
        sections: vec![
            Section::Heading(text()),
            Section::Text(text()),
            Section::Facts(vec![(text(), text())]),
            Section::Table { head: vec![text()], rows: vec![vec![text()]] },
            Section::Bars {
                title: text(),
                unit: text(),
                groups: vec![(text(), vec![(text(), 1.0)])],
            },
            Section::Pre(text()),
            Section::Graph {
                title: text(),
                operations: vec![Operation { name: text(), detail: text(), kind: Kind::Block }],
            },
        ],
    };
    let page = render(&report);
    assert!(!page.contains("<script") && !page.contains('\u{1b}'));
    // Title and h1; heading; text; two of the fact; two of the table; of the chart its caption,
    // unit, key, aria label, label, full label, and in the tip of the bar label, series and unit;
    // the program output; of the graph caption, key, aria label, and name and detail twice.
    let safe = "&lt;script&gt;&amp;&quot;&#39;\u{fffd}";
    assert_eq!(page.matches(safe).count(), 2 + 1 + 1 + 2 + 2 + 9 + 1 + 7);
    assert_eq!(page.matches("script").count(), page.matches(safe).count());
}

#[test]
fn the_page_names_no_other_file_and_runs_nothing() {
    let page = bars(&[("mel", &[("composed", 2.0), ("fused", 1.0)])]);
    for word in ["://", "src=", "href=", "url(", "@import", "<script", "<link", "<img"] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn the_width_of_a_bar_is_proportional_to_its_value() {
    let page = bars(&[("a", &[("x", 200.0), ("y", 50.0)]), ("b", &[("x", 1.0), ("y", 100.0)])]);
    let widths = widths(&page);
    assert!(widths[0] > 300.0 && widths[0] < WIDTH - VALUE_ROOM, "{widths:?}");
    for (width, part) in widths.iter().zip([1.0, 0.25, 0.005, 0.5]) {
        // Widths are written with three decimals.
        assert!((width - widths[0] * part).abs() <= 0.001, "{widths:?}");
    }
}

#[test]
fn zero_negative_and_missing_numbers_get_no_bar_and_break_nothing() {
    let odd = [0.0, -3.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let names = ["a", "b", "c", "d", "e", "f"];
    let row: Vec<_> = names.into_iter().zip(odd.into_iter().chain([4.0])).collect();
    let page = bars(&[("g", &row)]);
    let drawn = widths(&page);
    assert_eq!(drawn[..5], [0.0; 5]);
    assert!(drawn[5] > 300.0);
    assert_eq!(page.matches(">n/a</text>").count(), 3);
    assert!(page.contains(">-3</text>") && page.contains(">0</text>"));
    assert!(!page.contains("NaN") && !page.contains("inf\""));
    // Nothing but zeros, no bars and no groups are charts too.
    assert_eq!(widths(&bars(&[("g", &[("a", 0.0), ("b", f64::NAN)])])), [0.0, 0.0]);
    assert!(widths(&bars(&[("g", &[])])).is_empty());
    assert!(widths(&bars(&[])).is_empty());
}

#[test]
fn extreme_values_stay_inside_the_chart() {
    for value in [f64::MAX, f64::MIN_POSITIVE, 5e-324] {
        let widths = widths(&bars(&[("g", &[("a", value), ("b", value / 2.0)])]));
        assert!(widths.iter().all(|width| (0.0..=WIDTH).contains(width)), "{value}: {widths:?}");
        assert!(widths[0] > 300.0, "{value}: {widths:?}");
    }
}

#[test]
fn a_series_keeps_its_colour_when_a_group_lacks_another() {
    let page =
        bars(&[("a", &[("x", 1.0), ("y", 1.0)]), ("b", &[("y", 1.0)]), ("c", &[("x", 1.0)])]);
    assert_eq!(of_bars(&page, "class"), ["s0", "s1", "s1", "s0"]);
    assert_eq!(page.matches("class=\"key\"").count(), 2);
}

#[test]
fn a_long_label_is_cut_and_its_full_text_kept_as_a_tip() {
    let label = "scaled_dot_product_attention_".repeat(3);
    let page = bars(&[(&label, &[("x", 1.0)])]);
    assert!(page.contains(&format!(">{}\u{2026}<title>{label}</title>", &label[..31])));
    assert!(widths(&page)[0] > 300.0);
}

#[test]
fn numbers_are_written_for_people() {
    let cases = [
        (0.0, "0"),
        (-0.0, "0"),
        (7.0, "7"),
        (1234.0, "1234"),
        (1_234_567.0, "1\u{202f}234\u{202f}567"),
        (-12_345.6, "-12\u{202f}346"),
        (1234.5678, "1235"),
        (123.456, "123"),
        (99.97, "100"),
        (12.345, "12.3"),
        (9.996, "10.0"),
        (1.2345, "1.23"),
        (0.012_345, "0.0123"),
        (0.5, "0.500"),
        (0.000_012_3, "1.23e-5"),
        (2.5e12, "2.50e12"),
        (f64::NAN, "n/a"),
    ];
    for (value, wanted) in cases {
        assert_eq!(number(value), wanted, "{value:?}");
    }
}

#[test]
fn columns_of_numbers_are_aligned_to_the_right_and_short_rows_are_filled() {
    let texts = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let page = page(Section::Table {
        head: texts(&["op", "count", "note"]),
        rows: vec![
            texts(&["softmax", "12", "3 left"]),
            texts(&["gelu"]),
            texts(&["x", "-4.5 ms", "b"]),
        ],
    });
    assert!(page.contains("<th scope=\"col\" class=\"n\">count</th>"));
    assert!(page.contains("<td class=\"n\">-4.5 ms</td><td>b</td>"));
    assert!(page.contains("<tr><td>gelu</td><td class=\"n\"></td><td></td></tr>"));
}

#[test]
fn text_is_split_into_paragraphs_and_program_output_is_kept() {
    let text = page(Section::Text("one\r\ntwo\n\n\n\nthree\n".to_owned()));
    assert!(text.contains("<p>one\ntwo</p><p>three</p>"), "{text}");
    let pre = page(Section::Pre("\n  a\tb\n".to_owned()));
    assert!(pre.contains("<pre>\n\n  a\tb\n</pre>"));
}

#[test]
fn a_report_that_cannot_be_written_names_the_path() {
    let dir = tempfile::tempdir().expect("make a temporary folder");
    let report = Report { title: "t".to_owned(), sections: vec![] };
    let good = dir.path().join("r.html");
    write(&report, &good).expect("write the report");
    assert_eq!(std::fs::read_to_string(&good).expect("read the report"), render(&report));
    let bad = dir.path().join("absent/r.html");
    let error = write(&report, &bad).expect_err("no such folder");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains(&bad.display().to_string()), "{error}");
}

#[test]
fn a_graph_has_a_cell_an_operation_and_folds_what_is_small() {
    let of = |name: &str, kind| Operation { name: name.into(), detail: "f32[2]".into(), kind };
    let operations = vec![
        of("add", Kind::Primitive),
        of("reshape", Kind::View),
        of("gelu", Kind::Block),
        of("linear", Kind::Block),
        of("gelu", Kind::Block),
    ];
    let page = page(Section::Graph { title: "after".into(), operations });
    assert_eq!(page.matches("<rect ").count(), 5);
    assert_eq!(page.matches("<rect class=\"s1\"").count(), 2, "both gelus have one colour");
    assert!(page.contains("gelu \u{d7} 2") && page.contains("linear \u{d7} 1"));
    assert!(page.contains("<summary>2 small: add, reshape</summary>"));
    assert!(!page.contains("<script"));
}
