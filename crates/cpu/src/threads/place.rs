//! Which processor a worker wakes up on.
//!
//! Linux likes to wake a thread on the processor of the thread that wakes it, even if another is
//! idle, and takes some milliseconds to part them: until then two threads are as fast as one. So a
//! sleeping worker is bound to a processor of its own before it is woken, and unbound once it runs;
//! where it stays then is the system's choice. (Gelu of 2.3 million numbers after a pause of 20 ms,
//! two processors of a virtual machine: 3.3 ms before, 1.6 so, as without the pause.) Elsewhere than
//! on Linux nothing is done.

#[cfg(all(target_os = "linux", test))]
pub(super) use linux::of_this_thread;
#[cfg(target_os = "linux")]
pub(super) use linux::{Place, Processors};
#[cfg(not(target_os = "linux"))]
pub(super) use other::{Place, Processors};

#[cfg(target_os = "linux")]
mod linux {
    use libc::{CPU_ISSET, CPU_SET, cpu_set_t, pid_t};
    use std::mem::{size_of, zeroed};
    use std::sync::atomic::{AtomicI32, Ordering};
    use std::sync::{Mutex, PoisonError};

    /// A worker, as the system knows it.
    #[derive(Default)]
    pub(in super::super) struct Place {
        /// 0 before it runs.
        thread: AtomicI32,
        /// Where it might run before it was bound, while it is.
        before: Mutex<Option<cpu_set_t>>,
    }

    impl Place {
        /// Called by the worker itself.
        pub(in super::super) fn enter(&self) {
            // SAFETY: it only returns a number.
            self.thread.store(unsafe { libc::gettid() }, Ordering::Relaxed);
        }

        /// Binds it to a processor, if it may run there.
        fn bind(&self, processor: usize) {
            let thread = self.thread.load(Ordering::Relaxed);
            let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(now) = mask(thread).filter(|_| thread != 0) else { return };
            // SAFETY: a set of bits, of which one is set; the number is that of a bit of such a set.
            let (may, to) = unsafe {
                let mut to: cpu_set_t = zeroed();
                CPU_SET(processor, &mut to);
                (CPU_ISSET(processor, before.as_ref().unwrap_or(&now)), to)
            };
            if may && bind(thread, &to) {
                before.get_or_insert(now);
            }
        }

        /// Lets a worker run again wherever it might; called by itself.
        pub(in super::super) fn anywhere(&self) {
            let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).take();
            before.iter().for_each(|before| {
                bind(0, before);
            });
        }
    }

    /// The numbers of the processors that the pool may use; none if there are fewer than threads.
    pub(in super::super) struct Processors(Vec<usize>);

    impl Processors {
        /// Those of the thread that starts a pool of so many.
        pub(in super::super) fn of_this_thread(threads: usize) -> Processors {
            Processors(of_this_thread().filter(|each| each.len() >= threads).unwrap_or_default())
        }

        /// Binds sleeping workers to processors other than the caller's, each to its own.
        pub(in super::super) fn spread<'a>(&self, asleep: impl Iterator<Item = &'a Place>) {
            // SAFETY: it only returns a number, negative if it does not know.
            let mine = usize::try_from(unsafe { libc::sched_getcpu() });
            let others = self.0.iter().filter(|&&c| Ok(c) != mine);
            asleep.zip(others).for_each(|(place, &processor)| place.bind(processor));
        }
    }

    /// The processors that a thread (0: this one) may run on.
    fn mask(thread: pid_t) -> Option<cpu_set_t> {
        // SAFETY: a set of bits, all of them 0.
        let mut set: cpu_set_t = unsafe { zeroed() };
        // SAFETY: the size is that of the set.
        let rc = unsafe { libc::sched_getaffinity(thread, size_of::<cpu_set_t>(), &mut set) };
        (rc == 0).then_some(set)
    }

    /// The processors that this thread may run on.
    pub(in super::super) fn of_this_thread() -> Option<Vec<usize>> {
        let set = mask(0)?;
        let bits = 8 * size_of::<cpu_set_t>();
        // SAFETY: within the bits of the set.
        Some((0..bits).filter(|&c| unsafe { CPU_ISSET(c, &set) }).collect())
    }

    /// Binds a thread (0: this one) to processors, and says whether the system did.
    fn bind(thread: pid_t, to: &cpu_set_t) -> bool {
        // SAFETY: the set is as large as said. The threads are the pool's own and live; should the
        // system refuse, nothing changes.
        unsafe { libc::sched_setaffinity(thread, size_of::<cpu_set_t>(), to) == 0 }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    #[derive(Default)]
    pub(in super::super) struct Place;

    impl Place {
        pub(in super::super) fn enter(&self) {}

        pub(in super::super) fn anywhere(&self) {}
    }

    pub(in super::super) struct Processors;

    impl Processors {
        pub(in super::super) fn of_this_thread(_: usize) -> Processors {
            Processors
        }

        pub(in super::super) fn spread<'a>(&self, _: impl Iterator<Item = &'a Place>) {}
    }
}
