//! `frit inspect`: what a checkpoint holds, without running anything.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use frit::load::{Checkpoint, gguf::Vocabulary};
use frit::ops::Encoding;
use serde::Serialize;
use serde_json::Value as Json;

use super::out::{row, table};
use super::{Failure, Out, Verdict, count, plain};

const EXAMPLES: &str = "\
Reads safetensors (one file, or shards by their index), GGUF and CTranslate2, by file or folder;
of a folder config.json is read too. Weights are not read, so that large files take no longer.
Packed weights are told with the shape of the matrix that they encode, and with the bytes they
take. Long texts and lists are cut short; --json has them whole.

Examples:
  frit inspect model.gguf                      metadata, tokenizer, tensors, totals
  frit inspect models/whisper-tiny.en/         a folder
  frit inspect model.gguf --json | jq .totals  for programs";

/// Longest text and most values of a list that are shown.
const TEXT: usize = 72;
const LIST: usize = 8;

/// Arguments of `frit inspect`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct InspectArgs {
    /// A checkpoint: a file, or a folder that holds one
    #[arg(value_name = "FILE")]
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    path: PathBuf,
    format: String,
    config: Json,
    metadata: BTreeMap<String, String>,
    tokenizer: Option<Tokenizer>,
    tensors: Vec<Tensor>,
    totals: Vec<Total>,
    /// Tensors that cannot be read, with their types.
    unsupported: BTreeMap<String, String>,
    /// Tensors that are of no use here.
    unmapped: Vec<String>,
}

#[derive(Serialize)]
struct Tokenizer {
    model: String,
    pre: Option<String>,
    tokens: usize,
    merges: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    chat_template: bool,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    shape: Vec<usize>,
    bytes: usize,
}

/// All tensors of a type.
#[derive(Serialize)]
struct Total {
    #[serde(rename = "type")]
    kind: String,
    tensors: usize,
    elements: u128,
    bytes: u128,
}

/// Runs the command.
///
/// # Errors
/// A file that is missing, damaged or of no known kind.
pub fn run(args: &InspectArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let report = report(frit::load::open(&args.path)?);
    if args.json {
        out.json(&report)?
    } else {
        out.text(&text(&report))?
    }
    Ok(Verdict::Passed)
}

fn report(checkpoint: Checkpoint) -> Report {
    let tensors: Vec<Tensor> = checkpoint
        .params
        .iter()
        .map(|(name, value)| {
            let encoding = checkpoint.packed.get(name);
            let kind = encoding.map_or_else(|| value.dtype().to_string(), Encoding::to_string);
            let mut shape = value.shape().to_vec();
            if let (Some(encoding), Some(row)) = (encoding, shape.last_mut()) {
                *row = elements(*encoding, *row * value.dtype().size());
            }
            Tensor { name: name.into(), kind, shape, bytes: value.bytes().len() }
        })
        .collect();
    let mut totals: Vec<Total> = Vec::new();
    for Tensor { kind, shape, bytes, .. } in &tensors {
        let elements = shape.iter().map(|&n| n as u128).product();
        let bytes = *bytes as u128;
        match totals.iter_mut().find(|total| total.kind == *kind) {
            Some(total) => {
                total.tensors += 1;
                total.elements += elements;
                total.bytes += bytes;
            }
            None => totals.push(Total { kind: kind.clone(), tensors: 1, elements, bytes }),
        }
    }
    totals.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.kind.cmp(&b.kind)));
    Report {
        path: checkpoint.path,
        format: checkpoint.format.to_string(),
        config: checkpoint.config,
        metadata: checkpoint.metadata,
        tokenizer: checkpoint.vocabulary.map(tokenizer),
        tensors,
        totals,
        unsupported: checkpoint.unsupported,
        unmapped: checkpoint.unmapped,
    }
}

/// Elements of a packed row of so many bytes.
fn elements(encoding: Encoding, bytes: usize) -> usize {
    bytes / encoding.block_bytes() * encoding.block_len()
}

fn tokenizer(v: Vocabulary) -> Tokenizer {
    Tokenizer {
        model: v.model,
        pre: v.pre,
        tokens: v.tokens.len(),
        merges: v.merges.len(),
        bos: v.bos,
        eos: v.eos,
        chat_template: v.chat_template.is_some(),
    }
}

