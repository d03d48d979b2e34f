//! From logits to tokens: one window of 30 seconds.
//!
//! The network is behind the trait [`SpeechModel`]: it hears a window, is told a prompt, and gives
//! a row of logits for each next token. [`decode_window`] drives it: rules forbid tokens, one of
//! the rest is chosen, until the end of the text. The rules are pure functions of a row and the
//! tokens so far, in the order in which they are applied: [`suppress`], then [`TimestampRules`].
//!
//! The rules, thresholds and limits are those of OpenAI's reference program, on which the
//! published error rates rest.

mod rules;

use std::io::Write;

pub use self::rules::{TimestampRules, suppress};
use super::tokens::{SpecialTokens, TextCodec, TokensError};
pub use crate::random::Random;
use crate::row::{argmax, log_sum_exp};

/// What went wrong inside a network.
pub type ModelError = Box<dyn std::error::Error + Send + Sync>;

/// A speech network, as far as decoding is concerned.
pub trait SpeechModel {
    /// The number of tokens, V: every row of logits has this length.
    fn vocab(&self) -> usize;

    /// The number of mel bands that it hears.
    fn n_mels(&self) -> usize;

    /// The number of frames in one window: 3000 in every published checkpoint.
    fn window_frames(&self) -> usize;

    /// The most tokens that prompt and answer may have together.
    fn max_positions(&self) -> usize;

    /// Hears a window of log-mel, [n_mels, window_frames] row-major; later calls of
    /// [`begin`](Self::begin) are about it.
    ///
    /// # Errors
    /// Whatever the network meets.
    fn encode(&mut self, window: &[f32]) -> Result<(), ModelError>;

    /// Forgets the tokens of earlier calls and reads a prompt. `start` is the place of the start
    /// of the transcript in it.
    ///
    /// # Errors
    /// Whatever the network meets.
    fn begin(&mut self, prompt: &[u32], start: usize) -> Result<Begin, ModelError>;

    /// Reads one more token; returns the logits of the next one, `[V]`.
    ///
    /// # Errors
    /// Whatever the network meets.
    fn step(&mut self, token: u32) -> Result<Vec<f32>, ModelError>;
}

/// What a network answers to a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Begin {
    /// The logits after the start of the transcript, `[V]`: they tell the language, and whether
    /// anybody speaks.
    pub start: Vec<f32>,
    /// The logits after the last token of the prompt, `[V]`.
    pub last: Vec<f32>,
}

/// Why a window cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The network failed.
    #[error("the network failed: {0}")]
    Model(#[source] ModelError),
    /// A row of logits has the wrong length.
    #[error("the network gave {got} logits, wanted {wanted}")]
    Row {
        /// The size of the vocabulary.
        wanted: usize,
        /// The length of the row.
        got: usize,
    },
    /// A logit is not a number.
    #[error("after {after} tokens the logit of token {token} is {value}")]
    NotFinite {
        /// Tokens read before.
        after: usize,
        /// The token in question.
        token: usize,
        /// Its logit.
        value: f32,
    },
    /// The rules leave no token to choose.
    #[error("after {after} tokens the rules leave no token to choose")]
    NothingLeft {
        /// Tokens read before.
        after: usize,
    },
    /// The prompt alone is too long.
    #[error("a prompt of {tokens} tokens does not fit: the network takes {most}")]
    Prompt {
        /// The length of the prompt.
        tokens: usize,
        /// The most that the network takes.
        most: usize,
    },
    /// The vocabulary lacks a token that is needed.
    #[error("the vocabulary has no token {0}")]
    NoToken(&'static str),
    /// Tokens could not be turned into text.
    #[error(transparent)]
    Tokens(#[from] TokensError),
}

/// Whether and how the network writes moments in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TimestampMode {
    /// The prompt says that none are wanted; one segment per window.
    Off,
    /// Timestamps come in pairs and never run backwards, as [`TimestampRules`] says.
    #[default]
    Rules,
    /// The prompt says nothing and no rule holds: the network does as it likes.
    Free,
}

/// How to decode one window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowOptions<'a> {
    /// Tokens of the text before this window; only the last ones are used.
    pub previous: &'a [u32],
    /// The start of the transcript, with language and task if the network is multilingual.
    pub start: &'a [u32],
    /// Whether and how timestamps are written.
    pub timestamps: TimestampMode,
    /// 0 takes the most likely token; above, tokens are drawn at random from logits / temperature.
    pub temperature: f32,
    /// Tokens that are never chosen.
    pub suppress: &'a [u32],
    /// Tokens that are not chosen first.
    pub suppress_begin: &'a [u32],
    /// The latest first timestamp, in steps of 0.02 s.
    pub max_initial_timestamp: Option<u32>,
    /// The most tokens to write; half of the network's positions if not given.
    pub max_tokens: Option<usize>,
}

/// What was heard in one window.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowResult {
    /// The tokens, timestamps included, without the end of the text.
    pub tokens: Vec<u32>,
    /// Their text, white space trimmed.
    pub text: String,
    /// The mean log-probability of the tokens, the end of the text included.
    pub avg_logprob: f32,
    /// The probability that nobody speaks; 0 if the vocabulary has no such token.
    pub no_speech_prob: f32,
    /// The temperature that was used.
    pub temperature: f32,
    /// How much smaller zlib makes the text: high for text that repeats itself.
    pub compression_ratio: f32,
}

