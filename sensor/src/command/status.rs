//! `sensor status`: what the running daemon says of itself, as tables or as the JSON that it sent.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::command::{Streams, run::chain};
use crate::control::{self, ControlError, Request, Response};
use crate::exit::ExitStatus;
use crate::run::RUNTIME_FOLDER;

/// Asks the daemon of the host, or of a scope.
pub(super) fn ask(scope: Option<&Path>, request: Request) -> Result<Response, ControlError> {
    let path = control::socket_path(Path::new(RUNTIME_FOLDER), scope)?;
    control::ask(&path, request)
}

/// Says why the daemon could not be asked.
pub(super) fn failed(error: &ControlError, streams: &mut Streams<'_>) -> ExitStatus {
    streams.complain(&format!("sensor: {}", chain(error)));
    match error {
        ControlError::NotPermitted(_) => ExitStatus::Privilege,
        ControlError::NotRunning(_) | ControlError::Scope { .. } => ExitStatus::Usage,
        ControlError::Io(_) | ControlError::Malformed(_) => ExitStatus::Internal,
    }
}

/// Prints how the daemon stands.
pub fn run(json: bool, scope: Option<&Path>, streams: &mut Streams<'_>) -> ExitStatus {
    match ask(scope, Request::Status) {
        Ok(Response::Ok(status)) if json => streams.answer(&format!("{status}\n")),
        Ok(Response::Ok(status)) => streams.answer(&text(&status)),
        Ok(Response::Error(why)) => {
            streams.complain(&format!("sensor: {why}"));
            ExitStatus::Internal
        }
        Err(error) => failed(&error, streams),
    }
}

fn number(value: &Value, pointer: &str) -> u64 {
    let found = value.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_default()
}

fn word<'v>(value: &'v Value, pointer: &str) -> &'v str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default()
}

fn sum(value: Option<&Value>) -> u64 {
    let entries = value.and_then(Value::as_object);
    let numbers = entries
        .into_iter()
        .flatten()
        .filter_map(|(_, count)| count.as_u64());
    numbers.sum()
}

/// A number of bytes for people.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let (mut whole, mut tenth) = (count, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        tenth = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 {
        format!("{whole} {name}")
    } else {
        format!("{whole}.{tenth} {name}")
    }
}

/// A time for people, in the two largest units.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        (_, _, _) => format!("{days} d {} h", hours % 24),
    }
}

fn since(now_ns: i64, then: Option<&Value>) -> Option<String> {
    let then_ns = then.and_then(Value::as_i64)?;
    let passed = u64::try_from(now_ns.saturating_sub(then_ns)).unwrap_or_default();
    Some(span(Duration::from_nanos(passed).as_secs()))
}

fn text(status: &Value) -> String {
    let mut out = String::new();
    match write(&mut out, status) {
        Ok(()) => out,
        // Writing to a string does not fail.
        Err(error) => error.to_string(),
    }
}

fn write(out: &mut String, status: &Value) -> std::fmt::Result {
    let now_ns = status.pointer("/now_ns").and_then(Value::as_i64);
    let now_ns = now_ns.unwrap_or_default();
    writeln!(
        out,
        "sensor {} as process {}, running for {}",
        word(status, "/version"),
        number(status, "/pid"),
        span(number(status, "/uptime_seconds"))
    )?;
    writeln!(out, "hooks: {}", word(status, "/hooks"))?;
    if let Some(scope) = status.pointer("/scope").and_then(Value::as_str) {
        writeln!(out, "scope: {scope}")?;
    }
    confinement(out, status)?;
    rows(out, status)?;
    for open in status
        .pointer("/ledger/imbalances")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        writeln!(out, "  account not closed: {open}")?;
    }
    spool(out, status)?;
    for sink in status
        .pointer("/sinks")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        self::sink(out, sink, now_ns)?;
    }
    if let Some(settings) = status.pointer("/settings").filter(|value| !value.is_null()) {
        writeln!(
            out,
            "\nfilter settings: version {} {}{}",
            number(settings, "/version"),
            word(settings, "/state"),
            settings
                .pointer("/error")
                .and_then(Value::as_str)
                .map(|error| format!(": {error}"))
                .unwrap_or_default()
        )?;
    }
    Ok(())
}