fn text(report: &Report) -> String {
    let bytes: u128 = report.totals.iter().map(|total| total.bytes).sum();
    let elements: u128 = report.totals.iter().map(|total| total.elements).sum();
    let tensors = count(report.tensors.len(), "tensor");
    let mut head = vec![
        row(["file", &plain(&report.path.display().to_string())]),
        row(["format", &report.format]),
        row(["holds", &format!("{tensors}, {} elements, {}", short(elements), size(bytes))]),
    ];
    if let Some(t) = &report.tokenizer {
        let pre = t.pre.as_ref().map_or(String::new(), |pre| format!(" ({})", line(pre)));
        let template = if t.chat_template { ", a chat template" } else { "" };
        let (tokens, merges) = (count(t.tokens, "token"), count(t.merges, "merge"));
        let words = format!("{}{pre}: {tokens}, {merges}{template}", line(&t.model));
        head.push(row(["tokenizer", &words]));
    }
    let mut out = table(2, &head);
    let mut section = |title: &str, left: usize, rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            out += &format!("\n{title}\n{}", table(left, &rows));
        }
    };
    let config = report.config.as_object().into_iter().flatten();
    section("configuration", 2, config.map(|(k, v)| row([&line(k), &value(v)])).collect());
    // GGUF has its texts in the configuration too.
    let told = |key: &String| report.config.get(key).is_some();
    let metadata = report.metadata.iter().filter(|(key, _)| !told(key));
    section("metadata", 2, metadata.map(|(k, v)| row([&line(k), &line(v)])).collect());
    let tensors = report.tensors.iter().map(|t| {
        let shape = format!("{:?}", t.shape);
        row([&line(&t.name), &t.kind, &shape, &t.bytes.to_string()])
    });
    section("tensors", 3, head_row(["name", "type", "shape", "bytes"], tensors));
    let unread = report.unsupported.iter();
    section("cannot be read", 2, unread.map(|(k, v)| row([&line(k), &line(v)])).collect());
    section("not used", 1, report.unmapped.iter().map(|name| row([&line(name)])).collect());
    let totals = report.totals.iter().map(|t| {
        let numbers = [t.tensors as u128, t.elements, t.bytes].map(|n| n.to_string());
        row([&t.kind, &numbers[0], &numbers[1], &numbers[2]])
    });
    section("totals", 1, head_row(["type", "tensors", "elements", "bytes"], totals));
    out
}

/// Rows below their headings; none if there are no rows.
fn head_row(titles: [&str; 4], rows: impl Iterator<Item = Vec<String>>) -> Vec<Vec<String>> {
    let mut rows = rows.peekable();
    let titles = rows.peek().is_some().then(|| row(titles));
    titles.into_iter().chain(rows).collect()
}

/// One line of bounded length.
fn line(text: &str) -> String {
    let text = plain(text).replace('\n', "\\n");
    match text.char_indices().nth(TEXT) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// JSON in a line; lists are cut first, so that their length is told.
fn value(json: &Json) -> String {
    match json {
        Json::String(text) => line(text),
        Json::Array(list) if list.len() > LIST => {
            let some: Vec<String> = list.iter().take(LIST).map(value).collect();
            let more = list.len() - LIST;
            let cut: String = some.join(", ").chars().take(2 * TEXT).collect();
            format!("[{cut}, and {more} more]")
        }
        other => line(&other.to_string()),
    }
}

/// `134515008` as `134.5 million`.
fn short(n: u128) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1} million", n as f64 / 1e6),
        _ => format!("{:.2} billion", n as f64 / 1e9),
    }
}

fn size(bytes: u128) -> String {
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_and_lists_are_cut_and_lengths_told() {
        assert_eq!(line("a\nb\u{1b}"), "a\\nb\u{fffd}");
        assert_eq!(line(&"é".repeat(73)), "é".repeat(72) + "...");
        assert_eq!(value(&serde_json::json!([1, 2, 3])), "[1,2,3]");
        let ten: Json = (1..=10).collect();
        assert_eq!(value(&ten), "[1, 2, 3, 4, 5, 6, 7, 8, and 2 more]");
        assert_eq!(short(134_515_008), "134.5 million");
        assert_eq!((size(999), size(98_362_432)), ("999 bytes".into(), "98.4 MB".into()));
    }

    #[test]
    fn a_packed_row_is_told_by_its_elements() {
        assert_eq!(elements(Encoding::Q4_1, 360), 576);
        assert_eq!(elements(Encoding::Q6K, 420), 512);
        let affine = Encoding::Affine { bits: 4, group_size: 64 };
        assert_eq!(elements(affine, 16 * 4), 128);
    }
}
