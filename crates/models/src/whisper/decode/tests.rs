//! Expected numbers are worked out by hand from the rules.

use super::fake::*;
use super::*;

fn options(timestamps: TimestampMode) -> WindowOptions<'static> {
    WindowOptions {
        previous: &[],
        start: &[START],
        timestamps,
        temperature: 0.0,
        suppress: &[],
        suppress_begin: &[],
        max_initial_timestamp: Some(50),
        max_tokens: None,
    }
}

fn decode(fake: &mut Fake, options: &WindowOptions<'_>) -> Result<WindowResult, DecodeError> {
    let random = &mut Random::new(1);
    decode_window(fake, &Letters, &special(false), options, random, &mut |_| {})
}

fn close(got: f32, want: f64) {
    assert!((f64::from(got) - want).abs() < 1e-5, "got {got}, wanted {want}");
}

#[test]
fn the_likeliest_token_is_taken_until_the_end_of_the_text() {
    let ln3 = 3.0_f32.ln();
    let mut fake = Fake::new(vec![
        Answer::rows(vec![
            row(&[(0, ln3), (1, 0.0)]),
            row(&[(2, 0.0), (3, ln3)]),
            row(&[(END, 0.0), (4, -0.0)]),
        ])
        .silence(0.75),
    ]);
    let mut seen = Vec::new();
    let result = decode_window(
        &mut fake,
        &Letters,
        &special(false),
        &options(TimestampMode::Off),
        &mut Random::new(1),
        &mut |token| seen.push(token),
    )
    .expect("decodes");
    // Two equal logits: the first one wins, and letters come before the end.
    assert_eq!(result.tokens, [0, 3, 4]);
    assert_eq!(seen, [0, 3, 4]);
    assert_eq!(result.text, "ade");
    // Probabilities 3/4, 3/4, 1/2, and 1 for the end.
    close(result.avg_logprob, (2.0 * 0.75_f64.ln() + 0.5_f64.ln()) / 4.0);
    close(result.no_speech_prob, 0.75);
    assert_eq!(fake.prompts, [vec![START, NO_TIMES]]);
    assert_eq!(fake.steps, [0, 3, 4]);
}

#[test]
fn the_prompt_holds_the_end_of_the_earlier_text() {
    let previous: Vec<u32> = (0..100).map(|i| i % 10).collect();
    let mut fake = Fake::new(vec![Answer::tokens(&[1])]);
    fake.positions = 16;
    let options = WindowOptions {
        previous: &previous,
        start: &[START, GERMAN, TRANSCRIBE],
        ..options(TimestampMode::Off)
    };
    decode(&mut fake, &options).expect("decodes");
    // Half of the positions less one.
    let want = [PREVIOUS, 3, 4, 5, 6, 7, 8, 9, START, GERMAN, TRANSCRIBE, NO_TIMES];
    assert_eq!(fake.prompts, [want.to_vec()]);
}

