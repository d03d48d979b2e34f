//! SentencePiece's BPE: of all neighbours that make a token together, those with the highest score
//! are joined first, the leftmost of equals, until none are left.
//!
//! A space is written `▁`, and one goes before a text (and after a control token). What is no token
//! in the end is written in tokens of bytes, or is unknown. The rules are those of the published
//! `llama` vocabularies: no normalisation, no spaces removed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use frit_load::gguf::Vocabulary;

use super::TokenizerError;
use super::table::{SPACE, byte};

/// Tokens that are looked for in a text as they are, by their first byte, the longest first.
type Fixed = HashMap<u8, Vec<(String, u32)>>;

/// The machine.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    /// Id and score.
    pieces: HashMap<String, (u32, f32)>,
    control: Fixed,
    defined: Fixed,
    bytes: Option<Box<[u32; 256]>>,
    unknown: Option<u32>,
    space_prefix: bool,
}

impl Pieces {
    pub(super) fn new(v: &Vocabulary) -> Result<Pieces, TokenizerError> {
        if v.scores.len() != v.tokens.len() {
            return Err(TokenizerError::Vocabulary("has no scores".into()));
        }
        let mut bytes = Box::new([None; 256]);
        let mut out = Pieces {
            pieces: HashMap::with_capacity(v.tokens.len()),
            control: Fixed::new(),
            defined: Fixed::new(),
            bytes: None,
            unknown: v.unk,
            space_prefix: v.add_space_prefix.unwrap_or(true),
        };
        for (i, ((token, score), id)) in v.tokens.iter().zip(&v.scores).zip(0u32..).enumerate() {
            let fixed = match v.types.get(i) {
                Some(2) => {
                    out.unknown = out.unknown.or(Some(id));
                    continue;
                }
                Some(3) => &mut out.control,
                Some(4) => &mut out.defined,
                Some(6) | None if byte(token).is_some() => {
                    bytes[usize::from(byte(token).unwrap_or_default())] = Some(id);
                    continue;
                }
                Some(5) => continue,
                _ => {
                    out.pieces.entry(token.clone()).or_insert((id, *score));
                    continue;
                }
            };
            if let Some(&first) = token.as_bytes().first() {
                fixed.entry(first).or_default().push((token.clone(), id));
            }
        }
        for fixed in out.control.values_mut().chain(out.defined.values_mut()) {
            fixed.sort_by_key(|(token, _)| Reverse(token.len()));
        }
        if bytes.iter().all(Option::is_some) {
            out.bytes = Some(Box::new(bytes.map(Option::unwrap_or_default)));
        }
        Ok(out)
    }

    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            match longest(&self.control, &text[at..]) {
                Some((token, id)) => {
                    self.fragment(&text[start..at], &mut ids)?;
                    ids.push(id);
                    at += token.len();
                    start = at;
                }
                None => at += width(&text[at..]),
            }
        }
        self.fragment(&text[start..], &mut ids)?;
        Ok(ids)
    }

    /// Text without control tokens.
    fn fragment(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.is_empty() {
            return Ok(());
        }
        let mut written = String::with_capacity(text.len() + 3);
        if self.space_prefix {
            written.push(SPACE);
        }
        written.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let mut merging = Merging::new(self, &written);
        merging.run();
        let mut after_unknown = false;
        for symbol in merging.symbols.iter().filter(|s| s.length > 0) {
            let piece = &written[symbol.start..symbol.start + symbol.length];
            let known = symbol.fixed.or_else(|| self.pieces.get(piece).map(|(id, _)| *id));
            match (known, &self.bytes, self.unknown) {
                (Some(id), _, _) => ids.push(id),
                (None, Some(bytes), _) => ids.extend(piece.bytes().map(|b| bytes[usize::from(b)])),
                // A run of unknown characters is one unknown token.
                (None, None, Some(_)) if after_unknown => {}
                (None, None, Some(unknown)) => ids.push(unknown),
                (None, None, None) => {
                    return Err(TokenizerError::Text(format!("there is no token for {piece:?}")));
                }
            }
            after_unknown = known.is_none();
        }
        Ok(())
    }
}

/// The longest of these tokens that the text begins with.
fn longest<'f>(fixed: &'f Fixed, text: &str) -> Option<(&'f str, u32)> {
    let found = fixed.get(text.as_bytes().first()?)?.iter();
    found.map(|(token, id)| (token.as_str(), *id)).find(|(token, _)| text.starts_with(token))
}

fn width(text: &str) -> usize {
    text.chars().next().map_or(1, char::len_utf8)
}

/// A part of the text, in a chain; of no length once it is joined to the one before.
struct Symbol {
    start: usize,
    length: usize,
    before: Option<usize>,
    after: Option<usize>,
    /// A user-defined token: it is joined with nothing.
    fixed: Option<u32>,
}

/// Two neighbours that would be a token, ordered by what is joined first.
#[derive(PartialEq)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

impl Eq for Pair {}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

struct Merging<'p> {
    pieces: &'p Pieces,
    text: &'p str,
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair>,
}

impl<'p> Merging<'p> {
    fn new(pieces: &'p Pieces, text: &'p str) -> Merging<'p> {
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut start = 0;
        while start < text.len() {
            let fixed = longest(&pieces.defined, &text[start..]);
            let length = fixed.map_or_else(|| width(&text[start..]), |(token, _)| token.len());
            let (here, fixed) = (symbols.len(), fixed.map(|(_, id)| id));
            let after = Some(here + 1).filter(|_| start + length < text.len());
            symbols.push(Symbol { start, length, before: here.checked_sub(1), after, fixed });
            start += length;
        }
        Merging { pieces, text, symbols, pairs: BinaryHeap::new() }
    }

    fn run(&mut self) {
        for right in 1..self.symbols.len() {
            self.offer(Some(right - 1), Some(right));
        }
        while let Some(Pair { left, right, length, .. }) = self.pairs.pop() {
            let (a, b) = (&self.symbols[left], &self.symbols[right]);
            // One of the two is joined to something else meanwhile.
            if a.length == 0 || b.length == 0 || a.length + b.length != length {
                continue;
            }
            let after = b.after;
            self.symbols[right].length = 0;
            self.symbols[left].length = length;
            self.symbols[left].after = after;
            if let Some(after) = after {
                self.symbols[after].before = Some(left);
            }
            self.offer(self.symbols[left].before, Some(left));
            self.offer(Some(left), after);
        }
    }

    fn offer(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (a, b) = (&self.symbols[left], &self.symbols[right]);
        if a.fixed.is_some() || b.fixed.is_some() {
            return;
        }
        let length = a.length + b.length;
        if let Some(&(_, score)) = self.pieces.pieces.get(&self.text[a.start..a.start + length]) {
            self.pairs.push(Pair { score, left, right, length });
        }
    }
}
