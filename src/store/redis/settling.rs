use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use redis::aio::ConnectionLike;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::store::redis::known::Known;
use crate::store::redis::script::{Change, Engine, Mode};

/// Corrections on their way to the server, which nobody waits for.
///
/// The task behind it writes down what is still queued and ends when the last owner of the queue is
/// gone.
#[derive(Clone, Default)]
pub(super) struct Settling(Arc<Queue>);

#[derive(Default)]
struct Queue {
    /// Made where a runtime is known to be: the first time that somebody waits for the server.
    sender: OnceLock<Sender<Correction>>,
    lost: Arc<AtomicU64>,
}

#[derive(Clone, Copy)]
struct Correction {
    change: Change,
    /// How much of what was taken was still owed, and when: it may wait in the queue.
    owed: Duration,
    pushed: Instant,
}

/// Less than a second's worth of corrections on a server that is well.
const CAPACITY: usize = 4096;

/// So many corrections in a call hold up a server for less than a millisecond.
const BATCH: usize = 64;

impl Settling {
    pub(super) fn start<C>(&self, engine: &Engine<C>, known: &Known)
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        self.0.sender.get_or_init(|| {
            let (sender, receiver) = channel(CAPACITY);
            let lost = self.0.lost.clone();
            tokio::spawn(settle(engine.clone(), known.clone(), receiver, lost));
            sender
        });
    }

    /// Nothing is given back that is not owed any more.
    pub(super) fn push(&self, change: Change, owed: Duration) {
        // Before anything was taken, there is nothing to correct.
        let Some(sender) = self.0.sender.get() else {
            return;
        };
        if sender.try_send(Correction { change, owed, pushed: Instant::now() }).is_err() {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

async fn settle<C>(
    engine: Engine<C>,
    known: Known,
    mut queue: Receiver<Correction>,
    lost: Arc<AtomicU64>,
) where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        while let Some(&Correction { change: first, .. }) = batch.first() {
            let together = batch.iter().filter(|one| engine.are_together(&first, &one.change));
            let together: Vec<_> = together.map(Correction::due).collect();
            match engine.run(Mode::Correct, &together, engine.timeout).await {
                // Once more, key by key.
                Ok(None) => continue,
                // A refusal from before must not outlast the refund.
                Ok(Some(_)) => together.iter().for_each(|change| known.forget(&change.key)),
                // It may have been done; doing it twice would give back too much.
                Err(_) => {
                    lost.fetch_add(together.len() as u64, Ordering::Relaxed);
                }
            }
            batch.retain(|one| !engine.are_together(&first, &one.change));
        }
    }
}

impl Correction {
    /// What is to be done of it now.
    fn due(&self) -> Change {
        self.change.within(self.owed.saturating_sub(self.pushed.elapsed()))
    }
}
