//! Compares a message in the sensor's JSON with what a test expects, field by field of the schema: a field that is neither expected nor
//! named as uncomparable, with a reason, fails the test.

use std::collections::BTreeMap;
use std::fmt;

use sensor_proto::schema::leaves;
use serde_json::Value;

/// What a test expects of one message.
pub struct Expected {
    root: &'static str,
    fields: BTreeMap<String, Expect>,
    /// Fields and messages that are not there.
    absent: Vec<String>,
    /// Compared by the test itself.
    elsewhere: Vec<String>,
    uncomparable: &'static [(&'static str, &'static str)],
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected")
            .field("root", &self.root)
            .field("fields", &self.fields.keys())
            .finish_non_exhaustive()
    }
}

/// Says what is wrong with the values of a field.
type Check = Box<dyn Fn(&[Value]) -> Result<(), String>>;

enum Expect {
    /// Exactly these, in this order; several where the field or a message above it is a list.
    Values(Vec<Value>),
    Holds(Check),
}

impl Expected {
    /// Nothing yet, for a message of the schema; `uncomparable` names fields (or messages) with the reason why no
    /// other source tells them.
    pub fn new(root: &'static str, uncomparable: &'static [(&'static str, &'static str)]) -> Self {
        let known = leaves(root);
        assert!(!known.is_empty(), "the schema has no message {root}");
        for (path, reason) in uncomparable {
            assert!(!reason.is_empty(), "{path}: a reason is missing");
            assert!(
                known.iter().any(|leaf| at_or_below(&leaf.path, path)),
                "{root} has no field {path}"
            );
        }
        Self {
            root,
            fields: BTreeMap::new(),
            absent: Vec::new(),
            elsewhere: Vec::new(),
            uncomparable,
        }
    }

    fn put(&mut self, path: &str, expect: Expect) {
        self.fields.insert(path.to_owned(), expect);
    }

    /// The field has this value.
    pub fn is(&mut self, path: &str, value: impl Into<Value>) {
        self.put(path, Expect::Values(vec![value.into()]));
    }

    /// The field has this value, or is not there.
    pub fn maybe(&mut self, path: &str, value: Option<impl Into<Value>>) {
        self.put(
            path,
            Expect::Values(value.into_iter().map(Into::into).collect()),
        );
    }

    /// The field is not there, or has this value.
    pub fn optional(&mut self, path: &str, value: impl Into<Value>) {
        let value = value.into();
        let check = move |values: &[Value]| match values {
            [] => Ok(()),
            [told] if *told == value => Ok(()),
            told => Err(format!("{} is not {value}", list(told))),
        };
        self.put(path, Expect::Holds(Box::new(check)));
    }

    /// The field, or that field in each of a list of messages, has these values.
    pub fn all<V: Into<Value>>(&mut self, path: &str, values: impl IntoIterator<Item = V>) {
        self.put(
            path,
            Expect::Values(values.into_iter().map(Into::into).collect()),
        );
    }

    /// The field, or everything in that message, is not there (a flag: is false).
    pub fn none(&mut self, path: &str) {
        self.absent.push(path.to_owned());
    }

    /// `check` holds for the one value of the field.
    pub fn holds(&mut self, path: &str, check: impl Fn(&Value) -> Result<(), String> + 'static) {
        self.put(
            path,
            Expect::Holds(Box::new(move |values| match values {
                [value] => check(value),
                _ => Err(format!("{} values", values.len())),
            })),
        );
    }

    /// The field is a number between these two, both included.
    pub fn between(&mut self, path: &str, low: i128, high: i128) {
        self.holds(path, move |value| {
            let number = number_of(value).ok_or_else(|| format!("{value} is no number or time"))?;
            if (low..=high).contains(&number) {
                Ok(())
            } else {
                Err(format!("{number} is not within {low}..={high}"))
            }
        });
    }

    /// The field, or everything in that message, is compared by the test itself; `reason` says how.
    pub fn skip(&mut self, path: &str, reason: &str) {
        assert!(!reason.is_empty(), "{path}: a reason is missing");
        self.forget(path);
        self.elsewhere.push(path.to_owned());
    }

    /// Takes over what `other` expects below one of its fields, without that prefix.
    pub fn take_below(&mut self, other: Self, prefix: &str) {
        let below = |path: &str| {
            path.strip_prefix(prefix)
                .and_then(|rest| rest.strip_prefix('.'))
                .map(str::to_owned)
        };
        for (path, expect) in other.fields {
            if let Some(path) = below(&path) {
                self.fields.insert(path, expect);
            }
        }
        self.absent
            .extend(other.absent.iter().filter_map(|path| below(path)));
    }

    /// Forgets what was expected of a field.
    pub fn forget(&mut self, path: &str) {
        self.fields.retain(|field, _| !at_or_below(field, path));
        self.absent.retain(|field| field != path);
    }

