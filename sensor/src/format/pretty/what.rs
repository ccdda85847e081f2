//! What happened: the part of a row that each type of event has for itself.

use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use sensor_proto::v1::event::Body;
use sensor_proto::v1::patch::Part;
use sensor_proto::v1::{
    Aggregate, Connect, ConnectResult, Direction, Endpoint, Event, Exit, FileCreate, FileCreateHow,
    FileInfo, ModuleLoad, Patch, Process, ProcessPatch, Transport,
};

use super::row::{Cell, users};
use super::style::Style;
use super::text::{CUT, MAX_TEXT_BYTES, bytes, clean, span};
use crate::format::View;

/// What happened, and the file that it happened to or with.
pub(super) struct What<'v> {
    /// In order; one of them gives way when the line is too long.
    pub(super) cells: Vec<Cell>,
    pub(super) file: Option<&'v FileInfo>,
}

/// What happened, in a style for what has none of its own.
pub(super) fn what<'v>(view: &View<'v>, style: Style) -> What<'v> {
    let plain = |cells| What { cells, file: None };
    match &view.event.body {
        Some(Body::Exec(_)) => exec(view.process),
        Some(Body::Exit(exit)) => plain(ended(exit, view.process)),
        Some(Body::Fork(fork)) => {
            let child = fork.child.as_ref().map_or(0, |child| child.pid);
            plain(vec![Cell::new(style, format!("child [{child}]"))])
        }
        Some(Body::FileCreate(create)) => created(create),
        Some(Body::Connect(connect)) => plain(connection(connect)),
        Some(Body::ModuleLoad(load)) => module(load),
        Some(Body::Patch(patch)) => patched(patch),
        Some(Body::Aggregate(aggregate)) => plain(vec![Cell::new(style, merged(aggregate))]),
        None => plain(vec![Cell::new(Style::Dim, "event of a newer schema")]),
    }
}

fn exec(process: Option<&Process>) -> What<'_> {
    let Some(process) = process else {
        return What {
            cells: vec![Cell::new(Style::Dim, "process not known")],
            file: None,
        };
    };
    let mut cells = Vec::new();
    if process.fileless == Some(true) {
        cells.push(Cell::new(Style::Bad, "fileless"));
    }
    if process.secure_exec == Some(true) {
        cells.push(Cell::new(Style::Doubtful, "raised"));
    }
    if process.argv.is_empty() {
        let path = process
            .image
            .as_ref()
            .and_then(|image| image.path.as_deref());
        cells.push(Cell::tail(
            Style::Bold,
            clean(path.unwrap_or(b"?")).into_owned(),
        ));
    } else {
        cells.push(Cell::new(Style::Bold, command_line(process)));
    }
    What {
        cells,
        file: process.image.as_ref(),
    }
}

/// Arguments as a shell would take them, as far as they can be seen.
fn command_line(process: &Process) -> String {
    let mut line = String::new();
    for (index, argument) in process.argv.iter().enumerate() {
        if line.len() > MAX_TEXT_BYTES {
            line.push(CUT);
            return line;
        }
        if index > 0 {
            line.push(' ');
        }
        let shown = clean(argument);
        let bare =
            |character: char| character.is_alphanumeric() || "-_./:=,+@%^~".contains(character);
        if !shown.is_empty() && shown.chars().all(bare) {
            line.push_str(&shown);
        } else {
            line.push('\'');
            line.push_str(&shown);
            line.push('\'');
        }
    }
    if process.argv_truncated {
        line.push(CUT);
    }
    line
}

fn ended(exit: &Exit, process: Option<&Process>) -> Vec<Cell> {
    let mut cells = Vec::new();
    if let Some(number) = exit.signal {
        let signal = i32::try_from(number)
            .ok()
            .and_then(|number| Signal::try_from(number).ok());
        let mut text = match signal {
            Some(signal) => signal.as_str().to_owned(),
            None => format!("signal {number}"),
        };
        if exit.core_dumped {
            text.push_str(", core dumped");
        }
        cells.push(Cell::new(Style::Bad, text));
    } else {
        match exit.code {
            Some(0) => cells.push(Cell::new(Style::Dim, "0")),
            Some(code) => cells.push(Cell::new(Style::Doubtful, format!("code {code}"))),
            None => cells.push(Cell::new(Style::Dim, "?")),
        }
    }
    if let Some(time) = exit.run_duration_ns {
        cells.push(Cell::new(Style::Dim, format!("after {}", span(time))));
    }
    let path = process.and_then(|process| process.image.as_ref()?.path.as_deref());
    if let Some(path) = path {
        cells.push(Cell::tail(Style::Dim, clean(path).into_owned()));
    }
    cells
}

