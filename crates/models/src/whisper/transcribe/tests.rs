//! A network of fixed answers hears made-up recordings; what must come out follows by hand from
//! the rules. `t` makes the token of a moment.

use super::super::decode::fake::*;
use super::*;

const A: u32 = 0;
const B: u32 = 1;
const C: u32 = 2;

/// The token of a moment in seconds.
fn t(seconds: f64) -> u32 {
    TIME + (seconds * 50.0).round() as u32
}

/// Noise of this length, so that no two windows are alike.
fn noise(seconds: f64) -> Vec<f32> {
    let mut random = Random::new(3);
    (0..(seconds * 16_000.0) as usize).map(|_| random.unit() as f32 - 0.5).collect()
}

/// English only, one temperature.
fn plain() -> TranscribeOptions {
    TranscribeOptions { temperatures: vec![0.0], ..TranscribeOptions::default() }
}

fn run(fake: &mut Fake, seconds: f64, options: &TranscribeOptions) -> Transcript {
    let samples = noise(seconds);
    let result = transcribe(fake, &Letters, &special(false), &samples, options, &mut ());
    let transcript = result.expect("transcribes");
    assert!(fake.answers.is_empty(), "{} answers were not asked for", fake.answers.len());
    transcript
}

/// Start, end and text of every segment.
fn pieces(transcript: &Transcript) -> Vec<(f64, f64, &str)> {
    transcript.segments.iter().map(|s| (s.start, s.end, s.text.as_str())).collect()
}

