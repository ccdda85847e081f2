//! How old a packet is, when the wall clock cannot be trusted blindly.
//!
//! Packets of this boot: by the boot clock, whatever was done to the wall clock. Packets of another boot: by the wall
//! clock, and only after it has not been set for an hour of running: until then a wrong clock at start, or one that jumped,
//! has the chance to be put right, and the sinks to deliver. A packet from the future has no age.

use super::entry::Now;
use super::segment::Stamp;

/// The wall clock counts for packets of other boots after it has been left alone for so long, ns of the boot clock.
const STEADY_NS: u64 = 3_600_000_000_000;
/// Differences of the two clocks that are no step, ns.
const STEP_NS: u64 = 60_000_000_000;

/// Watches the wall clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallWatch {
    boot_id: [u8; 16],
    offset_ns: i64,
    steady_since_ns: u64,
}

impl WallWatch {
    pub(super) fn new(boot_id: [u8; 16], now: Now) -> Self {
        Self {
            boot_id,
            offset_ns: offset(now),
            steady_since_ns: now.boot_ns,
        }
    }

    /// Looks whether the wall clock was set since the last look.
    pub(super) fn observe(&mut self, now: Now) {
        let offset_ns = offset(now);
        if offset_ns.abs_diff(self.offset_ns) > STEP_NS {
            self.steady_since_ns = now.boot_ns;
            self.offset_ns = offset_ns;
        }
    }

    /// Age in ns, as far as one can tell; 0 where one cannot.
    pub(super) fn age_ns(&self, stamp: &Stamp, now: Now) -> u64 {
        if stamp.boot_id == self.boot_id {
            return now.boot_ns.saturating_sub(stamp.boot_ns);
        }
        if now.boot_ns.saturating_sub(self.steady_since_ns) < STEADY_NS {
            return 0;
        }
        u64::try_from(now.wall_ns.saturating_sub(stamp.wall_ns)).unwrap_or(0)
    }
}

fn offset(now: Now) -> i64 {
    now.wall_ns
        .saturating_sub(i64::try_from(now.boot_ns).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000_000;
    const DAY: i64 = 24 * 3_600_000_000_000;

    fn at(boot_ns: u64, wall_ns: i64) -> Now {
        Now { wall_ns, boot_ns }
    }

    #[test]
    fn packets_of_this_boot_age_by_the_boot_clock_alone() {
        let mut watch = WallWatch::new([1; 16], at(100, DAY));
        let stamp = Stamp {
            boot_ns: 40,
            wall_ns: DAY,
            boot_id: [1; 16],
        };
        watch.observe(at(1000, 400 * DAY));
        assert_eq!(watch.age_ns(&stamp, at(1000, 400 * DAY)), 960);
    }

    #[test]
    fn a_jump_of_the_wall_clock_ages_older_boots_only_after_a_steady_hour() {
        let wall =
            |days: i64, boot_ns: u64| at(boot_ns, days * DAY + i64::try_from(boot_ns).unwrap());
        let mut watch = WallWatch::new([1; 16], wall(10, 0));
        let stamp = Stamp {
            boot_ns: 40,
            wall_ns: 9 * DAY,
            boot_id: [2; 16],
        };
        assert_eq!(watch.age_ns(&stamp, wall(10, 1)), 0);
        watch.observe(wall(10, HOUR));
        let day_and_hour = DAY.unsigned_abs() + HOUR;
        assert_eq!(watch.age_ns(&stamp, wall(10, HOUR)), day_and_hour);
        // Somebody sets it a year forward, and back an hour later: nothing has aged in between.
        watch.observe(wall(375, HOUR + 1));
        assert_eq!(watch.age_ns(&stamp, wall(375, HOUR + 1)), 0);
        watch.observe(wall(10, 2 * HOUR));
        assert_eq!(watch.age_ns(&stamp, wall(10, 2 * HOUR)), 0);
        watch.observe(wall(10, 3 * HOUR));
        assert_eq!(
            watch.age_ns(&stamp, wall(10, 3 * HOUR)),
            DAY.unsigned_abs() + 3 * HOUR
        );
        // From the future.
        assert_eq!(watch.age_ns(&stamp, wall(8, 3 * HOUR)), 0);
    }
}
