//! The log-mel spectrogram that Whisper hears.
//!
//! Speech is cut into frames of 25 ms, one every 10 ms; each frame becomes the energy in a few
//! dozen bands that are narrow for low tones and wide for high ones, on a logarithmic scale. The
//! network was trained on exactly this picture, so every constant here is fixed: a periodic Hann
//! window of 400 samples, hop 160, reflected edges, the last frame dropped, bands by Slaney's
//! scale with unit area, a floor of 1e-10, eight decades below the loudest point, and
//! `(x + 4) / 4`.
//!
//! [`LogMel`] holds what is made once (the FFT plan, the window, the bands) and
//! [`LogMel::compute`] does the work, spread over threads by runs of frames. The bands are
//! computed in f64 and kept sparse: a band covers a few of the 201 frequencies.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::audio::SAMPLE_RATE;

/// Samples in one frame (25 ms), also the length of the Fourier transform.
pub const N_FFT: usize = 400;
/// Samples from one frame to the next (10 ms).
pub const HOP: usize = 160;
/// Frames in one second.
pub const FRAMES_PER_SECOND: usize = SAMPLE_RATE as usize / HOP;

/// Energies below this are lifted to it before the logarithm.
const FLOOR: f32 = 1e-10;
/// More bands than this make no sense: there are only 201 frequencies.
const MOST_MELS: usize = 1024;

/// Why no spectrogram can be made.
#[derive(Debug, thiserror::Error)]
pub enum MelError {
    /// The number of bands is zero or absurd.
    #[error("the number of mel bands must be 1 to {MOST_MELS}, got {0}")]
    Bands(usize),
}

/// A log-mel spectrogram, [n_mels, frames] row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Mel {
    /// The number of bands, lowest tones first.
    pub n_mels: usize,
    /// The number of frames of 10 ms.
    pub frames: usize,
    /// The values, one row of `frames` per band.
    pub data: Vec<f32>,
}

impl Mel {
    /// Copies `frames` frames from `start` on, [n_mels, frames]; what lies past the end is zero.
    #[must_use]
    pub fn window(&self, start: usize, frames: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.n_mels * frames];
        let held = self.frames.saturating_sub(start).min(frames);
        if held == 0 {
            return out;
        }
        for (to, from) in out.chunks_mut(frames).zip(self.data.chunks(self.frames)) {
            to[..held].copy_from_slice(&from[start..start + held]);
        }
        out
    }
}

/// One band: weights for the frequencies from `first` on.
#[derive(Debug, Clone)]
struct Band {
    first: usize,
    weights: Vec<f32>,
}

/// Turns samples at 16 kHz into log-mel spectrograms.
pub struct LogMel {
    plan: Arc<dyn RealToComplex<f32>>,
    hann: Vec<f32>,
    bands: Vec<Band>,
    threads: usize,
}

