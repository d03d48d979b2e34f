//! The picture of a graph: a cell an operation, and the operations by name behind a fold.
//!
//! Graphs have thousands of operations, too many for boxes and arrows. Cells in graph order still
//! show what matters here: how many there are, and which of them are whole Blocks.

use super::{COLOURS, escape, put};

/// What an operation of a picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only says how memory is read.
    View,
    /// A small operation.
    Primitive,
    /// A whole formula; those of one name have a colour of their own.
    Block,
}

/// An operation of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Its name.
    pub name: String,
    /// What else there is to say of it.
    pub detail: String,
    /// What it is.
    pub kind: Kind,
}

const CELL: usize = 11;
const STEP: usize = 14;
/// Cells in a row, so that the picture is as wide as a chart.
const ROW: usize = 54;

/// The colour of each name of a Block; the first is kept for primitives.
fn colour(names: &[&str], name: &str) -> usize {
    1 + names.iter().position(|n| *n == name).unwrap_or(0) % (COLOURS - 1)
}

pub(super) fn render(title: &str, operations: &[Operation], page: &mut String) {
    let of = |kind| operations.iter().filter(move |o| o.kind == kind);
    let mut names: Vec<&str> = of(Kind::Block).map(|o| o.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    put(page, format_args!("<figure><figcaption><b>{}</b>", escape(title)));
    let mut key = |class: String, text: String| {
        put(page, format_args!("<span class=\"key\"><i class=\"{class}\"></i>{text}</span>"));
    };
    for name in &names {
        let count = of(Kind::Block).filter(|o| o.name == *name).count();
        key(format!("s{}", colour(&names, name)), format!("{} \u{d7} {count}", escape(name)));
    }
    for (kind, class, what) in
        [(Kind::Primitive, "s0", "small operations"), (Kind::View, "view", "views")]
    {
        let count = of(kind).count();
        if count > 0 {
            key(class.into(), format!("{what} \u{d7} {count}"));
        }
    }
    page.push_str("</figcaption>");
    let (width, height) = (ROW * STEP, operations.len().div_ceil(ROW).max(1) * STEP);
    put(
        page,
        format_args!(
            "<div class=\"scroll\"><svg viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-label=\"{}\">\n",
            escape(title)
        ),
    );
    for (at, o) in operations.iter().enumerate() {
        let (x, y) = (at % ROW * STEP, at / ROW * STEP);
        let class = match o.kind {
            Kind::View => "view".to_string(),
            Kind::Primitive => "s0".to_string(),
            Kind::Block => format!("s{}", colour(&names, &o.name)),
        };
        let (name, detail) = (escape(&o.name), escape(&o.detail));
        put(
            page,
            format_args!(
                "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\" \
                 rx=\"2\"><title>{name} {detail}</title></rect>\n"
            ),
        );
    }
    page.push_str("</svg></div>");
    render_list(operations, &names, page);
    page.push_str("</figure>");
}

/// Blocks one by one; what stands between them is folded again.
fn render_list(operations: &[Operation], names: &[&str], page: &mut String) {
    put(page, format_args!("<details><summary>all {}</summary>\n", operations.len()));
    let small = |o: &Operation| o.kind != Kind::Block;
    for run in operations.chunk_by(|a, b| small(a) && small(b)) {
        if small(&run[0]) {
            let mut kinds: Vec<&str> = run.iter().map(|o| o.name.as_str()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            let (count, kinds) = (run.len(), escape(&kinds.join(", ")));
            put(page, format_args!("<details><summary>{count} small: {kinds}</summary>\n"));
        }
        for o in run {
            let (name, detail) = (escape(&o.name), escape(&o.detail));
            let chip = match o.kind {
                Kind::Block => format!("<i class=\"s{}\"></i>", colour(names, &o.name)),
                _ => String::new(),
            };
            put(page, format_args!("<div class=\"op\">{chip}<b>{name}</b> {detail}</div>\n"));
        }
        if small(&run[0]) {
            page.push_str("</details>\n");
        }
    }
    page.push_str("</details>");
}
