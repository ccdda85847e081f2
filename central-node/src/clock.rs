//! The only place with a wall clock, and times as text.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Nanoseconds in a second.
pub const SECOND_NS: i64 = 1_000_000_000;

/// Now, by the wall clock: ns since 1970; 0 for a clock that stands before 1970.
#[must_use]
pub fn now_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Differences from the monotonic clock that are no step, ns.
const STEP_NS: u64 = 60_000_000_000;
/// A clock that was set has to be left alone for so long before ages are taken by it.
const STEADY: Duration = Duration::from_secs(3_600);

/// Watches whether the wall clock is set: what it says of ages is not to be acted upon right afterwards.
#[derive(Clone, Copy, Debug)]
pub struct WallWatch {
    began: Instant,
    /// Wall clock less time since `began`, ns.
    offset_ns: i64,
    set_at: Option<Instant>,
}

impl WallWatch {
    /// Begins with a clock that is taken for right.
    #[must_use]
    pub const fn new(now: Instant, wall_ns: i64) -> Self {
        Self {
            began: now,
            offset_ns: wall_ns,
            set_at: None,
        }
    }

    /// Looks, and says whether the clock has been left alone for long enough.
    pub fn is_steady(&mut self, now: Instant, wall_ns: i64) -> bool {
        let since_ns = duration_ns(now.saturating_duration_since(self.began));
        let offset_ns = wall_ns.saturating_sub(since_ns);
        if offset_ns.abs_diff(self.offset_ns) > STEP_NS {
            self.offset_ns = offset_ns;
            self.set_at = Some(now);
        }
        self.set_at
            .is_none_or(|set_at| now.saturating_duration_since(set_at) >= STEADY)
    }
}

/// A length of time in ns, at most what 64 bits hold.
#[must_use]
pub fn duration_ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// `2026-01-31T23:59:59.500000000Z`; the number itself where no such date is.
#[must_use]
pub fn rfc3339(time_ns: i64) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_ns)) else {
        return time_ns.to_string();
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.nanosecond()
    )
}

/// Why a text is no time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no time: say `2026-01-31T23:59:59Z`, or `15m`, `2h`, `7d` for so long ago")]
pub struct TimeError(String);

/// Reads RFC 3339, or a length of time before `now_ns` (`30s`, `15m`, `2h`, `7d`).
///
/// # Errors
/// [`TimeError`] with the text.
pub fn parse(text: &str, now_ns: i64) -> Result<i64, TimeError> {
    let wrong = || TimeError(text.to_owned());
    if let Ok(ago) = parse_duration(text) {
        return Ok(now_ns.saturating_sub(duration_ns(ago)));
    }
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|time| i64::try_from(time.unix_timestamp_nanos()).ok())
        .ok_or_else(wrong)
}

/// Reads `250ms`, `30s`, `15m`, `2h`, `7d`.
///
/// # Errors
/// [`TimeError`] with the text.
pub fn parse_duration(text: &str) -> Result<Duration, TimeError> {
    let wrong = || TimeError(text.to_owned());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.strip_prefix(digits).unwrap_or_default();
    let number: u64 = digits.parse().map_err(|_error| wrong())?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_written() {
        assert_eq!(parse("1970-01-01T00:00:01Z", 0), Ok(SECOND_NS));
        assert_eq!(parse("1970-01-01T01:00:00+01:00", 7), Ok(0));
        assert_eq!(parse("2m", 200 * SECOND_NS), Ok(80 * SECOND_NS));
        parse("yesterday", 0).unwrap_err();
        parse("12", 0).unwrap_err();
        parse("99999999999999999999d", 0).unwrap_err();
        assert_eq!(rfc3339(1_500_000_000), "1970-01-01T00:00:01.500000000Z");
        assert_eq!(parse(&rfc3339(123_456_789_012), 0), Ok(123_456_789_012));
    }

    #[test]
    fn a_clock_that_was_set_is_not_trusted_for_an_hour() {
        const HOUR_NS: i64 = 3_600 * SECOND_NS;
        let began = Instant::now();
        let mut watch = WallWatch::new(began, 0);
        let hours = |hours: u64| began + Duration::from_secs(hours * 3_600);
        assert!(watch.is_steady(hours(1), HOUR_NS + SECOND_NS));
        // A month forward, and back after half an hour.
        assert!(!watch.is_steady(hours(2), 722 * HOUR_NS));
        assert!(!watch.is_steady(hours(2) + STEADY / 2, 722 * HOUR_NS + HOUR_NS / 2));
        assert!(!watch.is_steady(hours(3), 3 * HOUR_NS));
        assert!(!watch.is_steady(hours(3) + STEADY / 2, 3 * HOUR_NS + HOUR_NS / 2));
        assert!(watch.is_steady(hours(4), 4 * HOUR_NS));
    }

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        parse_duration("7 d").unwrap_err();
        parse_duration("-7d").unwrap_err();
        parse_duration("").unwrap_err();
    }
}