impl std::fmt::Debug for LogMel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogMel")
            .field("n_mels", &self.bands.len())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl LogMel {
    /// Prepares spectrograms of `n_mels` bands (80, or 128 for the largest checkpoints), on one
    /// thread.
    ///
    /// # Errors
    /// [`MelError::Bands`] if `n_mels` is zero or absurd.
    pub fn new(n_mels: usize) -> Result<Self, MelError> {
        if n_mels == 0 || n_mels > MOST_MELS {
            return Err(MelError::Bands(n_mels));
        }
        let turn = std::f64::consts::TAU / N_FFT as f64;
        let hann = (0..N_FFT).map(|i| (0.5 - 0.5 * (turn * i as f64).cos()) as f32).collect();
        Ok(Self {
            plan: RealFftPlanner::new().plan_fft_forward(N_FFT),
            hann,
            bands: slaney_filters(n_mels).iter().map(|row| sparse(row)).collect(),
            threads: 1,
        })
    }

    /// Sets how many threads compute; the result is the same for any number.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// The spectrogram of `samples`: one frame for every 160 whole samples.
    #[must_use]
    pub fn compute(&self, samples: &[f32]) -> Mel {
        self.compute_padded(samples, 0)
    }

    /// The spectrogram of `samples` followed by `padding` samples of silence, at next to no cost
    /// for the silence.
    #[must_use]
    pub fn compute_padded(&self, samples: &[f32], padding: usize) -> Mel {
        let n_mels = self.bands.len();
        let total = samples.len() + padding;
        let frames = total / HOP;
        let silence = FLOOR.log10();
        let mut data = vec![silence; n_mels * frames];
        // A frame that begins past the last sample is silent, if no reflection can reach it.
        let heard = if padding >= N_FFT {
            frames.min((samples.len() + N_FFT / 2).div_ceil(HOP))
        } else {
            frames
        };
        if heard > 0 {
            let run = heard.div_ceil(self.threads);
            let mut runs: Vec<Vec<&mut [f32]>> = Vec::new();
            runs.resize_with(heard.div_ceil(run), || Vec::with_capacity(n_mels));
            for row in data.chunks_mut(frames) {
                for (rows, part) in runs.iter_mut().zip(row[..heard].chunks_mut(run)) {
                    rows.push(part);
                }
            }
            std::thread::scope(|scope| {
                let mut runs = runs.into_iter().enumerate();
                let own = runs.next();
                for (i, rows) in runs {
                    scope.spawn(move || self.run(samples, total, i * run, rows));
                }
                if let Some((_, rows)) = own {
                    self.run(samples, total, 0, rows);
                }
            });
        }
        let loudest = data.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        for x in &mut data {
            *x = (x.max(loudest - 8.0) + 4.0) / 4.0;
        }
        Mel { n_mels, frames, data }
    }

    /// Fills the frames from `first` on: `rows` holds one slice per band.
    fn run(&self, samples: &[f32], total: usize, first: usize, mut rows: Vec<&mut [f32]>) {
        let mut frame = self.plan.make_input_vec();
        let mut spectrum = self.plan.make_output_vec();
        let mut scratch = self.plan.make_scratch_vec();
        let mut power = vec![0.0_f32; spectrum.len()];
        let count = rows.first().map_or(0, |row| row.len());
        for t in 0..count {
            self.cut(samples, total, first + t, &mut frame);
            self.plan
                .process_with_scratch(&mut frame, &mut spectrum, &mut scratch)
                .expect("the buffers were made by the plan");
            for (p, c) in power.iter_mut().zip(&spectrum) {
                *p = Complex::norm_sqr(c);
            }
            for (row, band) in rows.iter_mut().zip(&self.bands) {
                let heard = &power[band.first..band.first + band.weights.len()];
                let energy: f32 = heard.iter().zip(&band.weights).map(|(p, w)| p * w).sum();
                row[t] = energy.max(FLOOR).log10();
            }
        }
    }

    /// Copies frame `t`, which is centred on sample `160 t`, and applies the window.
    fn cut(&self, samples: &[f32], total: usize, t: usize, frame: &mut [f32]) {
        let start = (t * HOP) as isize - (N_FFT / 2) as isize;
        let inside = usize::try_from(start).ok().and_then(|s| samples.get(s..s + N_FFT));
        match inside {
            Some(part) => {
                for ((x, s), w) in frame.iter_mut().zip(part).zip(&self.hann) {
                    *x = s * w;
                }
            }
            None => {
                for (i, (x, w)) in frame.iter_mut().zip(&self.hann).enumerate() {
                    let at = reflect(start + i as isize, total);
                    *x = samples.get(at).copied().unwrap_or(0.0) * w;
                }
            }
        }
    }
}

/// Folds an index that lies outside `0..len` back in, as mirrors at both end samples would.
fn reflect(at: isize, len: usize) -> usize {
    if len < 2 {
        return 0;
    }
    let last = len - 1;
    let folded = at.rem_euclid(2 * last as isize) as usize;
    if folded > last { 2 * last - folded } else { folded }
}

/// The frequency in Hz of a place on Slaney's mel scale: linear to 1000 Hz, then logarithmic.
fn mel_to_hz(mel: f64) -> f64 {
    if mel < 15.0 { mel * 200.0 / 3.0 } else { 1000.0 * ((mel - 15.0) * 6.4_f64.ln() / 27.0).exp() }
}

/// The inverse of [`mel_to_hz`].
fn hz_to_mel(hz: f64) -> f64 {
    if hz < 1000.0 { hz * 3.0 / 200.0 } else { 15.0 + (hz / 1000.0).ln() * 27.0 / 6.4_f64.ln() }
}

/// Triangular bands of unit area from 0 Hz to half the sample rate, [n_mels][201].
fn slaney_filters(n_mels: usize) -> Vec<Vec<f64>> {
    let nyquist = f64::from(SAMPLE_RATE) / 2.0;
    let top = hz_to_mel(nyquist);
    let edge = |i: usize| mel_to_hz(top * i as f64 / (n_mels + 1) as f64);
    let bins = N_FFT / 2 + 1;
    (0..n_mels)
        .map(|m| {
            let (low, peak, high) = (edge(m), edge(m + 1), edge(m + 2));
            (0..bins)
                .map(|bin| {
                    let hz = nyquist * bin as f64 / (bins - 1) as f64;
                    let slope = ((hz - low) / (peak - low)).min((high - hz) / (high - peak));
                    slope.max(0.0) * 2.0 / (high - low)
                })
                .collect()
        })
        .collect()
}

/// Keeps the stretch of a band that is not zero.
fn sparse(row: &[f64]) -> Band {
    let first = row.iter().position(|&w| w > 0.0).unwrap_or(0);
    let end = row.iter().rposition(|&w| w > 0.0).map_or(first, |last| last + 1);
    Band { first, weights: row[first..end].iter().map(|&w| w as f32).collect() }
}

#[cfg(test)]
mod tests;
