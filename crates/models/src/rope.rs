//! Schedules of rotary frequencies: how a model that was trained on short texts turns its heads in
//! long ones.
//!
//! One place for all of them, in f64. A schedule gives the inverse frequencies, which for two of
//! them depend on how long the text is by now, and the amplitude of cosine and sine. The names are
//! those of Hugging Face, which calls the key `rope_parameters` today and `rope_scaling` in older
//! checkpoints.

#[cfg(test)]
mod tests;

use crate::config::{ConfigError, Keys};
use serde_json::Value as Json;
use std::f64::consts::PI;

/// What is done to the frequencies `base^(-2i/dims)`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Nothing.
    Default,
    /// All are divided.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the text from `trained` positions on (NTK-aware).
    Dynamic {
        /// How many times longer texts may be.
        factor: f64,
        /// Positions that the model was trained on.
        trained: usize,
    },
    /// Fast ones stay, slow ones are divided, with a ramp between (Peng et al., 2023).
    Yarn {
        /// The divisor.
        factor: f64,
        /// Positions that the model was trained on.
        trained: usize,
        /// Turns within `trained` positions from which on a frequency stays.
        beta_fast: f64,
        /// Turns up to which it is divided.
        beta_slow: f64,
        /// Whether the ends of the ramp are whole numbers.
        truncate: bool,
        /// Multiplies cosine and sine.
        amplitude: f64,
    },
    /// A divisor for each, of two lists (Ding et al., 2024).
    LongRope {
        /// Divisors while the text is within `trained`.
        short: Vec<f64>,
        /// Divisors when it is longer.
        long: Vec<f64>,
        /// Positions that the model was trained on.
        trained: usize,
        /// Multiplies cosine and sine.
        amplitude: f64,
    },
    /// Slow ones are divided, with a smooth passage (Llama 3.1).
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Turns within `trained` positions up to which a frequency is divided.
        low: f64,
        /// Turns from which on it stays.
        high: f64,
        /// Positions that the model was trained on.
        trained: usize,
    },
    /// A divisor for each, as GGUF files keep the schedule of Llama 3.
    Divided(Vec<f64>),
}

/// Rotary frequencies of one kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSchedule {
    /// How many leading elements of a head turn; even.
    pub dims: usize,
    /// The base.
    pub base: f64,
    /// What is done to the frequencies.
    pub scaling: RopeScaling,
}

impl RopeSchedule {
    /// Reads the configuration of Hugging Face. `layer_type` chooses among schedules where there is
    /// one for each (`full_attention`, `sliding_attention`); `base` is what the model type has
    /// where the configuration says nothing.
    ///
    /// # Errors
    /// A schedule that is not known, parameters that are absent or make no sense.
    pub fn from_json(
        config: &Json,
        head_dim: usize,
        base: f64,
        layer_type: Option<&str>,
    ) -> Result<RopeSchedule, ConfigError> {
        let config = Keys::new(config, "config.json");
        let local = layer_type == Some("sliding_attention");
        let mut parameters = config.inner("rope_parameters");
        if let Some(t) = layer_type
            && parameters.names(t)
        {
            parameters = parameters.inner(t);
        }
        // In the old form only the layers that see everything are scaled.
        if parameters.is_empty() && !local {
            parameters = config.inner("rope_scaling");
        }
        let old_base = if local { "rope_local_base_freq" } else { "rope_theta" };
        let base = match parameters.maybe_positive("rope_theta")? {
            Some(base) => base,
            None => config.maybe_positive(old_base)?.unwrap_or(base),
        };
        let partial = match parameters.maybe_positive("partial_rotary_factor")? {
            Some(partial) => partial,
            None => config.maybe_positive("partial_rotary_factor")?.unwrap_or(1.0),
        };
        let dims = (head_dim as f64 * partial) as usize;
        if partial > 1.0 || dims < 2 || !dims.is_multiple_of(2) {
            let wanted = format!("a part of the {head_dim} elements of a head that is even");
            return Err(config.wrong("partial_rotary_factor", wanted));
        }
        let scaling = scaling(config, parameters, dims)?;
        Ok(RopeSchedule { dims, base, scaling })
    }

