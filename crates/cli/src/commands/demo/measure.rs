//! A transcription under the stopwatch.

use std::time::{Duration, Instant};

use frit::graph::{DType, Value};
use frit::models::whisper::decode::{Begin, ModelError, SpeechModel, TimestampMode};
use frit::models::whisper::mel::{HOP, LogMel};
use frit::models::whisper::model::Whisper;
use frit::models::whisper::transcribe::{TranscribeError, TranscribeOptions, transcribe};
use serde::Serialize;

use super::super::speech::Checkpoint;
use crate::bench::median;

/// Milliseconds of the parts of a transcription. `mel`, `encoder` and `decode` make up `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Times {
    /// Samples to log-mel.
    pub(crate) mel_ms: f64,
    /// The encoder, with the keys and values of the cross attention.
    pub(crate) encoder_ms: f64,
    /// The prompt through the decoder.
    pub(crate) first_token_ms: f64,
    /// The mean of the later steps of the decoder.
    pub(crate) per_token_ms: f64,
    /// Everything after the encoder: all steps, and the choice of tokens.
    pub(crate) decode_ms: f64,
    /// Samples to text.
    pub(crate) total_ms: f64,
}

/// A number of [`Times`] by name.
type Row = (&'static str, fn(&Times) -> f64);

impl Times {
    /// What is shown, by name.
    pub(super) const ROWS: [Row; 6] = [
        ("mel", |t| t.mel_ms),
        ("encoder", |t| t.encoder_ms),
        ("first token", |t| t.first_token_ms),
        ("per token", |t| t.per_token_ms),
        ("decode", |t| t.decode_ms),
        ("total", |t| t.total_ms),
    ];

    /// The median of each.
    pub(super) fn median(runs: &[Times]) -> Times {
        let of = |part: fn(&Times) -> f64| median(&runs.iter().map(part).collect::<Vec<_>>());
        Times {
            mel_ms: of(|t| t.mel_ms),
            encoder_ms: of(|t| t.encoder_ms),
            first_token_ms: of(|t| t.first_token_ms),
            per_token_ms: of(|t| t.per_token_ms),
            decode_ms: of(|t| t.decode_ms),
            total_ms: of(|t| t.total_ms),
        }
    }
}

/// What was heard, and how long it took.
pub(crate) struct Heard {
    /// The text.
    pub(crate) text: String,
    /// The tokens of all segments.
    pub(crate) tokens: Vec<u32>,
    /// The times.
    pub(crate) times: Times,
}

/// A model whose calls are timed.
struct Stopwatch<'a> {
    model: &'a mut dyn SpeechModel,
    started: Instant,
    /// From the start to the first call of the encoder.
    mel: Option<Duration>,
    encoder: Duration,
    first_token: Option<Duration>,
    steps: Vec<Duration>,
}

impl<'a> Stopwatch<'a> {
    fn start(model: &'a mut dyn SpeechModel) -> Stopwatch<'a> {
        let (mel, encoder, first_token, steps) = (None, Duration::ZERO, None, Vec::new());
        Stopwatch { model, started: Instant::now(), mel, encoder, first_token, steps }
    }

    fn stop(self) -> Times {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let (total, mel) = (self.started.elapsed(), self.mel.unwrap_or_default());
        let steps: Duration = self.steps.iter().sum();
        Times {
            mel_ms: ms(mel),
            encoder_ms: ms(self.encoder),
            first_token_ms: ms(self.first_token.unwrap_or_default()),
            per_token_ms: ms(steps) / self.steps.len().max(1) as f64,
            decode_ms: ms(total.saturating_sub(mel + self.encoder)),
            total_ms: ms(total),
        }
    }
}

impl SpeechModel for Stopwatch<'_> {
    fn vocab(&self) -> usize {
        self.model.vocab()
    }

    fn n_mels(&self) -> usize {
        self.model.n_mels()
    }

    fn window_frames(&self) -> usize {
        self.model.window_frames()
    }

    fn max_positions(&self) -> usize {
        self.model.max_positions()
    }

    fn encode(&mut self, window: &[f32]) -> Result<(), ModelError> {
        let started = Instant::now();
        self.mel.get_or_insert(started - self.started);
        let result = self.model.encode(window);
        self.encoder += started.elapsed();
        result
    }

