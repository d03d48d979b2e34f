//! Files are written here byte by byte, so that their samples are known. The two in `fixtures`
//! hold half a second of a 500 Hz sine of amplitude 0.5 at 16 kHz.

use std::f64::consts::TAU;
use std::time::{Duration, Instant};

use super::*;

/// A WAVE file with the usual 44 bytes before the samples.
fn wav(tag: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let align = channels * bits.div_ceil(8);
    let mut out = b"RIFF".to_vec();
    out.extend((36 + data.len() as u32).to_le_bytes());
    out.extend(b"WAVEfmt ");
    out.extend(16_u32.to_le_bytes());
    out.extend(tag.to_le_bytes());
    out.extend(channels.to_le_bytes());
    out.extend(rate.to_le_bytes());
    out.extend(rate.wrapping_mul(u32::from(align)).to_le_bytes());
    out.extend(align.to_le_bytes());
    out.extend(bits.to_le_bytes());
    out.extend(b"data");
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

/// 16-bit mono PCM at 16 kHz.
fn simple(samples: &[i16]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    wav(1, 1, SAMPLE_RATE, 16, &data)
}

fn load_bytes(name: &str, bytes: &[u8]) -> Result<Vec<f32>, AudioError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a file");
    load(&path)
}

fn load_wav(bytes: &[u8]) -> Result<Vec<f32>, AudioError> {
    load_bytes("sound.wav", bytes)
}

/// The message of a failure, without the path.
fn message(result: Result<Vec<f32>, AudioError>) -> String {
    let text = result.expect_err("should fail").to_string();
    text.split_once("sound").expect("names the file").1[4..].trim_start_matches(": ").into()
}

#[test]
fn every_way_to_store_a_sample_gives_its_value() {
    let cases: [(u16, u16, &[u8], &[f32]); 8] = [
        (1, 8, &[0, 128, 192], &[-1.0, 0.0, 0.5]),
        (1, 16, &[0, 0x80, 0, 0x40], &[-1.0, 0.5]),
        (1, 24, &[0, 0, 0x80, 0, 0, 0x20], &[-1.0, 0.25]),
        (1, 32, &[0, 0, 0, 0x80, 0, 0, 0, 0x60], &[-1.0, 0.75]),
        (3, 32, &[0, 0, 0xC0, 0x3F], &[1.5]),
        (3, 64, &[0, 0, 0, 0, 0, 0, 0xE0, 0xBF], &[-0.5]),
        // The decoded values stand in G.711's tables, in units of 1/32768.
        (6, 8, &[0xD5, 0x55, 0xAA, 0x2A], &[8.0, -8.0, 32_256.0, -32_256.0]),
        (7, 8, &[0xFF, 0x7F, 0x80, 0x00], &[0.0, 0.0, 32_124.0, -32_124.0]),
    ];
    for (tag, bits, data, want) in cases {
        let scale = if tag >= 6 { 32_768.0 } else { 1.0 };
        let want: Vec<f32> = want.iter().map(|x| x / scale).collect();
        let got = load_wav(&wav(tag, 1, SAMPLE_RATE, bits, data)).expect("loads");
        assert_eq!(got, want, "kind {tag}, {bits} bits");
    }
}

#[test]
fn channels_are_averaged() {
    let frames: [[i16; 3]; 2] = [[3000, 6000, -3000], [-32_768, -32_768, -32_768]];
    let data: Vec<u8> = frames.as_flattened().iter().flat_map(|s| s.to_le_bytes()).collect();
    let got = load_wav(&wav(1, 3, SAMPLE_RATE, 16, &data)).expect("loads");
    assert_eq!(got, [2000.0 / 32_768.0, -1.0]);
}

#[test]
fn chunks_before_the_samples_are_skipped_and_extensible_files_are_understood() {
    let plain = simple(&[100, -200]);
    // A chunk of odd length is followed by one byte of nothing.
    let mut listed = plain[..36].to_vec();
    listed.extend(b"LIST\x03\0\0\0abc\0");
    listed.extend(&plain[36..]);
    let mut extensible = plain[..16].to_vec();
    extensible.extend(40_u32.to_le_bytes());
    extensible.extend([0xFE, 0xFF]);
    extensible.extend(&plain[22..36]);
    extensible.extend([22, 0, 16, 0, 4, 0, 0, 0, 1, 0]);
    extensible.extend([0; 14]);
    extensible.extend(&plain[36..]);
    for bytes in [listed, extensible] {
        let got = load_wav(&bytes).expect("loads");
        assert_eq!(got, [100.0 / 32_768.0, -200.0 / 32_768.0]);
    }
}

