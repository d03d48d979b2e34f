//! WAVE files: PCM of 8 to 32 bits, floats of 32 or 64, and the telephone's A-law and mu-law;
//! plain or extensible, RIFF or RF64.
//!
//! A file is a row of chunks, each with a name and a length; `fmt ` says how samples are stored
//! and `data` holds them. A recorder that writes to a pipe cannot know the length and leaves 0 or
//! 0xFFFFFFFF there: then everything up to the end of the file counts.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::{AudioError, Sound};

/// The length that says "unknown, read on to the end".
const STREAMING: u64 = 0xFFFF_FFFF;

#[derive(Debug, Clone, Copy)]
enum Encoding {
    U8,
    I16,
    I24,
    I32,
    F32,
    F64,
    ALaw,
    MuLaw,
}

#[derive(Debug, Clone, Copy)]
struct Format {
    encoding: Encoding,
    channels: usize,
    rate: u32,
    /// Bytes of one sample of all channels.
    align: usize,
}

/// Reads the file from its start.
pub(super) fn read<R: Read + Seek>(reader: &mut R, path: &Path) -> Result<Sound, AudioError> {
    let io = |e| AudioError::io(path, e);
    let end = reader.seek(SeekFrom::End(0)).map_err(io)?;
    let mut at = 12;
    let mut format = None;
    let mut long_length = None;
    loop {
        if end.saturating_sub(at) < 8 {
            let what = if format.is_some() { "there is no data chunk" } else { "ends too early" };
            return Err(AudioError::damaged(path, what));
        }
        reader.seek(SeekFrom::Start(at)).map_err(io)?;
        let mut header = [0; 8];
        reader.read_exact(&mut header).map_err(io)?;
        let length = u64::from(u32_at(&header, 4));
        at += 8;
        if header.starts_with(b"data") {
            let Some(format) = format else {
                return Err(AudioError::damaged(path, "the data chunk comes before the format"));
            };
            let held = end - at;
            let declared = match (length, long_length) {
                (0, _) | (STREAMING, None | Some(0 | u64::MAX)) => held,
                (STREAMING, Some(long)) => long,
                _ => length,
            };
            return samples(reader, path, format, declared, held);
        }
        if length > end - at {
            let name = String::from_utf8_lossy(&header[..4]).into_owned();
            let what = format!("chunk {name:?} declares {length} bytes, {} are left", end - at);
            return Err(AudioError::damaged(path, what));
        }
        let mut body = Vec::new();
        if header.starts_with(b"fmt ") || header.starts_with(b"ds64") {
            reader.by_ref().take(length.min(64)).read_to_end(&mut body).map_err(io)?;
        }
        if header.starts_with(b"fmt ") {
            format = Some(parse_format(&body, path)?);
        } else if header.starts_with(b"ds64") && body.len() >= 16 {
            long_length = Some(u64::from(u32_at(&body, 8)) | u64::from(u32_at(&body, 12)) << 32);
        }
        // Chunks begin at even places.
        at += length + length % 2;
    }
}

/// Understands a `fmt ` chunk.
fn parse_format(body: &[u8], path: &Path) -> Result<Format, AudioError> {
    if body.len() < 16 {
        return Err(AudioError::damaged(path, "the format chunk is too short"));
    }
    let mut tag = u16_at(body, 0);
    let channels = usize::from(u16_at(body, 2));
    let rate = u32_at(body, 4);
    let align = usize::from(u16_at(body, 12));
    let bits = u16_at(body, 14);
    // "Extensible" keeps the true tag in the first bytes of a longer name.
    if tag == 0xFFFE && body.len() >= 26 {
        tag = u16_at(body, 24);
    }
    if channels == 0 {
        return Err(AudioError::damaged(path, "has no channel"));
    }
    let encoding = match (tag, bits.div_ceil(8)) {
        (1, 1) => Encoding::U8,
        (1, 2) => Encoding::I16,
        (1, 3) => Encoding::I24,
        (1, 4) => Encoding::I32,
        (3, 4) => Encoding::F32,
        (3, 8) => Encoding::F64,
        (1 | 3, _) => {
            return Err(AudioError::damaged(path, format!("samples of {bits} bits make no sense")));
        }
        (6, 1) => Encoding::ALaw,
        (7, 1) => Encoding::MuLaw,
        _ => {
            let what = format!("a WAVE file with samples of kind {tag:#06x}, {bits} bits");
            return Err(AudioError::unknown(path, what));
        }
    };
    let bytes = usize::from(bits.div_ceil(8));
    if align != bytes * channels {
        let what = format!("{channels} channels of {bits} bits cannot take {align} bytes");
        return Err(AudioError::damaged(path, what));
    }
    Ok(Format { encoding, channels, rate, align })
}

