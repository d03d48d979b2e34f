//! Text from a language model: [`TextGenerator`].
//!
//! The network is behind the trait [`CausalLm`]: it reads prompts into its caches and gives a row
//! of logits for each next token. The generator chooses tokens ([`Sampling`]), ends at tokens and
//! at strings, and hands the text out as it comes: as an iterator ([`TextGenerator::stream`]) or to
//! a function ([`TextGenerator::generate_with`]). What a prompt shares with what was read before is
//! not read again.

mod conversation;
mod sampling;
mod stop;

use crate::tokenizer::{Stream as TextStream, Tokenizer, TokenizerError};
pub use conversation::{Conversation, ConversationError, Turn};
pub use sampling::{Sampler, Sampling};
use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};
use stop::StopText;

/// What went wrong inside a network.
pub type ModelError = Box<dyn std::error::Error + Send + Sync>;

/// A causal language model with the state of a batch of texts.
pub trait CausalLm {
    /// The number of tokens, V: every row of logits has this length.
    fn vocab(&self) -> usize;

    /// The most tokens that a text may have.
    fn max_positions(&self) -> usize;

    /// Forgets everything and reads prompts, of any lengths, a row each; there is room for at least
    /// `capacity` tokens a row. Gives the logits after each prompt.
    ///
    /// # Errors
    /// Whatever the network meets.
    fn prefill(
        &mut self,
        prompts: &[Vec<u32>],
        capacity: usize,
    ) -> Result<Vec<Vec<f32>>, ModelError>;

    /// Reads more tokens of the only row; gives the logits after the last.
    ///
    /// # Errors
    /// Whatever the network meets.
    fn append(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError>;

    /// Reads one more token of each row; gives the logits after it.
    ///
    /// # Errors
    /// Whatever the network meets.
    fn step(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, ModelError>;

    /// Forgets all but the first `tokens` of the only row.
    fn rewind(&mut self, tokens: usize);

    /// How many tokens a row has room for now.
    fn capacity(&self) -> usize;
}

/// How to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// The most new tokens.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the text beside those of the tokenizer.
    pub stop_tokens: Vec<u32>,
    /// Go on after the end of the text, to the last token.
    pub ignore_end: bool,
}

impl Default for GenerateOptions {
    /// The most probable tokens, up to 256.
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_tokens: 256,
            sampling: Sampling::default(),
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_end: false,
        }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// As many tokens as were wanted.
    Length,
    /// A token that ends texts.
    End,
    /// A stop string.
    Stop,
    /// The model takes no more tokens.
    Full,
    /// Whoever listened had enough.
    Cancelled,
}

/// How long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that the model had read before.
    pub reused_tokens: usize,
    /// Reading the rest, up to the first new token.
    pub prefill: Duration,
    /// Steps after the first token.
    pub steps: usize,
    /// How long they took.
    pub decode: Duration,
}

impl Stats {
    /// Tokens of the prompt read a second.
    #[must_use]
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt_tokens - self.reused_tokens, self.prefill)
    }

    /// New tokens a second, the first not counted.
    #[must_use]
    pub fn decode_rate(&self) -> f64 {
        rate(self.steps, self.decode)
    }
}

fn rate(n: usize, time: Duration) -> f64 {
    if n == 0 { 0.0 } else { n as f64 / time.as_secs_f64().max(1e-9) }
}

/// A generated text.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new tokens; a token that ended the text is not among them.
    pub ids: Vec<u32>,
    /// Their text, without special tokens.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// How long it took.
    pub stats: Stats,
}

/// One new token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The token; none where the text ended and only what was held back is left.
    pub id: Option<u32>,
    /// Text that is certain now: empty while a character or a stop string is not complete.
    pub text: String,
}

