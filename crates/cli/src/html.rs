//! A report as one HTML file: text, tables, bar charts and program output.
//!
//! Such a file is kept, mailed and opened years later, so it loads nothing: style and charts stand
//! inside, and the page forbids itself everything else. It follows the reader's light or dark
//! setting. All text is escaped, whoever wrote it. Build a [`Report`] of [`Section`]s and
//! [`write()`] it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

mod picture;
#[cfg(test)]
mod tests;

pub use picture::{Kind, Operation};

const STYLE: &str = include_str!("html/style.css");

/// So many series have a colour of their own; after them the colours begin again.
const COLOURS: usize = 6;

/// Bars of one label: a series and its value each.
pub type Group = (String, Vec<(String, f64)>);

/// A whole report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Stands at the top and names the page.
    pub title: String,
    /// What follows, from top to bottom.
    pub sections: Vec<Section>,
}

/// A piece of a report.
#[derive(Clone, Debug, PartialEq)]
pub enum Section {
    /// A heading over what follows.
    Heading(String),
    /// Paragraphs, with an empty line between them.
    Text(String),
    /// A few important figures as tiles: what it is, and its value with a unit.
    Facts(Vec<(String, String)>),
    /// A table. A column whose cells all begin with a digit or a sign is aligned to the right.
    Table {
        /// The heads of the columns.
        head: Vec<String>,
        /// The rows, a cell a column; a short row leaves cells empty.
        rows: Vec<Vec<String>>,
    },
    /// Horizontal bars on one scale that begins at zero. A value that is no number, negative or
    /// infinite is written without a bar.
    Bars {
        /// What is shown.
        title: String,
        /// The unit of all values; may be empty.
        unit: String,
        /// A label and its bars. A series keeps its colour through all groups.
        groups: Vec<Group>,
    },
    /// Text in a fixed-width face, line by line, such as the output of a program.
    Pre(String),
    /// The operations of a graph in order: a cell each, and a list of them to unfold.
    Graph {
        /// What is shown.
        title: String,
        /// The operations.
        operations: Vec<Operation>,
    },
}

/// The report as a complete HTML page.
#[must_use]
pub fn render(report: &Report) -> String {
    let title = escape(&report.title);
    // Nothing may be loaded, not even by a mistake in this file.
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    for section in &report.sections {
        render_section(section, &mut page);
        page.push('\n');
    }
    page.push_str("</body>\n</html>\n");
    page
}

/// Writes the report to the file `path`.
///
/// # Errors
/// The error of the operating system, with the path in its message.
pub fn write(report: &Report, path: &Path) -> io::Result<()> {
    std::fs::write(path, render(report)).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
    })
}

fn render_section(section: &Section, page: &mut String) {
    match section {
        Section::Heading(text) => put(page, format_args!("<h2>{}</h2>", escape(text))),
        Section::Text(text) => {
            let unix = text.replace("\r\n", "\n");
            let paragraphs = unix.split("\n\n").map(|part| part.trim_matches('\n'));
            for paragraph in paragraphs.filter(|part| !part.trim().is_empty()) {
                put(page, format_args!("<p>{}</p>", escape(paragraph)));
            }
        }
        Section::Facts(facts) => {
            page.push_str("<dl>");
            for (name, value) in facts {
                let (name, value) = (escape(name), escape(value));
                put(page, format_args!("<div><dt>{name}</dt><dd>{value}</dd></div>"));
            }
            page.push_str("</dl>");
        }
        Section::Table { head, rows } => render_table(head, rows, page),
        Section::Bars { title, unit, groups } => render_bars(title, unit, groups, page),
        Section::Graph { title, operations } => picture::render(title, operations, page),
        // A newline right after the tag would be dropped; this one is dropped instead.
        Section::Pre(text) => put(page, format_args!("<pre>\n{}</pre>", escape(text))),
    }
}