    /// Compares; panics with every difference and every field that was not compared.
    pub fn check(&self, actual: &Value) {
        let mut wrong = Vec::new();
        let known = leaves(self.root);
        for leaf in &known {
            let path = leaf.path.as_str();
            // The reasons for missing fields are an object in JSON, not a list of messages.
            if path.contains("absent.") {
                continue;
            }
            let values = values(actual, path);
            if let Some(expect) = self.fields.get(path) {
                match expect {
                    Expect::Values(wanted) if *wanted == values => {}
                    Expect::Values(wanted) => {
                        wrong.push(format!("{path} is {}, not {}", list(&values), list(wanted)))
                    }
                    Expect::Holds(check) => {
                        if let Err(problem) = check(&values) {
                            wrong.push(format!("{path}: {problem}"));
                        }
                    }
                }
            } else if self.absent.iter().any(|above| at_or_below(path, above)) {
                if !values.is_empty() {
                    wrong.push(format!("{path} is {}, not absent", list(&values)));
                }
            } else if !self
                .uncomparable
                .iter()
                .map(|(above, _)| *above)
                .chain(self.elsewhere.iter().map(String::as_str))
                .any(|above| at_or_below(path, above))
            {
                wrong.push(format!("{path} is not compared ({})", list(&values)));
            }
        }
        for path in self.fields.keys() {
            if !known.iter().any(|leaf| leaf.path == *path) {
                wrong.push(format!("{} has no field {path}", self.root));
            }
        }
        assert!(
            wrong.is_empty(),
            "{} differs:\n  {}\nof {actual:#}",
            self.root,
            wrong.join("\n  ")
        );
    }
}

fn list(values: &[Value]) -> String {
    match values {
        [] => "absent".to_owned(),
        [value] => value.to_string(),
        _ => Value::Array(values.to_vec()).to_string(),
    }
}

fn at_or_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The values of a field, with those in each of a list of messages one after another.
#[must_use]
pub fn values(message: &Value, path: &str) -> Vec<Value> {
    let mut found = vec![message];
    for key in path.split('.') {
        found = found
            .into_iter()
            .filter_map(|value| value.get(key))
            .flat_map(|value| match value {
                Value::Array(list) => list.iter().collect::<Vec<_>>(),
                Value::Null => Vec::new(),
                Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                    vec![value]
                }
            })
            .collect();
    }
    found.into_iter().cloned().collect()
}

/// A number, or a time in nanoseconds since 1970.
#[must_use]
pub fn number_of(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => number
            .as_u64()
            .map(i128::from)
            .or_else(|| number.as_i64().map(i128::from)),
        Value::String(text) => time_ns(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Nanoseconds since 1970 of `2026-01-31T23:59:59.123456789Z`.
#[must_use]
pub fn time_ns(text: &str) -> Option<i128> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.')?;
    let date: Vec<i64> = date
        .split('-')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let time: Vec<i64> = time
        .split(':')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let ([year, month, day], [hour, minute, second]) = (
        <[i64; 3]>::try_from(date).ok()?,
        <[i64; 3]>::try_from(time).ok()?,
    );
    if fraction.len() != 9 {
        return None;
    }
    // Days since 1970 by counting leap years: slow and plain, as befits the other side of a comparison.
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut days: i64 = (1970..year)
        .map(|year| if leap(year) { 366 } else { 365 })
        .sum();
    let february = if leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    days += months
        .iter()
        .take(usize::try_from(month - 1).ok()?)
        .sum::<i64>()
        + day
        - 1;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(fraction.parse::<i64>().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(time_ns("1970-01-01T00:00:00.000000000Z"), Some(0));
        assert_eq!(
            time_ns("2024-02-29T12:00:01.000000007Z"),
            Some(1_709_208_001_000_000_007)
        );
        assert_eq!(time_ns("2024-02-29 12:00:01Z"), None);
    }

    #[test]
    fn lists_of_messages_are_flattened() {
        let message = json!({"a": [{"b": 1}, {"c": 2}, {"b": [3, 4]}]});
        assert_eq!(values(&message, "a.b"), [json!(1), json!(3), json!(4)]);
        assert_eq!(values(&message, "x.y"), Vec::<Value>::new());
    }

    fn exit() -> Expected {
        let mut expected = Expected::new("Exit", &[("run_duration_ns", "for this test")]);
        expected.is("code", 5);
        expected.none("signal");
        expected.none("core_dumped");
        expected.between("user_duration_ns", 1, 3);
        expected.maybe("system_duration_ns", None::<u64>);
        expected
    }

    #[test]
    fn a_message_as_expected_passes() {
        exit().check(&json!({"code": 5, "user_duration_ns": 2, "run_duration_ns": 7}));
    }

    #[test]
    #[should_panic(expected = "code is 6, not 5")]
    fn another_value_fails() {
        exit().check(&json!({"code": 6, "user_duration_ns": 2}));
    }

    #[test]
    #[should_panic(expected = "signal is 9, not absent")]
    fn a_field_too_many_fails() {
        exit().check(&json!({"code": 5, "signal": 9, "user_duration_ns": 2}));
    }

    #[test]
    #[should_panic(expected = "code is not compared")]
    fn a_field_that_is_not_compared_fails() {
        let mut expected = exit();
        expected.forget("code");
        expected.check(&json!({"user_duration_ns": 2}));
    }
}
