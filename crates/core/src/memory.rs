//! Memory for tensors: zero at first, aligned, and where it is large, in huge pages.
//!
//! A page of 4 KB costs 0.25 to 2 us when it is touched first, and an entry in the processor's
//! table of pages ever after, of which reading 100 MB of weights for each token needs 25,000. Where
//! the system has pages of 2 MB on demand (Linux), memory of several of them asks for them.

use memmap2::MmapMut;

/// Memory begins at a multiple of this, one cache line.
pub const ALIGN: usize = 64;
/// A huge page.
const HUGE: usize = 2 << 20;
/// Smaller memory comes from the allocator.
const LARGE: usize = 2 * HUGE;

/// Owned bytes, zero at first, beginning at a multiple of [`ALIGN`].
///
/// ```
/// use frit_graph::{ALIGN, Memory};
/// let mut memory = Memory::zeroed(100);
/// memory.bytes_mut()[99] = 7;
/// assert_eq!((memory.bytes().len(), memory.bytes()[99], memory.bytes()[0]), (100, 7, 0));
/// assert_eq!(memory.bytes().as_ptr().align_offset(ALIGN), 0);
/// ```
pub struct Memory {
    place: Place,
    start: usize,
    len: usize,
}

enum Place {
    Heap(Vec<u128>),
    Mapped(MmapMut),
}

impl Memory {
    /// What is left where memory was taken away.
    pub(crate) const NONE: Memory = Memory { place: Place::Heap(Vec::new()), start: 0, len: 0 };

    /// So many zeros. Large memory is not touched before it is used.
    pub fn zeroed(len: usize) -> Memory {
        let mapped = if len >= LARGE { mapped(len) } else { None };
        mapped.unwrap_or_else(|| {
            let words = vec![0u128; (len + ALIGN).div_ceil(size_of::<u128>())];
            let start = words.as_ptr().cast::<u8>().align_offset(ALIGN);
            Memory { place: Place::Heap(words), start, len }
        })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        let all: &[u8] = match &self.place {
            Place::Heap(words) => bytemuck::cast_slice(words),
            Place::Mapped(map) => map,
        };
        &all[self.start..self.start + self.len]
    }

    /// The bytes for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let all: &mut [u8] = match &mut self.place {
            Place::Heap(words) => bytemuck::cast_slice_mut(words),
            Place::Mapped(map) => map,
        };
        &mut all[self.start..self.start + self.len]
    }

    /// How many bytes it has room for.
    pub(crate) fn room(&self) -> usize {
        let all = match &self.place {
            Place::Heap(words) => size_of_val(&words[..]),
            Place::Mapped(map) => map.len(),
        };
        all - self.start
    }

    /// The same memory, whatever it holds, with another length.
    ///
    /// # Panics
    /// If it has no room for that.
    pub(crate) fn with_len(self, len: usize) -> Memory {
        assert!(len <= self.room(), "{len} bytes do not fit {}", self.room());
        Memory { len, ..self }
    }
}

/// Memory of its own pages, huge ones as far as it fills them; `None` where the system refuses.
fn mapped(len: usize) -> Option<Memory> {
    let map = MmapMut::map_anon(len.checked_add(HUGE)?).ok()?;
    let start = map.as_ptr().align_offset(HUGE);
    #[cfg(target_os = "linux")]
    // A wish: without it the pages are small.
    let _ = map.advise_range(memmap2::Advice::HugePage, start, len / HUGE * HUGE);
    Some(Memory { place: Place::Mapped(map), start, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_every_size_is_aligned_zero_and_writable() {
        for len in [0, 1, 63, 64, 65, 4096, LARGE - 1, LARGE, LARGE + 1, LARGE + HUGE + 5] {
            let mut memory = Memory::zeroed(len);
            assert_eq!(memory.bytes().len(), len);
            assert_eq!(memory.bytes().as_ptr().align_offset(ALIGN), 0, "{len}");
            assert!(memory.bytes().iter().all(|&b| b == 0), "{len}");
            memory.bytes_mut().fill(3);
            assert!(memory.bytes().iter().all(|&b| b == 3), "{len}");
            let mut other = memory.with_len(len / 2);
            assert_eq!(other.bytes_mut().len(), len / 2);
            assert_eq!(other.bytes().as_ptr().align_offset(ALIGN), 0);
        }
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn memory_is_never_longer_than_its_room() {
        let memory = Memory::zeroed(LARGE);
        let room = memory.room();
        let _ = memory.with_len(room + 1);
    }
}
