//! Generation: prompts in, logits out, token by token.

use super::{DType, KeyValue, Llama, Past, Program, Spec, Tensor, Tokens, Value, call};
use crate::generate::{CausalLm, ModelError};

/// What was said so far, and its keys and values.
#[derive(Default)]
pub(super) struct Session {
    /// Keys and values of each layer, `[B, K, S, D]`.
    caches: Vec<Value>,
    /// The tokens of each row.
    rows: Vec<Vec<u32>>,
    /// Slots of the cache, S.
    capacity: usize,
    /// Slots that are filled: those of the longest row.
    filled: usize,
}

impl Session {
    fn padding(&self, row: usize) -> usize {
        self.filled - self.rows[row].len()
    }

    fn is_padded(&self) -> bool {
        (0..self.rows.len()).any(|b| self.padding(b) > 0)
    }
}

/// No text is as long.
const MOST_CAPACITY: usize = 1 << 24;

/// Sizes that programs are compiled for: powers of two, then multiples of 256.
fn bucket(n: usize) -> usize {
    if n <= 256 { n.next_power_of_two() } else { n.next_multiple_of(256) }
}

impl Llama {
    /// Begins anew with one prompt a row and room for `capacity` tokens a row in all (rounded up to
    /// a size that programs are compiled for). Gives the logits of what follows each prompt.
    ///
    /// # Errors
    /// No prompt or an empty one, more tokens than there is room for, tokens outside the
    /// vocabulary; tensors that are missing or misshapen.
    pub fn prefill(
        &mut self,
        prompts: &[Vec<u32>],
        capacity: usize,
    ) -> Result<Vec<Vec<f32>>, crate::Error> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        if prompts.iter().any(Vec::is_empty) || longest == 0 {
            return call("every prompt must have at least one token".into());
        }
        if longest > capacity {
            return call(format!(
                "a prompt of {longest} tokens exceeds the capacity of {capacity}"
            ));
        }
        if capacity > MOST_CAPACITY {
            return call(format!("a capacity of {capacity} tokens; {MOST_CAPACITY} is the most"));
        }
        self.check_ids(prompts.iter().flatten().map(|&t| i64::from(t)))?;
        self.make_room(prompts.len(), bucket(capacity))?;
        self.session.rows = prompts.to_vec();
        self.session.filled = longest;
        self.take(0)
    }

    /// Continues the only row of a session with some tokens. Gives the logits of what follows.
    ///
    /// # Errors
    /// No session or one of several rows, no tokens or more than there is room for, tokens outside
    /// the vocabulary.
    pub fn append(&mut self, tokens: &[u32]) -> Result<Vec<f32>, crate::Error> {
        let rows = self.session.rows.len();
        if rows != 1 {
            return call(format!("only a session of one row is appended to, there are {rows}"));
        }
        if tokens.is_empty() {
            return call("there are no tokens to append".into());
        }
        Ok(self.extend(&[tokens])?.remove(0))
    }

    /// Continues every row with one token. Gives the logits of what follows.
    ///
    /// # Errors
    /// Not as many tokens as rows, no room for more, tokens outside the vocabulary.
    pub fn step(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, crate::Error> {
        let rows = self.session.rows.len();
        if tokens.len() != rows || rows == 0 {
            return call(format!("a step takes one token a row, {rows}, got {}", tokens.len()));
        }
        let each: Vec<&[u32]> = tokens.chunks(1).collect();
        self.extend(&each)
    }

    /// How many tokens the longest row of the session has.
    pub fn position(&self) -> usize {
        self.session.filled
    }

    /// How many tokens a row of the session has room for.
    pub fn capacity(&self) -> usize {
        self.session.capacity
    }

    /// Forgets all but the first `tokens` of the only row; does nothing to a batch, or if there are
    /// not so many.
    pub fn rewind(&mut self, tokens: usize) {
        if let [row] = &mut self.session.rows[..] {
            row.truncate(tokens);
            self.session.filled = row.len();
        }
    }

    /// Bytes that a step at this position reads: the weights once, and the keys and values so far.
    pub fn bytes_per_token(&self, position: usize) -> usize {
        let c = &self.config;
        // Of a table that is not the head too, a step reads one row.
        let weights = match c.tie_word_embeddings {
            true => self.weights.bytes_without(""),
            false => self.weights.bytes_without("model.embed_tokens.weight"),
        };
        let cached = 2 * c.layers.len() * c.num_key_value_heads * c.head_dim * position;
        weights + cached * self.options.cache.size()
    }

    /// Ends the session. Its memory is kept for the next.
    pub fn reset(&mut self) {
        self.session.rows.clear();
        self.session.filled = 0;
    }

    /// Continues each row by as many tokens as the others.
    fn extend(&mut self, more: &[&[u32]]) -> Result<Vec<Vec<f32>>, crate::Error> {
        self.check_ids(more.iter().copied().flatten().map(|&t| i64::from(t)))?;
        let (start, n) = (self.session.filled, more[0].len());
        let (end, capacity) = (start + n, self.session.capacity);
        if end > capacity {
            return call(format!("position {} is past the capacity of {capacity}", end - 1));
        }
        for (row, tokens) in self.session.rows.iter_mut().zip(more) {
            row.extend_from_slice(tokens);
        }
        self.session.filled = end;
        let again = self.config.turns_again(start, end);
        self.take(if again { 0 } else { start })
    }

    fn make_room(&mut self, rows: usize, capacity: usize) -> Result<(), crate::Error> {
        self.reset();
        let spec = self.cache_spec(rows, capacity);
        let count = 2 * self.config.layers.len();
        let fits = |c: &Vec<Value>| c.len() == count && c.iter().all(|v| *v.spec() == spec);
        // Old entries are past the key length and never read, so the memory is kept as it is.
        if !fits(&self.session.caches) {
            self.session.caches.clear();
            let caches = (0..count).map(|_| Value::zeros(&spec));
            self.session.caches = caches.collect::<Result<_, _>>()?;
        }
        self.session.capacity = capacity;
        Ok(())
    }

    fn cache_spec(&self, rows: usize, capacity: usize) -> Spec {
        let c = &self.config;
        Spec::new(self.options.cache, [rows, c.num_key_value_heads, capacity, c.head_dim])
    }

    /// Runs what stands in the rows from slot `start` on. A failure ends the session.
    fn take(&mut self, start: usize) -> Result<Vec<Vec<f32>>, crate::Error> {
        let taken = self.run(start);
        if taken.is_err() {
            self.reset();
        }
        taken
    }

    fn run(&mut self, start: usize) -> Result<Vec<Vec<f32>>, crate::Error> {
        let Session { rows, capacity, filled, .. } = &self.session;
        let (b, capacity, filled) = (rows.len(), *capacity, *filled);
        let n = filled - start;
        let length = bucket(n).min(capacity - start);
        let masked = self.session.is_padded();
        let (mut ids, mut positions, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        for (row, tokens) in rows.iter().enumerate() {
            let padding = self.session.padding(row);
            for slot in start..start + length {
                let token = slot.checked_sub(padding).and_then(|p| tokens.get(p));
                ids.push(token.map_or(0, |&t| i64::from(t)));
                positions.push(slot.saturating_sub(padding) as i64);
            }
            if masked {
                mask.extend((0..capacity).map(|slot| slot >= padding));
            }
        }
        let program = self.session_program(b, length, capacity, masked)?;
        let mut inputs = vec![
            Value::new([b, length], ids)?,
            Value::new([b, length], positions)?,
            Value::scalar(start as i64),
            Value::new([1], vec![n as i64 - 1])?,
        ];
        if masked {
            inputs.push(Value::bools([b, capacity], &mask)?);
        }
        inputs.extend(self.frequencies(filled)?);
        inputs.append(&mut self.session.caches);
        let mut out = program.run(inputs)?;
        self.session.caches = out.split_off(1);
        let logits = out[0].to_f32();
        Ok(match b {
            // As long as a vocabulary: not copied again.
            1 => vec![logits],
            _ => logits.chunks(self.config.vocab_size).map(<[f32]>::to_vec).collect(),
        })
    }

    /// Inputs: ids and positions `[B, T]`, start, the row `[1]` that logits are wanted of, the mask
    /// `[B, S]` if there is padding, frequencies that follow the length, caches.
    fn session_program(
        &mut self,
        b: usize,
        length: usize,
        capacity: usize,
        masked: bool,
    ) -> Result<Program, crate::Error> {
        let i64 = |shape: &[usize]| Spec::new(DType::I64, shape);
        let mut specs = vec![i64(&[b, length]), i64(&[b, length]), i64(&[]), i64(&[1])];
        if masked {
            specs.push(Spec::new(DType::Bool, [b, capacity]));
        }
        let follows = self.config.ropes.iter().filter(|r| r.follows_length());
        specs.extend(follows.map(|r| Spec::new(DType::F32, [r.dims / 2])));
        let count = 2 * self.config.layers.len();
        let cache = self.cache_spec(b, capacity);
        specs.extend(std::iter::repeat_n(cache, count));
        let padded = if masked { ", padded" } else { "" };
        let name = format!("{b} x {length} into {capacity}{padded}");
        self.program(name, &specs, |network, x| {
            let first = 4 + usize::from(masked);
            let (frequencies, caches) = x[first..].split_at(x.len() - first - count);
            let caches = pairs(caches);
            let tokens = Tokens {
                ids: x[0].clone(),
                positions: x[1].clone(),
                key_mask: masked.then(|| x[4].clone()),
                frequencies,
                past: Some(Past { caches: &caches, start: x[2].clone() }),
            };
            let decoded = network.decode(&tokens);
            // All rows of a prompt would be a product as large as the rest of the network.
            let hidden = match length {
                1 => decoded.hidden,
                _ => decoded.hidden.gather(1, &x[3]),
            };
            let caches = decoded.caches.into_iter().flat_map(|p| [p.key, p.value]);
            [network.logits(&hidden)].into_iter().chain(caches).collect()
        })
    }
}

fn pairs(flat: &[Tensor]) -> Vec<KeyValue> {
    flat.chunks(2).map(|p| KeyValue { key: p[0].clone(), value: p[1].clone() }).collect()
}

impl CausalLm for Llama {
    fn vocab(&self) -> usize {
        self.config.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn prefill(
        &mut self,
        prompts: &[Vec<u32>],
        capacity: usize,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        Ok(Llama::prefill(self, prompts, capacity)?)
    }

    fn append(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        Ok(Llama::append(self, tokens)?)
    }

    fn step(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, ModelError> {
        Ok(Llama::step(self, tokens)?)
    }

    fn rewind(&mut self, tokens: usize) {
        Llama::rewind(self, tokens);
    }

    fn capacity(&self) -> usize {
        Llama::capacity(self)
    }
}