#[test]
fn another_rate_becomes_16_khz_without_a_shift() {
    for rate in [8000_u32, 11_025, 22_050, 24_000, 44_100, 44_057, 48_000, 96_000] {
        let wave = |t: f64| 0.5 * (TAU * 440.0 * t + 0.7).sin() + 0.25 * (TAU * 3000.0 * t).cos();
        let count = rate as usize / 4 + 3;
        let data: Vec<u8> = (0..count)
            .flat_map(|i| (wave(i as f64 / f64::from(rate)) as f32).to_le_bytes())
            .collect();
        let got = load_wav(&wav(3, 1, rate, 32, &data)).expect("loads");
        let want = (count as f64 * 16_000.0 / f64::from(rate)).round() as usize;
        assert_eq!(got.len(), want, "{rate} Hz");
        // Near the ends the filter hears the silence outside.
        let worst = (400..got.len() - 400)
            .map(|i| (f64::from(got[i]) - wave(i as f64 / 16_000.0)).abs())
            .fold(0.0, f64::max);
        assert!(worst < 1e-4, "{rate} Hz: max abs {worst:e}");
    }
}

#[test]
fn what_16_khz_cannot_hold_is_filtered_out() {
    let data: Vec<u8> = (0..24_000)
        .flat_map(|i| ((TAU * 9000.0 * f64::from(i) / 48_000.0).sin() as f32).to_le_bytes())
        .collect();
    let got = load_wav(&wav(3, 1, 48_000, 32, &data)).expect("loads");
    let worst = got[400..got.len() - 400].iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    assert!(worst < 1e-4, "a tone of 9 kHz leaves {worst:e}");
}

#[test]
fn a_recording_that_was_cut_short_is_refused() {
    let whole = simple(&[1; 1000]);
    let error = message(load_wav(&whole[..44 + 1000]));
    assert_eq!(error, "cut short: declares 1000 samples, holds 500");
    let mut absurd = whole.clone();
    absurd[40..44].copy_from_slice(&0xFFFF_FF00_u32.to_le_bytes());
    let begin = Instant::now();
    assert!(message(load_wav(&absurd)).contains("declares 2147483520 samples, holds 1000"));
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_recording_of_unknown_length_is_read_to_its_end() {
    for length in [0_u32, u32::MAX] {
        let mut bytes = simple(&[5; 1000]);
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[40..44].copy_from_slice(&length.to_le_bytes());
        // A last sample of which only one byte was written does not count.
        bytes.pop();
        assert_eq!(load_wav(&bytes).expect("loads"), [5.0 / 32_768.0; 999]);
    }
}

#[test]
fn every_truncation_of_a_recording_is_an_error_and_no_panic() {
    let whole = simple(&[7; 40]);
    for len in 0..whole.len() {
        let error = load_wav(&whole[..len]).expect_err("is cut");
        assert!(error.to_string().contains("sound.wav: "), "{len} bytes: {error}");
    }
    assert_eq!(load_wav(&whole).expect("loads").len(), 40);
}

#[test]
fn any_byte_may_be_damaged_without_a_panic() {
    let whole = simple(&[7; 20]);
    for at in 0..44 {
        for value in [0, 1, 0x7F, 0x80, 0xFF] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            if let Ok(samples) = load_wav(&bytes) {
                // The smallest rate makes 16 samples of one.
                assert!(samples.len() <= 20 * 16, "byte {at} = {value}: {}", samples.len());
            }
        }
    }
}