fn rows(out: &mut String, status: &Value) -> std::fmt::Result {
    writeln!(
        out,
        "\n{:<12} {:>9} {:>12} {:>12} {:>10} {:>8} {:>8}",
        "type", "per s", "seen", "delivered", "filtered", "lost", "waiting"
    )?;
    let rows = status.pointer("/ledger/rows").and_then(Value::as_object);
    for (name, row) in rows.into_iter().flatten() {
        let sums = |keys: [&str; 2]| -> u64 { keys.iter().map(|key| sum(row.pointer(key))).sum() };
        let seen = number(row, "/kernel/attempted").max(number(row, "/daemon/received"))
            + number(row, "/daemon/synthesised");
        if seen == 0 {
            continue;
        }
        let filtered = sums(["/kernel/filtered", "/daemon/filtered"]);
        let lost =
            sums(["/kernel/lost", "/daemon/lost"]) + sum(row.pointer("/daemon/lost_in_reader"));
        let rate = status
            .pointer("/rates")
            .and_then(|rates| rates.get(name))
            .and_then(Value::as_f64);
        writeln!(
            out,
            "{name:<12} {:>9.1} {seen:>12} {:>12} {filtered:>10} {lost:>8} {:>8}",
            rate.unwrap_or_default(),
            number(row, "/daemon/sealed"),
            sum(row.pointer("/daemon/waiting")),
        )?;
    }
    Ok(())
}

fn spool(out: &mut String, status: &Value) -> std::fmt::Result {
    let Some(spool) = status.pointer("/spool").filter(|value| !value.is_null()) else {
        return Ok(());
    };
    writeln!(out, "\nspool: {}", word(spool, "/state"))?;
    if let Some(why) = spool.pointer("/why").and_then(Value::as_str) {
        writeln!(out, "  the disk takes nothing: {why}")?;
    }
    let classes = spool.pointer("/streams").and_then(Value::as_object);
    for (name, class) in classes.into_iter().flatten() {
        writeln!(
            out,
            "  {name:<8} {:>10} on disk in {} segments, {:>10} in memory, oldest {}",
            bytes(number(class, "/disk_bytes")),
            number(class, "/segments"),
            bytes(number(class, "/memory_bytes")),
            span(number(class, "/oldest_age_seconds")),
        )?;
    }
    let evicted = sum(spool.pointer("/evicted"));
    if evicted > 0 {
        writeln!(out, "  {evicted} events given up unread")?;
    }
    Ok(())
}

/// What the daemon has given up, by layer; those that are not in force say why.
fn confinement(out: &mut String, status: &Value) -> std::fmt::Result {
    let layers = status.pointer("/confinement").and_then(Value::as_array);
    let Some(layers) = layers else {
        return Ok(());
    };
    if layers.is_empty() {
        return writeln!(out, "confined: no, as configured");
    }
    let (mut names, mut absent) = (Vec::new(), String::new());
    for layer in layers {
        let name = word(layer, "/layer");
        if layer.pointer("/in_force").and_then(Value::as_bool) == Some(true) {
            names.push(name);
        } else {
            writeln!(absent, "  not by {name}: {}", word(layer, "/detail"))?;
        }
    }
    writeln!(out, "confined: {}", names.join(", "))?;
    out.push_str(&absent);
    Ok(())
}

