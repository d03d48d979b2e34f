//! A whole recording, window by window.
//!
//! The network hears 30 seconds at a time. [`transcribe`] lays windows over the recording: the
//! next one begins where the last finished segment ended, as far as timestamps tell, so that no
//! word is cut in two. Each window is decoded at rising temperatures until the text is neither
//! repetitive nor improbable, and what was said before is handed on as context.
//!
//! Thresholds and steps are those of OpenAI's reference program. Two differences: silence after
//! the end of the recording is real silence, as in training, where the reference's newest version
//! writes zeros into the spectrogram; and segments without text are left out.

mod cut;

use self::cut::cut;
use super::audio::SAMPLE_RATE;
use super::decode::{
    DecodeError, Random, SpeechModel, TimestampMode, WindowOptions, WindowResult, decode_window,
    detect_language,
};
use super::format::{Segment, Transcript};
use super::mel::{FRAMES_PER_SECOND, HOP, LogMel, MelError};
use super::tokens::{SpecialTokens, TextCodec, TokensError, language_code};

/// Above this temperature a text is no good context for the next.
const TRUSTED_TEMPERATURE: f32 = 0.5;

/// What to write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Task {
    /// What is said, in its own language.
    #[default]
    Transcribe,
    /// What is said, in English.
    Translate,
}

/// How to transcribe. The default is the reference program's, without its beam search.
#[derive(Debug, Clone, PartialEq)]
pub struct TranscribeOptions {
    /// What to write.
    pub task: Task,
    /// The language spoken, by code or English name; listened for if not given.
    pub language: Option<String>,
    /// Whether and how timestamps are written.
    pub timestamps: TimestampMode,
    /// Temperatures to try in this order until a window's text is good.
    pub temperatures: Vec<f32>,
    /// A text that compresses better than this is repetitive, thus not good.
    pub compression_ratio_threshold: Option<f32>,
    /// A text whose mean log-probability is below this is not good.
    pub logprob_threshold: Option<f32>,
    /// A window where silence is more probable than this, and the text is improbable, is silent.
    pub no_speech_threshold: Option<f32>,
    /// Whether the text before a window is its context.
    pub condition_on_previous_text: bool,
    /// Context for the first window: names and words to expect.
    pub initial_prompt: Option<String>,
    /// Tokens that are never chosen, from the checkpoint's files. The tokens that belong into
    /// prompts need not be listed.
    pub suppress: Vec<u32>,
    /// Tokens that are not chosen first, from the checkpoint's files.
    pub suppress_begin: Vec<u32>,
    /// The latest first timestamp in a window, in steps of 0.02 s.
    pub max_initial_timestamp: Option<u32>,
    /// Begins the random numbers for temperatures above 0.
    pub seed: u64,
    /// Threads for the spectrogram.
    pub threads: usize,
}

impl Default for TranscribeOptions {
    fn default() -> Self {
        Self {
            task: Task::Transcribe,
            language: None,
            timestamps: TimestampMode::Rules,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            compression_ratio_threshold: Some(2.4),
            logprob_threshold: Some(-1.0),
            no_speech_threshold: Some(0.6),
            condition_on_previous_text: true,
            initial_prompt: None,
            suppress: Vec::new(),
            suppress_begin: Vec::new(),
            max_initial_timestamp: Some(50),
            seed: 0,
            threads: 1,
        }
    }
}

/// Why a recording cannot be transcribed.
#[derive(Debug, thiserror::Error)]
pub enum TranscribeError {
    /// No such language, or the checkpoint does not know it.
    #[error("the language {0:?} is not one that this checkpoint knows")]
    Language(String),
    /// The checkpoint only writes English that is spoken.
    #[error("this checkpoint knows English only, so it cannot {0}")]
    EnglishOnly(String),
    /// A window could not be decoded.
    #[error("at {seconds:.2} s: {source}")]
    Decode {
        /// Where the window begins.
        seconds: f64,
        /// What went wrong.
        source: DecodeError,
    },
    /// Text could not be turned into tokens, or back.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// No spectrogram can be made for the network.
    #[error(transparent)]
    Mel(#[from] MelError),
}

/// Hears how a transcription goes on. Every method does nothing unless written.
pub trait Progress {
    /// A token was chosen. A window that is decoded anew at a higher temperature begins again.
    fn token(&mut self, token: u32) {
        let _ = token;
    }

