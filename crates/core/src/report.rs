//! What became of every Block: fusing is never silent.

use crate::Spec;
use std::{fmt, panic::Location};

/// Why a backend does not run a Block as one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decline {
    /// It has none for this Block.
    NoKernel,
    /// Fused kernels are switched off.
    Off,
    /// It has one, but not for this case; the text says what about it.
    Unsupported(String),
}

impl fmt::Display for Decline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decline::NoKernel => f.write_str("no kernel"),
            Decline::Off => f.write_str("fused kernels are off"),
            Decline::Unsupported(why) => f.write_str(why),
        }
    }
}

/// What happened to a Block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It runs as one kernel.
    Fused,
    /// It only held others, which have lines of their own.
    Opened,
    /// It was replaced by its composition, for this reason.
    Composed(Decline),
}

/// One Block of a compiled graph.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub block: &'static str,
    /// The spec of its output.
    pub spec: Spec,
    /// The line that called it.
    pub at: &'static Location<'static>,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to all Blocks of a graph, in graph order.
#[derive(Clone, Default)]
pub struct Report {
    /// The backend compiled for.
    pub backend: String,
    /// One line a Block.
    pub lines: Vec<Line>,
}

impl Report {
    /// How many Blocks run as one kernel.
    pub fn fused(&self) -> usize {
        self.lines.iter().filter(|l| l.outcome == Outcome::Fused).count()
    }

    /// The Blocks that were left composed.
    pub fn composed(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|l| matches!(l.outcome, Outcome::Composed(_)))
    }

    /// Equal lines (Block, outcome) with how often they occur, in order of first occurrence.
    pub fn summary(&self) -> Vec<(&'static str, &Outcome, usize)> {
        let mut out: Vec<(&'static str, &Outcome, usize)> = Vec::new();
        for l in &self.lines {
            match out.iter_mut().find(|o| o.0 == l.block && *o.1 == l.outcome) {
                Some(o) => o.2 += 1,
                None => out.push((l.block, &l.outcome, 1)),
            }
        }
        out
    }
}

impl fmt::Debug for Report {
    /// The summary: a line a Block would fill pages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Report on {}:\n{self}", self.backend)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (block, outcome, n) in self.summary() {
            let what = match outcome {
                Outcome::Fused => "fused".to_string(),
                Outcome::Opened => "opened".to_string(),
                Outcome::Composed(why) => format!("composed ({why})"),
            };
            writeln!(f, "{n:>5} x {block:<32} {what}")?;
        }
        Ok(())
    }
}