fn render_table(head: &[String], rows: &[Vec<String>], page: &mut String) {
    let columns = rows.iter().map(Vec::len).chain([head.len()]).max().unwrap_or(0);
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let classes: Vec<&str> = (0..columns)
        .map(|column| {
            let mut cells = rows.iter().filter_map(|row| row.get(column));
            let numbers = !rows.is_empty() && cells.all(|text| is_number(text));
            if numbers { " class=\"n\"" } else { "" }
        })
        .collect();
    page.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    for (column, class) in classes.iter().enumerate() {
        put(page, format_args!("<th scope=\"col\"{class}>{}</th>", escape(&cell(head, column))));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for (column, class) in classes.iter().enumerate() {
            put(page, format_args!("<td{class}>{}</td>", escape(&cell(row, column))));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>");
}

fn is_number(text: &str) -> bool {
    let text = text.trim_start_matches(['+', '-', '\u{2212}', '\u{d7}', '~', ' ']);
    text.starts_with(|c: char| c.is_ascii_digit()) || text == "n/a" || text.is_empty()
}

/// The chart's measures in units of its view box.
const WIDTH: f64 = 760.0;
const BAR: f64 = 15.0;
const BAR_GAP: f64 = 3.0;
const GROUP_GAP: f64 = 14.0;
const LABEL_GAP: f64 = 14.0;
/// Room for a value behind the longest bar.
const VALUE_ROOM: f64 = 96.0;
/// The width of a letter, roughly, and how many of them a label may have.
const LETTER: f64 = 7.9;
const MAX_LABEL: usize = 32;
/// With this many letters kept free, most charts of a page begin at the same place.
const MIN_LABEL: usize = 12;

fn render_bars(title: &str, unit: &str, groups: &[Group], page: &mut String) {
    let mut series: Vec<&str> = Vec::new();
    for (name, _) in groups.iter().flat_map(|(_, bars)| bars) {
        if !series.contains(&name.as_str()) {
            series.push(name);
        }
    }
    let of_unit = if unit.is_empty() { String::new() } else { format!(" [{}]", escape(unit)) };
    put(page, format_args!("<figure><figcaption><b>{}{of_unit}</b>", escape(title)));
    for (at, name) in series.iter().enumerate() {
        let (colour, name) = (at % COLOURS, escape(name));
        put(page, format_args!("<span class=\"key\"><i class=\"s{colour}\"></i>{name}</span>"));
    }
    page.push_str("</figcaption>");

    let longest = groups.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let left = longest.clamp(MIN_LABEL, MAX_LABEL) as f64 * LETTER + LABEL_GAP;
    let values = groups.iter().flat_map(|(_, bars)| bars).map(|(_, value)| drawable(*value));
    let scale = Scale { most: values.fold(0.0, f64::max), width: WIDTH - left - VALUE_ROOM };
    let group_height = |bars: usize| bars.max(1) as f64 * (BAR + BAR_GAP) - BAR_GAP;
    let height: f64 =
        groups.iter().map(|(_, bars)| group_height(bars.len()) + GROUP_GAP).sum::<f64>() + 2.0;

    put(
        page,
        format_args!(
            "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-label=\"{}\">\n",
            escape(title)
        ),
    );
    let mut top = GROUP_GAP / 2.0;
    for (label, bars) in groups {
        let (x, y) = (left - LABEL_GAP, top + group_height(bars.len()) / 2.0);
        let (full, short) = (escape(label), shortened(label));
        put(
            page,
            format_args!(
                "<text x=\"{x:.1}\" y=\"{y:.1}\" dy=\".35em\" text-anchor=\"end\">{}\
                 <title>{full}</title></text>\n",
                escape(&short)
            ),
        );
        let mut y = top;
        for (name, value) in bars {
            let colour = series.iter().position(|found| found == name).unwrap_or(0) % COLOURS;
            let (width, text) = (scale.width_of(*value), number(*value));
            let after = left + width + 7.0;
            let middle = y + BAR / 2.0;
            put(
                page,
                format_args!(
                    "<rect class=\"s{colour}\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.3}\" \
                     height=\"{BAR}\"><title>{full}, {}: {text} {}</title></rect>\
                     <text class=\"value\" x=\"{after:.1}\" y=\"{middle:.1}\" dy=\".35em\">{text}\
                     </text>\n",
                    escape(name),
                    escape(unit),
                ),
            );
            y += BAR + BAR_GAP;
        }
        top += group_height(bars.len()) + GROUP_GAP;
    }
    put(
        page,
        format_args!(
            "<line class=\"axis\" x1=\"{left:.1}\" x2=\"{left:.1}\" y1=\"0\" y2=\"{height}\"/>\n\
             </svg></div></figure>"
        ),
    );
}

/// From values to widths: the greatest value takes the full width.
struct Scale {
    most: f64,
    width: f64,
}

impl Scale {
    fn width_of(&self, value: f64) -> f64 {
        if self.most > 0.0 { drawable(value) / self.most * self.width } else { 0.0 }
    }
}

/// The length a value is drawn with: zero for everything that has none.
fn drawable(value: f64) -> f64 {
    if value.is_finite() { value.max(0.0) } else { 0.0 }
}

/// A value for people: three significant digits, whole numbers and large ones in full.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "n/a".to_owned();
    }
    // Adding zero takes the sign off a negative zero.
    let value = value + 0.0;
    let size = value.abs();
    // Beyond these a plain number is a long row of zeros.
    if size >= 1e9 || (size < 1e-4 && size > 0.0) {
        return format!("{value:.2e}");
    }
    let digits = match size {
        _ if value.fract() == 0.0 => 0,
        _ if size >= 99.95 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ => (2.0 - size.log10().floor()) as usize,
    };
    grouped(&format!("{value:.digits$}"))
}

/// Thin spaces between the thousands of a number from 10 000 on.
fn grouped(text: &str) -> String {
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let digits = whole.chars().filter(char::is_ascii_digit).count();
    if digits < 5 {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut left = digits;
    for c in whole.chars() {
        if c.is_ascii_digit() {
            if left != digits && left % 3 == 0 {
                out.push('\u{202f}');
            }
            left -= 1;
        }
        out.push(c);
    }
    out + rest
}

fn shortened(label: &str) -> Cow<'_, str> {
    if label.chars().count() <= MAX_LABEL {
        return Cow::Borrowed(label);
    }
    let start: String = label.chars().take(MAX_LABEL - 1).collect();
    Cow::Owned(start + "\u{2026}")
}

/// Text that means itself in an HTML element and in a quoted attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            '\r' => {}
            // HTML has no way to write the other control characters.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Writing to a string cannot fail.
fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(text);
}
