//! A finished transcript, and the ways to write it down: plain text, SRT, WebVTT, JSON.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// What was said in a recording.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// The whole text.
    pub text: String,
    /// The code of the language, such as "en".
    pub language: String,
    /// The length of the recording in seconds.
    pub duration: f64,
    /// The pieces in the order of time.
    pub segments: Vec<Segment>,
}

/// A piece of a transcript: a sentence or so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Counts the segments from 0.
    pub id: usize,
    /// Where it begins, in seconds.
    pub start: f64,
    /// Where it ends, in seconds.
    pub end: f64,
    /// Its text, as the network wrote it: most begin with a space.
    pub text: String,
    /// Its tokens, timestamps included.
    pub tokens: Vec<u32>,
    /// The temperature at which its window was decoded.
    pub temperature: f32,
    /// The mean log-probability of the tokens of its window.
    pub avg_logprob: f32,
    /// How well the text of its window compresses.
    pub compression_ratio: f32,
    /// The probability that nobody speaks in its window.
    pub no_speech_prob: f32,
}

impl Transcript {
    /// Plain text: a line for each segment.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.segments.iter().map(|s| format!("{}\n", s.text.trim())).collect()
    }

    /// SubRip subtitles: numbered from 1, `00:00:01,500 --> 00:00:04,000`.
    #[must_use]
    pub fn to_srt(&self) -> String {
        let mut out = String::new();
        for (number, segment) in (1..).zip(&self.segments) {
            let (start, end) = (clock(segment.start), clock(segment.end));
            let line = lines(&segment.text).replace("-->", "->");
            // Writing to a string does not fail.
            let _ = write!(out, "{number}\n{} --> {}\n{line}\n\n", start.long(','), end.long(','));
        }
        out
    }

    /// WebVTT subtitles: `00:01.500 --> 00:04.000`, with hours from the first hour on.
    #[must_use]
    pub fn to_vtt(&self) -> String {
        let mut out = String::from("WEBVTT\n\n");
        for segment in &self.segments {
            let (start, end) = (clock(segment.start), clock(segment.end));
            let line = lines(&segment.text)
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;");
            // Writing to a string does not fail.
            let _ = write!(out, "{} --> {}\n{line}\n\n", start.short(), end.short());
        }
        out
    }

    /// JSON with every field, indented.
    ///
    /// # Errors
    /// None in practice: every field can be written.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

/// A moment, taken apart.
struct Clock {
    hours: u64,
    minutes: u64,
    seconds: u64,
    millis: u64,
}

/// Takes a moment apart, rounded to the nearest millisecond; nonsense counts as 0.
fn clock(seconds: f64) -> Clock {
    // A cast of a float saturates, and NaN becomes 0.
    let millis = (seconds * 1000.0).round_ties_even() as u64;
    Clock {
        hours: millis / 3_600_000,
        minutes: millis / 60_000 % 60,
        seconds: millis / 1000 % 60,
        millis: millis % 1000,
    }
}

impl Clock {
    fn long(&self, point: char) -> String {
        let Self { hours, minutes, seconds, millis } = self;
        format!("{hours:02}:{minutes:02}:{seconds:02}{point}{millis:03}")
    }

    fn short(&self) -> String {
        match self.hours {
            0 => format!("{:02}:{:02}.{:03}", self.minutes, self.seconds, self.millis),
            _ => self.long('.'),
        }
    }
}

/// The lines of a text without blank ones, which would end a subtitle.
fn lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript() -> Transcript {
        let segment = |id, start, end, text: &str| Segment {
            id,
            start,
            end,
            text: text.into(),
            tokens: vec![50_364, 7],
            avg_logprob: -0.5,
            ..Segment::default()
        };
        Transcript {
            text: " Hello.\n a --> b & <c>".into(),
            language: "en".into(),
            duration: 4000.0,
            segments: vec![
                segment(0, 0.0, 1.5, " Hello."),
                segment(1, 59.9996, 3661.02, " a --> b\n\n & <c>"),
            ],
        }
    }

    #[test]
    fn plain_text_has_a_line_for_each_segment() {
        assert_eq!(transcript().to_text(), "Hello.\na --> b\n\n & <c>\n");
    }

    #[test]
    fn subrip_numbers_its_cues_and_uses_commas() {
        let want = "1\n00:00:00,000 --> 00:00:01,500\nHello.\n\n\
                    2\n00:01:00,000 --> 01:01:01,020\na -> b\n& <c>\n\n";
        assert_eq!(transcript().to_srt(), want);
    }

    #[test]
    fn webvtt_has_a_header_uses_points_and_escapes_markup() {
        let want = "WEBVTT\n\n00:00.000 --> 00:01.500\nHello.\n\n\
                    01:00.000 --> 01:01:01.020\na --&gt; b\n&amp; &lt;c&gt;\n\n";
        assert_eq!(transcript().to_vtt(), want);
    }

    #[test]
    fn json_holds_every_field_and_reads_back() {
        let json = transcript().to_json().expect("json");
        let value: serde_json::Value = serde_json::from_str(&json).expect("valid");
        assert_eq!(value["segments"][1]["end"], 3661.02);
        assert_eq!(value["segments"][0]["tokens"], serde_json::json!([50_364, 7]));
        assert_eq!(value["language"], "en");
        assert_eq!(serde_json::from_str::<Transcript>(&json).expect("reads"), transcript());
    }

    #[test]
    fn an_empty_transcript_is_an_empty_file_of_each_kind() {
        let empty = Transcript::default();
        assert_eq!((empty.to_text(), empty.to_srt()), (String::new(), String::new()));
        assert_eq!(empty.to_vtt(), "WEBVTT\n\n");
    }

    #[test]
    fn moments_that_make_no_sense_are_written_as_zero() {
        assert_eq!(clock(f64::NAN).long(','), "00:00:00,000");
        assert_eq!(clock(-3.0).short(), "00:00.000");
        assert_eq!(clock(100.0 * 3600.0).short(), "100:00:00.000");
    }
}
