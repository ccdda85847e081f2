//! Values with units, as they stand in the configuration: sizes, spans of time, event types. Refuses numbers without a
//! unit, since nobody remembers which unit a key means.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use sensor_proto::v1::EventType;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a value with a unit was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No digits in front.
    #[error("`{typed}` does not begin with a whole number")]
    NoNumber {
        /// What was typed.
        typed: String,
    },
    /// Digits alone, or an unknown unit behind them.
    #[error("`{typed}` needs a unit: {units}")]
    BadUnit {
        /// What was typed.
        typed: String,
        /// The units that would do.
        units: &'static str,
    },
    /// More than 64 bits hold.
    #[error("`{typed}` is too large")]
    Overflow {
        /// What was typed.
        typed: String,
    },
    /// Not the name of an event type that the sensor reports.
    #[error("`{typed}` is no event type: {names}")]
    NoEventType {
        /// What was typed.
        typed: String,
        /// The names that would do.
        names: String,
    },
}

const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];
const SPAN_UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

fn parse_unit(typed: &str, units: &[(&str, u64)], names: &'static str) -> Result<u64, UnitError> {
    let digits = typed.bytes().take_while(u8::is_ascii_digit).count();
    let Some((number, unit)) = typed.split_at_checked(digits).filter(|_| digits > 0) else {
        return Err(UnitError::NoNumber {
            typed: typed.to_owned(),
        });
    };
    let unit = unit.trim_start();
    let overflow = || UnitError::Overflow {
        typed: typed.to_owned(),
    };
    let number: u64 = number
        .parse()
        .map_err(|_ignored: std::num::ParseIntError| overflow())?;
    let factor = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| UnitError::BadUnit {
            typed: typed.to_owned(),
            units: names,
        })?
        .1;
    number.checked_mul(factor).ok_or_else(overflow)
}

/// The largest unit that divides the value.
fn write_unit(
    out: &mut fmt::Formatter<'_>,
    value: u64,
    units: &[(&str, u64)],
    zero: &str,
) -> fmt::Result {
    match units
        .iter()
        .find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor))
    {
        Some((name, factor)) => write!(out, "{}{name}", value / factor),
        None => out.write_str(zero),
    }
}

/// A number of bytes, written with its unit: `"64MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// So many KiB (1,024 bytes each).
    pub const fn kib(count: u32) -> Self {
        Self((count as u64) << 10)
    }

    /// So many MiB (1,048,576 bytes each).
    pub const fn mib(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(typed: &str) -> Result<Self, UnitError> {
        parse_unit(
            typed,
            &SIZE_UNITS,
            "B, KiB, MiB, GiB or TiB, as in \"64MiB\"",
        )
        .map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_unit(out, self.0, &SIZE_UNITS, "0B")
    }
}

/// A span of time, written with its unit: `"5s"`. Whole microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u64);

impl Span {
    /// So many milliseconds.
    pub const fn millis(count: u32) -> Self {
        Self(count as u64 * 1_000)
    }

    /// So many seconds.
    pub const fn secs(count: u32) -> Self {
        Self(count as u64 * 1_000_000)
    }

    /// As the standard library's type.
    pub const fn duration(self) -> Duration {
        Duration::from_micros(self.0)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(typed: &str) -> Result<Self, UnitError> {
        parse_unit(typed, &SPAN_UNITS, "us, ms, s, m, h or d, as in \"5s\"").map(Self)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_unit(out, self.0, &SPAN_UNITS, "0s")
    }
}

/// An event type that a hook reports, by its name in the schema: `"file_create"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventName(pub EventType);

/// Numbers of the event types that hooks report; from 300 on stand those that the daemon makes of others.
const HOOKED_EVENT_TYPES: std::ops::Range<i32> = 100..300;

impl EventName {
    /// All event types that hooks report, in the order of the schema.
    pub fn all() -> impl Iterator<Item = Self> {
        HOOKED_EVENT_TYPES
            .filter_map(|number| EventType::try_from(number).ok())
            .map(Self)
    }
}

impl FromStr for EventName {
    type Err = UnitError;

    fn from_str(typed: &str) -> Result<Self, UnitError> {
        Self::all()
            .find(|known| known.to_string() == typed)
            .ok_or_else(|| {
                let names: Vec<String> = Self::all().map(|known| known.to_string()).collect();
                UnitError::NoEventType {
                    typed: typed.to_owned(),
                    names: names.join(", "),
                }
            })
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.short_name())
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for EventName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err = UnitError>>(
    deserializer: D,
) -> Result<T, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(serde::de::Error::custom)
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl<'de> Deserialize<'de> for EventName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB|TiB)$", "format": "size" })
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+ *(us|ms|s|m|h|d)$", "format": "time" })
    }
}

impl JsonSchema for EventName {
    fn schema_name() -> Cow<'static, str> {
        "EventName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<String> = Self::all().map(|known| known.to_string()).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (typed, bytes, shown) in [
            ("0B", 0, "0B"),
            ("1B", 1, "1B"),
            ("1024B", 1024, "1KiB"),
            ("64 MiB", 64 << 20, "64MiB"),
            ("1536KiB", 1536 << 10, "1536KiB"),
            ("2TiB", 2 << 40, "2TiB"),
        ] {
            let size: Size = typed.parse().unwrap();
            assert_eq!(
                (size.bytes(), size.to_string().as_str()),
                (bytes, shown),
                "{typed}"
            );
        }
    }

    #[test]
    fn spans() {
        for (typed, micros, shown) in [
            ("0s", 0, "0s"),
            ("50ms", 50_000, "50ms"),
            ("1500ms", 1_500_000, "1500ms"),
            ("60s", 60_000_000, "1m"),
            ("24h", 86_400_000_000, "1d"),
            ("7us", 7, "7us"),
        ] {
            let span: Span = typed.parse().unwrap();
            assert_eq!(span.duration(), Duration::from_micros(micros), "{typed}");
            assert_eq!(span.to_string(), shown, "{typed}");
        }
    }

    #[test]
    fn refused() {
        for typed in [
            "",
            "MiB",
            "-1MiB",
            "1.5MiB",
            "1",
            "1MB",
            "1mib",
            "99999999999999999999B",
            "16777216TiB",
        ] {
            assert!(typed.parse::<Size>().is_err(), "{typed}");
        }
        for typed in ["", "s", "5", "5S", "5min", "1h30m", "-5s", "300000000d"] {
            assert!(typed.parse::<Span>().is_err(), "{typed}");
        }
        for typed in ["", "EXEC", "patch", "aggregate", "unspecified"] {
            assert!(typed.parse::<EventName>().is_err(), "{typed}");
        }
    }

    #[test]
    fn event_types_of_hooks() {
        let names: Vec<String> = EventName::all().map(|name| name.to_string()).collect();
        assert_eq!(
            names,
            [
                "exec",
                "exit",
                "fork",
                "file_create",
                "connect",
                "module_load"
            ]
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes in any::<u64>(), text in ".{0,12}") {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
            prop_assert_eq!(Span(bytes).to_string().parse(), Ok(Span(bytes)));
            drop(text.parse::<Size>());
            drop(text.parse::<Span>());
            drop(text.parse::<EventName>());
        }
    }
}
