//! `frit transcribe`: recordings to text.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use frit::graph::Policy;
use frit::models::whisper::audio::SAMPLE_RATE;
use frit::models::whisper::decode::TimestampMode;
use frit::models::whisper::format::Transcript;
use frit::models::whisper::tokens::language_code;
use frit::models::whisper::transcribe::{
    Progress, Task, TranscribeOptions, transcribe as run_model,
};
use indicatif::ProgressBar;
use serde::Serialize;

use super::out::bar;
use super::profile::Profiling;
use super::speech::{Checkpoint, explained, recordings};
use super::{Failure, Machine, Out, Verdict, note};
use crate::assets::{self, WHISPER_TINY_EN};

const EXAMPLES: &str = "\
Without --model, Whisper tiny.en (English only) is fetched once and kept. A model folder holds
safetensors or CTranslate2 weights, config.json and tokenizer.json. Any wav, flac, mp3 or ogg is
read, at any rate and length.

Examples:
  frit transcribe speech.wav
  frit transcribe talk.mp3 --format srt > talk.srt
  frit transcribe rede.ogg --model whisper-small/ --language de --task translate
  frit transcribe speech.wav --composed --explain      what was fused, what not, and why
  frit transcribe speech.wav --profile                 where the time goes";

/// A recording up to this long is one window.
const WINDOW_SECONDS: usize = 30;

/// Arguments of `frit transcribe`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct TranscribeArgs {
    /// Recordings: wav, flac, mp3, ogg
    #[arg(required = true, value_name = "AUDIO")]
    audio: Vec<PathBuf>,
    /// Folder of a Whisper checkpoint [default: Whisper tiny.en, fetched]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Write when each piece was said
    #[arg(long)]
    timestamps: bool,
    /// How to write the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// The language spoken, by code or name [default: listen for it]
    #[arg(long, value_name = "L", value_parser = language)]
    language: Option<String>,
    /// Write what is said, or its translation into English
    #[arg(long, value_enum, default_value_t)]
    task: TaskName,
    /// Context for the beginning: names and words to expect
    #[arg(long, value_name = "TEXT")]
    initial_prompt: Option<String>,
    /// Sample at this temperature only [default: 0, and higher where the text is not good]
    #[arg(long, value_name = "T", value_parser = temperature)]
    temperature: Option<f32>,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    profiling: Profiling,
    /// Print what was rewritten, fused and composed, and why, to the standard error
    #[arg(long)]
    explain: bool,
}

/// How to write a transcript.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Plain text
    #[default]
    Text,
    /// JSON with segments, an array for several recordings
    Json,
    /// SubRip subtitles
    Srt,
    /// WebVTT subtitles
    Vtt,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum TaskName {
    #[default]
    Transcribe,
    Translate,
}

fn language(text: &str) -> Result<String, String> {
    let code = language_code(text).ok_or("no such language; give a code or name: de, German")?;
    Ok(code.into())
}

fn temperature(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|t| (0.0..=10.0).contains(t));
    number.ok_or_else(|| "it must be a number from 0 to 10".into())
}

/// A transcript with its recording.
#[derive(Serialize)]
struct Named<'a> {
    file: String,
    #[serde(flatten)]
    transcript: &'a Transcript,
}

/// Runs the command.
///
/// # Errors
/// Recordings that cannot be read (before any model is fetched), a model that cannot be fetched or
/// read, a language that it does not know. Subtitles of several recordings are a
/// [`Failure::Usage`].
pub fn run(args: &TranscribeArgs, out: &mut Out) -> Result<Verdict, Failure> {
    let format = if args.json { Format::Json } else { args.format };
    let several = args.audio.len() > 1;
    if several && matches!(format, Format::Srt | Format::Vtt) {
        let one = "subtitles are written for one recording at a time";
        return Err(Failure::Usage(one.into()));
    }
    let heard = recordings(&args.audio)?;
    let folder = match &args.model {
        Some(folder) => folder.clone(),
        None => assets::ensure(&WHISPER_TINY_EN, false)?,
    };
    let pool = args.machine.threads.pool();
    let checkpoint = Checkpoint::open(&folder)?;
    let watch = args.profiling.watch();
    let backend = watch.backend(args.machine, &pool)?;
    let mut model = checkpoint.model(backend, args.machine.rules(), Policy::Allow);
    let options = options(args, checkpoint.options(pool.threads()));
    let (codec, special) = (&checkpoint.tokenizer, checkpoint.tokenizer.special());

    let mut transcripts = Vec::new();
    for (path, samples) in args.audio.iter().zip(&heard) {
        let mode = timestamps(args.timestamps, format, samples.len());
        let options = TranscribeOptions { timestamps: mode, ..options.clone() };
        let mut progress = Seconds::begin(path);
        let transcript = run_model(&mut model, codec, special, samples, &options, &mut progress)
            .map_err(|source| Failure::Speech { path: path.clone(), source })?;
        progress.bar.finish_and_clear();
        if format == Format::Json {
            transcripts.push(transcript);
            continue;
        }
        if several {
            let path = super::plain(&path.display().to_string());
            out.line(&format!("== {path} =="))?;
        }
        out.text(&match format {
            Format::Srt => transcript.to_srt(),
            Format::Vtt => transcript.to_vtt(),
            _ if args.timestamps => with_times(&transcript),
            _ => transcript.to_text(),
        })?;
        if out.closed() {
            break;
        }
    }
    if format == Format::Json {
        let named = args.audio.iter().zip(&transcripts);
        let named: Vec<Named<'_>> = named
            .map(|(path, transcript)| Named { file: path.display().to_string(), transcript })
            .collect();
        match &named[..] {
            [one] => out.json(one)?,
            several => out.json(&several)?,
        }
    }
    if args.explain {
        note(explained(model.programs()).trim_end());
    }
    watch.tell()?;
    Ok(Verdict::Passed)
}

