use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use super::*;

fn counters(n: usize) -> Vec<AtomicUsize> {
    (0..n).map(|_| AtomicUsize::new(0)).collect()
}

fn values(counters: &[AtomicUsize]) -> Vec<usize> {
    counters.iter().map(|c| c.load(Ordering::Relaxed)).collect()
}

#[test]
fn every_task_runs_exactly_once() {
    for threads in [0, 1, 2, 3, 8] {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads.max(1));
        for tasks in [0, 1, 2, 3, 7, 64, 1000] {
            let ran = counters(tasks);
            pool.run(tasks, &|i| {
                ran[i].fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(values(&ran), vec![1; tasks], "{threads} threads, {tasks} tasks");
        }
    }
}

#[test]
fn many_small_jobs_in_a_row_lose_no_task() {
    let pool = Pool::new(3);
    let ran = AtomicUsize::new(0);
    for job in 0..20_000 {
        // Now and then the workers fall asleep in between.
        if job % 4000 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        pool.run(3, &|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(ran.into_inner(), 60_000);
}

#[test]
fn tasks_run_on_more_than_one_thread() {
    let pool = Pool::new(2);
    let barrier = Barrier::new(2);
    let names = Mutex::new(Vec::new());
    // Each task waits for the other: one thread alone could not finish.
    pool.run(2, &|_| {
        barrier.wait();
        lock(&names).push(std::thread::current().id());
    });
    let names = names.into_inner().expect("no task panicked");
    assert_ne!(names[0], names[1]);
}

#[test]
fn results_written_by_workers_are_seen_by_the_caller() {
    let pool = Pool::new(4);
    for round in 0..500 {
        let cells: Vec<Mutex<usize>> = (0..16).map(|_| Mutex::new(0)).collect();
        pool.run(16, &|i| *lock(&cells[i]) = i + round);
        let got: Vec<usize> = cells.iter().map(|c| *lock(c)).collect();
        assert_eq!(got, (round..round + 16).collect::<Vec<_>>());
    }
}

#[test]
fn a_run_inside_a_task_finishes() {
    let pool = Pool::new(3);
    let ran = counters(50);
    pool.run(5, &|outer| {
        pool.run(10, &|inner| {
            ran[outer * 10 + inner].fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(values(&ran), vec![1; 50]);
}

#[test]
fn several_callers_at_once_each_get_their_own_tasks_done() {
    let pool = Pool::new(3);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let ran = counters(9);
                    pool.run(9, &|i| {
                        ran[i].fetch_add(1, Ordering::Relaxed);
                    });
                    assert_eq!(values(&ran), vec![1; 9]);
                }
            });
        }
    });
}

#[test]
fn a_panic_in_any_task_reaches_the_caller_and_the_pool_lives_on() {
    for threads in [1, 2, 4] {
        let pool = Pool::new(threads);
        for bad in 0..8 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, &|i| {
                    if i == bad {
                        // resume_unwind does not call the panic hook, so the test stays quiet.
                        resume_unwind(Box::new(format!("task {i}")));
                    }
                })
            }));
            let payload = caught.expect_err("the panic goes on in the caller");
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("task {bad}")));
            let ran = counters(20);
            pool.run(20, &|i| {
                ran[i].fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(values(&ran), vec![1; 20]);
        }
    }
}

#[test]
fn a_panic_leaves_the_thread_outside_of_tasks() {
    let pool = Pool::new(2);
    let _ = catch_unwind(AssertUnwindSafe(|| pool.run(2, &|_| resume_unwind(Box::new(0)))));
    assert!(!IN_TASK.get());
}

#[test]
fn dropping_a_pool_joins_its_workers() {
    let pool = Pool::new(4);
    let shared = Arc::downgrade(&pool.0.shared);
    pool.run(4, &|_| {});
    let clone = pool.clone();
    drop(pool);
    clone.run(4, &|_| {});
    drop(clone);
    assert!(shared.upgrade().is_none(), "a worker still holds the pool");
}

#[test]
fn chunks_cover_every_item_once_and_respect_the_least_size() {
    for threads in [1, 2, 3] {
        let pool = Pool::new(threads);
        for items in [0, 1, 5, 63, 64, 65, 1000] {
            for least in [0, 1, 10, 64, 2000] {
                let ran = counters(items);
                let sizes = Mutex::new(Vec::new());
                pool.run_chunks(items, least, &|range| {
                    lock(&sizes).push((range.len(), range.end));
                    for i in range {
                        ran[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert_eq!(values(&ran), vec![1; items]);
                for &(size, end) in lock(&sizes).iter() {
                    assert!(size >= least.min(items) || end == items, "{size} of at least {least}");
                }
            }
        }
    }
}

#[test]
fn runs_cover_every_item_once_in_ranges_of_the_grain() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads);
        for (items, grain) in [(0, 1), (1, 1), (2, 1), (7, 3), (36, 2), (1000, 1), (1000, 300)] {
            for _ in 0..20 {
                let seen = counters(items);
                pool.run_runs(items, grain, &|range| {
                    assert!(threads == 1 || range.len() <= grain, "{range:?} by {grain}");
                    for i in range {
                        seen[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert_eq!(values(&seen), vec![1; items], "{threads} threads, grain {grain}");
            }
        }
    }
}

#[test]
fn a_panic_in_a_run_reaches_the_caller_and_runs_inside_of_tasks_finish() {
    let pool = Pool::new(3);
    for at in [0, 50, 99] {
        let run = || pool.run_runs(100, 1, &|range| assert_ne!(range.start, at));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "{at}");
        let seen = counters(100);
        pool.run(4, &|task| {
            pool.run_runs(25, 2, &|range| {
                for i in range {
                    seen[25 * task + i].fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        assert_eq!(values(&seen), vec![1; 100]);
    }
}

#[test]
fn a_thread_that_is_done_takes_from_the_end_of_the_others_run() {
    let pool = Pool::new(2);
    let (who, started) = (Mutex::new(vec![None; 100]), Barrier::new(2));
    pool.run_runs(100, 1, &|range| {
        let me = std::thread::current().id();
        lock(&who)[range.start] = Some(me);
        // Both begin; then the thread of the first run waits until all else is done.
        if range.start == 0 || range.start == 50 {
            started.wait();
        }
        if range.start == 0 {
            while lock(&who).iter().flatten().count() < 100 {
                std::thread::yield_now();
            }
        }
    });
    let who = lock(&who).clone();
    assert!(who[1..].iter().all(|w| *w != who[0] && w.is_some()), "{who:?}");
}

#[test]
fn the_global_pool_keeps_its_size() {
    let threads = Pool::global().threads();
    assert!(threads >= 1);
    assert_eq!(Pool::set_global_threads(threads), Ok(()));
    assert_eq!(Pool::set_global_threads(threads + 1), Err(GlobalPoolStarted));
}

#[cfg(target_os = "linux")]
#[test]
fn workers_that_were_woken_may_run_on_every_processor_again() {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    let pool = Pool::new(threads);
    let mine = place::of_this_thread().expect("the processors of this thread");
    for _ in 0..3 {
        // Long enough for the workers to fall asleep.
        std::thread::sleep(Duration::from_millis(20));
        let together = Barrier::new(threads);
        let seen = Mutex::new(Vec::new());
        pool.run(threads, &|_| {
            together.wait();
            lock(&seen).push(place::of_this_thread());
        });
        assert_eq!(*lock(&seen), vec![Some(mine.clone()); threads]);
    }
}
