//! The only place with a wall clock, and the only one that knows the length of a clock tick.
//!
//! Records carry instants of the boot clock. Their wall-clock time is that plus the offset between the two clocks, which
//! changes only when somebody sets the wall clock (adjustments of its rate move both): [`Clock::refresh`] compares, and
//! keeps small differences of measurement out. Offsets of before are kept: an instant has the wall-clock time that the clock
//! showed then, or, since nobody tells when it was set, between two looks at it the time that it showed afterwards.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds in a second.
const SECOND_NS: i64 = 1_000_000_000;
/// A new offset that differs by less is the noise of measuring it: one was interrupted between its two readings.
const STEP_MIN_NS: u64 = 100_000;
/// Readings of both clocks for one offset; the tightest counts.
const READINGS: usize = 5;
/// Offsets of before that are kept; what is older has the oldest of them.
const STEPS_MAX: usize = 64;

/// Why the clocks cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The system call failed, or gave a time that no 64-bit number of nanoseconds holds.
    #[error("reading the clock {clock} failed")]
    Read {
        /// Name of the clock.
        clock: &'static str,
        /// What the system call said.
        source: nix::Error,
    },
    /// The kernel does not say how many ticks a second has, or a number that no tick fits.
    #[error("the number of clock ticks per second is not known")]
    Ticks,
}

/// The host's clocks. Shared by reference; a refresh is seen by all.
#[derive(Debug)]
pub struct Clock {
    offset_ns: AtomicI64,
    steps: AtomicU64,
    tick_ns: u64,
    past: Mutex<Past>,
}

/// What the wall clock was before it was set.
#[derive(Debug)]
struct Past {
    /// The last look at it: boot clock, ns.
    looked_ns: u64,
    /// Up to when (boot clock, ns) which offset held (ns); in order.
    offsets: VecDeque<(u64, i64)>,
}

impl Past {
    const fn new(looked_ns: u64) -> Self {
        Self {
            looked_ns,
            offsets: VecDeque::new(),
        }
    }
}

impl Clock {
    /// Measures the offset and asks for the length of a tick.
    ///
    /// # Errors
    /// [`ClockError`]; does not happen on a kernel that the sensor supports.
    pub fn new() -> Result<Self, ClockError> {
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
            .ok()
            .flatten()
            .and_then(|ticks| u64::try_from(ticks).ok())
            .ok_or(ClockError::Ticks)?;
        let looked_ns = u64::try_from(boot()?).unwrap_or(0);
        Ok(Self {
            offset_ns: AtomicI64::new(measure()?),
            steps: AtomicU64::new(0),
            tick_ns: tick_ns(per_second).ok_or(ClockError::Ticks)?,
            past: Mutex::new(Past::new(looked_ns)),
        })
    }

    /// A clock of given offset and tick, for replays (the recording says both) and tests.
    #[must_use]
    pub const fn fixed(offset_ns: i64, tick_ns: u64) -> Self {
        Self {
            offset_ns: AtomicI64::new(offset_ns),
            steps: AtomicU64::new(0),
            tick_ns: if tick_ns == 0 { 1 } else { tick_ns },
            past: Mutex::new(Past::new(0)),
        }
    }

    /// Now, by the boot clock: ns since boot, time asleep included.
    ///
    /// # Errors
    /// [`ClockError::Read`].
    pub fn boot_ns(&self) -> Result<u64, ClockError> {
        boot().map(|now| u64::try_from(now).unwrap_or(0))
    }

    /// Now, by the wall clock: ns since 1970.
    ///
    /// # Errors
    /// [`ClockError::Read`].
    pub fn wall_now_ns(&self) -> Result<i64, ClockError> {
        wall()
    }

    /// What to add to the boot clock to get the wall clock now, in ns; equals the wall-clock time of the boot.
    #[must_use]
    pub fn offset_ns(&self) -> i64 {
        self.offset_ns.load(Ordering::Acquire)
    }

    /// What was to add to an instant of the boot clock to get the wall clock of then, in ns.
    #[must_use]
    pub fn offset_at_ns(&self, boot_ns: u64) -> i64 {
        if self.steps() == 0 {
            return self.offset_ns();
        }
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let held = past.offsets.iter().find(|(until, _)| boot_ns < *until);
        held.map_or_else(|| self.offset_ns(), |(_, offset_ns)| *offset_ns)
    }

