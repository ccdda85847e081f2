//! `central-node agents`

use sensor_proto::v1;
use serde_json::{Value, json};

use super::{Streams, store_status};
use crate::args::AgentsArgs;
use crate::clock::{now_ns, parse, rfc3339};
use crate::completeness::{Finding, Question, Report, Span, What};
use crate::exit::ExitStatus;
use crate::store::read::{self, AgentRow, StreamRow};
use crate::store::{self, StoreError};

/// Findings that a line of the table names.
const NAMED: usize = 3;

/// One agent, as it is shown.
struct Agent {
    row: AgentRow,
    streams: Vec<StreamRow>,
    reports: Vec<(v1::Stream, Report)>,
}

/// Shows who delivers, and how complete it is.
pub fn run(args: &AgentsArgs, streams: &mut Streams<'_>) -> ExitStatus {
    let now = now_ns();
    let times = parse(&args.since, now).and_then(|from_ns| match &args.until {
        Some(until) => Ok((from_ns, parse(until, now)?)),
        None => Ok((from_ns, now)),
    });
    let (from_ns, to_ns) = match times {
        Ok(times) => times,
        Err(error) => return streams.fail(&error, ExitStatus::Usage),
    };
    let question = Question {
        span: Span { from_ns, to_ns },
        event_type: args.event_type,
    };
    let agents = match look(args, &question) {
        Ok(agents) => agents,
        Err(error) => return streams.fail(&error, store_status(&error)),
    };
    let written = if args.json {
        agents
            .iter()
            .try_for_each(|agent| writeln!(streams.out, "{}", as_json(agent, now)))
    } else {
        table(&agents, now, streams)
    };
    streams.written(written)
}

fn look(args: &AgentsArgs, question: &Question) -> Result<Vec<Agent>, StoreError> {
    let connection = store::open(&args.data)?;
    let mut agents = Vec::new();
    for row in read::agents(&connection, &args.agent)? {
        agents.push(Agent {
            streams: read::streams(&connection, row.agent)?,
            reports: read::completeness(&connection, &row, question)?,
            row,
        });
    }
    Ok(agents)
}

/// Where an agent stands: the time up to which all its streams are accounted for.
fn accounted_to_ns(agent: &Agent) -> Option<i64> {
    let to_ns = agent
        .reports
        .iter()
        .map(|(_, report)| report.accounted_to_ns);
    to_ns.min().flatten()
}

fn span_text(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn ago(time_ns: i64, now_ns: i64) -> String {
    let seconds = now_ns.saturating_sub(time_ns).max(0) / crate::clock::SECOND_NS;
    span_text(seconds)
}

fn table(agents: &[Agent], now: i64, streams: &mut Streams<'_>) -> std::io::Result<()> {
    writeln!(
        streams.out,
        "{:<36}  {:<20}  {:<12}  {:>6}  {:>6}  {:>8}  {:>10}  {:>9}  completeness",
        "agent", "host", "version", "seen", "lag", "waiting", "events", "conflicts"
    )?;
    for agent in agents {
        let row = &agent.row;
        let sum =
            |of: fn(&StreamRow) -> i64| agent.streams.iter().map(of).fold(0, i64::saturating_add);
        let waiting = row.sync.as_ref().map_or_else(
            || "?".to_owned(),
            |(sync, _)| sync.waiting_packets.to_string(),
        );
        writeln!(
            streams.out,
            "{:<36}  {:<20}  {:<12}  {:>6}  {:>6}  {:>8}  {:>10}  {:>9}  {}",
            row.id.to_string(),
            plain(&row.host),
            plain(&row.version),
            ago(row.seen_ns.1, now),
            accounted_to_ns(agent).map_or_else(|| "?".to_owned(), |to_ns| ago(to_ns, now)),
            waiting,
            sum(|stream| stream.events),
            sum(|stream| stream.conflicts),
            verdict(agent),
        )?;
    }
    Ok(())
}

/// What a terminal may show of text that came from elsewhere.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(40)
        .collect()
}

