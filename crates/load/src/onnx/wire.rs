//! The wire format of Protocol Buffers: fields of varints, fixed numbers and counted bytes.
//!
//! Nothing is copied: counted bytes are ranges of the file, so that weights stay where they are.
//! Every length is checked against the message that holds it.

use std::ops::Range;

/// What a field holds.
#[derive(Debug)]
pub(super) enum Wire {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(Range<usize>),
    Fixed32([u8; 4]),
}

/// Reads the fields of one message, which is a range of a file.
pub(super) struct Reader<'a> {
    all: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(all: &'a [u8]) -> Reader<'a> {
        Reader { all, at: 0, end: all.len() }
    }

    /// The message in this range; ranges come from [`Wire::Bytes`] of the same file.
    pub(super) fn inside(&self, range: Range<usize>) -> Reader<'a> {
        Reader { all: self.all, at: range.start, end: range.end.min(self.all.len()) }
    }

    pub(super) fn bytes(&self, range: &Range<usize>) -> &'a [u8] {
        self.all.get(range.clone()).unwrap_or(&[])
    }

    pub(super) fn text(&self, range: &Range<usize>) -> Result<String, String> {
        let text = std::str::from_utf8(self.bytes(range));
        text.map(str::to_string).map_err(|_| format!("a text at byte {} is not UTF-8", range.start))
    }

    pub(super) fn at_end(&self) -> bool {
        self.at >= self.end
    }

    pub(super) fn varint(&mut self) -> Result<u64, String> {
        let (start, mut number) = (self.at, 0u64);
        for shift in (0..64).step_by(7) {
            let byte = self.take::<1>()?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(format!("the number at byte {start} has no end"))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let found = self.all.get(self.at..self.end).and_then(|rest| rest.first_chunk::<N>());
        let Some(chunk) = found else {
            return Err(format!("the message is cut at byte {}", self.at));
        };
        self.at += N;
        Ok(*chunk)
    }

    /// The next field with its number, or `None` at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u64, Wire)>, String> {
        if self.at_end() {
            return Ok(None);
        }
        let start = self.at;
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(self.take()?),
            2 => {
                let length = self.varint()?;
                let left = self.end - self.at;
                let Some(length) = usize::try_from(length).ok().filter(|&n| n <= left) else {
                    let message = format!("a field of {length} bytes at byte {start}");
                    return Err(format!("{message}, but {left} are left"));
                };
                let range = self.at..self.at + length;
                self.at += length;
                Wire::Bytes(range)
            }
            5 => Wire::Fixed32(self.take()?),
            other => return Err(format!("unknown kind of field {other} at byte {start}")),
        };
        Ok(Some((key >> 3, wire)))
    }

    /// Appends a repeated number: one, or many packed.
    pub(super) fn integers(&self, wire: &Wire, to: &mut Vec<i64>) -> Result<(), String> {
        match wire {
            Wire::Varint(n) => to.push(*n as i64),
            Wire::Bytes(range) => {
                let mut inner = self.inside(range.clone());
                while !inner.at_end() {
                    to.push(inner.varint()? as i64);
                }
            }
            _ => return Err("an integer is stored as something else".into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_kind_are_read() {
        let bytes = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f];
        let mut r = Reader::new(&bytes);
        assert!(matches!(r.field(), Ok(Some((1, Wire::Varint(150))))));
        let Ok(Some((2, Wire::Bytes(range)))) = r.field() else { panic!("a text") };
        assert_eq!(r.text(&range).expect("text"), "hi");
        let Ok(Some((3, Wire::Fixed32(f)))) = r.field() else { panic!("a float") };
        assert_eq!(f32::from_le_bytes(f), 1.0);
        assert!(matches!(r.field(), Ok(None)));
    }

    #[test]
    fn lengths_beyond_the_message_are_errors() {
        for bytes in [
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..],
            &[0x12, 3, 0, 0],
            &[0x08, 0x80],
            &[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
            &[0x0b],
            &[0x0d, 0, 0],
        ] {
            assert!(Reader::new(bytes).field().is_err(), "{bytes:?}");
        }
    }
}
