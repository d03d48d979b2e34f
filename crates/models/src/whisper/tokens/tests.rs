use tempfile::TempDir;

use super::*;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    folder
}

/// Byte-level BPE that knows "h", "i", "hi", " hi", and some special tokens.
fn tokenizer_json(added: &[(u32, &str)]) -> String {
    let added: Vec<String> = added
        .iter()
        .map(|(id, content)| {
            format!(
                r#"{{"id":{id},"content":"{content}","single_word":false,"lstrip":false,
                "rstrip":false,"normalized":false,"special":true}}"#
            )
        })
        .collect();
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{}],
        "normalizer":null,
        "pre_tokenizer":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true}},
        "post_processor":null,
        "decoder":{{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true}},
        "model":{{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":"",
        "end_of_word_suffix":"","fuse_unk":false,
        "vocab":{{"h":0,"i":1,"\u0120":2,"hi":3,"\u0120hi":4}},
        "merges":["h i","\u0120 hi"]}}}}"#,
        added.join(",")
    )
}

const WORDS: &str = "h\ni\nĠ\nhi\nĠhi\n";

#[test]
fn words_and_special_tokens_come_from_the_folder() {
    let json = tokenizer_json(&[(5, "<|endoftext|>"), (6, "<|startoftranscript|>")]);
    let more = "<|endoftext|>\n<|startoftranscript|>\n<|en|>\n<|de|>\n<|translate|>\r\n\
                <|transcribe|>\n<|startoflm|>\n<|startofprev|>\n<|nocaptions|>\n\
                <|notimestamps|>\n<|0.00|>\n<|0.02|>\n";
    let words = format!("{WORDS}{more}");
    let list = serde_json::to_string(&words.lines().collect::<Vec<_>>()).expect("json");
    for (name, text) in [("vocabulary.txt", &words), ("vocabulary.json", &list)] {
        let folder = folder(&[("tokenizer.json", &json), (name, text)]);
        let tokenizer = Tokenizer::from_folder(folder.path()).expect("loads");
        let want = SpecialTokens {
            end_of_text: 5,
            start_of_transcript: 6,
            languages: vec![("en".into(), 7), ("de".into(), 8)],
            translate: Some(9),
            transcribe: Some(10),
            start_of_lm: Some(11),
            start_of_prev: Some(12),
            no_speech: Some(13),
            no_timestamps: Some(14),
            timestamp_begin: 15,
            multilingual: true,
        };
        assert_eq!(tokenizer.special(), &want, "{name}");
        assert_eq!(tokenizer.languages(), ["en", "de"]);
        assert_eq!(tokenizer.vocab(), 15 + 1501);
        assert_eq!(tokenizer.encode("hi hi").expect("encodes"), [3, 4]);
        // A special token that a text spells out is dropped.
        assert_eq!(tokenizer.encode("hi<|endoftext|> hi").expect("encodes"), [3, 4]);
        assert_eq!(tokenizer.decode(&[6, 15, 3, 4, 16, 5]).expect("decodes"), "hi hi");
    }
}

#[test]
fn timestamps_follow_the_token_that_asks_for_none() {
    let added = [
        (5, "<|endoftext|>"),
        (6, "<|startoftranscript|>"),
        (7, "<|iw|>"),
        (8, "<|nospeech|>"),
        (9, "<|notimestamps|>"),
    ];
    let config = r#"{"is_multilingual": false}"#;
    let folder =
        folder(&[("tokenizer.json", &tokenizer_json(&added)), ("generation_config.json", config)]);
    let tokenizer = Tokenizer::from_folder(folder.path()).expect("loads");
    let special = tokenizer.special();
    assert_eq!((special.timestamp_begin, special.no_speech), (10, Some(8)));
    // The old code of Hebrew.
    assert_eq!(special.language("he"), Some(7));
    assert!(!special.multilingual);
    assert_eq!(tokenizer.languages(), ["en"]);
}

