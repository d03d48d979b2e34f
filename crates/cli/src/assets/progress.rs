//! What the user sees of a download: a bar on a terminal, one plain line at each end elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Asset;

const DOWNLOADING: &str = "{msg} {wide_bar} {decimal_bytes} of {decimal_total_bytes}, {eta} left";
const UNPACKING: &str = "{msg}: unpacking and checking";

pub(super) struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Progress {
    /// Begins to tell about `asset`, or about nothing if `quiet`.
    pub(super) fn start(asset: &Asset, quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let total = asset.package.bytes;
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(DOWNLOADING) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(asset.title);
            bar
        });
        let progress = Self { quiet, bar, started: Instant::now() };
        if progress.bar.is_none() {
            let size = megabytes(asset.package.bytes);
            progress.line(&format!("fetching {} ({size}, {})", asset.title, asset.licence));
        }
        progress
    }

    /// Says that another process is at it.
    pub(super) fn waiting(asset: &Asset, quiet: bool) {
        if !quiet {
            say(&format!("another frit is fetching {}, waiting for it", asset.title));
        }
    }

    /// So many bytes of the package have arrived.
    pub(super) fn arrived(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes.min(bar.length().unwrap_or(bytes)));
        }
    }

    /// The whole package has arrived and is being opened.
    pub(super) fn unpacking(&self) {
        if let (Some(bar), Ok(style)) = (&self.bar, ProgressStyle::with_template(UNPACKING)) {
            bar.set_style(style);
            bar.tick();
        }
    }

    /// All files are in their place.
    pub(super) fn done(self, asset: &Asset) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        // A package that is taken as a whole lists no files.
        let bytes = if asset.members.is_empty() { asset.package.bytes } else { asset.bytes() };
        let (size, seconds) = (megabytes(bytes), self.started.elapsed().as_secs_f64());
        self.line(&format!("fetched {} ({size} of files) in {seconds:.1} s", asset.title));
    }

    fn line(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // An error message must not be written behind a bar.
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A closed stderr is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
