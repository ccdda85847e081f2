//! The JSON view of the schema.
//!
//! Names are those of the schema, with these rules, which `docs/events.md` repeats for readers:
//! - what is absent is left out; a list `absent` becomes an object, name of the field to reason;
//! - numbers are numbers (integers up to 64 bits, written whole); sets of bits (`JSON: hex`) are 16 hexadecimal digits, as in /proc;
//! - wall-clock instants, `*time_ns`, are RFC 3339 text in UTC with nine digits of nanoseconds, named without `_ns`;
//! - enumerations are their lower-case short name; a value unknown to this build is its number;
//! - digests are lower-case hexadecimal, identities hyphenated UUID text, addresses IP text;
//! - kernel strings are text. Control characters and characters that reorder or break lines of text are escaped
//!   as `\uXXXX`, so that the value is exact and a terminal stays unharmed. A string that is not UTF-8 shows each wrong byte
//!   as `\xHH`, and the raw bytes stand beside it in hexadecimal, in a field named `*_raw`;
//! - an event has its type as `type`, its body in a field named like the type, its id as one text
//!   `agent/epoch/counter`, and process, parent, ancestors, agent and host expanded in place.
//!
//! Everything is appended to one `Vec<u8>`; nothing is allocated per field.

use std::io::Write as _;

use crate::v1;

mod rest;
#[cfg(test)]
mod tests;
mod view;

pub use rest::{Omit, ToRest, Told};
pub use view::id_prefix;

/// A message that has a JSON view; implemented for every message of the schema by the build script.
pub trait ToJson {
    /// Appends the message as one JSON value.
    fn write_json(&self, w: &mut Writer<'_>);
}

/// Where JSON is appended, with what is known beside the message.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// `agent/epoch/` of the sending agent, for ids that do not carry their own.
    id_prefix: &'a [u8],
    actor: Actor<'a>,
    parent: Option<&'a v1::Process>,
}

/// Agent and host, rendered once for all their events.
#[derive(Debug, Clone)]
pub struct Origin {
    id_prefix: Vec<u8>,
    /// `"agent":{..},"host":{..}}`
    tail: Vec<u8>,
}

/// The process of an event, from the table of processes.
#[derive(Debug, Clone, Copy)]
pub enum Actor<'a> {
    /// Its row is not known: the reference in the event stands alone.
    Unknown,
    /// Its row, to be rendered now.
    Row(Lineage<'a>),
    /// Its row as [`render_process`] made it before.
    Rendered(&'a [u8]),
}

/// A process with those that it descends from.
#[derive(Debug, Clone, Copy)]
pub struct Lineage<'a> {
    /// The process.
    pub process: &'a v1::Process,
    /// Row of `process.parent`; none when it is not known or out of scope.
    pub parent: Option<&'a v1::Process>,
    /// The parent's parent, its parent, and so on.
    pub ancestors: &'a [&'a v1::Process],
    /// There are more ancestors than these.
    pub ancestors_truncated: bool,
}

impl Origin {
    /// Renders agent and host; to be made anew when one of them changes.
    #[must_use]
    pub fn new(agent: &v1::Agent, host: &v1::Host) -> Self {
        let (mut id_prefix, mut tail) = (Vec::new(), Vec::new());
        push_id_prefix(&mut id_prefix, &agent.id, &agent.epoch);
        let mut w = Writer::plain(&mut tail);
        w.key(b"\"agent\":");
        agent.write_json(&mut w);
        w.comma();
        w.key(b"\"host\":");
        host.write_json(&mut w);
        tail.push(b'}');
        Self { id_prefix, tail }
    }
}

/// Appends a message that is not an event, or an event by itself with nothing expanded, as one JSON value.
pub fn write_json(message: &impl ToJson, out: &mut Vec<u8>) {
    message.write_json(&mut Writer::plain(out));
}

/// Appends an event as one JSON object without line end: process, parent and ancestors, agent and host in place.
pub fn write_event_json(event: &v1::Event, actor: Actor<'_>, origin: &Origin, out: &mut Vec<u8>) {
    let actor = if event.process.is_some() {
        actor
    } else {
        Actor::Unknown
    };
    let mut w = Writer {
        out,
        id_prefix: &origin.id_prefix,
        actor,
        parent: None,
    };
    event.write_json(&mut w);
    reopen(out);
    out.extend_from_slice(&origin.tail);
}