fn options(args: &TranscribeArgs, defaults: TranscribeOptions) -> TranscribeOptions {
    TranscribeOptions {
        task: match args.task {
            TaskName::Transcribe => Task::Transcribe,
            TaskName::Translate => Task::Translate,
        },
        language: args.language.clone(),
        initial_prompt: args.initial_prompt.clone(),
        temperatures: args.temperature.map_or(defaults.temperatures, |t| vec![t]),
        ..defaults
    }
}

/// Timestamps where they are asked for, and where they help to lay windows: one that ends between
/// two words is better than one that ends in a word.
fn timestamps(asked: bool, format: Format, samples: usize) -> TimestampMode {
    let wanted = asked || matches!(format, Format::Srt | Format::Vtt);
    match wanted || samples > WINDOW_SECONDS * SAMPLE_RATE as usize {
        true => TimestampMode::Rules,
        false => TimestampMode::Off,
    }
}

/// A line for each segment: `[00:00.000 --> 00:10.500] ...`.
fn with_times(transcript: &Transcript) -> String {
    let line = |start: f64, end: f64, text: &str| {
        format!("[{} --> {}] {}\n", clock(start), clock(end), text.trim())
    };
    transcript.segments.iter().map(|s| line(s.start, s.end, &s.text)).collect()
}

/// `00:10.500`, with hours from the first hour on.
fn clock(seconds: f64) -> String {
    let millis = (seconds * 1000.0).round() as u64;
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let (seconds, millis) = (millis / 1000 % 60, millis % 1000);
    let hours = if hours > 0 { format!("{hours:02}:") } else { String::new() };
    format!("{hours}{minutes:02}:{seconds:02}.{millis:03}")
}

/// A bar over the seconds of a recording.
struct Seconds {
    bar: ProgressBar,
    path: String,
}

impl Seconds {
    fn begin(path: &Path) -> Seconds {
        let path = path.display().to_string();
        Seconds { bar: bar(1, "{msg} {wide_bar} {eta} left"), path }
    }
}

impl Progress for Seconds {
    fn seconds(&mut self, done: f64, total: f64) {
        self.bar.set_length((total * 100.0) as u64);
        self.bar.set_position((done * 100.0) as u64);
        self.bar.set_message(format!("{} {done:.0} of {total:.0} s", self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frit::models::whisper::format::Segment;

    #[test]
    fn moments_have_hours_only_where_there_are_hours() {
        assert_eq!(clock(0.0), "00:00.000");
        assert_eq!(clock(10.5), "00:10.500");
        assert_eq!(clock(3599.9996), "01:00:00.000");
        assert_eq!(clock(f64::NAN), "00:00.000");
    }

    #[test]
    fn every_segment_is_a_line_with_its_times() {
        let segment = |start, end, text: &str| Segment {
            start,
            end,
            text: text.into(),
            ..Segment::default()
        };
        let segments = vec![segment(0.0, 7.0, " Hello."), segment(7.0, 61.25, " Again.")];
        let transcript = Transcript { segments, ..Transcript::default() };
        let wanted = "[00:00.000 --> 00:07.000] Hello.\n[00:07.000 --> 01:01.250] Again.\n";
        assert_eq!(with_times(&transcript), wanted);
    }

    #[test]
    fn timestamps_are_written_where_asked_for_and_in_long_recordings() {
        let (short, long) = (480_000, 480_001);
        for (asked, format, samples, mode) in [
            (false, Format::Text, short, TimestampMode::Off),
            (false, Format::Json, short, TimestampMode::Off),
            (true, Format::Text, short, TimestampMode::Rules),
            (false, Format::Srt, short, TimestampMode::Rules),
            (false, Format::Vtt, short, TimestampMode::Rules),
            (false, Format::Text, long, TimestampMode::Rules),
        ] {
            assert_eq!(timestamps(asked, format, samples), mode, "{asked} {format:?} {samples}");
        }
    }
}