/// Why no text can be generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The network failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Text could not be turned into tokens, or back.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Text for a model without a tokenizer.
    #[error("this model has no tokenizer: it takes token ids alone")]
    NoTokenizer,
    /// An option that makes no sense.
    #[error("{0}")]
    Options(String),
    /// Nothing to go on from.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// The prompt alone fills the model.
    #[error("a prompt of {tokens} tokens does not fit: the model takes {most}")]
    Prompt {
        /// The length of the prompt.
        tokens: usize,
        /// The most that the model takes.
        most: usize,
    },
    /// A token that the model does not know.
    #[error("token {id} is not one of the {vocab} that the model knows")]
    Token {
        /// The token.
        id: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },
    /// A row of logits without a number above minus infinity.
    #[error("after {after} tokens no logit is a finite number")]
    NothingLeft {
        /// Tokens of the text so far.
        after: usize,
    },
}

/// A language model with its tokenizer.
pub struct TextGenerator<M> {
    model: M,
    tokenizer: Option<Tokenizer>,
    /// What the model's only row has read.
    read: Vec<u32>,
}

impl<M: CausalLm> TextGenerator<M> {
    /// A generator of a model and the tokenizer that belongs to it. Without one it takes and gives
    /// tokens alone, and knows no end of a text.
    pub fn new(model: M, tokenizer: impl Into<Option<Tokenizer>>) -> TextGenerator<M> {
        TextGenerator { model, tokenizer: tokenizer.into(), read: Vec::new() }
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The tokens of a prompt, with those that the model wants before every text.
    ///
    /// # Errors
    /// What the tokenizer says; that there is none.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>, GenerateError> {
        let tokenizer = self.tokenizer.as_ref().ok_or(GenerateError::NoTokenizer)?;
        Ok(tokenizer.encode(prompt, true)?)
    }

    /// Reads a prompt and gives an iterator over the new tokens.
    ///
    /// # Errors
    /// A prompt that is empty, too long, or has unknown tokens; options out of range; whatever the
    /// network meets.
    pub fn stream(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Stream<'_, M>, GenerateError> {
        options.sampling.check().map_err(GenerateError::Options)?;
        self.check(prompt)?;
        let started = Instant::now();
        let room = self.room(prompt.len(), options.max_tokens);
        let common = self.read.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // At least one token is read, for its logits.
        let reused = common.min(prompt.len() - 1);
        let fits = reused > 0 && self.model.capacity() >= room;
        // If the network fails, nobody knows what its caches hold.
        self.read.clear();
        let logits = match fits {
            true => {
                self.model.rewind(reused);
                self.model.append(&prompt[reused..])?
            }
            false => only(self.model.prefill(&[prompt.to_vec()], room)?)?,
        };
        self.read.extend(prompt);
        let stats = Stats {
            prompt_tokens: prompt.len(),
            reused_tokens: if fits { reused } else { 0 },
            prefill: started.elapsed(),
            ..Stats::default()
        };
        let limit = self.limit(prompt.len(), options.max_tokens);
        let TextGenerator { model, tokenizer, read } = self;
        let row = Row::new(tokenizer.as_ref(), prompt, options);
        Ok(Stream { model, read, row, limit, logits: Some(logits), stats })
    }

