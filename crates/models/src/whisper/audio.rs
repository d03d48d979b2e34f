//! Sound files to samples: mono, 16 kHz, f32, which is all that Whisper hears.
//!
//! [`load`] looks at the first bytes, never at the name. WAVE files are read here (`wav`), since
//! the only way to tell a recording that was cut short from a complete one is to hold the
//! declared length against the file; FLAC, MP3 and Ogg Vorbis go through symphonia
//! (`compressed`). Channels are averaged and any other rate is brought to 16 kHz (`resample`).
//!
//! Every failure names the file and what is wrong with it. No length that a file declares is
//! trusted, nor used to allocate.

mod compressed;
mod resample;
mod wav;

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};

/// The sample rate that Whisper was trained on, in Hz.
pub const SAMPLE_RATE: u32 = 16_000;

/// Rates outside these bounds are taken for damage.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=1_000_000;

/// Why a sound file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// There is no such file.
    #[error("{path}: no such file")]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is of no kind that is read here.
    #[error("{path}: {what}; wav, flac, mp3 and ogg vorbis can be read")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What it is instead, as far as one can tell.
        what: String,
    },
    /// The file holds less than it says.
    #[error("{path}: cut short: declares {declared} samples, holds {held}")]
    CutShort {
        /// The file.
        path: PathBuf,
        /// Samples of each channel that its header declares.
        declared: u64,
        /// Samples of each channel that are there.
        held: u64,
    },
    /// The file holds no sample at all.
    #[error("{path}: holds no audio")]
    NoAudio {
        /// The file.
        path: PathBuf,
    },
    /// The sample rate makes no sense.
    #[error("{path}: a sample rate of {rate} Hz makes no sense")]
    Rate {
        /// The file.
        path: PathBuf,
        /// The rate that it declares.
        rate: u32,
    },
    /// A sample is infinite or not a number.
    #[error("{path}: sample {index} is {value}")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Which sample, channels averaged.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The file is damaged in another way.
    #[error("{path}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl AudioError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            ErrorKind::NotFound => Self::NotFound { path },
            _ => Self::Io { path, source },
        }
    }

    fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_path_buf(), what: what.into() }
    }

    fn unknown(path: &Path, what: impl Into<String>) -> Self {
        Self::UnknownFormat { path: path.to_path_buf(), what: what.into() }
    }
}

/// Samples of one channel at some rate.
struct Sound {
    samples: Vec<f32>,
    rate: u32,
}

/// Reads a sound file as mono samples at [`SAMPLE_RATE`], scaled to -1..1.
///
/// `n` samples at another rate become `round(n * 16000 / rate)`, aligned with the original.
///
/// # Errors
/// [`AudioError`] if the file is missing, unreadable, of an unknown kind, cut short, empty, or
/// holds a rate or samples that make no sense.
pub fn load(path: &Path) -> Result<Vec<f32>, AudioError> {
    let mut file = File::open(path).map_err(|e| AudioError::io(path, e))?;
    let mut head = Vec::with_capacity(16);
    (&mut file).take(16).read_to_end(&mut head).map_err(|e| AudioError::io(path, e))?;
    if head.is_empty() {
        return Err(AudioError::NoAudio { path: path.to_path_buf() });
    }
    file.rewind().map_err(|e| AudioError::io(path, e))?;
    let is_wav = matches!(head.get(..4), Some(b"RIFF" | b"RF64"));
    let sound = match is_wav {
        true if head.get(8..12) != Some(b"WAVE") => {
            return Err(AudioError::unknown(path, "a RIFF file that is not WAVE"));
        }
        true => wav::read(&mut BufReader::new(file), path)?,
        false => compressed::read(file, &head, path)?,
    };
    let Sound { samples, rate } = sound;
    if !RATES.contains(&rate) {
        return Err(AudioError::Rate { path: path.to_path_buf(), rate });
    }
    if let Some((index, &value)) = samples.iter().enumerate().find(|(_, s)| !s.is_finite()) {
        return Err(AudioError::NotFinite { path: path.to_path_buf(), index, value });
    }
    let samples = match rate {
        SAMPLE_RATE => samples,
        _ => resample::resample(&samples, rate).map_err(|what| AudioError::damaged(path, what))?,
    };
    match samples.is_empty() {
        true => Err(AudioError::NoAudio { path: path.to_path_buf() }),
        false => Ok(samples),
    }
}

#[cfg(test)]
mod tests;