fn sink(out: &mut String, sink: &Value, now_ns: i64) -> std::fmt::Result {
    write!(
        out,
        "\nsink {} ({} at {}): {}",
        word(sink, "/name"),
        word(sink, "/kind"),
        word(sink, "/address"),
        word(sink, "/state")
    )?;
    match since(now_ns, sink.pointer("/since_ns")) {
        Some(time) => writeln!(out, " for {time}")?,
        None => writeln!(out)?,
    }
    if let Some(why) = sink.pointer("/why").and_then(Value::as_str) {
        writeln!(
            out,
            "  {} ({} attempts): {why}",
            word(sink, "/word"),
            number(sink, "/attempts")
        )?;
    }
    writeln!(
        out,
        "  events: {} acknowledged, {} waiting, {} given up, {} refused; last acknowledgement {}",
        sum(sink.pointer("/account/acked")),
        sum(sink.pointer("/account/waiting")),
        sum(sink.pointer("/account/evicted")),
        sum(sink.pointer("/account/rejected")),
        since(now_ns, sink.pointer("/last_ack_ns"))
            .map_or_else(|| "never".to_owned(), |time| format!("{time} ago")),
    )?;
    writeln!(
        out,
        "  packets: {} waiting, {} ({}) on the way; the oldest waits for {}",
        number(sink, "/account/waiting_packets"),
        number(sink, "/in_flight_packets"),
        bytes(number(sink, "/in_flight_bytes")),
        span(number(sink, "/lag_seconds")),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_well() {
        let status = serde_json::json!({
            "version": "1.2.3", "pid": 7, "uptime_seconds": 3_725, "now_ns": 100_000_000_000_i64,
            "hooks": "6 of 6", "scope": null,
            "confinement": [{"layer": "capabilities", "in_force": true, "detail": "kept: none"},
                {"layer": "seccomp", "in_force": true, "detail": ""},
                {"layer": "landlock", "in_force": false, "detail": "the kernel has none"}],
            "ledger": {"rows": {"exec": {"kernel": {"attempted": 12, "filtered": {"scope": 1}, "lost": {}},
                "daemon": {"received": 11, "synthesised": 1, "sealed": 10, "filtered": {"a": 1}, "lost": {"x": 2},
                "waiting": {"hold": 3}}}, "exit": {}}, "imbalances": []},
            "rates": {"exec": 2.5},
            "spool": {"state": "memory", "why": "full", "streams": {"process": {"disk_bytes": 1_572_864, "segments": 2}},
                "evicted": {"spool_bytes": 4}},
            "sinks": [{"name": "node", "kind": "central_node", "address": "node:1", "state": "retrying",
                "since_ns": 40_000_000_000_i64, "word": "silent", "why": "nothing came", "attempts": 3, "last_ack_ns": null,
                "account": {"acked": {"exec": 5}, "waiting": {"exec": 6}, "waiting_packets": 2},
                "in_flight_packets": 1, "in_flight_bytes": 512, "lag_seconds": 90_000}],
            "settings": {"version": 4, "state": "refused", "error": "rule 2"},
        });
        let expected = "\
sensor 1.2.3 as process 7, running for 1 h 2 min
hooks: 6 of 6
confined: capabilities, seccomp
  not by landlock: the kernel has none

type             per s         seen    delivered   filtered     lost  waiting
exec               2.5           13           10          2        2        3

spool: memory
  the disk takes nothing: full
  process     1.5 MiB on disk in 2 segments,        0 B in memory, oldest 0 s
  4 events given up unread

sink node (central_node at node:1): retrying for 1 min 0 s
  silent (3 attempts): nothing came
  events: 5 acknowledged, 6 waiting, 0 given up, 0 refused; last acknowledgement never
  packets: 2 waiting, 1 (512 B) on the way; the oldest waits for 1 d 1 h

filter settings: version 4 refused: rule 2
";
        assert_eq!(text(&status), expected);
    }

    #[test]
    fn a_status_of_anything_does_not_panic() {
        for status in [
            Value::Null,
            serde_json::json!([]),
            serde_json::json!({"ledger": 3, "sinks": [1]}),
        ] {
            text(&status);
        }
    }
}
