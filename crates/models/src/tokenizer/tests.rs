use super::*;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

fn texts<const N: usize>(list: [&str; N]) -> Vec<String> {
    list.map(String::from).into()
}

/// Byte-level BPE that knows `h`, `i`, `hi` and a space.
fn little() -> Vocabulary {
    Vocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens: texts(["<s>", "h", "i", "hi", "Ġ", "<tool>", "</s>"]),
        types: vec![3, 1, 1, 1, 1, 4, 3],
        merges: vec!["h i".into()],
        bos: Some(0),
        eos: Some(6),
        ..Vocabulary::default()
    }
}

#[test]
fn text_is_cut_into_words_as_the_patterns_of_the_models_say() {
    // Cut by Python's `regex`, pattern after pattern.
    let text =
        "I'LL say: \"don't\"  12345 HTTPServer/naïve\n\n\t日本語テキスト $9.99 ok `x`  \r\nend ";
    for (names, want) in [
        (
            &["smollm", "starcoder"][..],
            "I¦'¦LL¦ say¦:¦ \"¦don¦'t¦\"¦  ¦1¦2¦3¦4¦5¦ HTTPServer¦/¦naïve¦\n\n¦\t¦日本語テキスト¦ $¦9¦.¦9¦9¦ ok¦ `¦x¦`¦  \r¦\n¦end¦ ",
        ),
        (
            &["llama-bpe", "llama3", "smaug-bpe"],
            "I¦'LL¦ say¦:¦ \"¦don¦'t¦\"¦ ¦ ¦123¦45¦ HTTPServer¦/naïve¦\n\n¦\t日本語テキスト¦ $¦9¦.¦99¦ ok¦ `¦x¦`¦  \r\n¦end¦ ",
        ),
        (
            &["qwen2", "deepseek-r1-qwen"],
            "I¦'LL¦ say¦:¦ \"¦don¦'t¦\"¦ ¦ ¦1¦2¦3¦4¦5¦ HTTPServer¦/naïve¦\n\n¦\t日本語テキスト¦ $¦9¦.¦9¦9¦ ok¦ `¦x¦`¦  \r\n¦end¦ ",
        ),
        (
            &["gpt-2"],
            "I¦'¦LL¦ say¦:¦ \"¦don¦'t¦\"¦ ¦ 12345¦ HTTPServer¦/¦naïve¦\n\n¦\t¦日本語テキスト¦ $¦9¦.¦99¦ ok¦ `¦x¦`¦  \r¦\n¦end¦ ",
        ),
        (
            &["tekken"],
            "I¦'LL¦ say¦:¦ \"¦don¦'t¦\"¦ ¦ ¦1¦2¦3¦4¦5¦ HTTPServer¦/naïve¦\n\n¦\t日本語テキスト¦ $¦9¦.¦9¦9¦ ok¦ `¦x¦`¦  \r\n¦end¦ ",
        ),
        (
            &["gpt-4o"],
            "I'LL¦ say¦:¦ \"¦don't¦\"¦ ¦ ¦123¦45¦ HTTPServer¦/naïve¦\n\n¦\t日本語テキスト¦ $¦9¦.¦99¦ ok¦ `¦x¦`¦  \r\n¦end¦ ",
        ),
        (
            &["deepseek-v3"],
            "I¦'LL¦ say¦:¦ \"¦don¦'t¦\"¦  ¦123¦45¦ HTTPServer¦/na¦ïve¦\n\n¦\t¦日本語テキスト¦ $¦9¦.¦99¦ ok¦ `¦x¦`¦  \r\n¦end¦ ",
        ),
        (
            &["default"],
            "I¦'¦LL¦ say¦:¦ ¦\"¦don¦'¦t¦\"¦ ¦ ¦123¦45¦ HTTPServer¦/¦naïve¦\n\n¦\t¦日本語テキスト¦ ¦$¦9¦.¦99¦ ok¦ `¦x¦`¦  \r¦\n¦end¦ ",
        ),
        (
            &["falcon"],
            "I¦'¦LL¦ say¦:¦ ¦\"¦don¦'¦t¦\"¦ ¦ ¦123¦45¦ HTTPServer¦/¦naïve¦\n\n¦\t¦日本語テキスト¦ ¦$¦9¦.¦99¦ ok¦ ¦`¦x¦`¦  \r¦\n¦end¦ ",
        ),
    ] {
        for name in names {
            let v = Vocabulary { pre: Some(name.to_string()), ..Vocabulary::default() };
            let splitter = pre::find(&v).expect(name).splitter().expect(name);
            let mut cut = PreTokenizedString::from(text);
            splitter.pre_tokenize(&mut cut).expect(name);
            let parts = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let parts: Vec<&str> =
                parts.iter().map(|(_, (from, to), _)| &text[*from..*to]).collect();
            assert_eq!(parts.join("¦"), want, "{name}");
        }
    }
}

