//! FLAC, MP3 and Ogg Vorbis, by way of symphonia.
//!
//! An MP3 encoder puts silence before and after the music and says how much in the file's first
//! frame. It is taken off here with checked arithmetic, since the numbers may be nonsense.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use symphonia::core::audio::{AudioBufferRef, SampleBuffer};
use symphonia::core::codecs::{CODEC_TYPE_FLAC, CODEC_TYPE_MP3, CODEC_TYPE_NULL, DecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::FormatOptions;
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;
use symphonia::core::probe::Hint;

use super::{AudioError, Sound};

/// How far an MP3 file's own count of samples may be off: two frames.
const MP3_SLACK: u64 = 2 * 1152;

/// Reads a file that begins with `head`.
pub(super) fn read(file: File, head: &[u8], path: &Path) -> Result<Sound, AudioError> {
    // A damaged file may yet trip one of the decoders, whose arithmetic is not ours.
    std::panic::catch_unwind(|| decode(file, head, path))
        .unwrap_or_else(|_| Err(AudioError::damaged(path, "the decoder gave up on it")))
}

fn decode(file: File, head: &[u8], path: &Path) -> Result<Sound, AudioError> {
    let mpeg = matches!(head, [0xFF, second, ..] if second & 0xE0 == 0xE0);
    let named_mp3 = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("mp3"));
    let known = mpeg
        || named_mp3
        || [&b"fLaC"[..], b"OggS", b"ID3"].iter().any(|magic| head.starts_with(magic));
    if !known {
        return Err(AudioError::unknown(path, "not a sound file"));
    }
    // Only the Ogg reader trims the padding without trusting it.
    let options =
        FormatOptions { enable_gapless: head.starts_with(b"OggS"), ..FormatOptions::default() };
    let stream = MediaSourceStream::new(Box::new(file), Default::default());
    let probed = symphonia::default::get_probe()
        .format(&Hint::new(), stream, &options, &MetadataOptions::default())
        .map_err(|e| match e {
            Error::Unsupported(_) => AudioError::unknown(path, "not a sound file"),
            Error::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => {
                AudioError::damaged(path, "ends too early")
            }
            e => AudioError::damaged(path, e.to_string()),
        })?;
    let mut format = probed.format;
    let track = format
        .tracks()
        .iter()
        .find(|t| t.codec_params.codec != CODEC_TYPE_NULL)
        .ok_or_else(|| AudioError::unknown(path, "holds no audio track that can be decoded"))?;
    let (id, params) = (track.id, track.codec_params.clone());
    let mut decoder = symphonia::default::get_codecs()
        .make(&params, &DecoderOptions::default())
        .map_err(|_| AudioError::unknown(path, "its codec is not supported"))?;

    let is_mp3 = params.codec == CODEC_TYPE_MP3;
    let mut sound = Sound { samples: Vec::new(), rate: params.sample_rate.unwrap_or(0) };
    let mut buffer = None;
    let mut decoded = false;
    loop {
        let packet = match format.next_packet() {
            Ok(packet) if packet.track_id() != id => continue,
            Ok(packet) => packet,
            Err(Error::IoError(e)) if e.kind() == ErrorKind::UnexpectedEof => break,
            Err(Error::IoError(e)) => return Err(AudioError::io(path, e)),
            Err(Error::ResetRequired) => {
                return Err(AudioError::damaged(path, "another stream begins midway"));
            }
            Err(e) => return Err(AudioError::damaged(path, e.to_string())),
        };
        match decoder.decode(&packet) {
            Ok(audio) => {
                decoded = true;
                append(&mut sound, audio, &mut buffer, path)?;
            }
            // An MP3 cut out of a longer one begins with frames that lean on what was cut away.
            Err(Error::DecodeError(_)) if is_mp3 => {
                let silence = packet.dur().min(MP3_SLACK) as usize;
                sound.samples.resize(sound.samples.len() + silence, 0.0);
            }
            Err(e) => return Err(AudioError::damaged(path, e.to_string())),
        }
    }
    let held = sound.samples.len() as u64;
    // Without the encoder's tag an MP3's length is an estimate.
    let tagged = is_mp3 && params.delay.is_some();
    let slack = if is_mp3 { MP3_SLACK } else { 0 };
    if let Some(declared) = params.n_frames
        && (tagged || params.codec == CODEC_TYPE_FLAC)
        && declared > held.saturating_add(slack)
    {
        return Err(AudioError::CutShort { path: path.to_path_buf(), declared, held });
    }
    if !decoded {
        return Err(AudioError::NoAudio { path: path.to_path_buf() });
    }
    if tagged {
        let end = held.saturating_sub(u64::from(params.padding.unwrap_or(0))) as usize;
        sound.samples.truncate(end);
        let start = (params.delay.unwrap_or(0) as usize).min(end);
        sound.samples.drain(..start);
    } else if let Some(declared) = params.n_frames
        && head.starts_with(b"OggS")
    {
        // The last page says where the sound ends within the last packet.
        sound.samples.truncate(usize::try_from(declared).unwrap_or(usize::MAX));
    }
    Ok(sound)
}

/// Adds one decoded packet, channels averaged.
fn append(
    sound: &mut Sound,
    audio: AudioBufferRef<'_>,
    buffer: &mut Option<SampleBuffer<f32>>,
    path: &Path,
) -> Result<(), AudioError> {
    let spec = *audio.spec();
    let channels = spec.channels.count();
    if sound.samples.is_empty() {
        sound.rate = spec.rate;
    }
    if spec.rate != sound.rate || channels == 0 {
        return Err(AudioError::damaged(path, "the sample rate changes midway"));
    }
    let needed = audio.capacity() * channels;
    if buffer.as_ref().is_none_or(|b| b.capacity() < needed) {
        *buffer = Some(SampleBuffer::new(audio.capacity() as u64, spec));
    }
    if let Some(buffer) = buffer {
        buffer.copy_interleaved_ref(audio);
        let frames = buffer.samples().chunks_exact(channels);
        sound.samples.extend(frames.map(|f| f.iter().sum::<f32>() / channels as f32));
    }
    Ok(())
}