    /// A segment is finished.
    fn segment(&mut self, segment: &Segment) {
        let _ = segment;
    }

    /// So many seconds of the recording are done.
    fn seconds(&mut self, done: f64, total: f64) {
        let _ = (done, total);
    }
}

impl Progress for () {}

/// Transcribes samples at 16 kHz.
///
/// # Errors
/// [`TranscribeError`] if the language or the task is not one that the checkpoint knows, or the
/// network fails.
pub fn transcribe(
    model: &mut dyn SpeechModel,
    codec: &dyn TextCodec,
    special: &SpecialTokens,
    samples: &[f32],
    options: &TranscribeOptions,
    progress: &mut dyn Progress,
) -> Result<Transcript, TranscribeError> {
    let given = given_language(special, options)?;
    let window = model.window_frames().max(1);
    let mel = LogMel::new(model.n_mels())?
        .with_threads(options.threads)
        .compute_padded(samples, window * HOP);
    let frames = mel.frames - window;
    let duration = samples.len() as f64 / f64::from(SAMPLE_RATE);
    let at = |seek: usize| {
        move |source: DecodeError| TranscribeError::Decode { seconds: seconds(seek), source }
    };
    let hear = |model: &mut dyn SpeechModel, seek: usize| {
        model.encode(&mel.window(seek, window)).map_err(|e| at(seek)(DecodeError::Model(e)))
    };

    let mut heard = None;
    let language = match given {
        Some(language) => language,
        None if frames == 0 => String::new(),
        None => {
            hear(model, 0)?;
            heard = Some(0);
            detect_language(model, special).map_err(at(0))?.0
        }
    };
    let mut run = Run {
        codec,
        special,
        options,
        start: start_tokens(special, options.task, &language),
        suppress: options.suppress.iter().copied().chain(special.control()).collect(),
        random: Random::new(options.seed),
    };

    let mut context = match &options.initial_prompt {
        Some(text) => codec.encode(&format!(" {}", text.trim()))?,
        None => Vec::new(),
    };
    let first = context.len();
    let mut context_from = 0;
    let mut segments: Vec<Segment> = Vec::new();
    let mut seek = 0;
    progress.seconds(0.0, duration);
    while seek < frames {
        let length = window.min(frames - seek);
        if heard != Some(seek) {
            hear(model, seek)?;
            heard = Some(seek);
        }
        let result = run.decode(model, &context[context_from..], progress).map_err(at(seek))?;
        if silent(&result, options) {
            seek += length;
            progress.seconds(seconds(seek).min(duration), duration);
            continue;
        }
        let cut = cut(&result.tokens, special, options.timestamps, seek, length);
        for piece in cut.pieces {
            let tokens = &result.tokens[piece.tokens.clone()];
            let text = codec.decode(tokens)?;
            if piece.start == piece.end || text.trim().is_empty() {
                continue;
            }
            let segment = Segment {
                id: segments.len(),
                start: seconds(piece.start),
                end: seconds(piece.end.max(piece.start)),
                text,
                tokens: tokens.to_vec(),
                temperature: result.temperature,
                avg_logprob: result.avg_logprob,
                compression_ratio: result.compression_ratio,
                no_speech_prob: result.no_speech_prob,
            };
            context.extend_from_slice(tokens);
            progress.segment(&segment);
            segments.push(segment);
        }
        if !options.condition_on_previous_text || result.temperature > TRUSTED_TEMPERATURE {
            context_from = context.len();
        }
        seek += cut.advance;
        progress.seconds(seconds(seek).min(duration), duration);
    }
    let text = codec.decode(&context[first..])?.trim().to_string();
    Ok(Transcript { text, language, duration, segments })
}

/// Frames to seconds: exact hundredths.
fn seconds(frame: usize) -> f64 {
    frame as f64 / FRAMES_PER_SECOND as f64
}

/// The language's code, if options or checkpoint settle it.
fn given_language(
    special: &SpecialTokens,
    options: &TranscribeOptions,
) -> Result<Option<String>, TranscribeError> {
    let code = match &options.language {
        None => None,
        Some(wanted) => {
            Some(language_code(wanted).ok_or_else(|| TranscribeError::Language(wanted.clone()))?)
        }
    };
    if !special.multilingual {
        return match (code, options.task) {
            (_, Task::Translate) => Err(TranscribeError::EnglishOnly("translate".into())),
            (None | Some("en"), _) => Ok(Some("en".into())),
            (Some(code), _) => Err(TranscribeError::EnglishOnly(format!("write {code:?}"))),
        };
    }
    match code {
        Some(code) if special.language(code).is_none() => {
            Err(TranscribeError::Language(code.into()))
        }
        code => Ok(code.map(str::to_string)),
    }
}

/// The start of the transcript: language and task follow if the checkpoint was taught them.
fn start_tokens(special: &SpecialTokens, task: Task, language: &str) -> Vec<u32> {
    let mut start = vec![special.start_of_transcript];
    if special.multilingual {
        start.extend(special.language(language));
        start.extend(match task {
            Task::Transcribe => special.transcribe,
            Task::Translate => special.translate,
        });
    }
    start
}

/// Whether nobody speaks: silence is probable and the text is not.
fn silent(result: &WindowResult, options: &TranscribeOptions) -> bool {
    let probable = options.logprob_threshold.is_some_and(|least| result.avg_logprob > least);
    options.no_speech_threshold.is_some_and(|most| result.no_speech_prob > most) && !probable
}

/// What stays the same from window to window, and the random numbers.
struct Run<'a> {
    codec: &'a dyn TextCodec,
    special: &'a SpecialTokens,
    options: &'a TranscribeOptions,
    start: Vec<u32>,
    suppress: Vec<u32>,
    random: Random,
}

