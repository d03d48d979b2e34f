//! Places in one block of memory for buffers that live at different times.

use frit_graph::ALIGN;

/// A buffer and the steps between which it lives, both included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) bytes: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

/// Offsets for all, and the size of the block: large buffers first, each at the lowest place that
/// no buffer living at the same time holds.
pub(crate) fn place(lives: &[Life]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lives[i].bytes), i));
    let mut offsets = vec![0; lives.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut size = 0;
    for i in order {
        let l = lives[i];
        let need = l.bytes.next_multiple_of(ALIGN);
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| lives[j].from <= l.to && l.from <= lives[j].to)
            .map(|&j| (offsets[j], offsets[j] + lives[j].bytes.next_multiple_of(ALIGN)))
            .collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, end) in taken {
            if at + need <= start {
                break;
            }
            at = at.max(end);
        }
        offsets[i] = at;
        size = size.max(at + need);
        placed.push(i);
    }
    (offsets, size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buffers_that_live_together_never_overlap(
            raw in prop::collection::vec((0usize..5000, 0usize..40, 0usize..10), 0..60)
        ) {
            let lives: Vec<Life> =
                raw.iter().map(|&(bytes, from, n)| Life { bytes, from, to: from + n }).collect();
            let (at, size) = place(&lives);
            for i in 0..lives.len() {
                prop_assert!(at[i] % ALIGN == 0 && at[i] + lives[i].bytes <= size.max(at[i]));
                for j in 0..i {
                    let (a, b) = (lives[i], lives[j]);
                    let together = a.from <= b.to && b.from <= a.to;
                    let apart = at[i] + a.bytes <= at[j] || at[j] + b.bytes <= at[i];
                    prop_assert!(!together || apart, "{a:?} at {} and {b:?} at {}", at[i], at[j]);
                }
            }
        }
    }

    #[test]
    fn memory_is_used_again_when_its_buffer_is_dead() {
        let chain: Vec<Life> = (0..10).map(|i| Life { bytes: 1000, from: i, to: i + 1 }).collect();
        assert_eq!(place(&chain).1, 2 * 1024);
    }
}