    /// Wall-clock time, ns since 1970, of an instant of the boot clock, as the clock stood then.
    #[must_use]
    pub fn wall_ns(&self, boot_ns: u64) -> i64 {
        i64::try_from(boot_ns)
            .unwrap_or(i64::MAX)
            .saturating_add(self.offset_at_ns(boot_ns))
    }

    /// Compares the clocks anew and returns by how much the wall clock was set, in ns (0: it was not). Costs some readings
    /// of clocks (a tenth of a microsecond, ten times that when it seems to have been set): before each batch of events, so
    /// that few of them fall between the last look and the step.
    ///
    /// # Errors
    /// [`ClockError::Read`]; the old offset stays.
    pub fn refresh(&self) -> Result<i64, ClockError> {
        let looked_ns = u64::try_from(boot()?).unwrap_or(0);
        let (_, mut offset) = reading()?;
        if offset.abs_diff(self.offset_ns()) >= STEP_MIN_NS {
            // Or it was interrupted: the tightest of several readings tells.
            offset = measure()?;
        }
        Ok(self.adopt(offset, looked_ns))
    }

    /// How often the wall clock was set since the start.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Acquire)
    }

    /// Length of a clock tick (`1 s / USER_HZ`), in ns.
    #[must_use]
    pub const fn tick_ns(&self) -> u64 {
        self.tick_ns
    }

    /// Clock ticks since boot, as field 22 of `/proc/PID/stat` counts them, of an instant of the boot clock.
    #[must_use]
    pub const fn ticks(&self, boot_ns: u64) -> u64 {
        // `tick_ns` is never 0.
        match boot_ns.checked_div(self.tick_ns) {
            Some(ticks) => ticks,
            None => 0,
        }
    }

    /// First instant of the boot clock, in ns, that counts as this many ticks.
    #[must_use]
    pub const fn ticks_to_boot_ns(&self, ticks: u64) -> u64 {
        ticks.saturating_mul(self.tick_ns)
    }

    /// Takes an offset that was measured after an instant of the boot clock.
    fn adopt(&self, measured_ns: i64, looked_ns: u64) -> i64 {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let before_ns = std::mem::replace(&mut past.looked_ns, looked_ns);
        let held_ns = self.offset_ns();
        let step = measured_ns.saturating_sub(held_ns);
        if step.unsigned_abs() < STEP_MIN_NS {
            return 0;
        }
        if past.offsets.len() >= STEPS_MAX {
            past.offsets.pop_front();
        }
        past.offsets.push_back((before_ns, held_ns));
        self.offset_ns.store(measured_ns, Ordering::Release);
        self.steps.fetch_add(1, Ordering::Release);
        step
    }
}

fn tick_ns(per_second: u64) -> Option<u64> {
    SECOND_NS
        .unsigned_abs()
        .checked_div(per_second)
        .filter(|tick| *tick > 0)
}

/// Wall clock less boot clock. The wall clock is read between two readings of the boot clock; the tightest pair counts.
fn measure() -> Result<i64, ClockError> {
    let mut best: Option<(i64, i64)> = None;
    for _ in 0..READINGS {
        let (width, offset) = reading()?;
        if best.is_none_or(|(tightest, _)| width < tightest) {
            best = Some((width, offset));
        }
    }
    Ok(best.map_or(0, |(_, offset)| offset))
}

/// Time between the two readings of the boot clock, and the offset by them.
fn reading() -> Result<(i64, i64), ClockError> {
    let before = boot()?;
    let wall = wall()?;
    let width = boot()?.saturating_sub(before);
    Ok((width, wall.saturating_sub(before.saturating_add(width / 2))))
}

fn boot() -> Result<i64, ClockError> {
    read(ClockId::CLOCK_BOOTTIME, "CLOCK_BOOTTIME")
}

/// Now, by the clock that service managers compare notices with: microseconds, time asleep left out.
///
/// # Errors
/// [`ClockError::Read`].
pub fn monotonic_us() -> Result<u64, ClockError> {
    read(ClockId::CLOCK_MONOTONIC, "CLOCK_MONOTONIC").map(|ns| ns.unsigned_abs() / 1_000)
}