/// Appends a process with its parent (identity, image path and hashes, arguments) and its ancestors (identity, name, path) as
/// one JSON object. The same for all events of a program: worth keeping while neither row changes.
pub fn render_process(lineage: Lineage<'_>, out: &mut Vec<u8>) {
    let mut w = Writer {
        parent: lineage.parent,
        ..Writer::plain(out)
    };
    lineage.process.write_json(&mut w);
    if lineage.ancestors.is_empty() && !lineage.ancestors_truncated {
        return;
    }
    reopen(w.out);
    w.list(b"\"ancestors\":", lineage.ancestors, |w, ancestor| {
        w.ancestor(ancestor)
    });
    if lineage.ancestors_truncated {
        w.key(b"\"ancestors_truncated\":");
        w.bool(true);
        w.comma();
    }
    w.end();
}

impl ToJson for v1::EventId {
    fn write_json(&self, w: &mut Writer<'_>) {
        w.out.push(b'"');
        match (&self.agent_id, &self.epoch) {
            (Some(agent), Some(epoch)) => push_id_prefix(w.out, agent, epoch),
            (_, _) => w.out.extend_from_slice(w.id_prefix),
        }
        w.unsigned(self.counter);
        w.out.push(b'"');
    }
}

impl<T: ToJson> ToJson for Box<T> {
    fn write_json(&self, w: &mut Writer<'_>) {
        self.as_ref().write_json(w);
    }
}

include!(concat!(env!("OUT_DIR"), "/sensor.v1.json.rs"));

