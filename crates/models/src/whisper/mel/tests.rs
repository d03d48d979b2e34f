//! Holds the fast spectrogram against a slow one in f64 that is written from the definition.

use super::*;

/// A tone that glides, a click and some noise: every band hears something.
fn sound(len: usize) -> Vec<f32> {
    let mut state = 1_u32;
    (0..len)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = f64::from(state >> 8) / f64::from(1_u32 << 24) - 0.5;
            let t = i as f64 / 16_000.0;
            let glide = (std::f64::consts::TAU * (200.0 * t + 30_000.0 * t * t)).sin();
            (0.3 * glide + 0.02 * noise + if i == 777 { 0.5 } else { 0.0 }) as f32
        })
        .collect()
}

/// Padded copy, plain Fourier sums and full triangles, all in f64.
fn slow(samples: &[f32], padding: usize, n_mels: usize) -> Vec<Vec<f64>> {
    let mut x: Vec<f64> = samples.iter().map(|&s| f64::from(s)).collect();
    x.resize(samples.len() + padding, 0.0);
    let mut padded: Vec<f64> = (1..=200).rev().map(|i| x[i]).collect();
    padded.extend(&x);
    padded.extend((1..=200).map(|i| x[x.len() - 1 - i]));
    let hz = |mel: f64| match mel < 15.0 {
        true => mel / 0.015,
        false => 1000.0 * 6.4_f64.powf((mel - 15.0) / 27.0),
    };
    let top = 15.0 + 27.0 * 8.0_f64.ln() / 6.4_f64.ln();
    let edges: Vec<f64> =
        (0..n_mels + 2).map(|i| hz(top * i as f64 / (n_mels + 1) as f64)).collect();
    let frames = x.len() / 160;
    let mut out = vec![vec![0.0; frames]; n_mels];
    for t in 0..frames {
        let cut = &padded[160 * t..160 * t + 400];
        let mut power = vec![0.0; 201];
        for (k, p) in power.iter_mut().enumerate() {
            let (mut re, mut im) = (0.0, 0.0);
            for (n, s) in cut.iter().enumerate() {
                let hann = (std::f64::consts::PI * n as f64 / 400.0).sin().powi(2);
                let angle = std::f64::consts::TAU * ((k * n) % 400) as f64 / 400.0;
                re += s * hann * angle.cos();
                im -= s * hann * angle.sin();
            }
            *p = re * re + im * im;
        }
        for (m, row) in out.iter_mut().enumerate() {
            let mut energy = 0.0;
            for (k, p) in power.iter().enumerate() {
                let f = 40.0 * k as f64;
                let (a, b, c) = (edges[m], edges[m + 1], edges[m + 2]);
                let height = match f {
                    f if f > a && f <= b => (f - a) / (b - a),
                    f if f > b && f < c => (c - f) / (c - b),
                    _ => 0.0,
                };
                energy += p * height * 2.0 / (c - a);
            }
            row[t] = energy.max(1e-10).log10();
        }
    }
    let loudest = out.iter().flatten().fold(f64::MIN, |a, &b| a.max(b));
    for v in out.iter_mut().flatten() {
        *v = (v.max(loudest - 8.0) + 4.0) / 4.0;
    }
    out
}

fn compare(mel: &Mel, want: &[Vec<f64>]) {
    assert_eq!((mel.n_mels, mel.frames), (want.len(), want[0].len()));
    let mut worst = (0.0, 0, 0);
    for (m, row) in want.iter().enumerate() {
        for (t, &w) in row.iter().enumerate() {
            let error = (f64::from(mel.data[m * mel.frames + t]) - w).abs();
            if error > worst.0 {
                worst = (error, m, t);
            }
        }
    }
    assert!(worst.0 < 2e-5, "max abs {:e} at band {} frame {}", worst.0, worst.1, worst.2);
}

#[test]
fn the_spectrogram_agrees_with_a_plain_fourier_sum() {
    for n_mels in [80, 128] {
        let samples = sound(2000);
        compare(&LogMel::new(n_mels).expect("bands").compute(&samples), &slow(&samples, 0, n_mels));
    }
}

#[test]
fn padding_is_the_same_as_silence_in_the_samples() {
    let samples = sound(1234);
    let front = LogMel::new(80).expect("bands");
    let padded = front.compute_padded(&samples, 4000);
    compare(&padded, &slow(&samples, 4000, 80));
    let mut longer = samples.clone();
    longer.resize(samples.len() + 4000, 0.0);
    assert_eq!(padded, front.compute(&longer));
    // Padding shorter than a frame lets the right mirror reach the samples.
    compare(&front.compute_padded(&samples, 46), &slow(&samples, 46, 80));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let samples = sound(16_000);
    let one = LogMel::new(80).expect("bands").compute_padded(&samples, 8000);
    for threads in [0, 2, 3, 7, 64, 1000] {
        let many = LogMel::new(80).expect("bands").with_threads(threads);
        assert_eq!(one, many.compute_padded(&samples, 8000), "{threads} threads");
    }
}

#[test]
fn the_bands_are_slaneys() {
    // Computed with NumPy from the published formulas.
    let known: [(usize, usize, usize, f64); 8] = [
        (80, 0, 1, 0.024862593984176087),
        (80, 1, 2, 0.022871772096078023),
        (80, 20, 20, 0.013890393982586886),
        (80, 60, 93, 0.006591092774765085),
        (80, 79, 199, 0.00044875902758905584),
        (128, 0, 1, 0.012373986332636965),
        (128, 60, 39, 0.021224553254136698),
        (128, 127, 196, 0.004457120795012996),
    ];
    for (n_mels, band, bin, want) in known {
        let got = slaney_filters(n_mels)[band][bin];
        assert!((got - want).abs() < 1e-12, "{n_mels} bands, [{band}][{bin}]: {got}");
    }
    for (n_mels, sum) in [(80, 1.9990241029178577), (128, 3.1909855285406996)] {
        let got: f64 = slaney_filters(n_mels).iter().flatten().sum();
        assert!((got - sum).abs() < 1e-10, "{n_mels} bands: {got}");
    }
}

#[test]
fn silence_is_flat_and_short_audio_has_few_frames() {
    let front = LogMel::new(80).expect("bands");
    let quiet = front.compute(&[0.0; 480]);
    assert_eq!(quiet.frames, 3);
    // Nothing is louder than the floor: (-10 + 4) / 4.
    assert!(quiet.data.iter().all(|&x| (x + 1.5).abs() < 1e-6));
    for (len, frames) in [(0, 0), (1, 0), (159, 0), (160, 1), (161, 1), (201, 1), (320, 2)] {
        assert_eq!(front.compute(&sound(len)).frames, frames, "{len} samples");
    }
}

#[test]
fn an_absurd_number_of_bands_is_refused() {
    assert!(LogMel::new(0).is_err());
    let error = LogMel::new(usize::MAX).expect_err("too many").to_string();
    assert!(error.contains("1 to 1024"), "{error}");
}

#[test]
fn a_window_past_the_end_is_filled_with_zeros() {
    let mel = Mel { n_mels: 2, frames: 3, data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] };
    assert_eq!(mel.window(1, 2), [2.0, 3.0, 5.0, 6.0]);
    assert_eq!(mel.window(2, 3), [3.0, 0.0, 0.0, 6.0, 0.0, 0.0]);
    assert_eq!(mel.window(9, 2), [0.0; 4]);
    assert!(mel.window(0, 0).is_empty());
}