/// Offset of the host's time zone from UTC at this instant (ns since 1970), in seconds, east positive. The zone is that of
/// /etc/localtime; `None`: it cannot be read, or the instant is out of range.
#[must_use]
pub fn utc_offset_seconds(wall_ns: i64) -> Option<i32> {
    let instant = jiff::Timestamp::from_nanosecond(i128::from(wall_ns)).ok()?;
    let zone = jiff::tz::TimeZone::try_system().ok()?;
    Some(zone.to_offset(instant).seconds())
}

fn wall() -> Result<i64, ClockError> {
    read(ClockId::CLOCK_REALTIME, "CLOCK_REALTIME")
}

fn read(id: ClockId, clock: &'static str) -> Result<i64, ClockError> {
    let time = clock_gettime(id).map_err(|source| ClockError::Read { clock, source })?;
    time.tv_sec()
        .checked_mul(SECOND_NS)
        .and_then(|seconds| seconds.checked_add(time.tv_nsec()))
        .ok_or(ClockError::Read {
            clock,
            source: nix::Error::EOVERFLOW,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_joins_the_two_clocks() {
        let clock = Clock::new().unwrap();
        let boot = clock.boot_ns().unwrap();
        let wall = clock.wall_now_ns().unwrap();
        let difference = wall - clock.wall_ns(boot);
        // A second is ages; the machine may be busy.
        assert!((0..SECOND_NS).contains(&difference), "{difference}");
        assert_eq!(clock.refresh().unwrap(), 0);
        assert_eq!(clock.steps(), 0);
    }

    #[test]
    fn a_step_is_adopted_and_counted_and_noise_is_not() {
        let clock = Clock::fixed(1_000_000_000, 10_000_000);
        assert_eq!(clock.adopt(1_000_000_000 + 99_999, 7), 0);
        assert_eq!(clock.offset_ns(), 1_000_000_000);
        assert_eq!(clock.adopt(-5, 20), -1_000_000_005);
        assert_eq!((clock.offset_ns(), clock.steps()), (-5, 1));
        assert_eq!(clock.wall_ns(10), 5);
        assert_eq!(clock.wall_ns(u64::MAX), i64::MAX - 5);
    }

    #[test]
    fn an_instant_has_the_time_that_the_clock_showed_then() {
        const HOUR: i64 = 3_600 * SECOND_NS;
        let clock = Clock::fixed(0, 10_000_000);
        assert_eq!(clock.adopt(0, 100), 0);
        // Set between the looks at 100 and at 200, and back between those at 300 and at 400.
        assert_eq!(clock.adopt(HOUR, 200), HOUR);
        assert_eq!(clock.adopt(HOUR, 300), 0);
        assert_eq!(clock.adopt(-24 * HOUR, 400), -25 * HOUR);
        for (boot_ns, offset_ns) in [
            (0, 0),
            (99, 0),
            (100, HOUR),
            (299, HOUR),
            (300, -24 * HOUR),
            (400, -24 * HOUR),
            (1_000, -24 * HOUR),
        ] {
            assert_eq!(clock.offset_at_ns(boot_ns), offset_ns, "{boot_ns}");
            assert_eq!(
                clock.wall_ns(boot_ns),
                offset_ns + i64::try_from(boot_ns).unwrap()
            );
        }
        // What is kept has a bound; what is older than all of it has the oldest offset.
        let mut boot_ns = 1_000;
        for step in 1..=i64::try_from(STEPS_MAX).unwrap() {
            boot_ns += 10;
            clock.adopt(step * HOUR, boot_ns);
        }
        assert_eq!(clock.past.lock().unwrap().offsets.len(), STEPS_MAX);
        assert_eq!(clock.offset_at_ns(0), -24 * HOUR);
        assert_eq!(clock.offset_ns(), i64::try_from(STEPS_MAX).unwrap() * HOUR);
    }

    #[test]
    fn ticks_are_those_of_the_kernel() {
        let clock = Clock::new().unwrap();
        let own = crate::procfs::Proc::default().own().unwrap();
        let ticks = own.stat().unwrap().start_ticks;
        let start = clock.ticks_to_boot_ns(ticks);
        assert!(start < clock.boot_ns().unwrap());
        assert_eq!(clock.ticks(start), ticks);
        assert_eq!(clock.ticks(start + clock.tick_ns() - 1), ticks);
        assert_eq!(clock.ticks(start + clock.tick_ns()), ticks + 1);
        assert_eq!(tick_ns(100), Some(10_000_000));
        assert_eq!(tick_ns(0), None);
        assert_eq!(tick_ns(u64::MAX), None);
    }
}
