//! The status as metrics in the text format of Prometheus (`text/plain; version=0.0.4`): names and units by its conventions. Every
//! number is one that `sensor status --json` has, too.

use std::collections::BTreeSet;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, TextEncoder};
use serde_json::Value;

use crate::spool::Cause;

/// Families in the order of their names, each once.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

/// Labels of a sample.
type Labels<'l> = &'l [(&'l str, &'l str)];

impl Families {
    fn sample(&mut self, kind: MetricType, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        let mut metric = Metric::from_label(
            labels
                .iter()
                .map(|(name, value)| {
                    let mut label = LabelPair::default();
                    label.set_name((*name).to_owned());
                    label.set_value((*value).to_owned());
                    label
                })
                .collect(),
        );
        if kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        if let Some(family) = self.0.iter_mut().find(|family| family.name() == name) {
            family.mut_metric().push(metric);
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(vec![metric]);
        self.0.push(family);
    }

    fn counter(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        self.sample(MetricType::COUNTER, name, help, labels, value);
    }

    fn gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        self.sample(MetricType::GAUGE, name, help, labels, value);
    }
}

fn number(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer).and_then(Value::as_f64)
}

fn word<'v>(value: &'v Value, pointer: &str) -> &'v str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default()
}

fn entries<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = (&'v str, &'v Value)> {
    let map = value.pointer(pointer).and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
}

/// Numbers under names.
fn numbers<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = (&'v str, f64)> {
    entries(value, pointer).filter_map(|(name, value)| Some((name, value.as_f64()?)))
}

