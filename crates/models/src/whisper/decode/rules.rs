//! What may follow what: pure functions on one row of logits. A forbidden token's logit is -inf.

use crate::row::{largest, log_sum_exp};

/// Forbids tokens: their logits become -inf. Ids past the end are ignored.
pub fn suppress(logits: &mut [f32], ids: &[u32]) {
    for &id in ids {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// What makes timestamps usable: they open and close every piece of text and never run backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampRules {
    /// The first special token.
    pub end_of_text: u32,
    /// The token that asks for no timestamps.
    pub no_timestamps: Option<u32>,
    /// The first timestamp.
    pub timestamp_begin: u32,
    /// The latest first timestamp, in steps.
    pub max_initial: Option<u32>,
}

impl TimestampRules {
    /// Forbids what must not follow `tokens`, the tokens written so far.
    ///
    /// - The text begins with a timestamp, no later than `max_initial`.
    /// - Timestamps stand in pairs (the end of a piece, the start of the next), except before the
    ///   end of the text.
    /// - A timestamp is not before the last one, and a piece does not end where it began.
    /// - If all timestamps together are more likely than every single other token, a timestamp
    ///   follows.
    pub fn apply(&self, logits: &mut [f32], tokens: &[u32]) {
        let begin = (self.timestamp_begin as usize).min(logits.len());
        let end_of_text = (self.end_of_text as usize).min(begin);
        if let Some(id) = self.no_timestamps {
            suppress(logits, &[id]);
        }
        let is_time = |id: &u32| *id >= self.timestamp_begin;
        let last = tokens.last().is_some_and(is_time);
        let before = tokens.len() < 2 || is_time(&tokens[tokens.len() - 2]);
        match (last, before) {
            (true, true) => forbid(&mut logits[begin..]),
            (true, false) => forbid(&mut logits[..end_of_text]),
            _ => {}
        }
        if let Some(&time) = tokens.iter().rev().find(|id| is_time(id)) {
            // Only the partner of a closing timestamp may equal it.
            let least = if last && !before { time as usize } else { time as usize + 1 };
            let least = least.min(logits.len());
            forbid(&mut logits[begin..least.max(begin)]);
        }
        if tokens.is_empty() {
            forbid(&mut logits[..begin]);
            if let Some(most) = self.max_initial {
                let past = (begin + most as usize).saturating_add(1).min(logits.len());
                forbid(&mut logits[past..]);
            }
        }
        let (words, times) = logits.split_at_mut(begin);
        if log_sum_exp(times) > f64::from(largest(words)) {
            forbid(words);
        }
    }
}

fn forbid(logits: &mut [f32]) {
    logits.fill(f32::NEG_INFINITY);
}
