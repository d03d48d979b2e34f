//! Where the time of programs goes: what every step took, and when.

use frit_graph::Spec;
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What an [`Event`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A whole run of a program.
    Program,
    /// A Block, run as one kernel.
    Block,
    /// A primitive, or a chain of them.
    Primitive,
}

/// Something that took time.
#[derive(Clone, Debug)]
pub struct Event {
    /// What it is of.
    pub kind: EventKind,
    /// The name of the Block or primitive, or `program`.
    pub name: &'static str,
    /// What came out; of a program the first output, if it has any.
    pub spec: Option<Spec>,
    /// The line that made it.
    pub at: Option<&'static Location<'static>>,
    /// Bytes of its operands and its result.
    pub bytes: usize,
    /// When it began, after the profile did.
    pub start: Duration,
    /// How long it took.
    pub took: Duration,
}

/// Collects the events of all programs of a backend: see [`Cpu::profiled`](crate::Cpu::profiled).
/// Clones share what they collect.
///
/// ```
/// use frit_cpu::{Cpu, EventKind, Profile};
/// use frit_graph::{DType, Graph, Params, Policy, Spec, Value, compile};
/// use frit_ops::fast;
///
/// let profile = Profile::new();
/// let graph = Graph::trace(&[Spec::new(DType::F32, [1, 4])], |x| {
///     vec![fast::rms_norm(&x[0], None, 0.0)]
/// })?;
/// let cpu = Cpu::default().profiled(profile.clone());
/// let program = compile(&graph, &cpu, &Params::new(), Policy::Deny)?;
/// program.run(vec![Value::new([1, 4], vec![1.0f32; 4])?])?;
///
/// let events = profile.take();
/// assert_eq!(events.len(), 2);
/// assert_eq!((events[0].kind, events[0].name), (EventKind::Block, "rms_norm"));
/// assert_eq!(events[0].bytes, 32);
/// assert_eq!(events[1].kind, EventKind::Program);
/// assert!(events[1].took >= events[0].took);
/// # Ok::<(), frit_graph::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Profile(Arc<Collected>);

#[derive(Debug)]
struct Collected {
    began: Instant,
    events: Mutex<Vec<Event>>,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile(Arc::new(Collected { began: Instant::now(), events: Mutex::default() }))
    }
}

impl Profile {
    /// Nothing yet; time begins now.
    #[must_use]
    pub fn new() -> Profile {
        Profile::default()
    }

    /// All events since the last call, those of a program before the program itself.
    #[must_use]
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long it has been since the profile began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.began.elapsed()
    }

    pub(crate) fn add(&self, events: Vec<Event>) {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).extend(events);
    }
}