impl<'a> Writer<'a> {
    fn plain(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            id_prefix: b"",
            actor: Actor::Unknown,
            parent: None,
        }
    }

    fn begin(&mut self) {
        self.out.push(b'{');
    }

    /// Closes an object; each field before has left a comma.
    fn end(&mut self) {
        close(self.out, b'}');
    }

    fn key(&mut self, key: &[u8]) {
        self.out.extend_from_slice(key);
    }

    fn comma(&mut self) {
        self.out.push(b',');
    }

    fn bool(&mut self, value: bool) {
        self.out
            .extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn unsigned(&mut self, value: u64) {
        self.out
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn signed(&mut self, value: i64) {
        self.out
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn mask(&mut self, value: u64) {
        self.hex(&value.to_be_bytes());
    }

    fn time(&mut self, time_ns: i64) {
        self.out.push(b'"');
        push_rfc3339(self.out, time_ns);
        self.out.push(b'"');
    }

    fn text(&mut self, text: &str) {
        self.out.push(b'"');
        push_escaped(self.out, text);
        self.out.push(b'"');
    }

    /// Kernel bytes as text; says whether that text is exact.
    fn kernel_text(&mut self, bytes: &[u8]) -> bool {
        self.out.push(b'"');
        let exact = push_kernel_text(self.out, bytes);
        self.out.push(b'"');
        exact
    }

    fn kernel_text_field(&mut self, key: &[u8], raw_key: &[u8], bytes: &[u8]) {
        self.key(key);
        let exact = self.kernel_text(bytes);
        self.comma();
        if !exact {
            self.key(raw_key);
            self.hex(bytes);
            self.comma();
        }
    }

    fn kernel_texts(&mut self, key: &[u8], raw_key: &[u8], list: &[Vec<u8>]) {
        let mut exact = true;
        self.list(key, list, |w, bytes| exact &= w.kernel_text(bytes));
        if !exact {
            self.list(raw_key, list, |w, bytes| w.hex(bytes));
        }
    }

    fn hex(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        push_hex(self.out, bytes);
        self.out.push(b'"');
    }

    /// A UUID; bytes of another length, which no writer of ours makes, as hexadecimal.
    fn uuid(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        push_uuid(self.out, bytes);
        self.out.push(b'"');
    }

    /// An IP address; bytes of another length, which no writer of ours makes, as hexadecimal.
    fn ip(&mut self, bytes: &[u8]) {
        match address(bytes) {
            Some(address) => self.display(&address),
            None => self.hex(bytes),
        }
    }

    fn mac(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        for (index, byte) in bytes.iter().enumerate() {
            if index > 0 {
                self.out.push(b':');
            }
            push_hex(self.out, &[*byte]);
        }
        self.out.push(b'"');
    }

    fn named(&mut self, number: i32, name: Option<&str>) {
        match name {
            Some(name) => {
                self.out.push(b'"');
                self.out.extend_from_slice(name.as_bytes());
                self.out.push(b'"');
            }
            None => self
                .out
                .extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        }
    }

    fn list<T>(&mut self, key: &[u8], list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        if list.is_empty() {
            return;
        }
        self.key(key);
        self.out.push(b'[');
        for value in list {
            write(self, value);
            self.comma();
        }
        close(self.out, b']');
        self.comma();
    }

    /// Missing fields as an object, name to reason. Of a field that is listed twice, the first reason counts.
    fn absent(&mut self, list: &[v1::Absent], name: impl Fn(u32) -> Option<&'static str>) {
        if list.is_empty() {
            return;
        }
        self.key(b"\"absent\":");
        self.begin();
        for (index, absent) in list.iter().enumerate() {
            if list
                .iter()
                .take(index)
                .any(|earlier| earlier.field == absent.field)
            {
                continue;
            }
            self.out.push(b'"');
            match name(absent.field) {
                Some(name) => self.out.extend_from_slice(name.as_bytes()),
                None => self.unsigned(u64::from(absent.field)),
            }
            self.out.extend_from_slice(b"\":");
            let reason = v1::AbsentReason::try_from(absent.reason);
            self.named(absent.reason, reason.ok().map(v1::AbsentReason::short_name));
            self.comma();
        }
        self.end();
        self.comma();
    }

    fn event_type(&mut self, event: &v1::Event) {
        self.key(b"\"type\":\"");
        self.out
            .extend_from_slice(event.event_type().short_name().as_bytes());
        self.out.extend_from_slice(b"\",");
    }

    /// The process of an event: its row in place, with the thread that acted; else the reference.
    fn actor(&mut self, reference: &v1::ProcessRef) {
        match std::mem::replace(&mut self.actor, Actor::Unknown) {
            Actor::Unknown => return reference.write_json(self),
            Actor::Row(lineage) => render_process(lineage, self.out),
            Actor::Rendered(object) => self.out.extend_from_slice(object),
        }
        if let Some(tid) = reference.tid {
            reopen(self.out);
            self.key(b"\"tid\":");
            self.unsigned(u64::from(tid));
            self.out.push(b'}');
        }
    }

    /// The parent of a process: what the row tells of it, else the reference.
    fn parent(&mut self, reference: &v1::ProcessRef) {
        let Some(parent) = self.parent.take() else {
            return reference.write_json(self);
        };
        self.begin();
        self.key(b"\"unique_pid\":");
        self.uuid(&parent.unique_pid);
        self.key(b",\"exec_id\":");
        self.unsigned(u64::from(parent.exec_id));
        self.key(b",\"pid\":");
        self.unsigned(u64::from(parent.pid));
        self.key(b",\"start_boot_ns\":");
        self.unsigned(parent.start_boot_ns);
        self.key(b",\"start_time\":");
        self.time(parent.start_time_ns);
        self.comma();
        if let Some(comm) = &parent.comm {
            self.kernel_text_field(b"\"comm\":", b"\"comm_raw\":", comm);
        }
        if let Some(image) = &parent.image {
            self.key(b"\"image\":");
            self.begin();
            if let Some(path) = &image.path {
                self.kernel_text_field(b"\"path\":", b"\"path_raw\":", path);
            }
            if let Some(hashes) = &image.hashes {
                self.key(b"\"hashes\":");
                hashes.write_json(self);
                self.comma();
            }
            self.end();
            self.comma();
        }
        self.kernel_texts(b"\"argv\":", b"\"argv_raw\":", &parent.argv);
        self.end();
    }

    fn ancestor(&mut self, ancestor: &v1::Process) {
        self.begin();
        self.key(b"\"unique_pid\":");
        self.uuid(&ancestor.unique_pid);
        self.key(b",\"pid\":");
        self.unsigned(u64::from(ancestor.pid));
        self.comma();
        if let Some(name) = ancestor.name() {
            self.kernel_text_field(b"\"name\":", b"\"name_raw\":", name);
        }
        if let Some(path) = ancestor
            .image
            .as_ref()
            .and_then(|image| image.path.as_ref())
        {
            self.kernel_text_field(b"\"path\":", b"\"path_raw\":", path);
        }
        self.end();
    }

    fn display(&mut self, value: &impl std::fmt::Display) {
        self.out.push(b'"');
        // Writing to a vector cannot fail.
        if write!(self.out, "{value}").is_err() {
            debug_assert!(false, "a vector refused bytes");
        }
        self.out.push(b'"');
    }
}

/// Ends an object or list: the comma after its last part gives way.
fn close(out: &mut Vec<u8>, bracket: u8) {
    if out.last() == Some(&b',') {
        out.pop();
    }
    out.push(bracket);
}

/// Opens a closed object again, for one more field.
fn reopen(out: &mut Vec<u8>) {
    if out.last() == Some(&b'}') {
        out.pop();
    }
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

/// The address that these bytes are; none where no address has that length.
#[must_use]
pub fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(std::net::IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from))
        .ok()
}

fn is_ip(bytes: &[u8]) -> bool {
    matches!(bytes.len(), 4 | 16)
}

/// Stands in JSON text as itself, in ASCII.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Without early end, so that the compiler can use vector instructions.
fn all_plain(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .fold(true, |plain, byte| plain & is_plain(*byte))
}

/// Harms who reads it on a terminal or line by line: controls (C0, DEL, C1), line separators, changes of direction.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends kernel bytes as text without quotes; says whether that text is exact.
fn push_kernel_text(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    if all_plain(bytes) {
        out.extend_from_slice(bytes);
        return true;
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        push_escaped(out, text);
        return true;
    }
    for chunk in bytes.utf8_chunks() {
        push_escaped(out, chunk.valid());
        for byte in chunk.invalid() {
            out.extend_from_slice(b"\\\\x");
            push_hex(out, &[*byte]);
        }
    }
    false
}

fn push_escaped(out: &mut Vec<u8>, text: &str) {
    if all_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            c if is_harmful(c) => {
                out.extend_from_slice(b"\\u");
                // All harmful characters are below U+10000: one unit.
                for unit in c.encode_utf16(&mut [0; 2]) {
                    push_hex(out, &unit.to_be_bytes());
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Appends two hexadecimal digits per byte; in blocks, so that the compiler can use vector instructions.
fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for block in bytes.chunks(32) {
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(block) {
            pair.copy_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        out.extend(digits.iter().take(2 * block.len()));
    }
}

fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0' + nibble
    } else {
        b'a' + nibble - 10
    }
}

fn push_uuid(out: &mut Vec<u8>, bytes: &[u8]) {
    let Ok(id) = <[u8; 16]>::try_from(bytes) else {
        return push_hex(out, bytes);
    };
    let text = uuid::Uuid::from_bytes(id);
    out.extend_from_slice(text.hyphenated().encode_lower(&mut [0; 36]).as_bytes());
}

fn push_id_prefix(out: &mut Vec<u8>, agent_id: &[u8], epoch: &[u8]) {
    push_uuid(out, agent_id);
    out.push(b'/');
    push_hex(out, epoch);
    out.push(b'/');
}

/// Appends `2026-01-31T23:59:59.123456789Z`. The range of the input is the years 1677 to 2262.
fn push_rfc3339(out: &mut Vec<u8>, time_ns: i64) {
    let (seconds, nanos) = (
        time_ns.div_euclid(1_000_000_000),
        time_ns.rem_euclid(1_000_000_000),
    );
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Civil date from days, in years that begin in March (so that the leap day is the last), counted from 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    // None is negative, and the largest is the nanoseconds.
    let [year, month, day, second, nanos] =
        [year, month, day, second, nanos].map(|part| u32::try_from(part).unwrap_or_default());
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let pair = |number: u32| [digit(number / 10), digit(number)];
    let [y1, y2, y3, y4] = [year / 1_000, year / 100, year / 10, year].map(digit);
    let [mo1, mo2] = pair(month);
    let [d1, d2] = pair(day);
    let [h1, h2] = pair(hour);
    let [mi1, mi2] = pair(minute);
    let [s1, s2] = pair(second);
    out.extend_from_slice(&[
        y1, y2, y3, y4, b'-', mo1, mo2, b'-', d1, d2, b'T', h1, h2, b':', mi1, mi2, b':', s1, s2,
    ]);
    let (high, low) = (nanos / 10_000, nanos % 10_000);
    let [n1, n2, n3, n4, n5] =
        [high / 10_000, high / 1_000, high / 100, high / 10, high].map(digit);
    let [n6, n7, n8, n9] = [low / 1_000, low / 100, low / 10, low].map(digit);
    out.extend_from_slice(&[b'.', n1, n2, n3, n4, n5, n6, n7, n8, n9, b'Z']);
}

/// The last decimal digit.
fn digit(number: u32) -> u8 {
    let [low, ..] = (number % 10).to_le_bytes();
    b'0' + low
}