/// Reads the samples from where the reader stands: `declared` bytes, where `held` are left.
fn samples<R: Read>(
    reader: &mut R,
    path: &Path,
    format: Format,
    declared: u64,
    held: u64,
) -> Result<Sound, AudioError> {
    let align = format.align as u64;
    let (declared, held) = (declared / align, held / align);
    if declared > held {
        return Err(AudioError::CutShort { path: path.to_path_buf(), declared, held });
    }
    let mut left = declared as usize;
    let mut samples = Vec::new();
    let mut block = vec![0; format.align * left.min(16 * 1024)];
    while left > 0 {
        let count = left.min(block.len() / format.align);
        let part = &mut block[..count * format.align];
        reader.read_exact(part).map_err(|e| AudioError::io(path, e))?;
        samples.extend(part.chunks_exact(format.align).map(|frame| mix(frame, format)));
        left -= count;
    }
    Ok(Sound { samples, rate: format.rate })
}

/// The mean of the channels of one moment.
fn mix(frame: &[u8], format: Format) -> f32 {
    let width = format.align / format.channels;
    let sum: f64 = frame.chunks_exact(width).map(|bytes| value(bytes, format.encoding)).sum();
    (sum / format.channels as f64) as f32
}

/// One stored sample, scaled to -1..1.
fn value(bytes: &[u8], encoding: Encoding) -> f64 {
    match (encoding, bytes) {
        (Encoding::U8, &[a]) => (f64::from(a) - 128.0) / 128.0,
        (Encoding::I16, &[a, b]) => f64::from(i16::from_le_bytes([a, b])) / 32_768.0,
        (Encoding::I24, &[a, b, c]) => {
            f64::from(i32::from_le_bytes([0, a, b, c])) / 2_147_483_648.0
        }
        (Encoding::I32, &[a, b, c, d]) => {
            f64::from(i32::from_le_bytes([a, b, c, d])) / 2_147_483_648.0
        }
        (Encoding::F32, &[a, b, c, d]) => f64::from(f32::from_le_bytes([a, b, c, d])),
        (Encoding::F64, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        (Encoding::ALaw, &[a]) => a_law(a),
        (Encoding::MuLaw, &[a]) => mu_law(a),
        // The width follows from the encoding.
        _ => 0.0,
    }
}

/// A-law: sign, three bits of exponent, four of mantissa, every other bit flipped.
fn a_law(byte: u8) -> f64 {
    let byte = byte ^ 0x55;
    let mantissa = f64::from(byte & 0x0F) * 2.0 + 1.0;
    let size = match byte >> 4 & 7 {
        0 => mantissa,
        exponent => (mantissa + 32.0) * f64::from(1_u32 << (exponent - 1)),
    };
    // The full scale is 4096 half steps.
    if byte & 0x80 != 0 { size / 4096.0 } else { -size / 4096.0 }
}

/// Mu-law: all bits flipped, then sign, three bits of exponent, four of mantissa, with a bias.
fn mu_law(byte: u8) -> f64 {
    let byte = !byte;
    let mantissa = f64::from(byte & 0x0F) * 2.0 + 33.0;
    let size = mantissa * f64::from(1_u32 << (byte >> 4 & 7)) - 33.0;
    if byte & 0x80 == 0 { size / 8192.0 } else { -size / 8192.0 }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