#[test]
fn the_next_window_begins_where_the_last_finished_segment_ended() {
    let mut fake = Fake::new(vec![
        Answer::tokens(&[t(0.0), A, t(5.0), t(5.5), B, B, t(10.0), t(10.0), C]),
        Answer::tokens(&[t(0.4), C, t(28.94)]),
    ]);
    let transcript = run(&mut fake, 40.0, &plain());
    let want = [(0.0, 5.0, "a"), (5.5, 10.0, "bb"), (10.0, 38.94, "c")];
    assert_eq!(pieces(&transcript), want);
    assert_eq!(transcript.text, "abbc");
    assert_eq!(transcript.segments[1].tokens, [t(5.5), B, B, t(10.0)]);
    assert_eq!(transcript.segments.iter().map(|s| s.id).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((transcript.duration, transcript.language.as_str()), (40.0, "en"));
    // The second prompt holds what was finished, not the "c" that is heard again.
    let second = [PREVIOUS, t(0.0), A, t(5.0), t(5.5), B, B, t(10.0), START];
    assert_eq!(fake.prompts, [vec![START], second.to_vec()]);
    // The windows are those of the whole recording's spectrogram at 0 and 10 s.
    let mel = LogMel::new(4).expect("bands").compute_padded(&noise(40.0), 480_000);
    assert!(fake.windows == [mel.window(0, 3000), mel.window(1000, 3000)]);
}

#[test]
fn a_single_timestamp_at_the_end_closes_the_window() {
    let mut fake = Fake::new(vec![
        Answer::tokens(&[t(0.0), A, t(4.0), t(6.0), B, t(8.0)]),
        Answer::tokens(&[t(1.0), C]),
    ]);
    let transcript = run(&mut fake, 35.0, &plain());
    // The second window has 5 s of recording and no timestamp but the first.
    assert_eq!(pieces(&transcript), [(0.0, 4.0, "a"), (6.0, 8.0, "b"), (30.0, 31.0, "c")]);
}

#[test]
fn without_timestamps_every_window_is_one_segment() {
    let options = TranscribeOptions { timestamps: TimestampMode::Off, ..plain() };
    let mut fake = Fake::new(vec![Answer::tokens(&[A, t(3.0), t(3.0), B]), Answer::tokens(&[C])]);
    let transcript = run(&mut fake, 40.0, &options);
    assert_eq!(pieces(&transcript), [(0.0, 30.0, "ab"), (30.0, 40.0, "c")]);
    assert_eq!(fake.prompts[0], [START, NO_TIMES]);
}

#[test]
fn a_free_network_that_wants_no_timestamps_gives_one_segment() {
    let options = TranscribeOptions { timestamps: TimestampMode::Free, ..plain() };
    let mut fake = Fake::new(vec![Answer::tokens(&[NO_TIMES, A, B])]);
    let transcript = run(&mut fake, 11.0, &options);
    assert_eq!(pieces(&transcript), [(0.0, 11.0, "ab")]);
    assert_eq!(transcript.segments[0].tokens, [NO_TIMES, A, B]);
    assert_eq!(fake.prompts, [[START]]);
}

#[test]
fn timestamps_that_stand_still_do_not_hold_up_the_recording() {
    let options = TranscribeOptions { timestamps: TimestampMode::Free, ..plain() };
    let still = || Answer::tokens(&[t(0.0), t(0.0), A]);
    let mut fake = Fake::new(vec![still(), still()]);
    let transcript = run(&mut fake, 40.0, &options);
    assert_eq!(pieces(&transcript), []);
    assert_eq!(fake.prompts.len(), 2);
    // Backwards: the segment keeps its text and has no length.
    let mut fake = Fake::new(vec![Answer::tokens(&[t(9.0), A, t(2.0), t(3.0), B, t(4.0)])]);
    let transcript = run(&mut fake, 20.0, &options);
    assert_eq!(pieces(&transcript), [(9.0, 9.0, "a"), (3.0, 4.0, "b")]);
}

#[test]
fn text_that_is_not_good_is_decoded_anew_at_the_next_temperature() {
    let tokens = [t(0.0), A, t(5.0)];
    let mut repeated = vec![t(0.0)];
    repeated.extend([A, B].repeat(50));
    repeated.push(t(5.0));
    let options = TranscribeOptions::default();
    let mut fake = Fake::new(vec![
        Answer::tokens(&repeated),
        Answer::unsure(&[t(0.0), A, B, C, A, t(5.0)]),
        Answer::tokens(&tokens),
    ]);
    let transcript = run(&mut fake, 20.0, &options);
    assert_eq!(pieces(&transcript), [(0.0, 5.0, "a")]);
    assert_eq!(transcript.segments[0].temperature, 0.4);
    assert_eq!(transcript.segments[0].avg_logprob, 0.0);
    // The window is heard once.
    assert_eq!(fake.windows.len(), 1);

    // Where none is good, the most probable one stands,
    let unsure = || Answer::unsure(&[t(0.0), A, B, C, A, t(5.0)]);
    let better = || Answer::unsure(&[t(0.0), A, B, C, t(5.0)]);
    let mut fake = Fake::new(vec![unsure(), unsure(), better(), unsure(), unsure(), unsure()]);
    assert_eq!(run(&mut fake, 20.0, &options).segments[0].temperature, 0.4);
    // and one that does not repeat itself before one that does, however probable that is.
    let answers = (0..5).map(|_| Answer::tokens(&repeated)).chain([unsure()]);
    let mut fake = Fake::new(answers.collect());
    assert_eq!(run(&mut fake, 20.0, &options).segments[0].temperature, 1.0);
    let mut fake = Fake::new((0..6).map(|_| Answer::tokens(&repeated)).collect());
    assert_eq!(run(&mut fake, 20.0, &options).segments[0].temperature, 0.0);
}

#[test]
fn text_from_a_high_temperature_is_no_context() {
    for (temperature, kept) in [(0.5, true), (0.6, false)] {
        let options = TranscribeOptions { temperatures: vec![temperature], ..plain() };
        let mut fake = Fake::new(vec![
            Answer::tokens(&[t(0.0), A, t(5.0)]),
            Answer::tokens(&[t(0.0), B, t(5.0)]),
        ]);
        let transcript = run(&mut fake, 40.0, &options);
        assert_eq!(transcript.text, "ab");
        assert_eq!(fake.prompts[1].contains(&PREVIOUS), kept, "{temperature}");
    }
}

#[test]
fn a_silent_window_is_passed_over() {
    let unsure = [t(0.0), A, B, C, A, t(5.0)];
    let mut fake = Fake::new(vec![
        // Improbable and silent: no second temperature, no segment.
        Answer::unsure(&unsure).silence(0.7),
        // Silent, but the text is probable.
        Answer::tokens(&[t(0.0), B, t(5.0)]).silence(0.7),
        // Improbable, and not silent enough: decoded anew.
        Answer::unsure(&unsure).silence(0.5),
        Answer::tokens(&[t(0.0), C, t(5.0)]),
    ]);
    let options =
        TranscribeOptions { temperatures: vec![0.0, 0.2], ..TranscribeOptions::default() };
    let transcript = run(&mut fake, 90.0, &options);
    assert_eq!(pieces(&transcript), [(30.0, 35.0, "b"), (60.0, 65.0, "c")]);
    let silence = transcript.segments[0].no_speech_prob;
    assert!((silence - 0.7).abs() < 1e-6, "{silence}");
}

#[test]
fn an_initial_prompt_is_context_but_no_text() {
    let options = TranscribeOptions {
        initial_prompt: Some(" ij ".into()),
        condition_on_previous_text: false,
        ..plain()
    };
    let window = || Answer::tokens(&[t(0.0), A, t(5.0)]);
    let mut fake = Fake::new(vec![window(), window()]);
    let transcript = run(&mut fake, 40.0, &options);
    assert_eq!(transcript.text, "aa");
    assert_eq!(fake.prompts, [vec![PREVIOUS, 8, 9, START], vec![START]]);
}

#[test]
fn the_language_is_listened_for_and_stands_in_the_prompt() {
    let mut detection = Answer::tokens(&[]);
    detection.start = row(&[(ENGLISH, 0.0), (GERMAN, 1.0)]);
    let window = || Answer::tokens(&[t(0.0), A, t(5.0)]);
    let mut fake = Fake::new(vec![detection, window()]);
    let samples = noise(10.0);
    let special = special(true);
    let transcript = transcribe(&mut fake, &Letters, &special, &samples, &plain(), &mut ())
        .expect("transcribes");
    assert_eq!(transcript.language, "de");
    assert_eq!(fake.prompts, [vec![START], vec![START, GERMAN, TRANSCRIBE]]);
    assert_eq!(fake.windows.len(), 1);

    let options =
        TranscribeOptions { language: Some("English".into()), task: Task::Translate, ..plain() };
    let mut fake = Fake::new(vec![window()]);
    let transcript = transcribe(&mut fake, &Letters, &special, &samples, &options, &mut ())
        .expect("transcribes");
    assert_eq!(transcript.language, "en");
    assert_eq!(fake.prompts, [[START, ENGLISH, 14]]);
}

#[test]
fn a_language_or_task_that_the_checkpoint_lacks_is_refused() {
    let ask = |multilingual, language: Option<&str>, task| {
        let options = TranscribeOptions { language: language.map(Into::into), task, ..plain() };
        let fake = &mut Fake::new(vec![]);
        transcribe(fake, &Letters, &special(multilingual), &[0.0; 10], &options, &mut ())
            .map_err(|e| e.to_string())
    };
    let unknown = "the language \"klingon\" is not one that this checkpoint knows";
    let only = |what| format!("this checkpoint knows English only, so it cannot {what}");
    let cases = [
        (ask(true, Some("klingon"), Task::Transcribe), unknown.to_string()),
        (ask(true, Some("french"), Task::Transcribe), unknown.replace("klingon", "fr")),
        (ask(false, Some("de"), Task::Transcribe), only("write \"de\"")),
        (ask(false, None, Task::Translate), only("translate")),
    ];
    for (result, want) in cases {
        assert_eq!(result.expect_err("is refused"), want);
    }
    assert!(ask(false, Some("english"), Task::Transcribe).is_ok());
}

#[test]
fn too_little_sound_for_a_frame_gives_an_empty_transcript() {
    for (multilingual, language) in [(false, "en"), (true, "")] {
        let fake = &mut Fake::new(vec![]);
        let result =
            transcribe(fake, &Letters, &special(multilingual), &[0.1; 80], &plain(), &mut ());
        let want =
            Transcript { language: language.into(), duration: 0.005, ..Transcript::default() };
        assert_eq!(result.expect("transcribes"), want);
    }
}

#[derive(Default)]
struct Diary {
    tokens: Vec<u32>,
    segments: Vec<String>,
    seconds: Vec<(f64, f64)>,
}

impl Progress for Diary {
    fn token(&mut self, token: u32) {
        self.tokens.push(token);
    }

    fn segment(&mut self, segment: &Segment) {
        self.segments.push(segment.text.clone());
    }

    fn seconds(&mut self, done: f64, total: f64) {
        self.seconds.push((done, total));
    }
}

#[test]
fn progress_tells_tokens_segments_and_seconds() {
    let mut fake = Fake::new(vec![
        Answer::tokens(&[t(0.0), A, t(12.5), t(12.5), B]),
        Answer::tokens(&[t(0.0), B, t(29.0)]),
    ]);
    let mut diary = Diary::default();
    transcribe(&mut fake, &Letters, &special(false), &noise(42.0), &plain(), &mut diary)
        .expect("transcribes");
    assert_eq!(diary.tokens, [t(0.0), A, t(12.5), t(12.5), B, t(0.0), B, t(29.0)]);
    assert_eq!(diary.segments, ["a", "b"]);
    assert_eq!(diary.seconds, [(0.0, 42.0), (12.5, 42.0), (42.0, 42.0)]);
}

#[test]
fn a_failure_tells_where_it_happened() {
    let mut fake = Fake::new(vec![Answer::tokens(&[t(0.0), A, t(12.5), t(12.5), B])]);
    let error = transcribe(&mut fake, &Letters, &special(false), &noise(42.0), &plain(), &mut ())
        .expect_err("no second answer");
    assert_eq!(error.to_string(), "at 12.50 s: the network failed: asked once too often");
}

#[test]
fn tokens_that_belong_into_prompts_are_never_written() {
    let mut first = row(&[(A, 0.0), (B, -1.0)]);
    for id in [START, 14, TRANSCRIBE, 16, PREVIOUS, NO_SPEECH] {
        first[id as usize] = 9.0;
    }
    let options = TranscribeOptions {
        timestamps: TimestampMode::Off,
        suppress_begin: vec![A],
        logprob_threshold: None,
        ..plain()
    };
    let mut fake = Fake::new(vec![Answer::rows(vec![first.clone(), first])]);
    assert_eq!(run(&mut fake, 5.0, &options).text, "ba");
}