    /// Goes on from a prompt to the end; `on` hears every token and says whether to go on.
    ///
    /// # Errors
    /// As [`TextGenerator::stream`].
    pub fn generate_with(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        on: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generated, GenerateError> {
        let mut stream = self.stream(prompt, options)?;
        while let Some(piece) = stream.next() {
            if on(&piece?).is_break() {
                stream.row.finish.get_or_insert(Finish::Cancelled);
                break;
            }
        }
        Ok(stream.finish())
    }

    /// Goes on from a prompt to the end.
    ///
    /// # Errors
    /// As [`TextGenerator::stream`].
    pub fn generate(
        &mut self,
        prompt: &str,
        options: &GenerateOptions,
    ) -> Result<Generated, GenerateError> {
        let ids = self.encode(prompt)?;
        self.generate_with(&ids, options, &mut |_| ControlFlow::Continue(()))
    }

    /// Goes on from several prompts, of any lengths, together: each gets what it would get alone,
    /// with random numbers of its own.
    ///
    /// # Errors
    /// As [`TextGenerator::stream`].
    pub fn generate_batch(
        &mut self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
    ) -> Result<Vec<Generated>, GenerateError> {
        options.sampling.check().map_err(GenerateError::Options)?;
        for prompt in prompts {
            self.check(prompt)?;
        }
        let Some(longest) = prompts.iter().map(Vec::len).max() else {
            return Ok(Vec::new());
        };
        self.read.clear();
        let started = Instant::now();
        let room = self.room(longest, options.max_tokens);
        let mut logits = self.model.prefill(prompts, room)?;
        let prefill = started.elapsed();
        let mut rows: Vec<Row<'_>> =
            prompts.iter().map(|p| Row::new(self.tokenizer.as_ref(), p, options)).collect();
        // Rows are padded to the longest, so it is the first to be full.
        let limit = self.limit(longest, options.max_tokens);
        let mut stats = Stats { prefill, ..Stats::default() };
        loop {
            let started = Instant::now();
            for (row, logits) in rows.iter_mut().zip(&mut logits) {
                if row.finish.is_none() {
                    row.choose(logits, limit)?;
                }
            }
            if rows.iter().all(|row| row.finish.is_some()) {
                break;
            }
            // A finished row goes on with anything; nobody looks.
            let next: Vec<u32> = rows.iter().map(|row| row.text[row.text.len() - 1]).collect();
            logits = self.model.step(&next)?;
            stats.steps += 1;
            stats.decode += started.elapsed();
        }
        let finished = rows.into_iter().zip(prompts).map(|(row, prompt)| {
            let steps = row.ids().len().saturating_sub(1);
            row.generated(Stats { prompt_tokens: prompt.len(), steps, ..stats })
        });
        Ok(finished.collect())
    }

    fn check(&self, prompt: &[u32]) -> Result<(), GenerateError> {
        let (vocab, most) = (self.model.vocab(), self.model.max_positions());
        if let Some(&id) = prompt.iter().find(|&&id| id as usize >= vocab) {
            return Err(GenerateError::Token { id, vocab });
        }
        match prompt.len() {
            0 => Err(GenerateError::EmptyPrompt),
            tokens if tokens > most => Err(GenerateError::Prompt { tokens, most }),
            _ => Ok(()),
        }
    }

    /// Tokens that a text will have at most: the last one is never read.
    fn room(&self, prompt: usize, new: usize) -> usize {
        prompt.saturating_add(new.saturating_sub(1)).min(self.model.max_positions())
    }

    /// How many tokens may be new, and why no more.
    fn limit(&self, prompt: usize, new: usize) -> (usize, Finish) {
        // The token after the last position is still known, but cannot be read.
        let most = self.model.max_positions() - prompt + 1;
        if new <= most { (new, Finish::Length) } else { (most, Finish::Full) }
    }
}

/// A text that grows.
struct Row<'a> {
    sampler: Sampler,
    stream: Option<TextStream<'a>>,
    stop: StopText,
    ends: Vec<u32>,
    /// Prompt and new tokens.
    text: Vec<u32>,
    prompt: usize,
    shown: String,
    finish: Option<Finish>,
}

