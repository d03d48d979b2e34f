//! The tokens of a GGUF, by id, and the bytes that they stand for.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A part of words, written as the algorithm writes it.
    Normal,
    /// Text as it is.
    Defined,
    /// Steers the model.
    Special,
    /// One byte.
    Byte(u8),
}

/// Tokens by id.
#[derive(Clone, Debug)]
pub(super) struct Table {
    tokens: Vec<String>,
    kinds: Vec<Kind>,
    /// Byte-level: a character stands for a byte. Otherwise `▁` stands for a space.
    bytes: bool,
    /// The space before the first piece is not of the text.
    strips: bool,
}

/// The space of SentencePiece.
pub(super) const SPACE: char = '▁';

/// The byte of a token `<0x0A>`.
pub(super) fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| hexadecimal)
}

impl Table {
    pub(super) fn new(tokens: Vec<String>, types: &[i32], bytes: bool, strips: bool) -> Table {
        let kind = |(i, token): (usize, &String)| match types.get(i) {
            Some(2 | 3) => Kind::Special,
            Some(4) => Kind::Defined,
            Some(6) | None if !bytes => byte(token).map_or(Kind::Normal, Kind::Byte),
            _ => Kind::Normal,
        };
        let kinds = tokens.iter().enumerate().map(kind).collect();
        Table { tokens, kinds, bytes, strips }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.tokens.iter().position(|t| t == token).and_then(|id| id.try_into().ok())
    }

    /// Appends the bytes of a token. `first` is whether none came before that has any.
    pub(super) fn push(&self, id: u32, skip_special: bool, first: &mut bool, out: &mut Vec<u8>) {
        let at = id as usize;
        let (Some(token), Some(kind)) = (self.tokens.get(at), self.kinds.get(at)) else { return };
        match kind {
            Kind::Special if skip_special => return,
            Kind::Special | Kind::Defined => out.extend(token.bytes()),
            Kind::Byte(byte) => out.push(*byte),
            Kind::Normal if self.bytes => {
                let start = out.len();
                for c in token.chars() {
                    match byte_of(c) {
                        Some(byte) => out.push(byte),
                        None => {
                            // No spelling of bytes: the text itself.
                            out.truncate(start);
                            out.extend(token.bytes());
                            break;
                        }
                    }
                }
            }
            Kind::Normal => {
                let stripped = token.strip_prefix(SPACE).filter(|_| *first && self.strips);
                out.extend(stripped.unwrap_or(token).replace(SPACE, " ").bytes());
            }
        }
        *first = false;
    }
}

/// The byte that a character stands for. Those that can be printed stand for themselves; the others
/// are, in order, the characters from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    Some(match u32::from(c) {
        n @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => n as u8,
        n @ 0x100..=0x120 => (n - 0x100) as u8,
        n @ 0x121..=0x142 => (n - 0x121) as u8 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn every_byte_has_one_character() {
        let found: HashMap<u8, char> =
            ('\0'..='\u{3ff}').filter_map(|c| Some((byte_of(c)?, c))).collect();
        assert_eq!(('\0'..='\u{3ff}').filter(|c| byte_of(*c).is_some()).count(), 256);
        assert_eq!(found.len(), 256);
        // As GPT-2's vocabulary writes them.
        for (byte, c) in [(b' ', 'Ġ'), (b'\n', 'Ċ'), (b'\t', 'ĉ'), (b'a', 'a'), (0xff, 'ÿ')] {
            assert_eq!(found[&byte], c);
        }
        for (byte, c) in [(0, 'Ā'), (0x7f, 'ġ'), (0xa0, 'ł'), (0xad, 'Ń')] {
            assert_eq!(found[&byte], c);
        }
    }

    #[test]
    fn tokens_of_bytes_are_two_digits() {
        assert_eq!(byte("<0x0A>"), Some(10));
        for token in ["<0xA>", "<0x+1>", "<0x100>", "0x0A", "<0x0A"] {
            assert_eq!(byte(token), None, "{token}");
        }
    }
}