#[test]
fn what_is_no_sound_is_refused_with_its_name_and_reason() {
    let zero = simple(&[]);
    let of = |tag, channels, rate, bits| load_wav(&wav(tag, channels, rate, bits, &[0; 48]));
    let nan = [0.5_f32, f32::NAN].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
    let mut reversed = simple(&[1, 2]);
    reversed[12..16].copy_from_slice(b"junk");
    let mut avi = zero.clone();
    avi[8..12].copy_from_slice(b"AVI ");
    let cases = [
        (load_wav(&[]), "holds no audio"),
        (load_wav(&zero), "holds no audio"),
        (load_wav(b"Dear diary, today I"), "not a sound file"),
        (load_bytes("sound.mp3", &[0; 5000]), "not a sound file"),
        (load_wav(&avi), "a RIFF file that is not WAVE"),
        (load_wav(&reversed), "the data chunk comes before the format"),
        (of(1, 1, 0, 16), "a sample rate of 0 Hz makes no sense"),
        (of(1, 1, 4_000_000_000, 16), "a sample rate of 4000000000 Hz makes no sense"),
        (of(1, 0, 16_000, 16), "has no channel"),
        (of(1, 1, 16_000, 0), "samples of 0 bits make no sense"),
        (of(3, 1, 16_000, 16), "samples of 16 bits make no sense"),
        (of(0x55, 2, 16_000, 16), "samples of kind 0x0055"),
        (load_wav(&wav(3, 1, SAMPLE_RATE, 32, &nan)), "sample 1 is NaN"),
    ];
    for (result, want) in cases {
        let got = message(result);
        assert!(got.contains(want), "wanted {want:?}, got {got:?}");
    }
    let missing = load(Path::new("no/such/sound.wav")).expect_err("missing");
    assert_eq!(missing.to_string(), "no/such/sound.wav: no such file");
    assert!(load(tempfile::tempdir().expect("a folder").path()).is_err());
}

/// A FLAC file that stores samples as they are, in frames of at most 192.
fn flac(rate: u32, left_right: &[[i16; 2]]) -> Vec<u8> {
    let mut out = b"fLaC\x80\0\0\x22".to_vec();
    out.extend([0, 192, 0, 192, 0, 0, 0, 0, 0, 0]);
    // 20 bits of rate, 3 of channels - 1, 5 of bits - 1, 36 of samples, then a checksum unset.
    let total = left_right.len() as u64;
    out.extend((u64::from(rate) << 44 | 1 << 41 | 15 << 36 | total).to_be_bytes());
    out.extend([0; 16]);
    for (number, block) in left_right.chunks(192).enumerate() {
        let mut frame = vec![0xFF, 0xF8, 0x70, 0x18, number as u8];
        frame.extend((block.len() as u16 - 1).to_be_bytes());
        frame.push(crc(&frame, 8, 0x07) as u8);
        for channel in 0..2 {
            frame.push(0x02);
            frame.extend(block.iter().flat_map(|s| s[channel].to_be_bytes()));
        }
        let check = crc(&frame, 16, 0x8005);
        frame.extend(check.to_be_bytes());
        out.extend(frame);
    }
    out
}

fn crc(bytes: &[u8], bits: u32, polynomial: u32) -> u16 {
    let mut rest = 0_u32;
    for &byte in bytes {
        rest ^= u32::from(byte) << (bits - 8);
        for _ in 0..8 {
            rest = if rest >> (bits - 1) & 1 == 1 { rest << 1 ^ polynomial } else { rest << 1 };
        }
    }
    (rest & ((1 << bits) - 1)) as u16
}

#[test]
fn flac_is_read_exactly_and_refused_when_cut() {
    let sound: Vec<[i16; 2]> =
        (0..1000_i32).map(|i| [(i * 31 % 20_000) as i16, (-i * 7 % 9000) as i16]).collect();
    let bytes = flac(SAMPLE_RATE, &sound);
    let want: Vec<f32> =
        sound.iter().map(|[l, r]| (f32::from(*l) + f32::from(*r)) / 65_536.0).collect();
    // The name does not matter.
    assert_eq!(load_bytes("sound.mp3", &bytes).expect("loads"), want);
    let cut = message(load_bytes("sound.ogg", &bytes[..bytes.len() / 2]));
    assert!(cut.starts_with("cut short: declares 1000 samples, holds "), "{cut}");
}

#[test]
fn mp3_and_ogg_vorbis_begin_and_end_where_the_sound_does() {
    let files: [(&str, &[u8]); 2] = [
        ("sound.mp3", include_bytes!("fixtures/tone.mp3")),
        ("sound.ogg", include_bytes!("fixtures/tone.ogg")),
    ];
    for (name, bytes) in files {
        let got = load_bytes(name, bytes).expect("loads");
        assert_eq!(got.len(), 8000, "{name}");
        let error =
            |i: usize| (f64::from(got[i]) - 0.5 * (TAU * 500.0 * i as f64 / 16_000.0).sin()).abs();
        let worst = (0..8000).map(error).fold(0.0, f64::max);
        assert!(worst < 0.05, "{name}: max abs {worst}");
    }
    let cut = message(load_bytes("sound.mp3", &files[0].1[..900]));
    assert!(cut.starts_with("cut short: declares "), "{cut}");
}
