//! The live view: one line an event, for people at a terminal.
//!
//! A line is never longer than the terminal is wide, and nothing that came from outside reaches the terminal as anything but
//! visible text: control characters, characters that reorder text and bytes that are not UTF-8 are shown escaped.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use sensor_proto::v1::event::Body;
use sensor_proto::v1::patch::Part;
use sensor_proto::v1::{
    Aggregate, Connect, ConnectResult, Credentials, Direction, Endpoint, Event, EventType, Exit,
    FileCreate, FileCreateHow, FileInfo, HashVerdict, ModuleLoad, Patch, Process, ProcessPatch,
    Transport, User,
};
use unicode_width::UnicodeWidthChar as _;

use crate::format::View;

const TIME_COLUMNS: usize = 12;
const TYPE_COLUMNS: usize = 11;
const USER_COLUMNS: usize = 11;
const PROCESS_COLUMNS: usize = 24;
const HASH_COLUMNS: usize = 12;
const VERDICT_COLUMNS: usize = 10;
/// With less than this for what happened, the columns to the right and left of it give way.
const WHAT_COLUMNS: usize = 24;
/// Deeper processes are indented no further, so that their names stay in their column.
const MAX_INDENT: usize = 8;
/// What one text may contribute to a line when nothing limits the line.
const MAX_TEXT_BYTES: usize = 8_192;
const CUT: char = '…';

/// Colours and attributes; each has one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Plain,
    /// What matters most: programs that begin.
    Bold,
    /// What matters least: times, forks, ordinary ends.
    Dim,
    /// As it should be.
    Good,
    /// To be looked at.
    Doubtful,
    /// Failed, or not to be had.
    Bad,
}

impl Style {
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bold => Some("\x1b[1m"),
            Self::Dim => Some("\x1b[2m"),
            Self::Good => Some("\x1b[32m"),
            Self::Doubtful => Some("\x1b[33m"),
            Self::Bad => Some("\x1b[31m"),
        }
    }
}

/// Which end of a text that is too long is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Head,
    Tail,
}

/// Writes lines of the live view.
#[derive(Clone, Copy, Debug)]
pub struct Pretty {
    color: bool,
    width: Option<usize>,
}

/// Whether colours are wanted, by the environment variable NO_COLOR (<https://no-color.org>): not when it is set and not empty.
pub fn color_wanted(no_color: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty)
}

/// Part of a line.
struct Cell<'t> {
    text: Cow<'t, str>,
    style: Style,
    keep: Keep,
}

impl<'t> Cell<'t> {
    fn new(style: Style, text: impl Into<Cow<'t, str>>) -> Self {
        Self {
            text: text.into(),
            style,
            keep: Keep::Head,
        }
    }

    fn tail(style: Style, text: impl Into<Cow<'t, str>>) -> Self {
        Self {
            keep: Keep::Tail,
            ..Self::new(style, text)
        }
    }
}

/// What happened, and the file that it happened to or with.
struct What<'v> {
    /// In order; one of them gives way when the line is too long.
    cells: Vec<Cell<'v>>,
    file: Option<&'v FileInfo>,
}

impl Pretty {
    /// Lines of at most this many columns (none: as long as they are), with colours or without.
    pub const fn new(color: bool, width: Option<usize>) -> Self {
        Self { color, width }
    }

    /// The same with the terminal's present width; asked before each batch, since people resize terminals.
    #[must_use]
    pub const fn with_width(self, width: Option<usize>) -> Self {
        Self { width, ..self }
    }

    /// Appends the line that names the columns.
    pub fn header(self, out: &mut Vec<u8>) {
        let mut line = Line::new(self, out);
        let columns = Columns::of(self.width);
        line.column(Style::Dim, "TIME (UTC)", TIME_COLUMNS);
        line.column(Style::Dim, "TYPE", TYPE_COLUMNS);
        if columns.user {
            line.column(Style::Dim, "USER", USER_COLUMNS);
        }
        line.column(Style::Dim, "PROCESS", PROCESS_COLUMNS);
        match columns.what.filter(|_| columns.hash) {
            Some(what) => line.column(Style::Dim, "WHAT", what),
            None => line.column(Style::Dim, "WHAT", "WHAT".len()),
        }
        if columns.hash {
            line.column(Style::Dim, "SHA-256", HASH_COLUMNS);
            line.column(Style::Dim, "VERDICT", VERDICT_COLUMNS);
        }
        line.end();
    }