/// Completeness in one line: what happens always (after the last packet nothing is known yet) is said as the time up to which.
fn verdict(agent: &Agent) -> String {
    let mut parts = Vec::new();
    for (stream, report) in &agent.reports {
        let found: Vec<&Finding> = report
            .findings
            .iter()
            .filter(|finding| finding.what != What::NotYet)
            .collect();
        let name = stream.short_name();
        if found.is_empty() && report.more == 0 {
            parts.push(match report.accounted_to_ns {
                Some(to_ns) => format!("{name}: complete to {}", rfc3339(to_ns)),
                None => format!("{name}: unknown"),
            });
            continue;
        }
        let mut told: Vec<String> = found.iter().take(NAMED).map(|found| tell(found)).collect();
        let more = u64::try_from(found.len().saturating_sub(NAMED))
            .unwrap_or(u64::MAX)
            .saturating_add(report.more);
        if more > 0 {
            told.push(format!("{more} more (--json)"));
        }
        parts.push(format!("{name}: {}", told.join(", ")));
    }
    parts.join("; ")
}

fn time(time_ns: i64) -> String {
    match time_ns {
        i64::MIN => "the beginning".to_owned(),
        i64::MAX => "now".to_owned(),
        time_ns => rfc3339(time_ns),
    }
}

fn tell(finding: &Finding) -> String {
    let range = |first: &i64, last: &i64| {
        if first == last {
            format!("packet {first}")
        } else {
            format!("packets {first}-{last}")
        }
    };
    match &finding.what {
        What::Lost {
            name,
            origin,
            cause,
            count,
        } => format!(
            "lost {count} {} ({} {})",
            plain(name),
            origin.name(),
            plain(cause)
        ),
        What::Evicted {
            first, last, count, ..
        } => {
            let count = count.map_or_else(|| "?".to_owned(), |count| count.to_string());
            format!("evicted {} ({count} events)", range(first, last))
        }
        What::Rejected { first, last } => format!("rejected {}", range(first, last)),
        What::Missing { first, last, count } => {
            let count = count.map_or_else(String::new, |count| format!(" ({count} events)"));
            format!("missing {}{count}", range(first, last))
        }
        What::Blind { after_clean_stop } => {
            let why = if *after_clean_stop {
                "stopped"
            } else {
                "unclean end"
            };
            format!(
                "blind {} to {} ({why})",
                time(finding.from_ns),
                time(finding.to_ns)
            )
        }
        What::Contradiction { sequence } => format!("contradiction at packet {sequence}"),
        What::Conflict { sequence } => format!("conflict at packet {sequence}"),
        What::Unknown if finding.from_ns == i64::MIN => {
            format!("unknown before {}", time(finding.to_ns))
        }
        What::Unknown => format!(
            "unknown {} to {}",
            time(finding.from_ns),
            time(finding.to_ns)
        ),
        What::NotYet => format!("not yet after {}", time(finding.from_ns)),
    }
}

fn finding_json(finding: &Finding) -> Value {
    let (kind, mut value) = match &finding.what {
        What::Lost {
            name,
            origin,
            cause,
            count,
        } => (
            "lost",
            json!({"name": name, "place": origin.name(), "cause": cause, "count": count}),
        ),
        What::Evicted {
            first,
            last,
            cause,
            count,
        } => (
            "evicted",
            json!({"first_sequence": first, "last_sequence": last, "cause": cause.short_name(), "count": count}),
        ),
        What::Rejected { first, last } => (
            "rejected",
            json!({"first_sequence": first, "last_sequence": last}),
        ),
        What::Missing { first, last, count } => (
            "missing",
            json!({"first_sequence": first, "last_sequence": last, "count": count}),
        ),
        What::Blind { after_clean_stop } => {
            ("blind", json!({"after_clean_stop": after_clean_stop}))
        }
        What::Contradiction { sequence } => ("contradiction", json!({"sequence": sequence})),
        What::Conflict { sequence } => ("conflict", json!({"sequence": sequence})),
        What::Unknown => ("unknown", json!({})),
        What::NotYet => ("not_yet", json!({})),
    };
    if let Some(object) = value.as_object_mut() {
        object.insert("finding".to_owned(), kind.into());
        for (key, time_ns) in [("from", finding.from_ns), ("to", finding.to_ns)] {
            if time_ns != i64::MIN && time_ns != i64::MAX {
                object.insert(key.to_owned(), rfc3339(time_ns).into());
            }
        }
    }
    value
}

