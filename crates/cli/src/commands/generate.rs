//! `frit generate`: a language model goes on from a prompt.

use std::ops::ControlFlow;

use clap::Args;
use serde::Serialize;

use super::language::{Choosing, Language, Running, path};
use super::{Failure, Out, Verdict, peak_memory};

const EXAMPLES: &str = "\
With one argument it is the prompt, and the model is SmolLM2-135M-Instruct, fetched once and kept. A
model is a GGUF file or a folder with config.json, safetensors and tokenizer.json (plain, or quantised
by MLX). The prompt goes to the model as it is; `frit chat` puts it into a talk.

Examples:
  frit generate \"The capital of France is\" --greedy --max-tokens 16
  frit generate llama-3.2-1b.Q4_K_M.gguf \"Once upon a time\" --temperature 0.9 --seed 7
  frit generate \"def fibonacci(n):\" --stop \"\\n\\n\" --stats
  frit generate --ids 504,3575,282,4649,314 --json
  frit generate qwen3/ \"Hello\" --composed --explain        what was fused, what not, and why";

/// Arguments of `frit generate`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, override_usage = "frit generate [OPTIONS] [MODEL] <PROMPT>")]
pub struct GenerateArgs {
    /// The model (a GGUF file or a folder), if two are given, and the prompt
    #[arg(value_name = "MODEL PROMPT", num_args = 0..=2)]
    words: Vec<String>,
    /// The prompt as token ids; nothing is put before them
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',')]
    ids: Option<Vec<u32>>,
    #[command(flatten)]
    choosing: Choosing,
    #[command(flatten)]
    running: Running,
    /// Write ids, text and times as JSON, at the end
    #[arg(long)]
    json: bool,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Written<'a> {
    ids: &'a [u32],
    text: &'a str,
    finish: String,
    prompt_tokens: usize,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    peak_memory_bytes: Option<usize>,
}

/// Runs the command.
///
/// # Errors
/// A model that cannot be fetched or read; a prompt that is empty or too long. Options out of range
/// are a [`Failure::Usage`].
pub fn run(args: &GenerateArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let (model, prompt) = match (&args.words[..], &args.ids) {
        ([prompt], None) => (None, Some(prompt)),
        ([model, prompt], None) => (Some(path(model)?), Some(prompt)),
        ([], Some(_)) => (None, None),
        ([model], Some(_)) => (Some(path(model)?), None),
        ([], None) => return Err(Failure::Usage("there is no prompt".into())),
        _ => return Err(Failure::Usage("--ids is a prompt, and so is the last argument".into())),
    };
    let mut options = args.choosing.options()?;
    let mut language = Language::open(model.as_deref(), &args.running)?;
    options.stop_tokens.clone_from(&language.ends);
    let generator = &mut language.generator;
    let ids = match (prompt, &args.ids) {
        (Some(prompt), _) => generator.encode(prompt).map_err(Language::failure)?,
        (None, ids) => ids.clone().unwrap_or_default(),
    };
    let mut failed = None;
    let generated = generator
        .generate_with(&ids, &options, &mut |piece| {
            let written = if args.json { Ok(()) } else { out.text(&piece.text) };
            failed = written.err();
            match failed.is_some() || out.closed() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })
        .map_err(Language::failure)?;
    if let Some(failure) = failed {
        return Err(failure);
    }
    match args.json {
        true => out.json(&Written {
            ids: &generated.ids,
            text: &generated.text,
            finish: format!("{:?}", generated.finish).to_lowercase(),
            prompt_tokens: ids.len(),
            prefill_tokens_per_s: generated.stats.prefill_rate(),
            decode_tokens_per_s: generated.stats.decode_rate(),
            peak_memory_bytes: peak_memory(),
        })?,
        false => out.line("")?,
    }
    language.tell(&generated);
    language.watch.tell()?;
    Ok(Verdict::Passed)
}
