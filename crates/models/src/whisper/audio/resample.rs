//! From any sample rate to 16 kHz, without a shift in time.
//!
//! rubato's windowed sinc does the work. A ratio of whole numbers L/M with a small L needs only
//! the L phases of the filter that really occur, each exactly; others are interpolated from 256.
//!
//! Alignment: with F phases, rubato's output number n stands at input time `(n+1) M/L - 1 + 1/F`.
//! So some zeros are put before the input and some outputs are dropped, in numbers that make
//! output 0 fall on input 0.

use rubato::{
    Resampler, SincFixedIn, SincInterpolationParameters, SincInterpolationType, WindowFunction,
};

use super::SAMPLE_RATE;

/// Filter taps per output sample's width: the last 9 % below half the rate fade out.
const TAPS: f64 = 192.0;
/// No filter is longer than this.
const MOST_TAPS: f64 = 4096.0;
/// Above this many exact phases the filter is interpolated.
const MOST_PHASES: u32 = 1024;
/// Input samples handed over at once.
const CHUNK: usize = 8192;

/// `samples` at `rate` Hz brought to [`SAMPLE_RATE`]: `round(n * 16000 / rate)` samples.
pub(super) fn resample(samples: &[f32], rate: u32) -> Result<Vec<f32>, String> {
    let common = gcd(rate, SAMPLE_RATE);
    let (up, down) = (SAMPLE_RATE / common, rate / common);
    let step = f64::from(down) / f64::from(up);
    let (phases, interpolation) = match up <= MOST_PHASES {
        true => (up as usize, SincInterpolationType::Nearest),
        false => (256, SincInterpolationType::Cubic),
    };
    let parameters = SincInterpolationParameters {
        sinc_len: (TAPS * step.max(1.0)).min(MOST_TAPS) as usize,
        f_cutoff: 0.95,
        oversampling_factor: phases,
        interpolation,
        window: WindowFunction::BlackmanHarris2,
    };
    let mut resampler = SincFixedIn::<f32>::new(1.0 / step, 1.0, parameters, CHUNK, 1)
        .map_err(|e| e.to_string())?;

    let (zeros, dropped) = alignment(step, phases);
    let wanted = (samples.len() as f64 / step).round() as usize;
    let mut out = Vec::new();
    let mut input = vec![vec![0.0; CHUNK]];
    let mut output = resampler.output_buffer_allocate(true);
    let mut at = 0;
    let mut skip = dropped;
    while out.len() < wanted {
        let before = zeros.saturating_sub(at).min(CHUNK);
        let from = (at + before).saturating_sub(zeros).min(samples.len());
        let part = &samples[from..samples.len().min(from + CHUNK - before)];
        input[0].fill(0.0);
        input[0][before..before + part.len()].copy_from_slice(part);
        let (_, made) =
            resampler.process_into_buffer(&input, &mut output, None).map_err(|e| e.to_string())?;
        let skipped = skip.min(made);
        skip -= skipped;
        out.extend_from_slice(&output[0][skipped..made]);
        at += CHUNK;
    }
    out.truncate(wanted);
    Ok(out)
}

/// How many zeros to put before the input, and how many outputs to drop, so that the next output
/// stands at input time 0, as nearly as whole numbers allow.
fn alignment(step: f64, phases: usize) -> (usize, usize) {
    let mut best = (f64::INFINITY, 0, 0);
    for dropped in 0..MOST_PHASES {
        let time = f64::from(dropped + 1) * step - 1.0 + 1.0 / phases as f64;
        let zeros = time.round().max(0.0);
        let off = (time - zeros).abs();
        if off + 1e-9 < best.0 {
            best = (off, zeros as usize, dropped as usize);
        }
    }
    (best.1, best.2)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
