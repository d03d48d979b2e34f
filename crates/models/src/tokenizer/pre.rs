//! How byte-level BPE cuts text into words, by the name that a GGUF gives it.
//!
//! The patterns are those of the models' own tokenizers; a name of the table stands for a family
//! that shares one. A name that is not here is an error: a wrong cut would give worse text in
//! silence.

use frit_load::gguf::Vocabulary;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use super::TokenizerError;

/// One way to cut.
#[derive(Debug)]
pub(super) struct Pre {
    names: &'static [&'static str],
    /// What each pattern matches, and what lies between, is cut further by the next.
    patterns: &'static [&'static str],
    /// A word that is a token is that token, whatever merging would give.
    pub(super) whole_words: bool,
    /// Texts begin with `bos`, where the file does not say.
    pub(super) bos: bool,
    /// Characters are composed first.
    pub(super) nfc: bool,
}

const PLAIN: Pre = Pre { names: &[], patterns: &[], whole_words: false, bos: false, nfc: false };
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

const KNOWN: &[Pre] = &[
    Pre {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"],
        patterns: &[r"\p{N}", GPT2],
        ..PLAIN
    },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
        patterns: &[LLAMA3],
        whole_words: true,
        bos: true,
        ..PLAIN
    },
    Pre { names: &["smaug-bpe", "dbrx", "glm4", "chatglm-bpe"], patterns: &[LLAMA3], ..PLAIN },
    Pre { names: &["qwen2"], patterns: &[QWEN2], nfc: true, ..PLAIN },
    Pre { names: &["deepseek-r1-qwen", "stablelm2"], patterns: &[QWEN2], ..PLAIN },
    Pre {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4"],
        patterns: &[GPT2],
        ..PLAIN
    },
    Pre { names: &["tekken"], patterns: &[TEKKEN], whole_words: true, bos: true, ..PLAIN },
    Pre { names: &["gpt-4o", "llama4"], patterns: &[GPT4O], ..PLAIN },
    Pre {
        names: &["deepseek-v3"],
        patterns: &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3],
        ..PLAIN
    },
    Pre {
        names: &["falcon"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
        ..PLAIN
    },
    Pre {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ..PLAIN
    },
];

/// The way of a vocabulary; `default` where it names none.
pub(super) fn find(vocabulary: &Vocabulary) -> Result<&'static Pre, TokenizerError> {
    let name = vocabulary.pre.as_deref().unwrap_or("default");
    KNOWN.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = KNOWN.iter().flat_map(|pre| pre.names).copied().collect();
        let (name, known) = (name.chars().take(80).collect(), known.join(", "));
        TokenizerError::Unknown { what: "the pre-tokenizer", name, known }
    })
}

impl Pre {
    /// The patterns, then bytes as characters.
    pub(super) fn splitter(&self) -> Result<PreTokenizerWrapper, TokenizerError> {
        let mut steps = Vec::new();
        for &pattern in self.patterns {
            let pattern = SplitPattern::Regex(pattern.to_string());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
            let split = split.map_err(|error| TokenizerError::Text(error.to_string()))?;
            steps.push(PreTokenizerWrapper::from(split));
        }
        steps.push(ByteLevel::new(false, false, false).into());
        Ok(Sequence::new(steps).into())
    }
}