    fn begin(&mut self, prompt: &[u32], start: usize) -> Result<Begin, ModelError> {
        let started = Instant::now();
        let result = self.model.begin(prompt, start);
        self.first_token.get_or_insert(started.elapsed());
        result
    }

    fn step(&mut self, token: u32) -> Result<Vec<f32>, ModelError> {
        let started = Instant::now();
        let result = self.model.step(token);
        self.steps.push(started.elapsed());
        result
    }
}

/// Transcribes greedily, without timestamps and without second tries: the same work each time.
pub(crate) fn hear(
    model: &mut dyn SpeechModel,
    checkpoint: &Checkpoint,
    samples: &[f32],
    threads: usize,
) -> Result<Heard, TranscribeError> {
    let options = TranscribeOptions {
        timestamps: TimestampMode::Off,
        temperatures: vec![0.0],
        ..checkpoint.options(threads)
    };
    let (codec, special) = (&checkpoint.tokenizer, checkpoint.tokenizer.special());
    let mut watched = Stopwatch::start(model);
    let transcript = transcribe(&mut watched, codec, special, samples, &options, &mut ())?;
    let times = watched.stop();
    let tokens = transcript.segments.iter().flat_map(|s| s.tokens.clone()).collect();
    Ok(Heard { text: transcript.text, tokens, times })
}

/// The first window of a recording as the encoder hears it: its hidden states.
pub(super) fn encoded(model: &mut Whisper, samples: &[f32]) -> Result<Value, frit::models::Error> {
    let (bands, frames) = (model.n_mels(), model.window_frames());
    let mel = LogMel::new(bands).map_err(|e| frit::models::Error::Call(e.to_string()))?;
    let window = mel.compute_padded(samples, frames * HOP).window(0, frames);
    Ok(model.encode_window(&window)?.cast(DType::F32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    const MS: Duration = Duration::from_millis(1);

    /// A network that takes its time.
    struct Slow;

    impl SpeechModel for Slow {
        fn vocab(&self) -> usize {
            1
        }
        fn n_mels(&self) -> usize {
            1
        }
        fn window_frames(&self) -> usize {
            1
        }
        fn max_positions(&self) -> usize {
            1
        }
        fn encode(&mut self, _: &[f32]) -> Result<(), ModelError> {
            sleep(8 * MS);
            Ok(())
        }
        fn begin(&mut self, _: &[u32], _: usize) -> Result<Begin, ModelError> {
            sleep(4 * MS);
            Ok(Begin { start: vec![0.0], last: vec![0.0] })
        }
        fn step(&mut self, _: u32) -> Result<Vec<f32>, ModelError> {
            sleep(2 * MS);
            Ok(vec![0.0])
        }
    }

    #[test]
    fn every_part_of_a_transcription_is_timed_once() -> Result<(), ModelError> {
        let mut model = Slow;
        let mut watch = Stopwatch::start(&mut model);
        sleep(3 * MS);
        watch.encode(&[])?;
        watch.begin(&[], 0)?;
        watch.step(0)?;
        watch.step(0)?;
        let t = watch.stop();
        for (least, part) in [
            (3.0, t.mel_ms),
            (8.0, t.encoder_ms),
            (4.0, t.first_token_ms),
            (2.0, t.per_token_ms),
            (8.0, t.decode_ms),
        ] {
            assert!(part >= least, "{t:?}");
        }
        assert!((t.mel_ms + t.encoder_ms + t.decode_ms - t.total_ms).abs() < 1e-6, "{t:?}");
        assert!(t.decode_ms >= t.first_token_ms + 2.0 * t.per_token_ms, "{t:?}");
        Ok(())
    }

    #[test]
    fn the_median_is_taken_of_each_part_by_itself() {
        let run = |mel_ms, total_ms| Times { mel_ms, total_ms, ..Times::default() };
        let median = Times::median(&[run(1.0, 9.0), run(3.0, 5.0), run(2.0, 7.0)]);
        assert_eq!((median.mel_ms, median.total_ms), (2.0, 7.0));
    }
}