fn path(file: Option<&FileInfo>, style: Style) -> Cell {
    let Some(path) = file.and_then(|file| file.path.as_deref()) else {
        return Cell::new(Style::Dim, "path not known");
    };
    let cut = file.is_some_and(|file| file.path_truncated);
    let shown = clean(path);
    if cut {
        Cell::tail(style, format!("{CUT}{shown}"))
    } else {
        Cell::tail(style, shown.into_owned())
    }
}

fn created(create: &FileCreate) -> What<'_> {
    let file = create.file.as_ref();
    let mut cells = Vec::new();
    match create.how() {
        FileCreateHow::Unspecified | FileCreateHow::Open => {}
        how @ (FileCreateHow::Mknod
        | FileCreateHow::Mkdir
        | FileCreateHow::Symlink
        | FileCreateHow::Link
        | FileCreateHow::LinkUnnamed) => cells.push(Cell::new(Style::Dim, how.short_name())),
    }
    cells.push(path(file, Style::Plain));
    if let Some(target) = file.and_then(|file| file.link_target.as_deref()) {
        cells.push(Cell::tail(Style::Dim, format!("-> {}", clean(target))));
    }
    if let Some(old) = create.linked_from.as_deref() {
        cells.push(Cell::tail(Style::Dim, format!("=> {}", clean(old))));
    }
    if create.closed
        && let Some(size) = file.and_then(|file| file.size)
    {
        cells.push(Cell::new(Style::Dim, bytes(size)));
    }
    What { cells, file }
}

fn connection(connect: &Connect) -> Vec<Cell> {
    let mut cells = Vec::new();
    match (connect.transport(), connect.protocol) {
        (Transport::Unspecified, Some(number)) => {
            cells.push(Cell::new(Style::Plain, format!("protocol {number}")));
        }
        (Transport::Unspecified, None) => {}
        (transport, _) => cells.push(Cell::new(Style::Plain, transport.short_name())),
    }
    if let Some(local) = connect
        .local
        .as_ref()
        .filter(|local| local.address.is_some())
    {
        cells.push(Cell::new(Style::Dim, endpoint(local)));
    }
    let arrow = if connect.direction() == Direction::Inbound {
        "<-"
    } else {
        "->"
    };
    match &connect.remote {
        Some(remote) => cells.push(Cell::tail(
            Style::Plain,
            format!("{arrow} {}", endpoint(remote)),
        )),
        // Backends that see the end of a call only have no way to its address once it has failed.
        None => cells.push(Cell::new(Style::Dim, format!("{arrow} address not known"))),
    }
    cells.extend(result(connect.result(), connect.errno));
    if let Some(time) = connect.duration_ns {
        cells.push(Cell::new(Style::Dim, span(time)));
    }
    cells
}

fn result(result: ConnectResult, errno: Option<u32>) -> Option<Cell> {
    let style = match result {
        ConnectResult::Unspecified => return None,
        ConnectResult::Established => Style::Good,
        ConnectResult::InProgress => Style::Dim,
        ConnectResult::Refused | ConnectResult::TimedOut | ConnectResult::Unreachable => {
            Style::Doubtful
        }
        ConnectResult::Aborted => Style::Doubtful,
        ConnectResult::Failed => {
            let errno = errno.map(errno_name).unwrap_or_default();
            return Some(Cell::new(
                Style::Bad,
                format!("failed {errno}").trim_end().to_owned(),
            ));
        }
    };
    Some(Cell::new(style, result.short_name()))
}

fn errno_name(number: u32) -> String {
    match i32::try_from(number).map(Errno::from_raw) {
        Ok(errno) if errno != Errno::UnknownErrno => format!("{errno:?}"),
        _ => format!("errno {number}"),
    }
}

