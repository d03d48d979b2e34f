//! `frit embed`: texts to vectors.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use frit::graph::Value;
use frit::models::encoder::{LoadOptions, Pooling, TextEmbedder};
use serde::Serialize;

use super::out::bar;
use super::profile::Profiling;
use super::speech::explained;
use super::{Failure, Machine, Out, Verdict, note};
use crate::assets::{self, ALL_MINILM_L6_V2};

const EXAMPLES: &str = "\
Without --model, all-MiniLM-L6-v2 (English, 384 numbers a text) is fetched once and kept. A model
folder holds safetensors, config.json and tokenizer.json of a BERT, DistilBERT or ModernBERT; the
files of sentence-transformers in it say how tokens are pooled and how long texts may be. Longer ones
are cut. Vectors have length 1, so that the sum of products of two is the cosine between them. Without
texts, each line of the standard input is one.

Examples:
  frit embed \"A man is eating food.\"
  frit embed --json \"one text\" \"another text\"
  frit embed --model bge-small-en-v1.5/ --out vectors.safetensors < lines.txt
  frit embed \"A text\" --composed --explain        what was fused, what not, and why";

/// From this many texts on, a bar shows how far it is.
const MANY: usize = 64;

/// Arguments of `frit embed`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct EmbedArgs {
    /// Texts [default: the lines of the standard input]
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// Folder of a text encoder [default: all-MiniLM-L6-v2, fetched]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// How the vectors of tokens become one [default: as the folder says, or mean]
    #[arg(long, value_enum)]
    pooling: Option<PoolingName>,
    /// Write texts, numbers of tokens and vectors as JSON
    #[arg(long)]
    json: bool,
    /// Write the vectors to a file, as the tensor `embeddings`, a row for each text
    #[arg(long, value_name = "FILE.safetensors", value_parser = safetensors_file)]
    out: Option<PathBuf>,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    profiling: Profiling,
    /// Print what was rewritten, fused and composed, and why, to the standard error
    #[arg(long)]
    explain: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PoolingName {
    /// Their mean
    Mean,
    /// The first of them
    Cls,
    /// The largest of each element
    Max,
}

fn safetensors_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().is_some_and(|e| e == "safetensors") {
        true => Ok(path),
        false => Err("its name must end in .safetensors".into()),
    }
}

/// What `--json` writes for a text.
#[derive(Serialize)]
struct Written<'a> {
    text: &'a str,
    tokens: usize,
    embedding: &'a [f32],
}

/// Runs the command.
///
/// # Errors
/// A model that cannot be fetched or read, or reads no text; a file that cannot be written. No text
/// at all is a [`Failure::Usage`].
pub fn run(args: &EmbedArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let texts = if args.texts.is_empty() { lines()? } else { args.texts.clone() };
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder = match &args.model {
        Some(folder) => folder.clone(),
        None => assets::ensure(&ALL_MINILM_L6_V2, false)?,
    };
    let watch = args.profiling.watch();
    let backend = watch.backend(args.machine, &args.machine.threads.pool())?;
    let options = LoadOptions { rules: args.machine.rules(), ..LoadOptions::default() };
    let mut embedder = TextEmbedder::open(&folder, backend, options)?;
    if let Some(pooling) = args.pooling {
        embedder = embedder.with_pooling(match pooling {
            PoolingName::Mean => Pooling::Mean,
            PoolingName::Cls => Pooling::Cls,
            PoolingName::Max => Pooling::Max,
        });
    }
    let progress = (texts.len() >= MANY)
        .then(|| bar(texts.len() as u64, "embedding [{bar:30}] {pos} of {len} texts, {eta} left"));
    let vectors = embedder.embed_with(&texts, &mut |done| {
        progress.iter().for_each(|bar| bar.set_position(done as u64));
    })?;
    if let Some(bar) = progress {
        bar.finish_and_clear();
    }
    watch.tell()?;
    if let Some(path) = &args.out {
        write(path, &vectors)?;
    }
    if args.json {
        let written: Result<Vec<Written<'_>>, Failure> = texts
            .iter()
            .zip(&vectors)
            .map(|(text, embedding)| {
                Ok(Written { text, tokens: embedder.tokens(text)?.len(), embedding })
            })
            .collect();
        out.json(&written?)?;
    } else if args.out.is_none() {
        for vector in &vectors {
            let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
            out.line(&numbers.join(" "))?;
            if out.closed() {
                break;
            }
        }
    }
    if args.explain {
        note(explained(embedder.encoder().programs()).trim_end());
    }
    Ok(Verdict::Passed)
}

/// The lines of the standard input that are not empty.
fn lines() -> Result<Vec<String>, Failure> {
    let input = std::io::stdin();
    let nothing = || Failure::Usage("there is no text: give some, or lines to read".into());
    if input.is_terminal() {
        return Err(nothing());
    }
    let lines = input.lock().lines().collect::<Result<Vec<_>, _>>().map_err(|source| {
        Failure::Io { doing: "read", path: "the standard input".into(), source }
    })?;
    let lines: Vec<String> = lines.into_iter().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() { Err(nothing()) } else { Ok(lines) }
}

fn write(path: &Path, vectors: &[Vec<f32>]) -> Result<(), Failure> {
    let width = vectors.first().map_or(0, Vec::len);
    let value = Value::new([vectors.len(), width], vectors.concat())?;
    frit::load::write(path, &[("embeddings", &value)], &BTreeMap::new())?;
    Ok(())
}