    /// The inverse frequencies when the text has `length` positions.
    pub fn inv_freqs(&self, length: usize) -> Vec<f64> {
        let dims = self.dims as f64;
        let of_base = |base: f64| -> Vec<f64> {
            (0..self.dims / 2).map(|i| base.powf(-2.0 * i as f64 / dims)).collect()
        };
        let mut all = of_base(self.base);
        match &self.scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => all.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::Dynamic { factor, trained } => {
                let stretch =
                    factor * length.max(*trained) as f64 / *trained as f64 - (factor - 1.0);
                // With one pair there is nothing to stretch: its frequency is 1 for any base.
                if self.dims > 2 {
                    all = of_base(self.base * stretch.powf(dims / (dims - 2.0)));
                }
            }
            RopeScaling::Yarn { factor, trained, beta_fast, beta_slow, truncate, .. } => {
                // The pair that makes so many turns within the trained positions.
                let pair = |turns: f64| {
                    dims * (*trained as f64 / (turns * 2.0 * PI)).ln() / (2.0 * self.base.ln())
                };
                let (mut low, mut high) = (pair(*beta_fast), pair(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dims - 1.0));
                if low == high {
                    high += 0.001;
                }
                for (i, f) in all.iter_mut().enumerate() {
                    let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    *f = *f / factor * divided + *f * (1.0 - divided);
                }
            }
            RopeScaling::LongRope { short, long, trained, .. } => {
                let divisors = if length > *trained { long } else { short };
                all.iter_mut().zip(divisors).for_each(|(f, d)| *f /= d);
            }
            RopeScaling::Llama3 { factor, low, high, trained } => {
                for f in &mut all {
                    let turns = *trained as f64 * *f / (2.0 * PI);
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *f = *f / factor * (1.0 - kept) + *f * kept;
                }
            }
            RopeScaling::Divided(divisors) => {
                all.iter_mut().zip(divisors).for_each(|(f, d)| *f /= d);
            }
        }
        all
    }

    /// What multiplies cosine and sine.
    pub fn amplitude(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { amplitude, .. } | RopeScaling::LongRope { amplitude, .. } => {
                amplitude
            }
            _ => 1.0,
        }
    }

    /// What multiplies positions, where base and scale say everything; `None` where the inverse
    /// frequencies must be given.
    pub fn scale(&self) -> Option<f64> {
        match self.scaling {
            RopeScaling::Default => Some(1.0),
            RopeScaling::Linear { factor } => Some(1.0 / factor),
            _ => None,
        }
    }

    /// Whether the inverse frequencies depend on the length of the text.
    pub fn follows_length(&self) -> bool {
        matches!(self.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. })
    }

    /// Whether keys that were turned in a text of `before` positions are wrong in one of `after`.
    /// (Those of the dynamic schedule are kept, as its authors do.)
    pub fn turns_again(&self, before: usize, after: usize) -> bool {
        match self.scaling {
            RopeScaling::LongRope { trained, .. } => (before > trained) != (after > trained),
            _ => false,
        }
    }
}

/// The schedule that the parameters describe.
fn scaling(config: Keys<'_>, p: Keys<'_>, dims: usize) -> Result<RopeScaling, ConfigError> {
    let key = if p.names("rope_type") { "rope_type" } else { "type" };
    let phi = config.maybe_text("model_type")? == Some("phi3");
    // The first checkpoints of Phi 3 have other names for it.
    let name = match p.maybe_text(key)?.unwrap_or("default") {
        "su" | "yarn" if phi => "longrope",
        name => name,
    };
    let trained = || -> Result<usize, ConfigError> {
        let key = "original_max_position_embeddings";
        match p.maybe_size(key)? {
            Some(n) => Ok(n),
            None => match config.maybe_size(key)? {
                Some(n) => Ok(n),
                None => config.size("max_position_embeddings"),
            },
        }
    };
    let factor_or_ratio = || match p.maybe_positive("factor")? {
        Some(factor) => Ok(factor),
        None => Ok(config.size("max_position_embeddings")? as f64 / trained()? as f64),
    };
    let or = |key: &str, default: f64| Ok(p.maybe_positive(key)?.unwrap_or(default));
    Ok(match name {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: p.positive("factor")? },
        "dynamic" => {
            let trained = config.size("max_position_embeddings")?;
            RopeScaling::Dynamic { factor: p.positive("factor")?, trained }
        }
        "yarn" => {
            let factor = factor_or_ratio()?;
            let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
            let scales = (p.maybe_positive("mscale")?, p.maybe_positive("mscale_all_dim")?);
            let amplitude = match (p.maybe_positive("attention_factor")?, scales) {
                (Some(a), _) => a,
                (None, (Some(m), Some(all))) => scale(m) / scale(all),
                (None, _) => scale(1.0),
            };
            RopeScaling::Yarn {
                factor,
                trained: trained()?,
                beta_fast: or("beta_fast", 32.0)?,
                beta_slow: or("beta_slow", 1.0)?,
                truncate: p.flag("truncate", true)?,
                amplitude,
            }
        }
        "longrope" => {
            let (trained, factor) = (trained()?, factor_or_ratio()?);
            let amplitude = match p.maybe_positive("attention_factor")? {
                Some(a) => a,
                None if factor <= 1.0 => 1.0,
                None => longrope_amplitude(factor, trained),
            };
            let short = p.positives("short_factor", dims / 2)?;
            let long = p.positives("long_factor", dims / 2)?;
            RopeScaling::LongRope { short, long, trained, amplitude }
        }
        "llama3" => {
            let (low, high) = (p.positive("low_freq_factor")?, p.positive("high_freq_factor")?);
            if low >= high {
                return Err(p.wrong("high_freq_factor", format!("above low_freq_factor {low}")));
            }
            RopeScaling::Llama3 { factor: p.positive("factor")?, low, high, trained: trained()? }
        }
        _ => {
            let known = "default, linear, dynamic, yarn, longrope or llama3";
            return Err(p.wrong(key, known));
        }
    })
}

/// The amplitude of longrope where nobody says another.
pub(crate) fn longrope_amplitude(factor: f64, trained: usize) -> f64 {
    (1.0 + factor.ln() / (trained.max(2) as f64).ln()).sqrt()
}