fn endpoint(endpoint: &Endpoint) -> String {
    if let Some(name) = &endpoint.unix_path {
        let mark = if endpoint.unix_abstract { "@" } else { "" };
        return format!("{mark}{}", clean(name));
    }
    let address = endpoint
        .address
        .as_deref()
        .and_then(|bytes| match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        });
    let Some(address) = address else {
        return "unnamed".to_owned();
    };
    match endpoint.port.and_then(|port| u16::try_from(port).ok()) {
        Some(port) => SocketAddr::new(address.to_canonical(), port).to_string(),
        None => address.to_canonical().to_string(),
    }
}

fn module(load: &ModuleLoad) -> What<'_> {
    let mut cells = Vec::new();
    if let Some(name) = &load.name {
        cells.push(Cell::new(Style::Bold, clean(name).into_owned()));
    }
    if load.from_memory == Some(true) {
        let size = load.memory_bytes.map(bytes).unwrap_or_default();
        let text = format!("from memory {size}");
        cells.push(Cell::new(Style::Doubtful, text.trim_end().to_owned()));
    } else {
        cells.push(path(load.file.as_ref(), Style::Plain));
    }
    if let Some(errno) = load.errno {
        cells.push(Cell::new(
            Style::Bad,
            format!("failed {}", errno_name(errno)),
        ));
    }
    What {
        cells,
        file: load.file.as_ref(),
    }
}

fn patched(patch: &Patch) -> What<'_> {
    let of = if patch.of.is_none() {
        // Seen at start: no event began it.
        "process"
    } else {
        patch.of_type().short_name()
    };
    let mut cells = vec![Cell::new(Style::Dim, format!("of {of}"))];
    let mut file = None;
    match &patch.part {
        Some(Part::File(part)) => {
            file = part.file.as_ref();
            cells.push(path(file, Style::Dim));
        }
        Some(Part::ClosedFile(closed)) => {
            file = Some(closed);
            cells.push(path(file, Style::Dim));
            if let Some(size) = closed.size {
                cells.push(Cell::new(Style::Dim, bytes(size)));
            }
        }
        Some(Part::Process(part)) => cells.extend(process_told_late(part)),
        Some(Part::Connect(connect)) => cells.extend(result(connect.result(), connect.errno)),
        None => {}
    }
    What { cells, file }
}

/// Users and container of a process that were known late.
fn process_told_late(part: &ProcessPatch) -> Vec<Cell> {
    let mut cells = Vec::new();
    if let Some(credentials) = &part.credentials {
        cells.push(Cell::new(
            Style::Dim,
            format!("user {}", users(credentials)),
        ));
        if let Some(login) = &credentials.login_user
            && let Some(name) = &login.name
        {
            let text = format!("logged in as {}", clean(name.as_bytes()));
            cells.push(Cell::new(Style::Dim, text));
        }
    }
    if let Some(container) = &part.container {
        let name = container.name.as_deref().unwrap_or(&container.id);
        cells.push(Cell::new(
            Style::Dim,
            format!("container {}", clean(name.as_bytes())),
        ));
    } else if let Some(path) = &part.cgroup_path {
        cells.push(Cell::tail(Style::Dim, format!("cgroup {}", clean(path))));
    }
    cells
}

fn merged(aggregate: &Aggregate) -> String {
    let took = aggregate
        .last_time_ns
        .saturating_sub(aggregate.first_time_ns);
    let mut text = format!(
        "{} x {} in {}",
        aggregate.count,
        aggregate.of_type().short_name(),
        span(u64::try_from(took).unwrap_or_default())
    );
    if let Some(rule) = &aggregate.rule {
        text.push_str(&format!(", rule {}", clean(rule.as_bytes())));
    }
    let sample = aggregate.sample.as_deref().and_then(sample);
    if let Some(sample) = sample {
        text.push_str(&format!(", as {}", clean(sample)));
    }
    text
}

fn sample(event: &Event) -> Option<&[u8]> {
    match &event.body {
        Some(Body::FileCreate(create)) => create.file.as_ref()?.path.as_deref(),
        Some(Body::Connect(connect)) => connect.remote.as_ref()?.unix_path.as_deref(),
        Some(
            Body::Exec(_)
            | Body::Exit(_)
            | Body::Fork(_)
            | Body::ModuleLoad(_)
            | Body::Patch(_)
            | Body::Aggregate(_),
        )
        | None => None,
    }
}
