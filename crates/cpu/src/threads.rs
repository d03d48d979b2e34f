//! A pool of threads for work that lasts microseconds.
//!
//! [`Pool::run`] calls `f(0)`, `f(1)`, ... once each, on the workers and on the calling thread, and
//! returns when all have finished. Tasks are claimed from one counter, so uneven tasks balance.
//! [`Pool::run_runs`] gives each thread a run of items of its own, and lets it help the others then.
//! Workers spin for some tens of microseconds after a job and then sleep, so that the kernels of
//! one model, which follow each other closely, find them awake: an empty job of two tasks then
//! costs 0.1 to 0.3 us, and 3 us when they sleep (2 cores of an EPYC at 2.4 GHz, 2026-11).
//!
//! A worker that sleeps is woken on a processor that the caller does not run on ([`place`]).
//!
//! How a job goes: the caller writes it into a cell, resets the counter, and opens a new epoch in
//! `state`. A worker that sees an open epoch *joins* it (a counter in the same word), claims tasks
//! until there are none, and leaves. The caller claims tasks too, then closes the epoch, so that
//! nobody else can join, and waits only for those who did: a worker that is slow to wake up costs
//! nothing. The job borrows from the caller's stack; join, close and wait make that sound.

mod place;

use place::{Place, Processors};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker looks for work before it sleeps.
const SPIN: Duration = Duration::from_micros(60);

/// `state`: the epoch above, an open bit, and the number of workers inside.
const JOINED: u64 = (1 << 16) - 1;
const OPEN: u64 = 1 << 16;
const EPOCH: u64 = 1 << 17;

/// More threads than the count in `state` has room for are never started.
const MOST_THREADS: usize = 4096;

/// Tasks a thread that [`Pool::run_chunks`] aims at: enough to balance, few enough to be cheap.
const CHUNKS_PER_THREAD: usize = 4;

/// A pool of threads; clones share it. Dropping the last clone stops and joins the workers.
#[derive(Clone)]
pub struct Pool(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

/// Keeps what one side writes often off the cache line that the other side watches.
#[repr(align(128))]
struct Line<T>(T);

/// Of each worker.
struct Worker {
    place: Place,
    /// Written while the bed is locked.
    asleep: AtomicBool,
}

/// A range of items: who goes through it takes from its front, others from its back.
#[derive(Default)]
struct Run(AtomicU64);

impl Run {
    fn set(&self, range: Range<usize>) {
        self.0.store((range.start as u64) << 32 | range.end as u64, Ordering::Relaxed);
    }

    /// Up to `n` items.
    fn take(&self, n: usize, front: bool) -> Option<Range<usize>> {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            let (start, end) = ((now >> 32) as usize, now as u32 as usize);
            if start >= end {
                return None;
            }
            let n = n.min(end - start);
            let (taken, start, end) = match front {
                true => (start..start + n, start + n, end),
                false => (end - n..end, start, end - n),
            };
            let next = (start as u64) << 32 | end as u64;
            let (set, seen) = (Ordering::Relaxed, Ordering::Relaxed);
            match self.0.compare_exchange_weak(now, next, set, seen) {
                Ok(_) => return Some(taken),
                Err(other) => now = other,
            }
        }
    }
}

struct Shared {
    processors: Processors,
    workers: Vec<Worker>,
    state: Line<AtomicU64>,
    next: Line<AtomicUsize>,
    /// Held by the caller whose job is in the cell.
    busy: Line<AtomicBool>,
    /// What is left of each run of [`Pool::run_runs`], as many as there are threads.
    runs: Vec<Line<Run>>,
    job: UnsafeCell<Option<Job>>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
}

// SAFETY: `job` is written only by the holder of `busy` while no worker is joined and the epoch is
// closed, and read only by joined workers; the task behind its pointer is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is never used outside of an open epoch.
unsafe impl Send for Shared {}