impl<'a> Row<'a> {
    fn new(tokenizer: Option<&'a Tokenizer>, prompt: &[u32], options: &GenerateOptions) -> Row<'a> {
        let ends = match options.ignore_end {
            true => Vec::new(),
            false => [tokenizer.map_or(&[][..], Tokenizer::eos), &options.stop_tokens].concat(),
        };
        let mut stream = tokenizer.map(Tokenizer::stream);
        // The text continues the prompt: what a first token would lose is not lost.
        if let (Some(stream), Some(&last)) = (&mut stream, prompt.last()) {
            stream.push(last);
        }
        Row {
            sampler: Sampler::new(options.sampling.clone()),
            stream,
            stop: StopText::new(&options.stop),
            ends,
            text: prompt.to_vec(),
            prompt: prompt.len(),
            shown: String::new(),
            finish: None,
        }
    }

    fn ids(&self) -> &[u32] {
        &self.text[self.prompt..]
    }

    /// Chooses the next token; `None` if that ends the text.
    fn choose(
        &mut self,
        logits: &mut [f32],
        (most, why): (usize, Finish),
    ) -> Result<Option<Piece>, GenerateError> {
        if self.ids().len() >= most {
            self.finish = Some(why);
            return Ok(None);
        }
        let after = self.text.len();
        let id = self.sampler.choose(logits, &self.text);
        let id = id.ok_or(GenerateError::NothingLeft { after })?;
        if self.ends.contains(&id) {
            self.finish = Some(Finish::End);
            return Ok(None);
        }
        self.text.push(id);
        let new = self.stream.as_mut().and_then(|stream| stream.push(id));
        let text = new.map_or(String::new(), |new| self.stop.push(&new));
        self.shown += &text;
        if self.stop.stopped() {
            self.finish = Some(Finish::Stop);
        } else if self.ids().len() == most {
            // No step is made for a token that is not wanted.
            self.finish = Some(why);
        }
        Ok(Some(Piece { id: Some(id), text }))
    }

    /// Text that was held back, once nothing more comes.
    fn rest(&mut self) -> String {
        let left = self.stream.take().and_then(TextStream::finish).unwrap_or_default();
        let rest = self.stop.push(&left) + &self.stop.finish();
        self.shown += &rest;
        rest
    }

    fn generated(mut self, stats: Stats) -> Generated {
        self.rest();
        let ids = self.text.split_off(self.prompt);
        let finish = self.finish.unwrap_or(Finish::Cancelled);
        Generated { ids, text: self.shown, finish, stats }
    }
}

/// New tokens as they come. Made by [`TextGenerator::stream`]; what is not taken is not computed.
pub struct Stream<'a, M> {
    model: &'a mut M,
    read: &'a mut Vec<u32>,
    row: Row<'a>,
    limit: (usize, Finish),
    logits: Option<Vec<f32>>,
    stats: Stats,
}

impl<M: CausalLm> Stream<'_, M> {
    /// The text so far.
    #[must_use]
    pub fn finish(self) -> Generated {
        self.row.generated(self.stats)
    }

    fn piece(&mut self) -> Result<Option<Piece>, GenerateError> {
        let mut logits = match self.logits.take() {
            Some(logits) => logits,
            None => {
                let started = Instant::now();
                let last = self.row.text[self.row.text.len() - 1];
                let logits = only(self.model.step(&[last])?)?;
                self.read.push(last);
                self.stats.steps += 1;
                self.stats.decode += started.elapsed();
                logits
            }
        };
        let piece = self.row.choose(&mut logits, self.limit)?;
        if self.row.finish.is_none() {
            return Ok(piece);
        }
        let rest = self.row.rest();
        Ok(match piece {
            Some(piece) => Some(Piece { text: piece.text + &rest, ..piece }),
            None if rest.is_empty() => None,
            None => Some(Piece { id: None, text: rest }),
        })
    }
}

impl<M: CausalLm> Iterator for Stream<'_, M> {
    type Item = Result<Piece, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.row.finish.is_some() {
            return None;
        }
        let piece = self.piece();
        if piece.is_err() {
            self.row.finish = Some(Finish::Cancelled);
            // Nobody knows what the caches hold now.
            self.read.clear();
        }
        piece.transpose()
    }
}

/// The logits of the only row.
fn only(mut rows: Vec<Vec<f32>>) -> Result<Vec<f32>, ModelError> {
    match rows.len() {
        1 => Ok(rows.swap_remove(0)),
        n => Err(format!("one text has {n} rows of logits").into()),
    }
}

#[cfg(test)]
mod tests;