#[test]
fn an_answer_ends_at_half_of_the_positions_or_at_the_last_one() {
    let endless = || Answer::tokens(&[3; 100]);
    let mut fake = Fake::new(vec![endless()]);
    fake.positions = 20;
    let result = decode(&mut fake, &options(TimestampMode::Free)).expect("decodes");
    assert_eq!(result.tokens, [3; 10]);
    // A long prompt leaves 20 - 12 tokens to read, and one more that is not read.
    let start = [START, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    let mut fake = Fake::new(vec![endless()]);
    fake.positions = 20;
    let options = WindowOptions { start: &start, ..options(TimestampMode::Free) };
    assert_eq!(decode(&mut fake, &options).expect("decodes").tokens, [3; 9]);
    assert_eq!(fake.steps.len(), 8);
    let mut fake = Fake::new(vec![endless()]);
    fake.positions = 11;
    let error = decode(&mut fake, &options).expect_err("no room").to_string();
    assert_eq!(error, "a prompt of 12 tokens does not fit: the network takes 11");
}

#[test]
fn forbidden_tokens_are_not_chosen() {
    let both = [(0, 2.0), (1, 1.0), (2, 0.0)];
    let mut fake = Fake::new(vec![Answer::rows(vec![row(&both), row(&both)])]);
    let options =
        WindowOptions { suppress: &[0], suppress_begin: &[1], ..options(TimestampMode::Off) };
    assert_eq!(decode(&mut fake, &options).expect("decodes").tokens, [2, 1]);
}

#[test]
fn without_rules_the_network_may_decide_against_timestamps() {
    let mut fake = Fake::new(vec![Answer::tokens(&[NO_TIMES, 0, 1])]);
    let result = decode(&mut fake, &options(TimestampMode::Free)).expect("decodes");
    assert_eq!(fake.prompts, [[START]]);
    assert_eq!(result.tokens, [NO_TIMES, 0, 1]);
    assert_eq!(result.text, "ab");
}

/// The tokens that may follow `tokens`, in a vocabulary of 31 where every letter is likelier than
/// all timestamps together.
fn allowed(tokens: &[u32], max_initial: Option<u32>) -> Vec<u32> {
    let rules = TimestampRules {
        end_of_text: END,
        no_timestamps: Some(NO_TIMES),
        timestamp_begin: TIME,
        max_initial,
    };
    let mut logits: Vec<f32> = (0..31).map(|id| if id < TIME { 0.0 } else { -9.0 }).collect();
    rules.apply(&mut logits, tokens);
    (0..31).filter(|&id| logits[id as usize] > f32::NEG_INFINITY).collect()
}

#[test]
fn timestamps_come_in_pairs_and_never_run_backwards() {
    let words = 0..END;
    // The end of the text and the tokens of prompts; "no timestamps" is never allowed.
    let others = END..NO_TIMES;
    let join = |parts: &[std::ops::Range<u32>]| -> Vec<u32> {
        parts.iter().flat_map(Clone::clone).collect()
    };
    let cases: [(&[u32], Vec<u32>); 9] = [
        (&[], vec![20, 21, 22, 23]),
        (&[20], join(&[words.clone(), others.clone()])),
        (&[22, 1], join(&[words.clone(), others.clone(), 23..31])),
        (&[22, 1, 25], join(&[others.clone(), 25..31])),
        (&[22, 1, 25, 25], join(&[words.clone(), others.clone()])),
        (&[22, 1, 25, 27], join(&[words.clone(), others.clone()])),
        (&[22, 1, 25, 27, 3], join(&[words.clone(), others.clone(), 28..31])),
        (&[22, 1, 30], join(&[others.clone(), 30..31])),
        (&[22, 1, 30, 30, 4], join(&[words, others])),
    ];
    for (tokens, want) in cases {
        assert_eq!(allowed(tokens, Some(3)), want, "after {tokens:?}");
    }
    assert_eq!(allowed(&[], None), (20..31).collect::<Vec<_>>());
    assert_eq!(allowed(&[], Some(u32::MAX)), (20..31).collect::<Vec<_>>());
}

#[test]
fn timestamps_that_are_likelier_together_than_any_word_win() {
    let rules = TimestampRules {
        end_of_text: END,
        no_timestamps: Some(NO_TIMES),
        timestamp_begin: TIME,
        max_initial: None,
    };
    // Three times e^-0.5 is 1.82, twice e^-0.8 is 0.90: against e^0 = 1 for each of two words.
    for (times, logit, wins) in [(3, -0.5, true), (2, -0.8, false)] {
        let mut logits = row(&[(1, 0.0), (2, 0.0)]);
        logits[TIME as usize + 5..TIME as usize + 5 + times].fill(logit);
        rules.apply(&mut logits, &[TIME, 1]);
        assert_eq!(logits[1] == f32::NEG_INFINITY, wins, "{times} of {logit}");
        assert_eq!(logits[TIME as usize + 5], logit);
    }
}

#[test]
fn a_vocabulary_without_timestamps_does_not_upset_the_rules() {
    let rules = TimestampRules {
        end_of_text: 300,
        no_timestamps: Some(400),
        timestamp_begin: 500,
        max_initial: Some(50),
    };
    let mut logits = [1.0; 8];
    rules.apply(&mut logits, &[3]);
    assert_eq!(logits, [1.0; 8]);
    rules.apply(&mut logits, &[]);
    assert_eq!(logits, [f32::NEG_INFINITY; 8]);
}

#[test]
fn sampling_follows_the_probabilities_at_its_temperature() {
    let logits = [0.0, f32::NEG_INFINITY, 3.0_f32.ln()];
    // At temperature 1 the odds are 1 to 3, at 1/2 they are 1 to 9.
    for (temperature, probability) in [(1.0, 0.75), (0.5, 0.9)] {
        let mut random = Random::new(7);
        let draws: Vec<u32> =
            (0..20_000).filter_map(|_| choose(&logits, temperature, &mut random)).collect();
        assert!(!draws.contains(&1));
        let share = draws.iter().filter(|&&id| id == 2).count() as f64 / 20_000.0;
        // Five standard deviations are at most 0.0154.
        assert!((share - probability).abs() < 0.0154, "{temperature}: {share}");
    }
    assert_eq!(choose(&logits, 0.0, &mut Random::new(0)), Some(2));
    assert_eq!(choose(&[f32::NEG_INFINITY; 3], 1.0, &mut Random::new(0)), None);
}

#[test]
fn random_numbers_are_split_mix_64() {
    let mut random = Random::new(1_234_567);
    let first: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
    assert_eq!(first, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
}

#[test]
fn repetitive_text_compresses_well() {
    // Sizes from the original zlib at its default level. Implementations of it differ by some bytes
    // in how they describe a short block, so what counts is the side of the usual threshold.
    let speech = "And so my fellow Americans ask not what your country can do for you, \
                  ask what you can do for your country.";
    for (text, bytes, packed) in [
        (speech.to_string(), 106.0, 79.0),
        ("a".repeat(1000), 1000.0, 17.0),
        (" and so".repeat(40), 280.0, 19.0),
    ] {
        assert_eq!(text.len() as f32, bytes);
        let got = bytes / compression_ratio(&text);
        assert!((got - packed).abs() < 16.0, "{bytes} bytes become {got}, wanted {packed}");
        assert_eq!(bytes / got > 2.4, bytes / packed > 2.4, "{text}");
    }
    assert_eq!(compression_ratio(""), 0.0);
}

#[test]
fn the_language_is_the_likeliest_of_the_languages() {
    let mut answer = Answer::tokens(&[]);
    answer.start = row(&[(ENGLISH, 0.0), (GERMAN, 3.0_f32.ln()), (5, 50.0)]);
    let mut fake = Fake::new(vec![answer]);
    let (language, probability) =
        detect_language(&mut fake, &special(true)).expect("has languages");
    assert_eq!(language, "de");
    close(probability, 0.75);
    assert_eq!(fake.prompts, [[START]]);
}

#[test]
fn nonsense_from_the_network_is_an_error() {
    let mut short = Answer::tokens(&[1]);
    short.rows[0].truncate(7);
    let mut nan = Answer::tokens(&[1, 2]);
    nan.rows[1][42] = f32::NAN;
    let nothing = Answer::rows(vec![row(&[])]);
    let cases = [
        (short, "the network gave 7 logits, wanted 1521"),
        (nan, "after 2 tokens the logit of token 42 is NaN"),
        (nothing, "after 1 tokens the rules leave no token to choose"),
    ];
    for (answer, want) in cases {
        let error = decode(&mut Fake::new(vec![answer]), &options(TimestampMode::Free));
        assert_eq!(error.expect_err("nonsense").to_string(), want);
    }
    let error = decode(&mut Fake::new(vec![]), &options(TimestampMode::Free));
    let error = error.expect_err("no answer").to_string();
    assert_eq!(error, "the network failed: asked once too often");
}