thread_local! {
    /// Whether this thread is inside a task: then `run` does not share out its work again.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Sets `IN_TASK`, and puts it back when dropped.
struct InTask(bool);

impl InTask {
    fn enter() -> InTask {
        InTask(IN_TASK.replace(true))
    }
}

impl Drop for InTask {
    fn drop(&mut self) {
        IN_TASK.set(self.0);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of threads of [`Pool::global`] was asked for after its first use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalPoolStarted;

impl fmt::Display for GlobalPoolStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the global thread pool has been started: set its threads before its first use")
    }
}

impl std::error::Error for GlobalPoolStarted {}

static GLOBAL: OnceLock<Pool> = OnceLock::new();

impl Pool {
    /// A pool of `threads` threads in all: the caller of [`Pool::run`] is one of them, so
    /// `threads - 1` are started (fewer if the system refuses). 0 means 1.
    pub fn new(threads: usize) -> Pool {
        let threads = threads.clamp(1, MOST_THREADS);
        let worker = |_| Worker { place: Place::default(), asleep: AtomicBool::new(false) };
        let shared = Arc::new(Shared {
            processors: Processors::of_this_thread(threads),
            workers: (1..threads).map(worker).collect(),
            state: Line(AtomicU64::new(0)),
            next: Line(AtomicUsize::new(0)),
            busy: Line(AtomicBool::new(false)),
            runs: (0..threads).map(|_| Line(Run::default())).collect(),
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            alarm: Condvar::new(),
        });
        let workers = (1..threads)
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                let name = format!("frit-{i}");
                std::thread::Builder::new().name(name).spawn(move || shared.work(i - 1)).ok()
            })
            .collect();
        Pool(Arc::new(Owner { shared, workers }))
    }

    /// The pool of the process, started at its first use: as many threads as
    /// [`Pool::set_global_threads`] or the environment variable `FRIT_THREADS` says, else one for
    /// each processor.
    pub fn global() -> &'static Pool {
        GLOBAL.get_or_init(|| {
            let asked = std::env::var("FRIT_THREADS").ok().and_then(|n| n.trim().parse().ok());
            let threads = asked.filter(|&n: &usize| n > 0).unwrap_or_else(|| {
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
            });
            Pool::new(threads)
        })
    }

    /// Sets the number of threads of [`Pool::global`] and starts it.
    ///
    /// # Errors
    /// If the global pool has been used before with another number of threads.
    pub fn set_global_threads(threads: usize) -> Result<(), GlobalPoolStarted> {
        match GLOBAL.get_or_init(|| Pool::new(threads)).threads() == threads.clamp(1, MOST_THREADS)
        {
            true => Ok(()),
            false => Err(GlobalPoolStarted),
        }
    }

    /// The number of threads that share the work, the caller among them.
    pub fn threads(&self) -> usize {
        self.0.workers.len() + 1
    }

    /// Calls `f(i)` once for each `i` in `0..tasks`, in any order and on any thread of the pool,
    /// and returns when all have finished.
    ///
    /// Runs on the calling thread alone when that is all there is to gain: with one task or one
    /// thread, from inside another task, or while another thread uses the pool.
    ///
    /// # Panics
    /// If a task panics: tasks not yet begun are dropped, and the first panic goes on here.
    pub fn run(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.0.shared;
        if tasks < 2 || !self.reserve() {
            return (0..tasks).for_each(f);
        }
        shared.share(tasks, f);
    }

    /// Whether this thread may share out work now; if so it must.
    fn reserve(&self) -> bool {
        let alone = self.0.workers.is_empty() || IN_TASK.get();
        !alone && !self.0.shared.busy.0.swap(true, Ordering::Acquire)
    }

    /// Cuts `0..items` into as many runs as there are threads and calls `f` with ranges of at most
    /// `grain` items, or with all at once where [`Pool::run`] would not share. A thread goes through
    /// a run in order, and then takes from the ends of the others'. Memory that is read in long runs,
    /// mostly by the same thread each time, is read fastest; and no thread waits for another longer
    /// than for a few grains. `f` must treat every item by itself, as for [`Pool::run_chunks`].
    ///
    /// # Panics
    /// If a call of `f` panics; the other threads finish what is left.
    pub(crate) fn run_runs(&self, items: usize, grain: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
        let grain = grain.max(1);
        let runs = self.threads().min(items.div_ceil(grain));
        if runs < 2 || items > u32::MAX as usize || !self.reserve() {
            return f(0..items);
        }
        let all = &self.0.shared.runs[..runs];
        let first = |i: usize| (i as u64 * items as u64 / runs as u64) as usize;
        for (i, run) in all.iter().enumerate() {
            run.0.set(first(i)..first(i + 1));
        }
        self.0.shared.share(runs, &|i| {
            for j in 0..runs {
                let run = &all[(i + j) % runs].0;
                while let Some(range) = run.take(grain, j == 0) {
                    f(range);
                }
            }
        });
    }

    /// Splits `0..items` into ranges of at least `min_chunk` items (the last may be shorter) and
    /// calls `f` with each, as [`Pool::run`] does. `f` must treat every item by itself, so that
    /// the split shows in no result.
    ///
    /// # Panics
    /// If a call of `f` panics.
    pub fn run_chunks(&self, items: usize, min_chunk: usize, f: &(dyn Fn(Range<usize>) + Sync)) {
        let min_chunk = min_chunk.max(1);
        if items == 0 {
            return;
        }
        let threads = self.threads();
        if threads == 1 || items <= min_chunk {
            return f(0..items);
        }
        let chunk = items.div_ceil(threads * CHUNKS_PER_THREAD).max(min_chunk);
        self.run(items.div_ceil(chunk), &|i| f(i * chunk..((i + 1) * chunk).min(items)));
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _bed = lock(&self.shared.bed);
            self.shared.alarm.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks: there is nothing to pass on. One that
            // drops the pool from inside its own task cannot join itself.
            if worker.thread().id() != std::thread::current().id() {
                let _ = worker.join();
            }
        }
    }
}

