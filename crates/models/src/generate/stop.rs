//! Stop strings in a text that comes in pieces.

/// Lets text through until one of the stop strings is complete; what could be the beginning of one
/// is held back.
#[derive(Clone, Debug, Default)]
pub(super) struct StopText {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopText {
    pub(super) fn new(stops: &[String]) -> StopText {
        let stops = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        StopText { stops, ..StopText::default() }
    }

    /// Whether a stop string has come.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Takes a piece and gives what can be shown now: never a part of a stop string.
    pub(super) fn push(&mut self, piece: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held += piece;
        // Of several stop strings the one that begins first ends the text.
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s)).min() {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let open = |at: &usize| self.stops.iter().any(|s| s.starts_with(&self.held[*at..]));
        let starts = self.held.char_indices().map(|(at, _)| at);
        let safe = starts.into_iter().find(open).unwrap_or(self.held.len());
        let rest = self.held.split_off(safe);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, once no more text comes.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut stop = StopText::new(&stops);
        let shown = pieces.iter().map(|p| stop.push(p)).collect();
        let rest = stop.finish();
        (shown, rest, stop.stopped())
    }

    #[test]
    fn text_stops_before_a_stop_string_that_comes_in_pieces() {
        let (shown, rest, stopped) = run(&["\nUser:"], &["Hi", " there\nUs", "er", ": next", "x"]);
        assert_eq!(shown, ["Hi", " there", "", "", ""]);
        assert_eq!((rest.as_str(), stopped), ("", true));
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_shown_later() {
        let (shown, rest, stopped) = run(&["END"], &["aE", "NE", "N", "d E"]);
        assert_eq!(shown, ["a", "EN", "", "ENd "]);
        assert_eq!((rest.as_str(), stopped), ("E", false));
    }

    #[test]
    fn the_stop_string_that_begins_first_wins() {
        let (shown, _, stopped) = run(&["cd", "bcde", ""], &["abcde"]);
        assert_eq!((shown.as_slice(), stopped), (&["a".to_string()][..], true));
        let (shown, rest, _) = run(&["é!"], &["café", "s"]);
        assert_eq!((shown, rest), (vec!["caf".to_string(), "és".to_string()], String::new()));
    }
}