/// Decodes the window that the network heard last. `on_token` is called with every token as it is
/// chosen.
///
/// # Errors
/// [`DecodeError`] if the network fails, gives rows that make no sense, or the rules leave no
/// token to choose.
pub fn decode_window(
    model: &mut dyn SpeechModel,
    codec: &dyn TextCodec,
    special: &SpecialTokens,
    options: &WindowOptions<'_>,
    random: &mut Random,
    on_token: &mut dyn FnMut(u32),
) -> Result<WindowResult, DecodeError> {
    let most = model.max_positions();
    let (prompt, start) = prompt(special, options, most)?;
    if prompt.len() > most {
        return Err(DecodeError::Prompt { tokens: prompt.len(), most });
    }
    let rules = TimestampRules {
        end_of_text: special.end_of_text,
        no_timestamps: special.no_timestamps,
        timestamp_begin: special.timestamp_begin,
        max_initial: options.max_initial_timestamp,
    };
    let begin = model.begin(&prompt, start).map_err(DecodeError::Model)?;
    check(&begin.start, model.vocab(), start + 1)?;
    let no_speech = special.no_speech.and_then(|id| {
        Some((f64::from(*begin.start.get(id as usize)?) - log_sum_exp(&begin.start)).exp() as f32)
    });

    let mut logits = begin.last;
    let mut tokens: Vec<u32> = Vec::new();
    let mut sum = 0.0;
    let limit = options.max_tokens.unwrap_or(most / 2);
    while tokens.len() < limit {
        let after = prompt.len() + tokens.len();
        check(&logits, model.vocab(), after)?;
        if tokens.is_empty() {
            suppress(&mut logits, options.suppress_begin);
        }
        suppress(&mut logits, options.suppress);
        if options.timestamps == TimestampMode::Rules {
            rules.apply(&mut logits, &tokens);
        }
        let token = choose(&logits, options.temperature, random)
            .ok_or(DecodeError::NothingLeft { after })?;
        sum += f64::from(logits[token as usize]) - log_sum_exp(&logits);
        if token == special.end_of_text {
            break;
        }
        tokens.push(token);
        on_token(token);
        // A token past the last position can be chosen, but not read.
        if tokens.len() == limit || after + 1 > most {
            break;
        }
        logits = model.step(token).map_err(DecodeError::Model)?;
    }
    let text = codec.decode(&tokens)?.trim().to_string();
    Ok(WindowResult {
        avg_logprob: (sum / (tokens.len() + 1) as f64) as f32,
        no_speech_prob: no_speech.unwrap_or(0.0),
        temperature: options.temperature,
        compression_ratio: compression_ratio(&text),
        text,
        tokens,
    })
}

/// The prompt and the place of the start of the transcript in it: earlier text, if any, start,
/// and the wish for no timestamps.
fn prompt(
    special: &SpecialTokens,
    options: &WindowOptions<'_>,
    most: usize,
) -> Result<(Vec<u32>, usize), DecodeError> {
    let mut prompt = Vec::new();
    let kept = options.previous.len().min((most / 2).saturating_sub(1));
    if let (Some(previous), 1..) = (special.start_of_prev, kept) {
        prompt.push(previous);
        prompt.extend(&options.previous[options.previous.len() - kept..]);
    }
    let start = prompt.len();
    prompt.extend(options.start);
    if options.start.is_empty() {
        prompt.push(special.start_of_transcript);
    }
    if options.timestamps == TimestampMode::Off {
        prompt.push(special.no_timestamps.ok_or(DecodeError::NoToken("<|notimestamps|>"))?);
    }
    Ok((prompt, start))
}

/// The language spoken in the window that the network heard last, and its probability among all
/// languages.
///
/// # Errors
/// [`DecodeError`] if the network fails or the vocabulary has no languages.
pub fn detect_language(
    model: &mut dyn SpeechModel,
    special: &SpecialTokens,
) -> Result<(String, f32), DecodeError> {
    let begin = model.begin(&[special.start_of_transcript], 0).map_err(DecodeError::Model)?;
    check(&begin.start, model.vocab(), 1)?;
    let row: Vec<f32> = special
        .languages
        .iter()
        .map(|(_, id)| begin.start.get(*id as usize).copied().unwrap_or(f32::NEG_INFINITY))
        .collect();
    let best = argmax(&row).ok_or(DecodeError::NoToken("<|en|>"))?;
    let probability = (f64::from(row[best]) - log_sum_exp(&row)).exp() as f32;
    Ok((special.languages[best].0.clone(), probability))
}

/// Refuses a row of the wrong length, and NaN or +inf in it.
fn check(logits: &[f32], wanted: usize, after: usize) -> Result<(), DecodeError> {
    if logits.len() != wanted {
        return Err(DecodeError::Row { wanted, got: logits.len() });
    }
    match logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
        Some(token) => Err(DecodeError::NotFinite { after, token, value: logits[token] }),
        None => Ok(()),
    }
}

/// Chooses a token; `None` if every one is forbidden.
fn choose(logits: &[f32], temperature: f32, random: &mut Random) -> Option<u32> {
    let best = argmax(logits)?;
    if temperature <= 0.0 {
        return Some(best as u32);
    }
    let (top, temperature) = (f64::from(logits[best]), f64::from(temperature));
    let weight = |x: f32| ((f64::from(x) - top) / temperature).exp();
    let total: f64 = logits.iter().map(|&x| weight(x)).sum();
    let mut left = random.unit() * total;
    for (id, &x) in logits.iter().enumerate() {
        let weight = weight(x);
        if left < weight {
            return Some(id as u32);
        }
        left -= weight;
    }
    // Rounding may leave a crumb.
    Some(best as u32)
}

/// How many bytes of text stand for one byte of zlib's compressed form.
#[must_use]
pub fn compression_ratio(text: &str) -> f32 {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    let packed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    // Writing to memory does not fail.
    packed.map_or(0.0, |packed| text.len() as f32 / packed.len() as f32)
}

#[cfg(test)]
pub(super) mod fake;
#[cfg(test)]
mod tests;