impl Shared {
    /// Runs a job with all workers. The caller holds `busy`, which ends here.
    fn share(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        // From here to the close nothing may unwind: workers hold the borrow of `f`.
        self.open(f, tasks);
        let panicked = self.claim(f, tasks).err();
        self.close();
        let theirs = lock(&self.panic).take();
        self.busy.0.store(false, Ordering::Release);
        if let Some(payload) = panicked.or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Publishes a job. The caller holds `busy`.
    fn open(&self, f: &(dyn Fn(usize) + Sync), tasks: usize) {
        // SAFETY: only the lifetime is forgotten. Workers use the pointer between join and leave
        // only, and `close`, which the caller always reaches while `f` lives, waits for them.
        let task: *const (dyn Fn(usize) + Sync) = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(f)
        };
        // SAFETY: `busy` keeps other callers out; the last epoch is closed and left by all, so no
        // worker reads the cell.
        unsafe { *self.job.get() = Some(Job { task, tasks }) };
        self.next.0.store(0, Ordering::Relaxed);
        let epoch = self.state.0.load(Ordering::Relaxed) & !(EPOCH - 1);
        // Either this store comes before a worker's last look, or the worker is counted below.
        self.state.0.store(epoch.wrapping_add(EPOCH) | OPEN, Ordering::SeqCst);
        let sleepers = self.sleepers.load(Ordering::SeqCst);
        if sleepers > 0 {
            let _bed = lock(&self.bed);
            let asleep = self.workers.iter().filter(|w| w.asleep.load(Ordering::Relaxed));
            self.processors.spread(asleep.map(|w| &w.place));
            match tasks > sleepers {
                true => self.alarm.notify_all(),
                false => (1..tasks).for_each(|_| self.alarm.notify_one()),
            }
        }
    }

    /// Lets nobody else join, and waits for those who did.
    fn close(&self) {
        let mut joined = self.state.0.fetch_and(!OPEN, Ordering::AcqRel) & JOINED;
        let mut turns = 0u32;
        while joined != 0 {
            turns += 1;
            match turns < 4096 {
                true => std::hint::spin_loop(),
                // The worker may wait for this very processor.
                false => std::thread::yield_now(),
            }
            joined = self.state.0.load(Ordering::Acquire) & JOINED;
        }
    }

    /// Claims and runs tasks until there are none.
    fn claim(&self, f: &(dyn Fn(usize) + Sync), tasks: usize) -> Result<(), Box<dyn Any + Send>> {
        let _inside = InTask::enter();
        let done = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let i = self.next.0.fetch_add(1, Ordering::Relaxed);
                if i >= tasks {
                    return;
                }
                f(i);
            }
        }));
        if done.is_err() {
            self.next.0.store(tasks, Ordering::Relaxed);
        }
        done
    }

    /// The life of a worker.
    fn work(&self, index: usize) {
        let me = &self.workers[index];
        me.place.enter();
        let mut seen = 0;
        while let Some(state) = self.wait(seen, me) {
            let joined = self.state.0.compare_exchange_weak(
                state,
                state + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if joined.is_err() {
                continue;
            }
            seen = state & !(EPOCH - 1);
            // SAFETY: this worker has joined an open epoch: the job was written before it opened
            // (acquired above) and stays until this worker leaves.
            let job = unsafe { *self.job.get() };
            if let Some(Job { task, tasks }) = job {
                // SAFETY: as for the cell: the caller waits in `close` for this worker to leave.
                let task = unsafe { &*task };
                if let Err(payload) = self.claim(task, tasks) {
                    // Dropping an earlier payload runs foreign code; forgetting it does not.
                    std::mem::forget(lock(&self.panic).replace(payload));
                }
            }
            // Release: what the tasks wrote is seen by the caller that waits in `close`.
            self.state.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for an open epoch other than `seen`; `None` when the pool stops.
    fn wait(&self, seen: u64, me: &Worker) -> Option<u64> {
        let ready = || {
            let state = self.state.0.load(Ordering::Acquire);
            (state & OPEN != 0 && state & !(EPOCH - 1) != seen).then_some(state)
        };
        loop {
            let start = Instant::now();
            while start.elapsed() < SPIN {
                for _ in 0..64 {
                    if let Some(state) = ready() {
                        return Some(state);
                    }
                    std::hint::spin_loop();
                }
                if self.stop.load(Ordering::Relaxed) {
                    return None;
                }
            }
            let bed = lock(&self.bed);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            let state = self.state.0.load(Ordering::SeqCst);
            let open = state & OPEN != 0 && state & !(EPOCH - 1) != seen;
            if !open && !self.stop.load(Ordering::SeqCst) {
                // Awake again, it spins before the next sleep: where one job comes, more do.
                me.asleep.store(true, Ordering::Relaxed);
                let bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
                me.asleep.store(false, Ordering::Relaxed);
                drop(bed);
                me.place.anywhere();
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests;