    /// Appends one line, with its line end.
    pub fn line(self, view: &View<'_>, out: &mut Vec<u8>) {
        let columns = Columns::of(self.width);
        let event_type = view.event.event_type();
        let main = emphasis(event_type);
        let what = what(view, main);
        let mut line = Line::new(self, out);
        line.column(Style::Dim, &time(view.event.time_ns), TIME_COLUMNS);
        line.column(main, event_type.short_name(), TYPE_COLUMNS);
        if columns.user {
            line.column(Style::Plain, &user(view), USER_COLUMNS);
        }
        line.process(view, main);
        let room = columns.what.unwrap_or(usize::MAX);
        let used = line.cells(&what.cells, room);
        if columns.hash
            && let Some((digest, verdict, style)) = hash(what.file)
        {
            if let Some(room) = columns.what {
                line.pad(room.saturating_sub(used));
            }
            line.gap();
            line.column(Style::Plain, &digest, HASH_COLUMNS);
            line.put(&Cell::new(style, verdict), VERDICT_COLUMNS);
        }
        line.end();
    }
}

/// Which columns a line has room for.
struct Columns {
    user: bool,
    hash: bool,
    /// Room for what happened; none: any.
    what: Option<usize>,
}

impl Columns {
    fn of(width: Option<usize>) -> Self {
        let Some(width) = width else {
            return Self {
                user: true,
                hash: true,
                what: None,
            };
        };
        let fixed = TIME_COLUMNS + 1 + TYPE_COLUMNS + 1 + PROCESS_COLUMNS + 1;
        let user = USER_COLUMNS + 1;
        let hash = 1 + HASH_COLUMNS + 1 + VERDICT_COLUMNS;
        let with = |extra: usize| {
            width
                .checked_sub(fixed + extra)
                .filter(|left| *left >= WHAT_COLUMNS)
        };
        if let Some(what) = with(user + hash) {
            return Self {
                user: true,
                hash: true,
                what: Some(what),
            };
        }
        match with(user) {
            Some(what) => Self {
                user: true,
                hash: false,
                what: Some(what),
            },
            None => Self {
                user: false,
                hash: false,
                what: Some(width.saturating_sub(fixed)),
            },
        }
    }
}

/// A line while it is written; ends at the terminal's edge whatever is put into it.
struct Line<'o> {
    out: &'o mut Vec<u8>,
    color: bool,
    left: usize,
}

impl<'o> Line<'o> {
    fn new(pretty: Pretty, out: &'o mut Vec<u8>) -> Self {
        Self {
            out,
            color: pretty.color,
            left: pretty.width.unwrap_or(usize::MAX),
        }
    }

    /// Puts a text of at most `room` columns and returns how many it took.
    fn put(&mut self, cell: &Cell<'_>, room: usize) -> usize {
        let room = room.min(self.left);
        let (text, columns) = fit(&cell.text, room, cell.keep);
        if columns == 0 {
            return 0;
        }
        let code = cell.style.code().filter(|_| self.color);
        self.out
            .extend_from_slice(code.unwrap_or_default().as_bytes());
        self.out.extend_from_slice(text.as_bytes());
        if code.is_some() {
            self.out.extend_from_slice(b"\x1b[0m");
        }
        self.left = self.left.saturating_sub(columns);
        columns
    }

    fn pad(&mut self, columns: usize) {
        let columns = columns.min(self.left);
        self.out.resize(self.out.len() + columns, b' ');
        self.left = self.left.saturating_sub(columns);
    }

    fn gap(&mut self) {
        self.pad(1);
    }

    /// A text in a column of its own, with the gap to the next.
    fn column(&mut self, style: Style, text: &str, columns: usize) {
        let used = self.put(&Cell::new(style, text), columns);
        self.pad(columns.saturating_sub(used) + 1);
    }

