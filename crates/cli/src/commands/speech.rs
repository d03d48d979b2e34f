//! A Whisper checkpoint with everything that turns recordings into text: what `transcribe` and
//! `demo` share.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use frit::graph::{Backend, DType, Params, Policy, Rule};
use frit::models::whisper::config::WhisperConfig;
use frit::models::whisper::model::{Compiled, LoadOptions, Whisper};
use frit::models::whisper::tokens::{GenerationConfig, Tokenizer, TokensError};
use frit::models::whisper::transcribe::TranscribeOptions;

use super::{Failure, plain};

/// What models are run in.
const DTYPE: DType = DType::F32;

/// A checkpoint, read once; [`Checkpoint::model`] puts it on a backend.
pub(super) struct Checkpoint {
    config: WhisperConfig,
    params: Params,
    /// Text to tokens and back.
    pub(super) tokenizer: Tokenizer,
    generation: GenerationConfig,
}

impl Checkpoint {
    /// Reads a folder, or a file of weights with the other files beside it.
    pub(super) fn open(path: &Path) -> Result<Checkpoint, Failure> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        // The tokenizer takes about as long to read as the weights.
        let (weights, tokenizer) = thread::scope(|scope| {
            let tokenizer = thread::Builder::new().spawn_scoped(scope, || tokenizer(folder));
            let weights = weights(path);
            let tokenizer = match tokenizer {
                Ok(reader) => reader.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // Where the system gives no thread, this one does the work.
                Err(_) => self::tokenizer(folder),
            };
            (weights, tokenizer)
        });
        let ((config, params), tokenizer) = (weights?, tokenizer?);
        let (words, vocab) = (tokenizer.special().end_of_text, config.vocab_size);
        if words as usize >= vocab {
            let path = path.display();
            return Err(Failure::Input(format!(
                "{path}: its tokenizer has more than {words} tokens, its model only {vocab}"
            )));
        }
        let generation = GenerationConfig::from_folder(folder)?;
        Ok(Checkpoint { config, params, tokenizer, generation })
    }

    /// The model on a backend. Models of one checkpoint share its weights.
    pub(super) fn model(
        &self,
        backend: Arc<dyn Backend>,
        rules: Vec<Rule>,
        policy: Policy,
    ) -> Whisper {
        let options = LoadOptions { rules, policy, dtype: DTYPE };
        Whisper::new(self.config.clone(), self.params.clone(), backend, options)
    }

    /// How to transcribe with this checkpoint.
    pub(super) fn options(&self, threads: usize) -> TranscribeOptions {
        let defaults = TranscribeOptions::default();
        let generation = self.generation.clone();
        TranscribeOptions {
            suppress: generation.suppress,
            suppress_begin: generation.suppress_begin,
            max_initial_timestamp: generation
                .max_initial_timestamp
                .or(defaults.max_initial_timestamp),
            threads,
            ..defaults
        }
    }
}

fn weights(path: &Path) -> Result<(WhisperConfig, Params), Failure> {
    let checkpoint = frit::load::open(path)?;
    let config = WhisperConfig::from_json(&checkpoint.config).map_err(|source| {
        frit::models::Error::Config { path: path.display().to_string(), source }
    })?;
    Ok((config, checkpoint.params_for(DTYPE)))
}

fn tokenizer(folder: &Path) -> Result<Tokenizer, Failure> {
    Tokenizer::from_folder(folder).map_err(|error| match error {
        TokensError::Missing { .. } => {
            Failure::Input(format!("{error}; a model folder must hold its tokenizer"))
        }
        other => other.into(),
    })
}

/// What the rules and the backend made of each program: what was fused, what not, and why.
pub(super) fn explained<'a>(programs: impl Iterator<Item = (&'a str, &'a Compiled)>) -> String {
    let mut out = String::new();
    for (name, compiled) in programs {
        let report = compiled.program.report();
        let composed = report.composed().count();
        out += &format!(
            "{name}: {} of {} Blocks fused on {}, {} steps, {:.1} MB of results at most\n",
            report.fused(),
            report.fused() + composed,
            report.backend,
            compiled.program.steps(),
            compiled.program.peak_bytes() as f64 / 1e6,
        );
        for (title, text) in
            [("rewritten", compiled.rewrites.to_string()), ("compiled", report.to_string())]
        {
            let text = if text.is_empty() { "    nothing\n".into() } else { text };
            out += &format!("  {title}\n{text}");
        }
    }
    out
}

/// Reads recordings; all that cannot be read are named in one failure.
pub(super) fn recordings(paths: &[PathBuf]) -> Result<Vec<Vec<f32>>, Failure> {
    let (mut heard, mut wrong) = (Vec::new(), Vec::new());
    for path in paths {
        match frit::models::whisper::audio::load(path) {
            Ok(samples) => heard.push(samples),
            Err(error) => wrong.push(plain(&error.to_string())),
        }
    }
    match wrong.is_empty() {
        true => Ok(heard),
        false => Err(Failure::Input(wrong.join("\n"))),
    }
}
