//! From a row of logits to a token.
//!
//! The steps come in the order of Hugging Face's `generate`: the repetition penalty (Keskar et
//! al., 2019), the temperature, top-k (Fan et al., 2018), top-p (Holtzman et al., 2020), min-p
//! (Nguyen et al., 2024), then one draw. At temperature 0 the largest logit wins and nothing is
//! drawn.

use crate::random::Random;
use crate::row;
use std::cmp::Ordering;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most probable token.
    pub temperature: f32,
    /// Only so many of the most probable tokens are kept; 0 keeps all.
    pub top_k: usize,
    /// The fewest most probable tokens that have this probability together are kept; 1 keeps all.
    pub top_p: f32,
    /// Tokens are kept that have at least this part of the probability of the first; 0 keeps all.
    pub min_p: f32,
    /// Positive logits of tokens that stand in the text already are divided by it, negative ones
    /// multiplied; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Begins the random numbers: the same seed gives the same text.
    pub seed: u64,
}

impl Default for Sampling {
    /// The most probable token, always.
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// What is wrong with these numbers, if anything is.
    ///
    /// ```
    /// use frit_models::generate::Sampling;
    /// let wrong = Sampling { top_p: 1.5, ..Sampling::default() }.check();
    /// assert_eq!(wrong, Err("top_p must be above 0 and at most 1, got 1.5".to_string()));
    /// ```
    ///
    /// # Errors
    /// A number out of its range, or not a number.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |what: &str, got: f32| Err(format!("{what}, got {got}"));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong("temperature must be at least 0", self.temperature);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top_p must be above 0 and at most 1", self.top_p);
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return wrong("min_p must be from 0 to 1", self.min_p);
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return wrong("repetition_penalty must be above 0", self.repetition_penalty);
        }
        Ok(())
    }
}

/// Chooses tokens, one row after the other.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: Random,
    /// Candidates: a token and its logit, later its probability.
    kept: Vec<(u32, f32)>,
}

impl Sampler {
    /// Begins at the seed.
    #[must_use]
    pub fn new(sampling: Sampling) -> Sampler {
        let random = Random::new(sampling.seed);
        Sampler { sampling, random, kept: Vec::new() }
    }

    /// The next token; `text` are the tokens so far. `None` if no logit is a number above -inf.
    pub fn choose(&mut self, logits: &mut [f32], text: &[u32]) -> Option<u32> {
        self.penalise(logits, text);
        if self.sampling.temperature == 0.0 {
            return row::argmax(logits).map(|token| token as u32);
        }
        self.keep(logits);
        let total: f64 = self.kept.iter().map(|&(_, p)| f64::from(p)).sum();
        let mut left = self.random.unit() * total;
        for &(token, p) in &self.kept {
            left -= f64::from(p);
            if left < 0.0 {
                return Some(token);
            }
        }
        // What rounding left over belongs to the last one.
        self.kept.last().map(|&(token, _)| token)
    }

    fn penalise(&self, logits: &mut [f32], text: &[u32]) {
        let penalty = self.sampling.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let mut seen = text.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Fills `kept` with the candidates and their probabilities (not normalised), the first first.
    fn keep(&mut self, logits: &[f32]) {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let kept = &mut self.kept;
        kept.clear();
        let known = |&(_, x): &(u32, f32)| x > f32::NEG_INFINITY;
        kept.extend((0..).zip(logits.iter().copied()).filter(known));
        // Ties go to the lower token, so that a draw is the same on every machine.
        let order = |a: &(u32, f32), b: &(u32, f32)| match b.1.total_cmp(&a.1) {
            Ordering::Equal => a.0.cmp(&b.0),
            other => other,
        };
        if top_k > 0 && top_k < kept.len() {
            kept.select_nth_unstable_by(top_k - 1, order);
            kept.truncate(top_k);
        }
        let top = row::largest(logits);
        for (_, x) in kept.iter_mut() {
            *x = row::exp((*x - top) / temperature);
        }
        // The first has probability 1 here. All that are less probable than this are together less
        // than what `top_p` cuts off: the rest is few, and soon sorted.
        let total: f64 = kept.iter().map(|&(_, p)| f64::from(p)).sum();
        let least = (1.0 - f64::from(top_p)) * total / kept.len().max(1) as f64;
        kept.retain(|&(_, p)| p >= min_p && f64::from(p) >= least);
        kept.sort_unstable_by(order);
        if top_p < 1.0 {
            let (mut sum, wanted) = (0.0, f64::from(top_p) * total);
            let enough = kept.iter().position(|&(_, p)| {
                sum += f64::from(p);
                sum >= wanted
            });
            kept.truncate(enough.map_or(kept.len(), |last| last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logarithms of these probabilities, shifted: a softmax gives them back.
    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() + 3.0).collect()
    }

    fn kept(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling);
        sampler.keep(logits);
        sampler.kept.iter().map(|&(token, _)| token).collect()
    }

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::default() }
    }

