//! Times subjects side by side.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long one batch of runs takes: long for a clock, short for whatever else the machine does.
const BATCH: Duration = Duration::from_micros(200);

/// Something to measure.
pub(crate) struct Subject {
    name: &'static str,
    run: Box<dyn FnMut(u32)>,
}

impl Subject {
    pub(crate) fn new<T>(name: &'static str, mut once: impl FnMut() -> T + 'static) -> Self {
        let run = move |times| {
            for _ in 0..times {
                black_box(once());
            }
        };
        Self { name, run: Box::new(run) }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// For a profiler, which wants nothing else beside it.
    #[inline(never)]
    pub(crate) fn run(&mut self, times: u32) {
        (self.run)(times);
    }

    /// Nanoseconds for each of so many runs in a row.
    fn time(&mut self, times: u32) -> f64 {
        let started = Instant::now();
        self.run(times);
        started.elapsed().as_secs_f64() * 1e9 / f64::from(times)
    }

    /// How many runs fill a batch.
    fn batch(&mut self) -> u32 {
        let mut times = 1;
        while self.time(times) * f64::from(times) < BATCH.as_secs_f64() * 1e9 {
            times *= 2;
        }
        times
    }
}

/// The times of each subject, in nanoseconds, turn by turn.
///
/// Batches take turns, so that a machine that is slow for a while is slow for all, and differences
/// are taken within a turn.
pub(crate) struct Times(Vec<(&'static str, Vec<f64>)>);

impl Times {
    pub(crate) fn measure(turns: usize, mut subjects: Vec<Subject>) -> Self {
        let batches: Vec<u32> = subjects.iter_mut().map(Subject::batch).collect();
        let mut times: Vec<_> =
            subjects.iter().map(|subject| (subject.name, Vec::with_capacity(turns))).collect();
        for turn in 0..turns {
            for index in 0..subjects.len() {
                let index = (index + turn) % subjects.len();
                times[index].1.push(subjects[index].time(batches[index]));
            }
        }
        Self(times)
    }

    /// The median of what a subject takes above another.
    pub(crate) fn above(&self, name: &str, base: &str) -> f64 {
        median(self.of(name).iter().zip(self.of(base)).map(|(time, base)| time - base))
    }

    /// The median of what a subject takes.
    pub(crate) fn median(&self, name: &str) -> f64 {
        median(self.of(name).iter().copied())
    }

    fn of(&self, name: &str) -> &[f64] {
        &self.0.iter().find(|(other, _)| *other == name).expect("a subject of this name").1
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