    /// Name and id of the process, indented by its depth; the id is always whole.
    fn process(&mut self, view: &View<'_>, style: Style) {
        let mut used = 0;
        if let Some(reference) = &view.event.process {
            let indent = view.depth.min(MAX_INDENT);
            self.pad(indent);
            let id = format!("[{}]", reference.pid);
            let room = PROCESS_COLUMNS.saturating_sub(indent + id.len());
            let name = view
                .process
                .and_then(Process::name)
                .map_or(Cow::Borrowed("?"), clean);
            used = indent + self.put(&Cell::new(style, name), room);
            used += self.put(
                &Cell::new(Style::Dim, id),
                PROCESS_COLUMNS.saturating_sub(used),
            );
        }
        self.pad(PROCESS_COLUMNS.saturating_sub(used) + 1);
    }

    /// Texts with a gap between each two, all in so many columns; the longest gives way. Returns the columns that they took.
    fn cells(&mut self, cells: &[Cell<'_>], room: usize) -> usize {
        let room = room.min(self.left);
        let widths: Vec<usize> = cells.iter().map(|cell| columns(&cell.text)).collect();
        let gaps = cells.len().saturating_sub(1);
        let longest = widths.iter().copied().max().unwrap_or_default();
        let total = widths.iter().sum::<usize>() + gaps;
        let over = total.saturating_sub(room);
        let mut used = 0;
        let mut shortened = false;
        for (index, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            if index > 0 && used < room {
                self.gap();
                used += 1;
            }
            let mut limit = room.saturating_sub(used);
            if over > 0 && !shortened && *width == longest {
                shortened = true;
                limit = limit.min(width.saturating_sub(over));
            }
            used += self.put(cell, limit);
        }
        used
    }

    fn end(self) {
        while self.out.last() == Some(&b' ') {
            self.out.pop();
        }
        self.out.push(b'\n');
    }
}

const fn emphasis(event_type: EventType) -> Style {
    match event_type {
        EventType::Exec | EventType::ModuleLoad => Style::Bold,
        EventType::Exit | EventType::Fork | EventType::Patch => Style::Dim,
        EventType::FileCreate
        | EventType::Connect
        | EventType::Aggregate
        | EventType::Unspecified => Style::Plain,
    }
}

/// `13:37:00.042`
fn time(time_ns: i64) -> String {
    let millis = time_ns.div_euclid(1_000_000).rem_euclid(86_400_000);
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let (seconds, millis) = (millis / 1_000 % 60, millis % 1_000);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{millis:03}")
}

/// Real user, and the effective one where it is another: `alice>root`.
fn user(view: &View<'_>) -> String {
    let row = view
        .process
        .and_then(|process| process.credentials.as_ref());
    users(view.event.credentials.as_ref(), row)
}

/// The same of credentials, the second where the first say nothing.
fn users(here: Option<&Credentials>, row: Option<&Credentials>) -> String {
    let of = |part: fn(&Credentials) -> Option<&User>| {
        here.and_then(part).or_else(|| row.and_then(part))
    };
    let name = |user: &User| match &user.name {
        Some(name) => clean(name.as_bytes()).into_owned(),
        None => user.id.to_string(),
    };
    let real = of(|credentials| credentials.real_user.as_ref());
    let effective = of(|credentials| credentials.effective_user.as_ref());
    match (real, effective) {
        (Some(real), Some(effective)) if real.id != effective.id => {
            format!("{}>{}", name(real), name(effective))
        }
        (Some(user), _) | (None, Some(user)) => name(user),
        (None, None) => String::new(),
    }
}

fn hash(file: Option<&FileInfo>) -> Option<(String, &'static str, Style)> {
    let hashes = file?.hashes.as_ref()?;
    let mut digest = String::new();
    for byte in hashes.sha256.iter().flatten().take(HASH_COLUMNS / 2) {
        digest.push_str(&format!("{byte:02x}"));
    }
    let verdict = hashes.verdict();
    let style = match verdict {
        HashVerdict::Verified => Style::Good,
        HashVerdict::Drifted | HashVerdict::Racy | HashVerdict::Open => Style::Doubtful,
        HashVerdict::TooLarge
        | HashVerdict::Unreadable
        | HashVerdict::Gone
        | HashVerdict::RefusedFs
        | HashVerdict::Timeout => Style::Bad,
        HashVerdict::Unspecified => return None,
    };
    Some((digest, verdict.short_name(), style))
}

fn what<'v>(view: &View<'v>, style: Style) -> What<'v> {
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
        cells.push(Cell::tail(Style::Bold, clean(path.unwrap_or(b"?"))));
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

