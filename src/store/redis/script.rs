use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, RedisResult, Script, ServerErrorKind};
use smallvec::SmallVec;

use crate::partition::PartitionKey;
use crate::quota::{INLINE, Quota};

/// What keys owe, in nanoseconds.
pub(super) type Owed = SmallVec<[u64; INLINE]>;

/// The server, and how it is asked.
#[derive(Clone)]
pub(super) struct Engine<C> {
    pub(super) connection: C,
    pub(super) prefix: Arc<str>,
    pub(super) timeout: Duration,
    is_cluster: Arc<AtomicBool>,
}

/// What is to be done with the units.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    Correct,
    Decide,
}

/// Units of one key, in microseconds that they take to come back.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) key: PartitionKey,
    tolerance: i64,
    units: i64,
}

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));
const TEXT: &str = include_str!("take.lua");

impl<C> Engine<C> {
    pub(super) fn new(connection: C) -> Self {
        Self {
            connection,
            prefix: "tower-gate".into(),
            timeout: Duration::from_millis(100),
            is_cluster: Arc::default(),
        }
    }

    /// Whether both keys may be asked about in one call: always, until a cluster has said that
    /// keys lie on several nodes.
    pub(super) fn are_together(&self, one: &Change, other: &Change) -> bool {
        !self.is_cluster.load(Ordering::Relaxed) || one.home() == other.home()
    }
}

impl<C: ConnectionLike + Clone> Engine<C> {
    /// Runs the script: whether the units were taken, and what each key owed before. `None` means
    /// that nothing was done, because the keys turned out to lie on several nodes.
    pub(super) async fn run(
        &self,
        mode: Mode,
        changes: &[Change],
        left: Duration,
    ) -> RedisResult<Option<(bool, Owed)>> {
        let reply = tokio::time::timeout(left, self.ask(mode, changes));
        let reply = match reply.await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot) => {
                self.is_cluster.store(true, Ordering::Relaxed);
                let is_one = changes.iter().all(|change| change.home() == changes[0].home());
                return if is_one { Err(error) } else { Ok(None) };
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        let misread = || (ErrorKind::UnexpectedReturnType, "the script answers something else");
        let (&passed, owed) = reply.split_first().ok_or_else(misread)?;
        if owed.len() != changes.len() {
            return Err(misread().into());
        }
        let nanos = owed.iter().map(|&micros| u64::try_from(micros).ok()?.checked_mul(1000));
        let owed = nanos.collect::<Option<_>>().ok_or_else(misread)?;
        Ok(Some((passed == 1, owed)))
    }

    async fn ask(&self, mode: Mode, changes: &[Change]) -> RedisResult<Vec<i64>> {
        let mut connection = self.connection.clone();
        let known = self.command("EVALSHA", SCRIPT.get_hash(), mode, changes);
        match known.query_async(&mut connection).await {
            // After a restart, a failover or `SCRIPT FLUSH`. Nothing was done, so it can be asked
            // again (RL-61).
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.command("EVAL", TEXT, mode, changes).query_async(&mut connection).await
            }
            reply => reply,
        }
    }

    fn command(&self, name: &str, script: &str, mode: Mode, changes: &[Change]) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(changes.len());
        for change in changes {
            command.arg(change.name(&self.prefix));
        }
        command.arg(matches!(mode, Mode::Correct).then_some(1).unwrap_or(0));
        for change in changes {
            command.arg(change.tolerance).arg(change.units);
        }
        command
    }
}

impl Change {
    /// So many units of a quota whose interval is in whole microseconds.
    pub(super) fn new(key: PartitionKey, quota: &Quota, units: i64) -> Self {
        let tolerance = micros(quota.refill_time());
        // Nobody can take or owe as much as this.
        let most = 2 * tolerance + 1;
        let units = micros(quota.interval()).saturating_mul(units).clamp(-most, most);
        Self { key, tolerance, units }
    }

    /// A question after what there is.
    pub(super) fn look(self) -> Self {
        Self { units: 0, ..self }
    }

    /// The same units the other way.
    pub(super) fn back(self) -> Self {
        Self { units: -self.units, ..self }
    }

    /// What is owed after a take, if this is the take and so much was owed before.
    pub(super) fn owed_after(&self, before: u64) -> Duration {
        Duration::from_nanos(before) + Duration::from_micros(self.units.unsigned_abs())
    }

    /// This, but no more given back than is owed.
    pub(super) fn within(self, owed: Duration) -> Self {
        Self { units: self.units.max(-micros(owed)), ..self }
    }

    /// A cluster shares keys out by what stands between the braces (RL-65).
    fn name(&self, prefix: &str) -> String {
        format!("{prefix}:1:{{{:04x}}}:{:032x}", self.home(), self.key.to_u128())
    }

    /// Keys of one home lie on one node of a cluster: all those of a caller.
    fn home(&self) -> u16 {
        home(&self.key)
    }
}

fn home(key: &PartitionKey) -> u16 {
    let [.., high, low] = key.to_u128().to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Which of 64 ranges of a cluster's 16384 slots a key lies in. A node has whole ranges, unless its
/// slots were moved there one by one.
pub(super) fn slot_range(key: &PartitionKey) -> u8 {
    let slot = crc16(format!("{:04x}", home(key)).as_bytes()) % 16_384;
    u8::try_from(slot / 256).unwrap_or_default()
}

/// CRC16 as a cluster counts it: XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    })
}

/// At most a hundred years, or the answer is that many and more.
fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_in_the_range_of_slots_where_a_cluster_looks_for_them() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "RL-65: the vector of the cluster specification");
        let mut keys = [0; 64];
        for name in 0..6400u32 {
            keys[usize::from(slot_range(&PartitionKey::new([name.to_string()])))] += 1;
        }
        assert!(keys.iter().all(|&keys| keys > 40), "{keys:?}");
    }
}
