//! Text as tokens come: each push gives what is complete.

use super::{Machine, Tokenizer};

/// Turns tokens into text one by one. A character of several tokens comes with the last of them.
///
/// All that was given, and [`Stream::finish`], is what [`Tokenizer::decode`] gives for all tokens
/// at once: a text begins with the first token. To continue a prompt, push its last token first and
/// leave out what comes of it.
#[derive(Clone, Debug)]
pub struct Stream<'t> {
    tokenizer: &'t Tokenizer,
    /// Bytes that are no character yet (GGUF).
    pending: Vec<u8>,
    first: bool,
    /// Tokens around the place that is written, and how many of them are (`tokenizer.json`): what
    /// a token writes may depend on the one before it.
    ids: Vec<u32>,
    written: usize,
}

/// A character has at most four bytes, and so as many tokens that are no text alone.
const LONGEST: usize = 4;

impl<'t> Stream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Stream<'t> {
        Stream { tokenizer, pending: Vec::new(), first: true, ids: Vec::new(), written: 0 }
    }

    /// The text that this token completes.
    pub fn push(&mut self, id: u32) -> Option<String> {
        if let Machine::Own { table, .. } = &self.tokenizer.machine {
            table.push(id, true, &mut self.first, &mut self.pending);
            return complete(&mut self.pending);
        }
        self.ids.push(id);
        self.by_library(self.ids.len() - self.written >= LONGEST)
    }

    /// What is left of characters that were never completed.
    pub fn finish(mut self) -> Option<String> {
        if let Machine::Own { .. } = &self.tokenizer.machine {
            let left = String::from_utf8_lossy(&self.pending).into_owned();
            return Some(left).filter(|left| !left.is_empty());
        }
        self.by_library(true)
    }

    fn by_library(&mut self, force: bool) -> Option<String> {
        let before = self.tokenizer.decode(&self.ids[..self.written], true).ok()?;
        let text = self.tokenizer.decode(&self.ids, true).ok()?;
        let new = text.strip_prefix(&before).filter(|new| !new.is_empty())?;
        if new.ends_with(char::REPLACEMENT_CHARACTER) && !force {
            return None;
        }
        self.ids.drain(..self.written);
        self.written = self.ids.len();
        Some(new.to_string())
    }
}

/// Takes what is complete out of bytes; what cannot become a character is U+FFFD.
fn complete(bytes: &mut Vec<u8>) -> Option<String> {
    let (mut out, mut taken) = (String::new(), 0);
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        taken += chunk.valid().len();
        let invalid = chunk.invalid();
        let open = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
        if invalid.is_empty() || (open && taken + invalid.len() == bytes.len()) {
            continue;
        }
        out.push(char::REPLACEMENT_CHARACTER);
        taken += invalid.len();
    }
    bytes.drain(..taken);
    Some(out).filter(|out| !out.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_given_once_they_are_characters() {
        let mut bytes = Vec::new();
        let mut push = |more: &[u8]| {
            bytes.extend(more);
            complete(&mut bytes)
        };
        assert_eq!(push(b"a\xf0"), Some("a".into()));
        assert_eq!(push(b"\x9f\x98"), None);
        assert_eq!(push(b"\x80\xc3"), Some("\u{1f600}".into()));
        assert_eq!(push(b"x\xff\xe2\x82"), Some("\u{fffd}x\u{fffd}".into()));
        assert_eq!(push(b"\xac"), Some("€".into()));
        assert_eq!(push(b""), None);
    }
}
