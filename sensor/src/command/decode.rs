//! `sensor decode FILE`: telemetry packets one after another, or a segment of the spool, as lines. Refuses nothing as a whole:
//! what is damaged is told with its place, the rest is printed, and the exit code says that there was damage.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use sensor_proto::json::write_json;
use sensor_proto::packet::{Limits, OpenedPacket, open};
use sensor_proto::v1::PacketBody;

use crate::args::{DecodeArgs, DecodeFormat};
use crate::command::Streams;
use crate::command::run::chain;
use crate::config::Form;
use crate::exit::ExitStatus;
use crate::format::packet;
use crate::spool::{Inspected, inspect};

/// First bytes of a segment of the spool.
const SEGMENT: &[u8] = b"SENSEG\r\n";
/// Longest segment that is read: those of the spool end at 8 MiB and the packet that crosses it.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Lines are handed over when they have so many bytes.
const LINES_BYTES: usize = 64 << 10;

/// Prints what was asked for. `-` is read from `input`.
pub fn run(args: &DecodeArgs, input: &mut dyn BufRead, streams: &mut Streams<'_>) -> ExitStatus {
    let mut decoder = Decoder {
        format: args.format,
        streams,
        lines: Vec::new(),
        good: 0,
        bad: 0,
        unwritten: None,
    };
    if args.file == Path::new("-") {
        decoder.read(input);
    } else {
        match File::open(&args.file) {
            Ok(file) => decoder.read(&mut BufReader::new(file)),
            Err(error) => {
                let place = args.file.display();
                return streams.refuse(&format_args!("cannot open {place}: {error}"));
            }
        }
    }
    decoder.finish()
}

struct Decoder<'a, 'b> {
    format: DecodeFormat,
    streams: &'a mut Streams<'b>,
    lines: Vec<u8>,
    good: u64,
    bad: u64,
    unwritten: Option<io::Error>,
}

impl Decoder<'_, '_> {
    fn read(&mut self, input: &mut dyn BufRead) {
        let is_segment = match input.fill_buf() {
            Ok(start) => start.starts_with(SEGMENT),
            Err(error) => return self.complain(0, &format_args!("cannot read: {error}")),
        };
        if is_segment {
            self.segment(input);
        } else {
            self.packets(input);
        }
    }

    fn complain(&mut self, offset: u64, what: &dyn std::fmt::Display) {
        self.bad += 1;
        // What was printed before stands before.
        self.flush();
        self.streams.complain(&format!("byte {offset}: {what}"));
    }

    fn segment(&mut self, input: &mut dyn BufRead) {
        let mut bytes = Vec::new();
        if let Err(error) = input.take(SEGMENT_BYTES + 1).read_to_end(&mut bytes) {
            return self.complain(wide(bytes.len()), &format_args!("cannot read: {error}"));
        }
        let length = wide(bytes.len());
        if length > SEGMENT_BYTES {
            return self.complain(SEGMENT_BYTES, &"no segment is so long");
        }
        let ended = inspect(&bytes.as_slice(), length, |found| {
            match found {
                Inspected::Header { .. } => {}
                Inspected::Packet { entry, end } => {
                    let offset = end.saturating_sub(wide(entry.bytes.len()));
                    self.packet(&entry.bytes, offset);
                }
                Inspected::Damage { from, to } => {
                    self.complain(from, &format_args!("{} bytes are no record", to - from));
                }
            }
            self.unwritten.is_none()
        });
        if let Err(error) = ended {
            self.complain(0, &chain(&error));
        }
    }

    fn packets(&mut self, input: &mut dyn BufRead) {
        let mut reader = PacketReader {
            input,
            offset: 0,
            ahead: None,
        };
        while self.unwritten.is_none() {
            let at = reader.start();
            match reader.next() {
                Ok(Some(bytes)) => self.packet(&bytes, at),
                Ok(None) => return,
                Err((offset, what)) => return self.complain(offset, &what),
            }
        }
    }

    fn packet(&mut self, bytes: &[u8], offset: u64) {
        match open(bytes, &Limits::default()) {
            Ok(opened) => {
                self.good += 1;
                self.print(&opened);
            }
            Err(error) => self.complain(offset, &chain(&error)),
        }
    }

    fn print(&mut self, opened: &OpenedPacket) {
        let form = match self.format {
            DecodeFormat::Json => Form::Json,
            DecodeFormat::Ecs => Form::Ecs,
            DecodeFormat::Ocsf => Form::Ocsf,
            DecodeFormat::Packet => {
                summary(opened, &mut self.lines);
                self.lines.push(b'\n');
                return self.flush_full();
            }
        };
        for event in opened.events() {
            packet::write(form, opened, event, &mut self.lines);
            self.lines.push(b'\n');
            self.flush_full();
        }
    }