fn report_json(stream: v1::Stream, report: &Report) -> Value {
    json!({
        "stream": stream.short_name(),
        "complete": report.complete(),
        "accounted_from": report.accounted_from_ns.map(rfc3339),
        "accounted_to": report.accounted_to_ns.map(rfc3339),
        "events": report.events,
        "lost": report.lost(),
        "unseen_at_most": report.unseen_at_most,
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "more_findings": report.more,
    })
}

fn stream_json(stream: &StreamRow) -> Value {
    let name = v1::Stream::try_from(stream.stream).map_or("unknown", v1::Stream::short_name);
    json!({
        "epoch": uuid::Uuid::from_bytes(stream.epoch_id).simple().to_string(),
        "stream": name,
        "lowest_sequence": stream.sequences.0,
        "highest_sequence": stream.sequences.1,
        "packets": stream.packets,
        "events": stream.events,
        "forgotten_to_sequence": stream.floor,
        "last_sealed": rfc3339(stream.sealed_ns),
        "conflicts": stream.conflicts,
        "chain_broken": stream.broken,
        "account_went_back": stream.backwards,
        "repeated_events": stream.repeated,
        "duplicates": stream.duplicates,
        "account_rows": stream.names,
    })
}

/// A sink's account as the agent told it, and whether it adds up.
fn sink_json(sink: &v1::SinkReport) -> Value {
    let settled = [sink.acked, sink.evicted, sink.rejected, sink.waiting];
    let settled = settled.into_iter().fold(0, u64::saturating_add);
    json!({
        "name": sink.name,
        "sealed": sink.sealed,
        "acked": sink.acked,
        "evicted": sink.evicted,
        "rejected": sink.rejected,
        "waiting": sink.waiting,
        "adds_up": settled == sink.sealed,
    })
}

fn as_json(agent: &Agent, now: i64) -> Value {
    let row = &agent.row;
    let settings = |sync: &v1::SyncRequest| -> Vec<Value> {
        sync.settings
            .iter()
            .map(|status| {
                json!({
                    "type": status.r#type,
                    "version": status.version,
                    "state": status.state().short_name(),
                    "error": status.error,
                })
            })
            .collect()
    };
    let sync = row.sync.as_ref().map(|(sync, at_ns)| {
        json!({
            "at": rfc3339(*at_ns),
            "waiting_packets": sync.waiting_packets,
            "spool_bytes": sync.spool_bytes,
            "settings": settings(sync),
            "sinks": sync.sinks.iter().map(sink_json).collect::<Vec<_>>(),
            "degraded": sync.self_protection.as_ref().map(|state| &state.degraded),
            "last_error": sync.enrollment.as_ref().and_then(|state| state.last_error.as_ref()),
        })
    });
    let lag_ns = accounted_to_ns(agent).map(|to_ns| now.saturating_sub(to_ns).max(0));
    json!({
        "agent_id": row.id.to_string(),
        "host": row.host,
        "version": row.version,
        "first_seen": rfc3339(row.seen_ns.0),
        "last_seen": rfc3339(row.seen_ns.1),
        "certificate_ends": row.certificate_end_ns.map(rfc3339),
        "lag_seconds": lag_ns.map(|lag_ns| lag_ns / crate::clock::SECOND_NS),
        "complete": agent.reports.iter().all(|(_, report)| report.complete()),
        "completeness": agent.reports.iter().map(|(stream, report)| report_json(*stream, report)).collect::<Vec<_>>(),
        "streams": agent.streams.iter().map(stream_json).collect::<Vec<_>>(),
        "state": sync,
    })
}