#[test]
fn what_stands_around_a_text_is_said_by_the_file_or_by_the_kind() {
    let ids = |v: Vocabulary| {
        let tokenizer = Tokenizer::from_vocabulary(v).expect("a tokenizer");
        tokenizer.encode("hi", true).expect("encoded")
    };
    assert_eq!(ids(little()), [3]);
    assert_eq!(ids(Vocabulary { pre: Some("llama-bpe".into()), ..little() }), [0, 3]);
    let both = Vocabulary { add_bos: Some(true), add_eos: Some(true), ..little() };
    assert_eq!(ids(both), [0, 3, 6]);
    assert_eq!(ids(Vocabulary { add_bos: Some(true), bos: None, ..little() }), [3]);
}

#[test]
fn added_tokens_are_found_in_text_and_only_special_ones_are_left_out() {
    let tokenizer = Tokenizer::from_vocabulary(little()).expect("a tokenizer");
    let ids = tokenizer.encode("<s>hi <tool>h", false).expect("encoded");
    assert_eq!(ids, [0, 3, 4, 5, 1]);
    assert_eq!(tokenizer.decode(&ids, false).expect("decoded"), "<s>hi <tool>h");
    assert_eq!(tokenizer.decode(&ids, true).expect("decoded"), "hi <tool>h");
    assert_eq!(tokenizer.decode(&[99, 3], true).expect("decoded"), "hi");
    assert_eq!((tokenizer.eos(), tokenizer.bos()), (&[6][..], Some(0)));
}

#[test]
fn a_word_that_is_a_token_is_not_merged_where_the_model_was_taught_so() {
    // No merge leads to `ihi`.
    let with = |pre: &str| {
        let mut v = Vocabulary { pre: Some(pre.into()), ..little() };
        v.tokens.push("ihi".into());
        v.types.push(1);
        Tokenizer::from_vocabulary(v).expect("a tokenizer").encode("ihi", false).expect("encoded")
    };
    assert_eq!((with("llama3"), with("gpt-2")), (vec![7], vec![2, 3]));
}

