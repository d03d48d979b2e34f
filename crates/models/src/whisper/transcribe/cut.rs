//! The tokens of one window, cut into segments.

use super::super::decode::TimestampMode;
use super::super::tokens::SpecialTokens;

/// Frames in one step of a timestamp (0.02 s).
const FRAMES_PER_STEP: usize = 2;

/// A window's tokens, cut into segments.
#[derive(Debug, PartialEq)]
pub(super) struct Cut {
    pub(super) pieces: Vec<Piece>,
    /// Frames from this window's beginning to the next one's; never 0.
    pub(super) advance: usize,
}

/// A segment to be: frames of the recording, and places in the window's tokens.
#[derive(Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) tokens: std::ops::Range<usize>,
}

/// Cuts the tokens of the window at frame `seek`, of which `length` frames are recording.
///
/// Two timestamps in a row end one segment and begin the next; what stands after the last pair is
/// unfinished and is heard again, unless a single timestamp closes it.
pub(super) fn cut(
    tokens: &[u32],
    special: &SpecialTokens,
    mode: TimestampMode,
    seek: usize,
    length: usize,
) -> Cut {
    // Frames from the window's beginning; a token that is no timestamp counts as 0.
    let frame = |id: u32| id.saturating_sub(special.timestamp_begin) as usize * FRAMES_PER_STEP;
    let is_time = |at: usize| special.is_timestamp(tokens[at]);
    let whole = |end: usize| Cut {
        pieces: vec![Piece { start: seek, end: seek + end, tokens: 0..tokens.len() }],
        advance: length,
    };
    if mode == TimestampMode::Off {
        return whole(length);
    }
    let count = tokens.len();
    let closed = count >= 2 && !is_time(count - 2) && is_time(count - 1);
    let mut ends: Vec<usize> = (1..count).filter(|&i| is_time(i - 1) && is_time(i)).collect();
    let Some(&last_pair) = ends.last() else {
        // One segment, up to the last timestamp if there is one.
        let last = tokens.iter().rev().find(|&&id| special.is_timestamp(id));
        return match last.map_or(0, |&id| frame(id)) {
            0 => whole(length),
            end => whole(end),
        };
    };
    if closed {
        ends.push(count);
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let pieces = starts.zip(&ends).map(|(from, &to)| Piece {
        start: seek + frame(tokens[from]),
        end: seek + frame(tokens[to - 1]),
        tokens: from..to,
    });
    // Timestamps that do not move on would never end.
    let advance = match frame(tokens[last_pair - 1]) {
        _ if closed => length,
        0 => length,
        advance => advance,
    };
    Cut { pieces: pieces.collect(), advance }
}
