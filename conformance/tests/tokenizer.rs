//! Tokenizers against those of other implementations, token by token.
//!
//! The GGUF is fetched (and kept) the first time.

use frit_cli::assets::{self, SMOLLM2_135M_INSTRUCT};
use frit_load::{Checkpoint, gguf::Vocabulary};
use frit_models::tokenizer::Tokenizer;
use serde_json::Value as Json;
use std::{fs, path::Path, time::Instant};

fn golden(name: &str) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    let text = fs::read_to_string(path).expect("golden numbers");
    serde_json::from_str(&text).expect("JSON")
}

fn list<'j>(json: &'j Json, key: &str) -> &'j [Json] {
    json[key].as_array().expect(key)
}

fn number(json: &Json) -> u32 {
    json.as_u64().and_then(|n| n.try_into().ok()).expect("an id")
}

fn ids(case: &Json) -> Vec<u32> {
    list(case, "ids").iter().map(number).collect()
}

fn text<'j>(case: &'j Json, key: &str) -> &'j str {
    case[key].as_str().expect(key)
}

fn smollm2() -> Checkpoint {
    let folder = assets::ensure(&SMOLLM2_135M_INSTRUCT, true).expect("the checkpoint");
    frit_load::open(folder).expect("it opens")
}

/// What a stream gives, and how many pieces that is.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> (String, usize) {
    let mut stream = tokenizer.stream();
    let mut parts: Vec<String> = ids.iter().filter_map(|&id| stream.push(id)).collect();
    parts.extend(stream.finish());
    (parts.concat(), parts.len())
}

#[test]
fn the_tokenizer_in_a_gguf_gives_the_tokens_of_transformers() {
    let tokenizer = Tokenizer::of(&smollm2()).expect("a tokenizer");
    let cases = golden("smollm2/tokenizer_ref.json");
    let cases = cases.as_array().expect("cases");
    assert_eq!(cases.len(), 19);
    for case in cases {
        let want = text(case, "text");
        let got = tokenizer.encode(want, true).expect("encoded");
        assert_eq!(got, ids(case), "{want:?}");
        assert_eq!(tokenizer.decode(&got, false).expect("decoded"), want);
        let shown = tokenizer.decode(&got, true).expect("decoded");
        assert_eq!(shown, want.replace("<|im_start|>", "").replace("<|im_end|>", ""));
        assert_eq!(streamed(&tokenizer, &got).0, shown);
    }
}

#[test]
fn a_gguf_says_how_texts_begin_and_end() {
    let tokenizer = Tokenizer::of(&smollm2()).expect("a tokenizer");
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), &[2, 0][..]));
    assert_eq!((tokenizer.vocab_size(), tokenizer.id("<|im_end|>")), (49152, Some(2)));
    assert_eq!(tokenizer.token(2).as_deref(), Some("<|im_end|>"));
    assert_eq!((tokenizer.token(49152), tokenizer.id("no such token")), (None, None));
    let template = tokenizer.chat_template().expect("a template");
    assert!(template.contains("named SmolLM, trained by Hugging Face"), "{template}");
}

#[test]
fn a_vocabulary_of_49152_tokens_is_ready_in_a_moment() {
    // Measured: opening takes 10 ms and building 50 ms; the bound is for slow, busy machines.
    let start = Instant::now();
    let checkpoint = smollm2();
    let opened = start.elapsed();
    let tokenizer = Tokenizer::of(&checkpoint).expect("a tokenizer");
    let built = start.elapsed() - opened;
    println!("opened in {opened:?}, built in {built:?}");
    assert_eq!(tokenizer.vocab_size(), 49152);
    assert!(built.as_secs_f64() < 2.0, "{built:?}");
}

#[test]
fn pieces_merged_by_scores_are_those_of_sentencepiece() {
    let models = golden("sentencepiece.json");
    for model in models.as_array().expect("models") {
        let tokenizer = Tokenizer::from_vocabulary(Vocabulary {
            model: "llama".into(),
            tokens: list(model, "tokens")
                .iter()
                .map(|t| t.as_str().expect("a token").to_string())
                .collect(),
            scores: list(model, "scores")
                .iter()
                .map(|x| x.as_f64().expect("a score") as f32)
                .collect(),
            types: list(model, "types").iter().map(|n| number(n) as i32).collect(),
            unk: Some(number(&model["unk"])),
            bos: Some(number(&model["bos"])),
            eos: Some(number(&model["eos"])),
            ..Vocabulary::default()
        });
        let tokenizer = tokenizer.expect("a tokenizer");
        let (unknown, bos) = (number(&model["unk"]), number(&model["bos"]));
        for case in list(model, "cases") {
            let (want, said) = (ids(case), text(case, "text"));
            assert_eq!(tokenizer.encode(said, false).expect("encoded"), want, "{said:?}");
            let with = tokenizer.encode(said, true).expect("encoded");
            assert_eq!(with, [&[bos], &want[..]].concat(), "{said:?}");
            // Unknown tokens are written as they please.
            if !want.contains(&unknown) {
                let got = tokenizer.decode(&with, true).expect("decoded");
                assert_eq!(got, text(case, "decoded"), "{said:?}");
                assert_eq!(streamed(&tokenizer, &with).0, got, "{said:?}");
            }
        }
    }
}

#[test]
fn a_stream_waits_for_whole_characters_only() {
    let tokenizer = Tokenizer::of(&smollm2()).expect("a tokenizer");
    let ids = tokenizer.encode("a 😀👍🏽 日本語", false).expect("encoded");
    let mut stream = tokenizer.stream();
    let parts: Vec<Option<String>> = ids.iter().map(|&id| stream.push(id)).collect();
    assert!(parts.contains(&None), "characters of several tokens: {parts:?}");
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    assert!(parts.iter().all(|part| !part.contains('\u{fffd}')), "{parts:?}");
    assert_eq!((parts.concat(), stream.finish()), ("a 😀👍🏽 日本語".to_string(), None));
    // Cut in the middle of a character, what is left of it is said at the end.
    let (cut, _) = streamed(&tokenizer, &ids[..ids.len() - 1]);
    assert!(cut.starts_with("a 😀👍🏽 ") && cut.ends_with('\u{fffd}'), "{cut:?}");
}