#[test]
fn vocabularies_that_do_not_hold_are_errors() {
    let wrong = [
        (
            Vocabulary { model: "bert".into(), ..little() },
            "tokenizer model `bert` is not known; known are gpt2, llama",
        ),
        (
            Vocabulary { pre: Some("odd".into()), ..little() },
            "pre-tokenizer `odd` is not known; known are smollm",
        ),
        (Vocabulary { merges: texts(["hi"]), ..little() }, "merge of one token: \"hi\""),
        (Vocabulary { merges: texts(["h x"]), ..little() }, "does not hold"),
        (Vocabulary { merges: texts(["i h"]), ..little() }, "does not hold"),
        (Vocabulary { model: "llama".into(), ..little() }, "the vocabulary has no scores"),
    ];
    for (vocabulary, says) in wrong {
        let error = Tokenizer::from_vocabulary(vocabulary).expect_err(says).to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    let bare = Vocabulary {
        model: "llama".into(),
        tokens: texts(["a"]),
        scores: vec![0.0],
        add_space_prefix: Some(false),
        ..Vocabulary::default()
    };
    let tokenizer = Tokenizer::from_vocabulary(bare).expect("a tokenizer");
    assert_eq!(tokenizer.encode("aa", true).expect("encoded"), [0, 0]);
    let error = tokenizer.encode("ab", true).expect_err("unknown").to_string();
    assert!(error.contains("no token for \"b\""), "{error}");
}

/// A folder with this tokenizer and these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let tokenizer = r#"{"version":"1.0","truncation":null,"padding":null,"normalizer":null,
        "added_tokens":[{"id":3,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,
        "normalized":false,"special":true},{"id":4,"content":"<|im_end|>","single_word":false,
        "lstrip":false,"rstrip":false,"normalized":false,"special":true}],
        "pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true},
        "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>",
        "type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A",
        "type_id":0}},{"Sequence":{"id":"B","type_id":1}}],
        "special_tokens":{"<s>":{"id":"<s>","ids":[3],"tokens":["<s>"]}}},
        "decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true},
        "model":{"type":"WordLevel","vocab":{"▁a":0,"▁b":1,"?":2},"unk_token":"?"}}"#;
    for (name, text) in [("tokenizer.json", tokenizer)].iter().chain(files) {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    folder
}

#[test]
fn a_folder_has_its_tokens_and_says_which_begin_and_end_a_text() {
    let config = r#"{"bos_token":{"content":"<s>"},"eos_token":"▁b","chat_template":"old"}"#;
    let generation = r#"{"eos_token_id":[1,2]}"#;
    let files = [("tokenizer_config.json", config), ("generation_config.json", generation)];
    let folder = folder(&files);
    let tokenizer = Tokenizer::from_folder(folder.path()).expect("a tokenizer");
    assert_eq!(tokenizer.encode("a b", true).expect("encoded"), [3, 0, 1]);
    assert_eq!(tokenizer.encode("a b<|im_end|>", false).expect("encoded"), [0, 1, 4]);
    assert_eq!(tokenizer.decode(&[3, 0, 1], true).expect("decoded"), "a b");
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(3), &[1, 2, 4][..]));
    assert_eq!((tokenizer.id("▁a"), tokenizer.token(1).as_deref()), (Some(0), Some("▁b")));
    assert_eq!((tokenizer.vocab_size(), tokenizer.chat_template()), (5, Some("old")));
    let mut stream = tokenizer.stream();
    let parts: Vec<String> = [3, 0, 1, 4, 0].into_iter().filter_map(|id| stream.push(id)).collect();
    assert_eq!((parts, stream.finish()), (texts(["a", " b", " a"]), None));

    std::fs::write(folder.path().join("chat_template.jinja"), "new").expect("a file");
    let tokenizer = Tokenizer::from_folder(folder.path()).expect("a tokenizer");
    assert_eq!(tokenizer.chat_template(), Some("new"));
}

#[test]
fn a_folder_with_named_templates_has_the_default_one() {
    let config = r#"{"chat_template":[{"name":"rag","template":"r"},
        {"name":"default","template":"d"}]}"#;
    let folder = folder(&[("tokenizer_config.json", config)]);
    let tokenizer = Tokenizer::from_folder(folder.path()).expect("a tokenizer");
    assert_eq!((tokenizer.chat_template(), tokenizer.bos()), (Some("d"), None));
}

#[test]
fn files_that_do_not_hold_are_errors_that_name_them() {
    for (name, text) in [("tokenizer.json", "{}"), ("config.json", "{"), ("tokenizer.json", "")] {
        let folder = folder(&[(name, text)]);
        let error = Tokenizer::from_folder(folder.path()).expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
    }
    let error = Tokenizer::from_folder("no/such/folder").expect_err("absent").to_string();
    assert!(error.contains("no/such/folder") && error.contains("tokenizer.json"), "{error}");
}