fn ended<'v>(exit: &Exit, process: Option<&'v Process>) -> Vec<Cell<'v>> {
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
        cells.push(Cell::tail(Style::Dim, clean(path)));
    }
    cells
}

fn path(file: Option<&FileInfo>, style: Style) -> Cell<'_> {
    let Some(path) = file.and_then(|file| file.path.as_deref()) else {
        return Cell::new(Style::Dim, "path not known");
    };
    let cut = file.is_some_and(|file| file.path_truncated);
    let shown = clean(path);
    if cut {
        Cell::tail(style, format!("{CUT}{shown}"))
    } else {
        Cell::tail(style, shown)
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

fn connection(connect: &Connect) -> Vec<Cell<'_>> {
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

fn result(result: ConnectResult, errno: Option<u32>) -> Option<Cell<'static>> {
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
        cells.push(Cell::new(Style::Bold, clean(name)));
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
fn process_told_late(part: &ProcessPatch) -> Vec<Cell<'_>> {
    let mut cells = Vec::new();
    if let Some(credentials) = &part.credentials {
        cells.push(Cell::new(
            Style::Dim,
            format!("user {}", users(Some(credentials), None)),
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

/// A span of time in two to four digits and a unit.
fn span(ns: u64) -> String {
    const UNITS: [(u64, &str); 5] = [
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ];
    scaled(ns, &UNITS, "ns")
}

fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, " TiB"),
        (1 << 30, " GiB"),
        (1 << 20, " MiB"),
        (1 << 10, " KiB"),
    ];
    scaled(count, &UNITS, " B")
}

fn scaled(value: u64, units: &[(u64, &str)], smallest: &str) -> String {
    match units.iter().find(|(factor, _)| value >= *factor) {
        Some((factor, unit)) if value / factor < 10 => {
            format!("{}.{}{unit}", value / factor, value % factor * 10 / factor)
        }
        Some((factor, unit)) => format!("{}{unit}", value / factor),
        None => format!("{value}{smallest}"),
    }
}

/// Bytes from outside as text that is safe to print: see the module.
fn clean(bytes: &[u8]) -> Cow<'_, str> {
    let plain = |byte: &u8| matches!(byte, 0x20..=0x7e);
    if bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes);
    }
    let bytes = bytes.get(..MAX_TEXT_BYTES).unwrap_or(bytes);
    let mut text = String::with_capacity(bytes.len() + 16);
    // An accent or two on a letter is a name; a pile of them is an attack on the lines above.
    let mut accents = 0;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let columns = character.width().unwrap_or_default();
            accents = if columns == 0 { accents + 1 } else { 0 };
            let marks = columns == 0 && (accents > 2 || text.is_empty());
            if character.is_control() || is_format(character) || marks {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    Cow::Owned(text)
}

/// Characters without a form of their own that change how their neighbours are shown: marks of direction, joiners, separators,
/// tags, variation selectors.
const fn is_format(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Columns of a text on a terminal.
fn columns(text: &str) -> usize {
    text.chars()
        .map(|character| character.width().unwrap_or_default())
        .sum()
}

/// The text, or as much of it as so many columns hold, with a mark where it was cut; and its columns.
fn fit(text: &str, room: usize, keep: Keep) -> (Cow<'_, str>, usize) {
    let width = columns(text);
    if width <= room {
        return (Cow::Borrowed(text), width);
    }
    if room == 0 {
        return (Cow::Borrowed(""), 0);
    }
    let mut used = 1;
    let mut fits = |character: &char| {
        used += character.width().unwrap_or_default();
        used <= room
    };
    let cut = match keep {
        Keep::Head => {
            let mut cut: String = text.chars().take_while(&mut fits).collect();
            cut.push(CUT);
            cut
        }
        Keep::Tail => {
            let mut cut: Vec<char> = text.chars().rev().take_while(&mut fits).collect();
            cut.push(CUT);
            cut.into_iter().rev().collect()
        }
    };
    let width = columns(&cut);
    (Cow::Owned(cut), width)
}

#[cfg(test)]
mod tests;
