//! Texts to vectors: tokens, encoder, pooling, length 1.
//!
//! Texts are sorted by length and go through the model in batches of like lengths. Lengths and
//! numbers of rows are of a few sizes, so that few programs serve every call.

use super::{Encoder, LoadOptions, Pooling, config::Reads, folder, normalise};
use crate::tokenizer::Tokenizer;
use frit_graph::{Backend, Value};
use std::{path::Path, sync::Arc};

/// Texts that go through the model together, at most; a power of two.
const MOST_ROWS: usize = 16;
/// Tokens that go through it together, unless one text has more.
const MOST_TOKENS: usize = 4096;

/// An encoder of texts with its tokenizer.
pub struct TextEmbedder {
    encoder: Encoder,
    tokenizer: Tokenizer,
    pooling: Pooling,
    max_length: usize,
}

impl TextEmbedder {
    /// Loads a Hugging Face folder with a `tokenizer.json`. Where it is one of
    /// sentence-transformers, its files say how tokens are pooled (else [`Pooling::Mean`]) and how
    /// many there are at most (else as many as the model has positions).
    ///
    /// # Errors
    /// Files that are missing or damaged, a model or a pooling that is not supported.
    pub fn open(
        path: &Path,
        backend: Arc<dyn Backend>,
        options: LoadOptions,
    ) -> Result<TextEmbedder, crate::Error> {
        let checkpoint = frit_load::open(path)?;
        let encoder = Encoder::from_checkpoint(&checkpoint, backend, options)?;
        reads_text(&encoder)?;
        let settings = folder::read(checkpoint.path.parent().unwrap_or(Path::new(".")))?;
        let mut embedder = TextEmbedder::new(encoder, Tokenizer::of(&checkpoint)?)?;
        embedder.pooling = settings.pooling.unwrap_or_default();
        if let Some(length) = settings.max_length {
            embedder.max_length = embedder.max_length.min(length);
        }
        Ok(embedder)
    }

    /// An encoder and a tokenizer at hand; tokens are pooled to their mean.
    ///
    /// # Errors
    /// When the model does not read texts.
    pub fn new(encoder: Encoder, tokenizer: Tokenizer) -> Result<TextEmbedder, crate::Error> {
        reads_text(&encoder)?;
        let (pooling, max_length) = (Pooling::default(), encoder.config().max_length);
        Ok(TextEmbedder { encoder, tokenizer, pooling, max_length })
    }

    /// Another pooling.
    #[must_use]
    pub fn with_pooling(self, pooling: Pooling) -> TextEmbedder {
        TextEmbedder { pooling, ..self }
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// How tokens become one vector.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// The most tokens of a text; what is longer is cut.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The tokens of a text, those that stand around it included; where there are too many, the
    /// last of the text are left out.
    ///
    /// # Errors
    /// [`crate::Error::Tokenizer`].
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, crate::Error> {
        let whole = self.tokenizer.encode(text, true)?;
        if whole.len() <= self.max_length {
            return Ok(whole);
        }
        let bare = self.tokenizer.encode(text, false)?;
        let around = whole.len().saturating_sub(bare.len());
        let mut starts = 0..=around;
        let front = starts.find(|&at| whole[at..].starts_with(&bare)).unwrap_or(0);
        let kept = self.max_length.saturating_sub(around);
        let back = &whole[whole.len() - (around - front)..];
        let cut = [&whole[..front], &bare[..kept.min(bare.len())], back].concat();
        Ok(cut.into_iter().take(self.max_length).collect())
    }

    /// A vector of length 1 for each text, in their order.
    ///
    /// # Errors
    /// What the tokenizer or the graph says.
    pub fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, crate::Error> {
        self.embed_with(texts, &mut |_| {})
    }

    /// As [`TextEmbedder::embed`]; `done` is told how many texts are through, again and again.
    ///
    /// # Errors
    /// As [`TextEmbedder::embed`].
    pub fn embed_with(
        &mut self,
        texts: &[&str],
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<f32>>, crate::Error> {
        let tokens = texts.iter().map(|text| self.tokens(text));
        let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| tokens[i].len());
        let mut vectors = vec![Vec::new(); texts.len()];
        let mut through = 0;
        while through < order.len() {
            let size = |i: usize| bucket(tokens[order[i]].len(), self.max_length);
            let length = size(through);
            let like = (through..order.len()).take_while(|&i| size(i) == length).count();
            let rows = &order[through..through + rows(like, length)];
            let batch: Vec<&[u32]> = rows.iter().map(|&i| &tokens[i][..]).collect();
            for (&i, vector) in rows.iter().zip(self.batch(&batch, length)?) {
                vectors[i] = vector;
            }
            through += rows.len();
            done(through);
        }
        Ok(vectors)
    }

    /// Texts with padding up to `length`.
    fn batch(&mut self, texts: &[&[u32]], length: usize) -> Result<Vec<Vec<f32>>, crate::Error> {
        let shape = [texts.len(), length];
        let padded = |text: &&[u32]| {
            let ids = text.iter().map(|&id| i64::from(id));
            ids.chain(std::iter::repeat(0)).take(length).collect::<Vec<_>>()
        };
        let ids = Value::new(shape, texts.iter().flat_map(padded).collect::<Vec<i64>>())?;
        let keep = |text: &&[u32]| (0..length).map(|i| i < text.len()).collect::<Vec<_>>();
        let keep: Vec<bool> = texts.iter().flat_map(keep).collect();
        let mask = Value::bools(shape, &keep)?;
        let hidden = self.encoder.forward(&[("input_ids", &ids), ("attention_mask", &mask)])?;
        let mut vectors = self.pooling.pool(&hidden, &keep);
        vectors.iter_mut().for_each(|x| normalise(x));
        Ok(vectors)
    }
}

fn reads_text(encoder: &Encoder) -> Result<(), crate::Error> {
    let config = encoder.config();
    match config.reads {
        Reads::Text { .. } => Ok(()),
        _ => Err(crate::Error::Call(format!("{} reads no text", config.model_type))),
    }
}

/// The size of program for texts of `length` tokens, of at most `most`.
fn bucket(length: usize, most: usize) -> usize {
    let step = match length {
        0..=64 => 8,
        65..=256 => 32,
        _ => 128,
    };
    length.max(1).next_multiple_of(step).min(most.max(1))
}

/// How many of `texts` texts that are `length` long go together: a power of two.
fn rows(texts: usize, length: usize) -> usize {
    let most = texts.min(MOST_ROWS).min(MOST_TOKENS / length).max(1);
    1 << most.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_rows_are_of_a_few_sizes() {
        for (length, size) in [
            (0, 8),
            (1, 8),
            (8, 8),
            (9, 16),
            (64, 64),
            (65, 96),
            (256, 256),
            (257, 384),
            (511, 512),
        ] {
            assert_eq!(bucket(length, 512), size, "{length}");
        }
        assert_eq!((bucket(300, 300), bucket(3, 5)), (300, 5));
        for (texts, length, together) in
            [(1, 8, 1), (13, 8, 8), (100, 8, 16), (100, 512, 8), (100, 384, 8), (3, 8192, 1)]
        {
            assert_eq!(rows(texts, length), together, "{texts} of {length}");
        }
    }
}