impl Run<'_> {
    /// Decodes the window that was heard last, at rising temperatures until the text is good.
    fn decode(
        &mut self,
        model: &mut dyn SpeechModel,
        previous: &[u32],
        progress: &mut dyn Progress,
    ) -> Result<WindowResult, DecodeError> {
        let options = self.options;
        let (first, rest) = match options.temperatures.split_first() {
            Some((first, rest)) => (*first, rest),
            None => (0.0, &[][..]),
        };
        let mut at = |temperature: f32| {
            let window = WindowOptions {
                previous,
                start: &self.start,
                timestamps: options.timestamps,
                temperature,
                suppress: &self.suppress,
                suppress_begin: &options.suppress_begin,
                max_initial_timestamp: options.max_initial_timestamp,
                max_tokens: None,
            };
            let token = &mut |token| progress.token(token);
            decode_window(model, self.codec, self.special, &window, &mut self.random, token)
        };
        let mut best = at(first)?;
        let mut done = good(&best, options);
        // If none is good: the most probable of those that do not repeat themselves, if any do not.
        let key = |r: &WindowResult| (!repetitive(r, options), r.avg_logprob);
        for &temperature in rest {
            if done {
                break;
            }
            let next = at(temperature)?;
            done = good(&next, options);
            if done || key(&next) > key(&best) {
                best = next;
            }
        }
        Ok(best)
    }
}

/// Whether a text can stand: neither repetitive nor improbable, or improbable because of silence.
fn good(result: &WindowResult, options: &TranscribeOptions) -> bool {
    let improbable = options.logprob_threshold.is_some_and(|least| result.avg_logprob < least);
    let silence = options.no_speech_threshold.is_some_and(|most| result.no_speech_prob > most);
    !(repetitive(result, options) || improbable) || silence && improbable
}

/// Whether a text says the same over and over.
fn repetitive(result: &WindowResult, options: &TranscribeOptions) -> bool {
    options.compression_ratio_threshold.is_some_and(|most| result.compression_ratio > most)
}

#[cfg(test)]
mod tests;
