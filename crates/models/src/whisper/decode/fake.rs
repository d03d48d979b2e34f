//! A network that says what a test wrote down for it, and a vocabulary of letters.

use std::collections::VecDeque;

use super::super::tokens::{SpecialTokens, TextCodec, TokensError};
use super::{Begin, ModelError, SpeechModel};

/// Ids 0 to 9 are the letters a to j; special tokens follow; 20 is the moment 0.00.
pub(in super::super) const END: u32 = 10;
pub(in super::super) const START: u32 = 11;
pub(in super::super) const ENGLISH: u32 = 12;
pub(in super::super) const GERMAN: u32 = 13;
pub(in super::super) const TRANSCRIBE: u32 = 15;
pub(in super::super) const PREVIOUS: u32 = 17;
pub(in super::super) const NO_SPEECH: u32 = 18;
pub(in super::super) const NO_TIMES: u32 = 19;
pub(in super::super) const TIME: u32 = 20;
pub(in super::super) const VOCAB: usize = 20 + 1501;

pub(in super::super) fn special(multilingual: bool) -> SpecialTokens {
    SpecialTokens {
        end_of_text: END,
        start_of_transcript: START,
        languages: vec![("en".into(), ENGLISH), ("de".into(), GERMAN)],
        translate: Some(14),
        transcribe: Some(TRANSCRIBE),
        start_of_lm: Some(16),
        start_of_prev: Some(PREVIOUS),
        no_speech: Some(NO_SPEECH),
        no_timestamps: Some(NO_TIMES),
        timestamp_begin: TIME,
        multilingual,
    }
}

pub(in super::super) struct Letters;

impl TextCodec for Letters {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        let ids = text.bytes().filter(u8::is_ascii_lowercase).map(|b| u32::from(b - b'a'));
        Ok(ids.collect())
    }

    fn decode(&self, ids: &[u32]) -> Result<String, TokensError> {
        let letters = ids.iter().filter(|&&id| id < END).map(|&id| char::from(b'a' + id as u8));
        Ok(letters.collect())
    }
}

/// A row of logits: the listed ones, -inf for all others.
pub(in super::super) fn row(logits: &[(u32, f32)]) -> Vec<f32> {
    let mut row = vec![f32::NEG_INFINITY; VOCAB];
    for &(id, logit) in logits {
        row[id as usize] = logit;
    }
    row
}

/// What the network answers to one prompt.
#[derive(Clone)]
pub(in super::super) struct Answer {
    /// The logits after the start of the transcript.
    pub(in super::super) start: Vec<f32>,
    /// The logits token by token; after the last, only the end of the text is possible.
    pub(in super::super) rows: VecDeque<Vec<f32>>,
}

impl Answer {
    pub(in super::super) fn rows(rows: Vec<Vec<f32>>) -> Self {
        Self { start: row(&[(0, 0.0)]), rows: rows.into() }
    }

    /// Answers with these tokens, each of them certain.
    pub(in super::super) fn tokens(tokens: &[u32]) -> Self {
        Self::rows(tokens.iter().map(|&id| row(&[(id, 0.0)])).collect())
    }

    /// Answers with these tokens, where every letter has nine equal rivals: -2.3 each.
    pub(in super::super) fn unsure(tokens: &[u32]) -> Self {
        let unsure = |&id: &u32| match id < END {
            true => {
                let rivals: Vec<_> =
                    (0..END).map(|r| (r, if r == id { 1e-3 } else { 0.0 })).collect();
                row(&rivals)
            }
            false => row(&[(id, 0.0)]),
        };
        Self::rows(tokens.iter().map(unsure).collect())
    }

    /// Silence has this probability.
    pub(in super::super) fn silence(mut self, probability: f32) -> Self {
        self.start = row(&[(NO_SPEECH, probability.ln()), (0, (1.0 - probability).ln())]);
        self
    }
}

/// Gives its answers one prompt after the other, and writes down what it is told.
pub(in super::super) struct Fake {
    pub(in super::super) answers: VecDeque<Answer>,
    pub(in super::super) positions: usize,
    pub(in super::super) windows: Vec<Vec<f32>>,
    pub(in super::super) prompts: Vec<Vec<u32>>,
    pub(in super::super) steps: Vec<u32>,
    current: VecDeque<Vec<f32>>,
}

impl Fake {
    pub(in super::super) fn new(answers: Vec<Answer>) -> Self {
        Self {
            answers: answers.into(),
            positions: 448,
            windows: Vec::new(),
            prompts: Vec::new(),
            steps: Vec::new(),
            current: VecDeque::new(),
        }
    }

    fn next(&mut self) -> Vec<f32> {
        self.current.pop_front().unwrap_or_else(|| row(&[(END, 0.0)]))
    }
}

impl SpeechModel for Fake {
    fn vocab(&self) -> usize {
        VOCAB
    }

    fn n_mels(&self) -> usize {
        4
    }

    fn window_frames(&self) -> usize {
        3000
    }

    fn max_positions(&self) -> usize {
        self.positions
    }

    fn encode(&mut self, window: &[f32]) -> Result<(), ModelError> {
        self.windows.push(window.to_vec());
        Ok(())
    }

    fn begin(&mut self, prompt: &[u32], start: usize) -> Result<Begin, ModelError> {
        if prompt.get(start) != Some(&START) {
            return Err(format!("no start at {start} of {prompt:?}").into());
        }
        self.prompts.push(prompt.to_vec());
        self.steps.clear();
        let answer = self.answers.pop_front().ok_or("asked once too often")?;
        self.current = answer.rows;
        Ok(Begin { start: answer.start, last: self.next() })
    }

    fn step(&mut self, token: u32) -> Result<Vec<f32>, ModelError> {
        self.steps.push(token);
        let prompt = self.prompts.last().map_or(0, Vec::len);
        if prompt + self.steps.len() > self.positions {
            return Err("read past the last position".into());
        }
        Ok(self.next())
    }
}