    #[test]
    fn the_largest_logit_wins_at_temperature_zero_and_the_first_of_equals() {
        let mut sampler = Sampler::new(Sampling::default());
        assert_eq!(sampler.choose(&mut [1.0, 3.0, 2.0, 3.0], &[]), Some(1));
        assert_eq!(sampler.choose(&mut [f32::NAN, -1.0, f32::NEG_INFINITY], &[]), Some(1));
        assert_eq!(sampler.choose(&mut [f32::NAN, f32::NEG_INFINITY], &[]), None);
        assert_eq!(Sampler::new(warm()).choose(&mut [f32::NEG_INFINITY; 3], &[]), None);
        // Infinite logits have no probabilities.
        assert_eq!(Sampler::new(warm()).choose(&mut [1.0, f32::INFINITY, 0.0], &[]), None);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_temperature() {
        // At temperature 1/2 probabilities are squared: 0.36, 0.09, 0.01 of 0.46.
        for (temperature, wanted) in
            [(1.0, [0.6, 0.3, 0.1]), (0.5, [0.36 / 0.46, 0.09 / 0.46, 0.01 / 0.46])]
        {
            let mut sampler = Sampler::new(Sampling { temperature, seed: 5, ..warm() });
            let mut counts = [0.0f64; 3];
            let draws = 20_000;
            for _ in 0..draws {
                let token = sampler.choose(&mut logits(&[0.6, 0.3, 0.1]), &[]).expect("a token");
                counts[token as usize] += 1.0;
            }
            for (count, p) in counts.iter().zip(wanted) {
                // Five standard deviations.
                let most = 5.0 * (p * (1.0 - p) / f64::from(draws)).sqrt();
                assert!((count / f64::from(draws) - p).abs() < most, "{counts:?} {wanted:?}");
            }
        }
    }

    #[test]
    fn top_k_top_p_and_min_p_keep_what_their_papers_say() {
        let row = logits(&[0.05, 0.4, 0.15, 0.3, 0.1]);
        assert_eq!(kept(warm(), &row), [1, 3, 2, 4, 0]);
        assert_eq!(kept(Sampling { top_k: 2, ..warm() }, &row), [1, 3]);
        assert_eq!(kept(Sampling { top_k: 9, ..warm() }, &row), [1, 3, 2, 4, 0]);
        // 0.4 + 0.3 is not yet 0.75, with 0.15 it is more.
        assert_eq!(kept(Sampling { top_p: 0.75, ..warm() }, &row), [1, 3, 2]);
        assert_eq!(kept(Sampling { top_p: 0.01, ..warm() }, &row), [1]);
        // At least 0.3 of 0.4 is 0.12.
        assert_eq!(kept(Sampling { min_p: 0.3, ..warm() }, &row), [1, 3, 2]);
        // Of the best three, which have 0.85 together, 0.8 is the first two and the third.
        let both = Sampling { top_k: 3, top_p: 0.8, min_p: 0.5, ..warm() };
        assert_eq!(kept(both, &row), [1, 3]);
    }

    #[test]
    fn a_repeated_token_is_penalised_once_whatever_its_sign() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let mut row = [4.0, -1.0, 3.0, -3.0];
        let token = Sampler::new(sampling).choose(&mut row, &[0, 1, 0, 0, 99]);
        assert_eq!((token, row), (Some(2), [2.0, -2.0, 3.0, -3.0]));
    }

    #[test]
    fn the_same_seed_gives_the_same_text() {
        let text = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..warm() });
            let draw = |_| sampler.choose(&mut [0.0; 64], &[]);
            (0..32).map(draw).collect::<Vec<_>>()
        };
        assert_eq!(text(3), text(3));
        assert_ne!(text(3), text(4));
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let wrong = [
            (Sampling { temperature: -0.1, ..warm() }, "temperature"),
            (Sampling { temperature: f32::NAN, ..warm() }, "temperature"),
            (Sampling { top_p: 0.0, ..warm() }, "top_p"),
            (Sampling { min_p: 2.0, ..warm() }, "min_p"),
            (Sampling { repetition_penalty: 0.0, ..warm() }, "repetition_penalty"),
        ];
        for (sampling, name) in wrong {
            let message = sampling.check().expect_err(name);
            assert!(message.starts_with(name), "{message}");
        }
        assert_eq!(warm().check(), Ok(()));
    }
}
