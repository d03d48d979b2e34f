//! What goes to the standard output, what goes to the standard error, and tables.

use std::io::{self, ErrorKind, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::Failure;

/// Where results go. Once nobody reads them any more (`frit ... | head`), they are dropped in
/// silence, and the exit status still tells what came of the work.
pub struct Out {
    to: Box<dyn Write>,
    closed: bool,
}

impl Out {
    /// The standard output.
    #[must_use]
    pub fn stdout() -> Out {
        Out::new(io::stdout())
    }

    /// Another place.
    pub fn new(to: impl Write + 'static) -> Out {
        Out { to: Box::new(to), closed: false }
    }

    /// Whether nobody reads any more.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// [`Failure::Output`] if it cannot be written for another reason than that nobody reads it.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        match self.to.write_all(text.as_bytes()).and_then(|()| self.to.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            written => written.map_err(Failure::Output),
        }
    }

    /// Writes a line.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.text(&format!("{line}\n"))
    }

    /// Writes indented JSON.
    ///
    /// # Errors
    /// As [`Out::text`].
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(value).map_err(|e| Failure::Output(e.into()))?;
        self.line(&json)
    }
}

/// Writes a line to the standard error; one that is closed is no reason to stop.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A progress bar on the standard error, invisible where that is no terminal.
pub(super) fn bar(length: u64, template: &str) -> ProgressBar {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Rows in columns: the first `left` of them flush left, the others flush right.
pub(super) fn table(left: usize, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A row of a table.
pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_string).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_broken_pipe_is_no_failure_and_a_full_disk_is_one() {
        let mut out = Out::new(Broken(ErrorKind::BrokenPipe));
        assert!(out.line("x").is_ok() && out.closed());
        let mut out = Out::new(Broken(ErrorKind::StorageFull));
        assert!(matches!(out.json(&1), Err(Failure::Output(_))));
    }

    #[test]
    fn columns_are_aligned_by_characters() {
        let rows = [row(["op", "µs"]), row(["rms_norm", "10"]), row(["é", ""])];
        assert_eq!(table(1, &rows), "op        µs\nrms_norm  10\né\n");
    }
}