#[test]
fn a_folder_that_is_no_checkpoint_is_refused_with_a_reason() {
    let none = tokenizer_json(&[(5, "<|endoftext|>")]);
    let good = tokenizer_json(&[(5, "<|endoftext|>"), (6, "<|startoftranscript|>")]);
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[], "tokenizer.json: no such file"),
        (&[("tokenizer.json", "{}")], "tokenizer.json: "),
        (&[("tokenizer.json", &none)], "has no token \"<|startoftranscript|>\""),
        (&[("tokenizer.json", &good)], "has no token \"<|notimestamps|>\""),
        (&[("tokenizer.json", &good), ("vocabulary.json", "[1]")], "vocabulary.json: "),
    ];
    for (files, want) in cases {
        let folder = folder(files);
        let error = Tokenizer::from_folder(folder.path()).expect_err("is refused").to_string();
        assert!(error.contains(want), "wanted {want:?}, got {error:?}");
    }
}

#[test]
fn published_vocabularies_have_their_known_ids() {
    // size, end, start, first and last language, translate, no speech, no timestamps, 0.00
    for (size, ids, last) in [
        (51_864, [50_256, 50_257, 50_258, 50_356, 50_357, 50_361, 50_362, 50_363], "su"),
        (51_865, [50_257, 50_258, 50_259, 50_357, 50_358, 50_362, 50_363, 50_364], "su"),
        (51_866, [50_257, 50_258, 50_259, 50_358, 50_359, 50_363, 50_364, 50_365], "yue"),
    ] {
        let special = SpecialTokens::for_vocabulary(size).expect("is published");
        let got = [
            Some(special.end_of_text),
            Some(special.start_of_transcript),
            special.language("en"),
            special.language(last),
            special.translate,
            special.no_speech,
            special.no_timestamps,
            Some(special.timestamp_begin),
        ];
        assert_eq!(got, ids.map(Some), "{size}");
        assert_eq!(special.multilingual, size != 51_864);
        // 30.00 s is the last token.
        assert_eq!(special.timestamp_begin as usize + 1500, size - 1);
    }
    assert_eq!(SpecialTokens::for_vocabulary(32_000), None);
}

#[test]
fn languages_go_by_code_and_name() {
    let cases = [
        ("en", Some("en")),
        (" English ", Some("en")),
        ("GERMAN", Some("de")),
        ("haitian creole", Some("ht")),
        ("Mandarin", Some("zh")),
        ("yue", Some("yue")),
        ("", None),
        ("klingon", None),
    ];
    for (wanted, code) in cases {
        assert_eq!(language_code(wanted), code, "{wanted:?}");
    }
    assert_eq!(language_name("haw"), Some("hawaiian"));
    let mut codes: Vec<_> = LANGUAGES.iter().map(|(code, _)| code).collect();
    codes.sort();
    codes.dedup();
    assert_eq!(codes.len(), 100);
}

#[test]
fn settings_for_decoding_are_read_in_both_spellings() {
    let ctranslate = r#"{"suppress_ids": [1, 2], "suppress_ids_begin": [220], "lang_ids": [7]}"#;
    let config = r#"{"suppress_tokens": [9], "begin_suppress_tokens": null, "d_model": 384,
        "forced_decoder_ids": [[1, 50362]]}"#;
    let generation = r#"{"suppress_tokens": [-1, 3], "begin_suppress_tokens": [220, 50257],
        "forced_decoder_ids": [[1, null], [2, 50359]], "is_multilingual": true,
        "max_initial_timestamp_index": 50}"#;
    let read = |files: &[(&str, &str)]| GenerationConfig::from_folder(folder(files).path());
    let none = GenerationConfig::default();
    assert_eq!(read(&[]).expect("empty"), none);
    assert_eq!(
        read(&[("config.json", ctranslate)]).expect("reads"),
        GenerationConfig { suppress: vec![1, 2], suppress_begin: vec![220], ..none.clone() }
    );
    assert_eq!(
        read(&[("config.json", config)]).expect("reads"),
        GenerationConfig { suppress: vec![9], forced: vec![(1, 50_362)], ..none }
    );
    assert_eq!(
        read(&[("config.json", config), ("generation_config.json", generation)]).expect("reads"),
        GenerationConfig {
            suppress: vec![3],
            suppress_begin: vec![220, 50_257],
            forced: vec![(2, 50_359)],
            multilingual: Some(true),
            max_initial_timestamp: Some(50),
        }
    );
    let error = read(&[("config.json", "[")]).expect_err("is damaged").to_string();
    assert!(error.contains("config.json: "), "{error}");
}
