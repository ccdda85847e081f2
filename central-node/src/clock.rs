//! The only place with a wall clock, and times as text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    fn durations_are_read_with_their_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        parse_duration("7 d").unwrap_err();
        parse_duration("-7d").unwrap_err();
        parse_duration("").unwrap_err();
    }
}
