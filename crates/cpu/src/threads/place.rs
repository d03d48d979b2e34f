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
    use libc::{CPU_ISSET, CPU_SET, CPU_ZERO, cpu_set_t, pid_t};
    use std::mem::{size_of, zeroed};
    use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

    /// A worker, as the system knows it.
    #[derive(Default)]
    pub(in super::super) struct Place {
        /// 0 before it runs.
        thread: AtomicI32,
        bound: AtomicBool,
    }

    impl Place {
        /// Called by the worker itself.
        pub(in super::super) fn enter(&self) {
            // SAFETY: it only returns a number.
            self.thread.store(unsafe { libc::gettid() }, Ordering::Relaxed);
        }
    }

    /// The processors that the pool may use.
    pub(in super::super) struct Processors {
        all: cpu_set_t,
        /// Their numbers; none if there are fewer than threads.
        each: Vec<usize>,
    }

    impl Processors {
        /// Those of the thread that starts a pool of so many.
        pub(in super::super) fn of_this_thread(threads: usize) -> Processors {
            let (all, each) = mask();
            let each = if each.len() < threads { Vec::new() } else { each };
            Processors { all, each }
        }

        /// Binds sleeping workers to processors other than the caller's, each to its own.
        pub(in super::super) fn spread<'a>(&self, asleep: impl Iterator<Item = &'a Place>) {
            // SAFETY: it only returns a number, negative if it does not know.
            let mine = usize::try_from(unsafe { libc::sched_getcpu() });
            let others = self.each.iter().filter(|&&c| Ok(c) != mine);
            for (place, &processor) in asleep.zip(others) {
                // SAFETY: a set of bits, of which one is set.
                let mut set: cpu_set_t = unsafe { zeroed() };
                // SAFETY: the number is that of a bit of such a set.
                unsafe {
                    CPU_ZERO(&mut set);
                    CPU_SET(processor, &mut set);
                }
                place
                    .bound
                    .store(bind(place.thread.load(Ordering::Relaxed), &set), Ordering::Relaxed);
            }
        }

        /// Lets a worker run anywhere again; called by itself.
        pub(in super::super) fn anywhere(&self, me: &Place) {
            if me.bound.swap(false, Ordering::Relaxed) {
                bind(0, &self.all);
            }
        }
    }

    /// The processors that this thread may run on; none if the system does not say.
    fn mask() -> (cpu_set_t, Vec<usize>) {
        // SAFETY: a set of bits, all of them 0.
        let mut all: cpu_set_t = unsafe { zeroed() };
        // SAFETY: the size is that of the set. Without an answer the set stays empty.
        unsafe { libc::sched_getaffinity(0, size_of::<cpu_set_t>(), &mut all) };
        let bits = 8 * size_of::<cpu_set_t>();
        // SAFETY: within the bits of the set.
        (all, (0..bits).filter(|&c| unsafe { CPU_ISSET(c, &all) }).collect())
    }

    #[cfg(test)]
    pub(in super::super) fn of_this_thread() -> Option<Vec<usize>> {
        Some(mask().1).filter(|each| !each.is_empty())
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
    }

    pub(in super::super) struct Processors;

    impl Processors {
        pub(in super::super) fn of_this_thread(_: usize) -> Processors {
            Processors
        }

        pub(in super::super) fn spread<'a>(&self, _: impl Iterator<Item = &'a Place>) {}

        pub(in super::super) fn anywhere(&self, _: &Place) {}
    }
}
