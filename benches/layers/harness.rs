//! Times subjects side by side, counts their allocations, and prints both.

use std::hint::black_box;
use std::time::{Duration, Instant};

use allocation_counter::{measure, opt_out};

/// How long one batch of runs takes: long for a clock, short for whatever else the machine does.
const BATCH: Duration = Duration::from_micros(200);

/// Something to measure.
pub(crate) struct Subject {
    name: String,
    run: Box<dyn FnMut(u32)>,
}

impl Subject {
    pub(crate) fn new<T>(name: impl Into<String>, mut once: impl FnMut() -> T + 'static) -> Self {
        let run = move |times| {
            for _ in 0..times {
                black_box(once());
            }
        };
        Self { name: name.into(), run: Box::new(run) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
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

    /// How many runs fill a batch. Each number is tried several times, because one interruption
    /// would make a few runs look like many.
    fn batch(&mut self) -> u32 {
        let mut times = 1;
        while (0..5).any(|_| self.time(times) * f64::from(times) < BATCH.as_secs_f64() * 1e9) {
            times *= 2;
        }
        times
    }

    /// Allocations of one run, after another that fills what is filled once.
    fn allocations(&mut self) -> i64 {
        self.run(1);
        measure(|| self.run(1)).count_total.cast_signed()
    }
}

/// The columns of [`compare`].
pub(crate) fn print_head() {
    println!("{:<46}{:>10}{:>10}{:>14}", "", "ns", "above", "allocations");
}

/// Measures a first subject and what the others cost above it.
///
/// Batches take turns, and differences are taken within a turn, so that a machine that is slow for
/// a while is slow for all. The medians are printed. Allocations are not counted meanwhile.
pub(crate) fn compare(turns: usize, subjects: &mut [Subject]) {
    let mut times = vec![Vec::with_capacity(turns); subjects.len()];
    opt_out(|| {
        let batches: Vec<u32> = subjects
            .iter_mut()
            .map(|subject| if turns == 1 { 1 } else { subject.batch() })
            .collect();
        for turn in 0..turns {
            for index in 0..subjects.len() {
                let index = (index + turn) % subjects.len();
                times[index].push(subjects[index].time(batches[index]));
            }
        }
    });
    let fewest = subjects[0].allocations();
    for (index, subject) in subjects.iter_mut().enumerate() {
        let time = median(times[index].iter().copied());
        let allocations = subject.allocations();
        let name = &subject.name;
        if index == 0 {
            println!("\n{name:<46}{time:>10.0}{:>10}{allocations:>14}", "");
        } else {
            let above = median(times[index].iter().zip(&times[0]).map(|(time, base)| time - base));
            println!("  {name:<44}{time:>10.0}{above:>+10.0}{:>+14}", allocations - fewest);
        }
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