/// The metrics of a status; `refused`: connections that the server itself has refused.
///
/// # Errors
/// A family without a sample, which there is not.
pub(super) fn of(status: &Value, refused: u64) -> Result<String, prometheus::Error> {
    let mut families = Families::default();
    let version = word(status, "/version");
    families.gauge(
        "sensor_build_info",
        "The version, as a label; always 1.",
        &[("version", version)],
        1.0,
    );
    if let Some(seconds) = number(status, "/uptime_seconds") {
        families.gauge(
            "sensor_uptime_seconds",
            "Time since programs were attached.",
            &[],
            seconds,
        );
    }
    watching(&mut families, status);
    ledger(&mut families, status);
    spool(&mut families, status);
    let sinks = status.pointer("/sinks").and_then(Value::as_array);
    for sink in sinks.into_iter().flatten() {
        self::sink(&mut families, sink);
    }
    families.counter(
        "sensor_metrics_connections_refused_total",
        "Connections to this server beyond those that are served at the same time.",
        &[],
        Value::from(refused).as_f64().unwrap_or_default(),
    );
    process(&mut families, status);
    families
        .0
        .sort_by(|one, other| one.name().cmp(other.name()));
    let mut bytes = Vec::new();
    TextEncoder::new().encode(&families.0, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `exec=tracepoint exit=tracepoint connect=none`: a hook for each kind of record, or none.
fn watching(families: &mut Families, status: &Value) {
    for pair in word(status, "/hooks").split_whitespace() {
        if let Some((kind, hook)) = pair.split_once('=') {
            let watched = if hook == "none" { 0.0 } else { 1.0 };
            families.gauge(
                "sensor_event_type_watched",
                "Whether a hook for this event type is attached, and of which family.",
                &[("type", kind), ("hook", hook)],
                watched,
            );
        }
    }
}

fn ledger(families: &mut Families, status: &Value) {
    for (row, account) in entries(status, "/ledger/rows") {
        let labels = [("type", row)];
        for (pointer, name, help) in [
            (
                "/kernel/attempted",
                "sensor_kernel_records_attempted_total",
                "What the kernel's programs were about to tell, before filters and losses.",
            ),
            (
                "/kernel/submitted",
                "sensor_kernel_records_submitted_total",
                "Records that the kernel's programs put into a ring.",
            ),
            (
                "/kernel/throttled",
                "sensor_kernel_records_throttled_total",
                "Records that became part of a count in the kernel.",
            ),
            (
                "/daemon/received",
                "sensor_records_received_total",
                "Records that were taken out of a ring.",
            ),
            (
                "/daemon/decoded",
                "sensor_records_decoded_total",
                "Records that were understood.",
            ),
            (
                "/daemon/synthesised",
                "sensor_events_synthesised_total",
                "Events that the daemon made itself.",
            ),
            (
                "/daemon/merged",
                "sensor_events_merged_total",
                "Records that became part of another event.",
            ),
            (
                "/daemon/sealed",
                "sensor_events_delivered_total",
                "Events handed to the sinks.",
            ),
        ] {
            if let Some(value) = number(account, pointer) {
                families.counter(name, help, &labels, value);
            }
        }
        for (side, pointer) in [
            ("kernel", "/kernel/filtered"),
            ("daemon", "/daemon/filtered"),
        ] {
            for (rule, value) in numbers(account, pointer) {
                families.counter(
                    "sensor_events_filtered_total",
                    "Events dropped on purpose, by the rule that did.",
                    &[("type", row), ("side", side), ("rule", rule)],
                    value,
                );
            }
        }
        for (side, pointer) in [
            ("kernel", "/kernel/lost"),
            ("reader", "/daemon/lost_in_reader"),
            ("daemon", "/daemon/lost"),
        ] {
            // The sum is there from the start: an alert on its increase needs a first value.
            let all: f64 = numbers(account, pointer).map(|(_, value)| value).sum();
            families.counter(
                "sensor_events_lost_total",
                "Events lost, by where.",
                &[("type", row), ("side", side)],
                all,
            );
            for (cause, value) in numbers(account, pointer) {
                families.counter(
                    "sensor_events_lost_by_cause_total",
                    "Events lost, by where and why.",
                    &[("type", row), ("side", side), ("cause", cause)],
                    value,
                );
            }
        }
        for (place, value) in numbers(account, "/daemon/waiting") {
            families.gauge(
                "sensor_events_waiting",
                "Events on their way through the daemon, by place.",
                &[("type", row), ("place", place)],
                value,
            );
        }
    }
    for (reason, value) in numbers(status, "/ledger/decode_errors") {
        families.counter(
            "sensor_decode_errors_total",
            "Samples that were no record, by reason.",
            &[("reason", reason)],
            value,
        );
    }
    for (program, value) in numbers(status, "/ledger/unseen_at_most") {
        families.counter(
            "sensor_program_skipped_total",
            "How often the kernel skipped a program (recursion_misses): at most so many events were never seen.",
            &[("program", program)],
            value,
        );
    }
    for (lane, value) in numbers(status, "/ledger/sequence_gaps") {
        families.counter(
            "sensor_sequence_gaps_total",
            "Sequence numbers that are missing in a lane; a check of the losses that the kernel's programs count.",
            &[("lane", lane)],
            value,
        );
    }
    for (place, value) in numbers(status, "/ledger/places") {
        families.gauge(
            "sensor_place",
            "Counters and fillings of caches, tables and pools, by name (docs/loss.md).",
            &[("place", place)],
            value,
        );
    }
    let open = status
        .pointer("/ledger/imbalances")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    families.gauge(
        "sensor_ledger_imbalances",
        "Accounts that do not add up; a fault of the sensor if it stays above 0.",
        &[],
        Value::from(open).as_f64().unwrap_or_default(),
    );
}

fn spool(families: &mut Families, status: &Value) {
    let Some(spool) = status.pointer("/spool").filter(|spool| !spool.is_null()) else {
        return;
    };
    let on_disk = if word(spool, "/state") == "disk" {
        1.0
    } else {
        0.0
    };
    families.gauge(
        "sensor_spool_on_disk",
        "1: the spool writes to its disk; 0: it cannot, and packets wait in memory.",
        &[],
        on_disk,
    );
    for (stream, class) in entries(spool, "/streams") {
        for (pointer, place) in [("/disk_bytes", "disk"), ("/memory_bytes", "memory")] {
            if let Some(value) = number(class, pointer) {
                families.gauge(
                    "sensor_spool_bytes",
                    "Packets that wait, in bytes.",
                    &[("stream", stream), ("place", place)],
                    value,
                );
            }
        }
        if let Some(value) = number(class, "/oldest_age_seconds") {
            families.gauge(
                "sensor_spool_oldest_packet_age_seconds",
                "Age of the oldest packet that waits.",
                &[("stream", stream)],
                value,
            );
        }
    }
    // Every cause from the start: an alert on the increase needs a first value.
    for cause in Cause::ALL {
        let cause = cause.name();
        let value = number(spool, &format!("/evicted/{cause}")).unwrap_or_default();
        families.counter(
            "sensor_spool_events_evicted_total",
            "Events given up unread, by cause.",
            &[("cause", cause)],
            value,
        );
    }
    for (pointer, name, help) in [
        (
            "/disk_failures",
            "sensor_spool_disk_failures_total",
            "How often the disk began to take nothing.",
        ),
        (
            "/read_errors",
            "sensor_spool_read_errors_total",
            "Reads of the spool that failed.",
        ),
        (
            "/tombstones_dropped",
            "sensor_spool_tombstones_dropped_total",
            "Explanations of gaps that themselves had to go.",
        ),
    ] {
        if let Some(value) = number(spool, pointer) {
            families.counter(name, help, &[], value);
        }
    }
    for (pointer, name, help) in [
        (
            "/quarantine_bytes",
            "sensor_spool_quarantine_bytes",
            "Damaged parts of the spool that were put aside.",
        ),
        (
            "/rejected_bytes",
            "sensor_spool_rejected_bytes",
            "Packets that a receiver refused for good, put aside.",
        ),
    ] {
        if let Some(value) = number(spool, pointer) {
            families.gauge(name, help, &[], value);
        }
    }
}

fn sink(families: &mut Families, sink: &Value) {
    let name = word(sink, "/name");
    let labels = [("sink", name), ("kind", word(sink, "/kind"))];
    let delivering = if word(sink, "/state") == "delivering" {
        1.0
    } else {
        0.0
    };
    families.gauge(
        "sensor_sink_delivering",
        "1: the receiver is connected; 0: it is tried again.",
        &labels,
        delivering,
    );
    let labels = [("sink", name)];
    for (pointer, family, help) in [
        (
            "/sessions",
            "sensor_sink_sessions_total",
            "Sessions that began.",
        ),
        (
            "/acked_packets",
            "sensor_sink_packets_acknowledged_total",
            "Packets acknowledged.",
        ),
        (
            "/acked_bytes",
            "sensor_sink_acknowledged_bytes_total",
            "Bytes of packets acknowledged.",
        ),
        (
            "/rejected_packets",
            "sensor_sink_packets_rejected_total",
            "Packets refused for good.",
        ),
        (
            "/gaps",
            "sensor_sink_gaps_total",
            "Gaps: packets that were given up before this sink had them.",
        ),
        (
            "/account/false_acks",
            "sensor_sink_false_acknowledgements_total",
            "Acknowledgements of what was never sent.",
        ),
        (
            "/sync_faults",
            "sensor_sink_synchronisation_failures_total",
            "Synchronisations with a central node that failed.",
        ),
    ] {
        if let Some(value) = number(sink, pointer) {
            families.counter(family, help, &labels, value);
        }
    }
    for (pointer, family, help) in [
        (
            "/lag_seconds",
            "sensor_sink_lag_seconds",
            "Age of the oldest packet that waits for this sink.",
        ),
        (
            "/in_flight_packets",
            "sensor_sink_in_flight_packets",
            "Packets sent and not yet acknowledged.",
        ),
        (
            "/account/waiting_packets",
            "sensor_sink_waiting_packets",
            "Packets that wait for this sink.",
        ),
    ] {
        if let Some(value) = number(sink, pointer) {
            families.gauge(family, help, &labels, value);
        }
    }
    if let Some(nanoseconds) = number(sink, "/last_ack_ns") {
        families.gauge(
            "sensor_sink_last_acknowledgement_timestamp_seconds",
            "Time of the last acknowledgement, seconds since 1970.",
            &labels,
            nanoseconds / 1e9,
        );
    }
    for (fault, value) in numbers(sink, "/faults") {
        families.counter(
            "sensor_sink_faults_total",
            "Sessions and attempts that failed, by what went wrong.",
            &[("sink", name), ("fault", fault)],
            value,
        );
    }
    // Every type that has been sealed for it has all four, so that they can be compared.
    let types: BTreeSet<&str> = entries(sink, "/account/sealed")
        .map(|(kind, _)| kind)
        .collect();
    for kind in types {
        let labels = [("sink", name), ("type", kind)];
        let count = |term: &str| number(sink, &format!("/account/{term}/{kind}"));
        families.counter(
            "sensor_sink_events_acknowledged_total",
            "Events acknowledged.",
            &labels,
            count("acked").unwrap_or_default(),
        );
        families.counter(
            "sensor_sink_events_rejected_total",
            "Events refused for good.",
            &labels,
            count("rejected").unwrap_or_default(),
        );
        families.gauge(
            "sensor_sink_events_waiting",
            "Events in packets that wait for this sink.",
            &labels,
            count("waiting").unwrap_or_default(),
        );
    }
    for cause in Cause::ALL {
        let cause = cause.name();
        let value = number(sink, &format!("/account/evicted/{cause}")).unwrap_or_default();
        families.counter(
            "sensor_sink_events_evicted_total",
            "Events given up before this sink had them, by cause.",
            &[("sink", name), ("cause", cause)],
            value,
        );
    }
}

/// What every program tells of itself, under the names that all have in common.
fn process(families: &mut Families, status: &Value) {
    for (pointer, name, help, counter) in [
        (
            "/process/cpu_seconds",
            "process_cpu_seconds_total",
            "CPU time of the sensor, user and system.",
            true,
        ),
        (
            "/process/resident_memory_bytes",
            "process_resident_memory_bytes",
            "Resident memory of the sensor; rings that are mapped count.",
            false,
        ),
        (
            "/process/open_fds",
            "process_open_fds",
            "Open descriptors of the sensor.",
            false,
        ),
        (
            "/process/start_time_seconds",
            "process_start_time_seconds",
            "When the sensor was started, seconds since 1970.",
            false,
        ),
    ] {
        if let Some(value) = number(status, pointer) {
            let kind = if counter {
                MetricType::COUNTER
            } else {
                MetricType::GAUGE
            };
            families.sample(kind, name, help, &[], value);
        }
    }
}