    fn flush_full(&mut self) {
        if self.lines.len() >= LINES_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.unwritten.is_none() {
            let written = self.streams.out.write_all(&self.lines);
            self.unwritten = written.and_then(|()| self.streams.out.flush()).err();
        }
        self.lines.clear();
    }

    fn finish(mut self) -> ExitStatus {
        self.flush();
        if let Some(error) = self.unwritten {
            self.streams
                .complain(&format!("cannot write to standard output: {error}"));
            return ExitStatus::Output;
        }
        if self.bad > 0 {
            let (good, bad) = (self.good, self.bad);
            return self.streams.refuse(&format_args!(
                "{good} packets decoded, {bad} places damaged"
            ));
        }
        ExitStatus::Ok
    }
}

/// One object: all of the packet but its events and processes.
fn summary(opened: &OpenedPacket, out: &mut Vec<u8>) {
    let body = opened.body();
    out.extend_from_slice(b"{\"digest\":\"");
    for byte in opened.digest() {
        out.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    out.extend_from_slice(b"\",\"header\":");
    write_json(opened.header(), out);
    let rest = PacketBody {
        agent: body.agent.clone(),
        host: body.host.clone(),
        ledger: body.ledger.clone(),
        tombstones: body.tombstones.clone(),
        blind: body.blind.clone(),
        wall_minus_boot_ns: body.wall_minus_boot_ns,
        ..PacketBody::default()
    };
    out.extend_from_slice(b",\"body\":");
    write_json(&rest, out);
    out.push(b'}');
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Packets one after another. No length stands between them: a packet begins with its header, which it has once.
struct PacketReader<'a> {
    input: &'a mut dyn BufRead,
    offset: u64,
    /// The key of the field that begins the next packet.
    ahead: Option<Vec<u8>>,
}

type Fault = (u64, String);

impl PacketReader<'_> {
    /// Where the next packet begins.
    fn start(&self) -> u64 {
        let ahead = self.ahead.as_ref().map_or(0, Vec::len);
        self.offset.saturating_sub(wide(ahead))
    }

    fn fault<T>(&self, what: impl ToString) -> Result<T, Fault> {
        Err((self.offset, what.to_string()))
    }

    fn byte(&mut self) -> Result<Option<u8>, Fault> {
        let byte = loop {
            match self.input.fill_buf() {
                Ok(bytes) => break bytes.first().copied(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fault(format!("cannot read: {error}")),
            }
        };
        if byte.is_some() {
            self.input.consume(1);
            self.offset += 1;
        }
        Ok(byte)
    }

    /// Appends a varint as it stands and gives its value; none at the end of the input.
    fn varint(&mut self, into: &mut Vec<u8>) -> Result<Option<u64>, Fault> {
        let mut value = 0_u64;
        for shift in (0..63).step_by(7) {
            let Some(byte) = self.byte()? else {
                return if shift == 0 {
                    Ok(None)
                } else {
                    self.fault("ends within a packet")
                };
            };
            into.push(byte);
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        self.fault("not a packet")
    }

    /// Appends so many bytes.
    fn bytes(&mut self, length: u64, into: &mut Vec<u8>) -> Result<(), Fault> {
        let room = wide(Limits::default().packet_bytes.saturating_sub(into.len()));
        if length > room {
            return self.fault("a packet without end");
        }
        match (&mut *self.input).take(length).read_to_end(into) {
            Ok(read) => {
                self.offset += wide(read);
                if wide(read) < length {
                    return self.fault("ends within a packet");
                }
                Ok(())
            }
            Err(error) => self.fault(format!("cannot read: {error}")),
        }
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let mut packet = self.ahead.take().unwrap_or_default();
        let mut begun = !packet.is_empty();
        let mut key = u64::from(begun) * HEADER_KEY;
        loop {
            if key == 0 {
                let mut text = Vec::new();
                match self.varint(&mut text)? {
                    None => return Ok(begun.then_some(packet)),
                    Some(HEADER_KEY) if begun => {
                        self.ahead = Some(text);
                        return Ok(Some(packet));
                    }
                    Some(next) => key = next,
                }
                if !begun && key != HEADER_KEY {
                    return self.fault("no packet and no segment of a spool");
                }
                packet.extend_from_slice(&text);
            }
            begun = true;
            match key & 7 {
                0 => {
                    if self.varint(&mut packet)?.is_none() {
                        return self.fault("ends within a packet");
                    }
                }
                1 => self.bytes(8, &mut packet)?,
                2 => match self.varint(&mut packet)? {
                    Some(length) => self.bytes(length, &mut packet)?,
                    None => return self.fault("ends within a packet"),
                },
                5 => self.bytes(4, &mut packet)?,
                _ => return self.fault("not a packet"),
            }
            key = 0;
        }
    }
}

/// Key of `TelemetryPacket.header` on the wire.
const HEADER_KEY: u64 = (1 << 3) | 2;

#[cfg(test)]
mod tests;
