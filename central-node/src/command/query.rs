//! `central-node query` and `central-node export`

use std::io;

use sensor_proto::packet::OpenedPacket;
use sensor_proto::v1;
use sensor_proto::v1::event::Body;

use super::{Streams, store_status};
use crate::args::{Criteria as Typed, ExportArgs, QueryArgs};
use crate::clock::{now_ns, parse, rfc3339};
use crate::completeness::Span;
use crate::exit::ExitStatus;
use crate::query::{Criteria, Criterion, CriterionError, Match, Order, SearchError, search};
use crate::store;

/// How often a follower looks for more.
const FOLLOW: std::time::Duration = std::time::Duration::from_millis(500);

/// Why criteria are none.
#[derive(Debug, thiserror::Error)]
enum TypedError {
    #[error(transparent)]
    Time(#[from] crate::clock::TimeError),
    #[error(transparent)]
    Criterion(#[from] CriterionError),
}

fn meant(typed: &Typed) -> Result<Criteria, TypedError> {
    let now = now_ns();
    let mut span = Span::ALL;
    if let Some(since) = &typed.since {
        span.from_ns = parse(since, now)?;
    }
    if let Some(until) = &typed.until {
        span.to_ns = parse(until, now)?;
    }
    let mut criteria = Vec::new();
    let mut add = |texts: &[String],
                   parse: fn(&mut Criterion, &str) -> Result<(), CriterionError>|
     -> Result<(), CriterionError> {
        if texts.is_empty() {
            return Ok(());
        }
        let mut criterion = Criterion::default();
        for text in texts {
            parse(&mut criterion, text)?;
        }
        criteria.push(criterion);
        Ok(())
    };
    add(&typed.process, Criterion::process)?;
    add(&typed.path, Criterion::path)?;
    add(&typed.hash, Criterion::hash)?;
    add(&typed.address, Criterion::address)?;
    add(&typed.user, Criterion::user)?;
    if !typed.port.is_empty() {
        let mut criterion = Criterion::default();
        for port in &typed.port {
            criterion.port(*port);
        }
        criteria.push(criterion);
    }
    Ok(Criteria {
        span,
        agents: typed.agent.clone(),
        hosts: typed.host.clone(),
        types: typed.event_type.clone(),
        criteria,
    })
}

fn failed(error: SearchError, streams: &mut Streams<'_>) -> ExitStatus {
    match error {
        SearchError::Store(error) => streams.fail(&error, store_status(&error)),
        SearchError::Output(error) => streams.written(Err(error)),
    }
}

/// Shows events.
pub fn query(args: &QueryArgs, streams: &mut Streams<'_>) -> ExitStatus {
    let criteria = match meant(&args.criteria) {
        Ok(criteria) => criteria,
        Err(error) => return streams.fail(&error, ExitStatus::Usage),
    };
    let connection = match store::open(&args.criteria.data) {
        Ok(connection) => connection,
        Err(error) => return streams.fail(&error, store_status(&error)),
    };
    let mut line = Vec::new();
    if args.limit == 0 {
        let searched = header(args, streams)
            .map_err(SearchError::Output)
            .and_then(|()| {
                search(&connection, &criteria, Order::After(None), &mut |found| {
                    line.clear();
                    render(args, found, &mut line);
                    streams.out.write_all(&line)?;
                    Ok(true)
                })
            });
        return match searched {
            Ok(()) => finish(streams),
            Err(error) => failed(error, streams),
        };
    }
    // The newest, shown as they happened.
    let mut newest: Vec<(i64, Vec<u8>)> = Vec::new();
    let searched = search(&connection, &criteria, Order::NewestFirst, &mut |found| {
        line.clear();
        render(args, found, &mut line);
        newest.push((found.event.time_ns, line.clone()));
        Ok(newest.len() < args.limit)
    });
    if let Err(error) = searched {
        return failed(error, streams);
    }
    newest.reverse();
    newest.sort_by_key(|(time_ns, _)| *time_ns);
    let written = header(args, streams).and_then(|()| {
        newest
            .iter()
            .try_for_each(|(_, line)| streams.out.write_all(line))
    });
    match written {
        Ok(()) => finish(streams),
        Err(error) => streams.written(Err(error)),
    }
}

fn finish(streams: &mut Streams<'_>) -> ExitStatus {
    let flushed = streams.out.flush();
    streams.written(flushed)
}

fn header(args: &QueryArgs, streams: &mut Streams<'_>) -> io::Result<()> {
    if !args.table {
        return Ok(());
    }
    writeln!(
        streams.out,
        "{:<30}  {:<16}  {:<12}  {:<12}  {:>7}  {:<20}  about",
        "time", "host", "type", "user", "pid", "process"
    )
}

fn render(args: &QueryArgs, found: &Match<'_>, line: &mut Vec<u8>) {
    if args.table {
        line.extend_from_slice(row(found).as_bytes());
    } else {
        found.packet.write_event_json(found.event, line);
    }
    line.push(b'\n');
}

fn text(bytes: Option<&[u8]>) -> String {
    let text = String::from_utf8_lossy(bytes.unwrap_or(b"-"));
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn row(found: &Match<'_>) -> String {
    let (event, packet) = (found.event, found.packet);
    let process = packet.actor(event);
    let credentials = event
        .credentials
        .as_ref()
        .or_else(|| process.and_then(|process| process.credentials.as_ref()));
    let user = credentials.and_then(|credentials| credentials.effective_user.as_ref());
    let user = user.map_or_else(
        || "-".to_owned(),
        |user| user.name.clone().unwrap_or_else(|| user.id.to_string()),
    );
    let host = packet
        .body()
        .host
        .as_ref()
        .map_or("-", |host| host.name.as_str());
    format!(
        "{:<30}  {:<16}  {:<12}  {:<12}  {:>7}  {:<20}  {}",
        rfc3339(event.time_ns),
        text(Some(host.as_bytes())),
        event.event_type().short_name(),
        text(Some(user.as_bytes())),
        event.process.as_ref().map_or(0, |process| process.pid),
        text(process.and_then(v1::Process::name)),
        about(event, packet),
    )
}

fn about(event: &v1::Event, packet: &OpenedPacket) -> String {
    let path = |file: Option<&v1::FileInfo>| text(file.and_then(|file| file.path.as_deref()));
    match &event.body {
        Some(Body::Exec(_)) => {
            let argv = packet.actor(event).map(|process| process.argv.join(&b' '));
            text(argv.as_deref())
        }
        Some(Body::Exit(exit)) => match (exit.code, exit.signal) {
            (_, Some(signal)) => format!("signal {signal}"),
            (code, None) => format!("code {}", code.unwrap_or_default()),
        },
        Some(Body::Fork(fork)) => {
            format!("child {}", fork.child.as_ref().map_or(0, |child| child.pid))
        }
        Some(Body::FileCreate(create)) => path(create.file.as_ref()),
        Some(Body::ModuleLoad(load)) => text(load.name.as_deref()),
        Some(Body::Connect(connect)) => {
            let end = |end: Option<&v1::Endpoint>| {
                let end = end?;
                let address = end.address.as_deref()?;
                let address = <[u8; 4]>::try_from(address)
                    .map(std::net::IpAddr::from)
                    .or_else(|_| <[u8; 16]>::try_from(address).map(std::net::IpAddr::from))
                    .ok()?;
                let port = u16::try_from(end.port.unwrap_or_default()).unwrap_or_default();
                Some(std::net::SocketAddr::new(address, port).to_string())
            };
            end(connect.remote.as_ref())
                .or_else(|| {
                    let remote = connect.remote.as_ref()?;
                    Some(text(remote.unix_path.as_deref()))
                })
                .unwrap_or_else(|| "-".to_owned())
        }
        Some(Body::Patch(patch)) => {
            let counter = patch.of.as_ref().map_or(0, |of| of.counter);
            format!("of {} {counter}", patch.of_type().short_name())
        }
        Some(Body::Aggregate(aggregate)) => {
            format!(
                "{} of {}",
                aggregate.count,
                aggregate.of_type().short_name()
            )
        }
        None => "of a newer schema".to_owned(),
    }
}

/// Writes events in the order of arrival, each with its position, from which the next call goes on.
pub fn export(args: &ExportArgs, streams: &mut Streams<'_>) -> ExitStatus {
    let criteria = match meant(&args.criteria) {
        Ok(criteria) => criteria,
        Err(error) => return streams.fail(&error, ExitStatus::Usage),
    };
    let connection = match store::open(&args.criteria.data) {
        Ok(connection) => connection,
        Err(error) => return streams.fail(&error, store_status(&error)),
    };
    let mut after = args.after;
    let mut left = args.limit;
    let mut line = Vec::new();
    loop {
        let searched = search(&connection, &criteria, Order::After(after), &mut |found| {
            if left == Some(0) {
                return Ok(false);
            }
            line.clear();
            line.extend_from_slice(b"{\"position\":\"");
            line.extend_from_slice(found.position.to_string().as_bytes());
            line.extend_from_slice(b"\",\"event\":");
            found.packet.write_event_json(found.event, &mut line);
            line.extend_from_slice(b"}\n");
            streams.out.write_all(&line)?;
            after = Some(found.position);
            left = left.map(|left| left.saturating_sub(1));
            Ok(true)
        });
        if let Err(error) = searched {
            return failed(error, streams);
        }
        if !args.follow || left == Some(0) {
            return finish(streams);
        }
        if let Err(error) = streams.out.flush() {
            return streams.written(Err(error));
        }
        std::thread::sleep(FOLLOW);
    }
}
